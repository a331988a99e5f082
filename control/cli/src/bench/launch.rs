//! A broadcast in a cluster that is there for it alone: one that this process hosts, with others of this machine if it takes
//! them, or one of tasks that a launcher such as srun or mpirun has started on many machines.
//!
//! Every task hosts real nodes. The first task hosts the origin, which is the head, and leads: it tells the others where the
//! head is (`rendezvous`), gives orders and gathers answers (`meeting`), and writes the report.

mod hosted; // the nodes that this task hosts
mod mates; // further tasks on this machine
mod meeting; // how tasks talk
mod rank; // which task this process is
mod rendezvous; // where tasks find the first one
mod report; // what is told in the end
mod usage; // what a run takes of the machine

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use client::{PutOptions, Silent, Source};
use daemon::{Flags, Settings};
use flow::wire::handshake::Token;
use tempfile::TempDir;

use self::hosted::Hosted;
use self::mates::Mates;
use self::meeting::{Answer, Meeting, Order, Ready, until};
use self::rendezvous::Rendezvous;
use super::{BenchError, Progress};
use crate::failure::Failure;
use crate::global::Global;
use crate::host::{self, Host};
use crate::noise::{self, Noise};
use crate::processes::ProcessError;
use crate::put::note;
use crate::{amount, interrupt};

pub use rank::Rank;
pub use report::Report;

/// How long tasks may take to be there, all of them.
const MEETING_LIMIT: Duration = Duration::from_secs(300);
/// How long nodes may be out of reach before the run is given up. A busy machine makes them late, and more so when all of them
/// are on it.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);
const SILENCE_LIMIT_HERE: Duration = Duration::from_secs(120);
/// How long the first task waits for the others at the end.
const PARTING_LIMIT: Duration = Duration::from_secs(10);
/// How long processes of this machine may take to end when they are told to.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// Pause between two looks at whether something has come about.
const TICK: Duration = Duration::from_millis(50);
/// Memory that a node gets beyond the data: slots in flight, and room for the arena to be cut. Bytes.
const SLACK_MIN: u64 = 64 << 20;
/// As [`SLACK_MIN`], for each of many receivers.
const SLACK_OF_MANY: u64 = 4 << 20;
/// Memory that a small node takes beside its arena, with room to spare. Bytes.
const OWN_MEMORY: u64 = 2 << 20;
/// Most threads for the shards of many small nodes.
const EXECUTORS_MAX: usize = 4;

/// What a run consists of. All tasks are told the same.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Bytes of each round.
    pub size: u64,
    /// How many rounds.
    pub rounds: u32,
    /// How many nodes receive.
    pub receivers: u32,
    /// Longest time of a round, in which nothing may be missing at its end.
    pub limit: Duration,
    /// What pieces go over, as `shoal serve --transports` takes it.
    pub transports: Option<String>,
    /// The network interface that nodes listen on.
    pub interface: Option<String>,
    /// Where tasks find the first one.
    pub rendezvous: PathBuf,
    /// Whether all is on this machine.
    pub is_local: bool,
}

impl Plan {
    fn silence_limit(&self) -> Duration {
        if self.is_local { SILENCE_LIMIT_HERE } else { SILENCE_LIMIT }
    }
}

/// A run that has begun, on the side of one task.
struct Run<'a> {
    global: &'a Global,
    plan: Plan,
    rank: Rank,
    /// Name and address of the network interface of this task's nodes.
    interface: (String, IpAddr),
    /// Has the folders of this task's nodes.
    folder: TempDir,
}

/// Takes this task's part in a run; the first task gets the report.
pub fn run(global: &Global, plan: Plan, rank: Rank, processes: u32) -> Result<Option<Report>, Failure> {
    daemon::allow_many_files();
    let interface = plan.interface.clone();
    let found = host::address_of(interface.as_deref());
    let interface =
        found.ok_or(BenchError::Interface { name: interface.unwrap_or("the default route".into()) })?;
    let folder = tempfile::Builder::new().prefix("shoal-bench-").tempdir();
    let folder = folder.map_err(ProcessError::machine("make a folder for the nodes"))?;
    let mut run = Run { global, plan, rank, interface, folder };
    if run.plan.is_local && run.rank.rank == 0 {
        run.plan.rendezvous = run.folder.path().to_owned();
    }
    if run.rank.rank == 0 { run.lead(processes).map(Some) } else { run.follow().map(|()| None) }
}

/// How many processes it takes so that each may open as many files as its nodes want.
pub fn processes_for(receivers: u32) -> Result<u32, BenchError> {
    let limit = daemon::allow_many_files();
    // A node has a few descriptors of its own. It dials up to 24 others and is dialled by as many, and both ends may be here.
    let wanted = u64::from(receivers) * 64;
    // The trackers of a chunk and the head hear of all nodes.
    let shared = 256 + u64::from(receivers) * 4;
    let room = limit.saturating_sub(shared);
    if wanted <= room {
        return Ok(1);
    }
    let processes = wanted.div_ceil(room.max(1));
    if room < 64 || processes > 64 {
        return Err(BenchError::Files { receivers, wanted: wanted + shared, limit });
    }
    // The first process hosts the origin alone when there are several.
    Ok(processes as u32 + 1)
}

/// Refuses receivers that have no room in this machine's memory.
pub fn check_memory(size: u64, receivers: u32) -> Result<(), BenchError> {
    let needed = (size + slack(size, SLACK_OF_MANY) + OWN_MEMORY).saturating_mul(u64::from(receivers) + 1);
    let available = host::available_memory_bytes();
    if needed <= available {
        return Ok(());
    }
    Err(BenchError::Crowd { receivers, size, needed, available })
}

/// Memory that a node gets beyond the data.
fn slack(size: u64, least: u64) -> u64 {
    (size / 8).max(least)
}

impl Run<'_> {
    /// What the first task does.
    fn lead(&self, processes: u32) -> Result<Report, Failure> {
        let token =
            format!("{:032x}", u128::from(noise::fresh_seed()) << 64 | u128::from(noise::fresh_seed()));
        let origin = self.settings("origin", None, &token)?;
        let mut hosted = Hosted::new(self.executors(), Some(origin))?;
        let Some(first) = hosted.first() else { return Err(BenchError::Late { what: "the origin" }.into()) };
        let (address, socket) = (first.address().to_owned(), first.local_socket());
        let several = self.rank.tasks > 1;
        let rendezvous =
            several.then(|| Rendezvous::tell(&self.plan.rendezvous, &self.rank, &address, &token));
        let _rendezvous = rendezvous.transpose()?;
        let mut mates = Mates::start(self.folder.path(), &self.plan, processes)?;
        hosted.add(self.receivers(&address, &token)?)?;
        let meeting = Meeting::begin(&socket, 0)?;
        let led = self.lead_rounds(&meeting, &hosted, &mut mates);
        let reason = led.as_ref().err().map(ToString::to_string);
        // Whoever does not hear of it notices that the head is gone.
        let _ = meeting.order(self.plan.rounds * 2 + 1, &Order::End(reason));
        if led.is_ok() && several {
            let deadline = Instant::now() + PARTING_LIMIT;
            let last = self.plan.rounds * 2 + 1;
            meeting.answer(last, &Answer::Ended)?;
            meeting.answers(last, self.rank.tasks, &mut || until(deadline, "every task"))?;
        }
        drop(meeting);
        match &led {
            Ok(_) => mates.wait(PARTING_LIMIT),
            Err(_) => mates.stop(STOP_LIMIT),
        }
        hosted.stop();
        led
    }

    fn lead_rounds(&self, meeting: &Meeting, hosted: &Hosted, mates: &mut Mates) -> Result<Report, Failure> {
        let deadline = Instant::now() + MEETING_LIMIT;
        let all = self.plan.receivers as usize + 1;
        let what = amount::count(self.plan.receivers.into(), "receiver");
        note(self.global, format_args!("starting {what}"));
        self.answer_ready(meeting, hosted)?;
        let mut early = || mates.check().and_then(|()| until(deadline, "every task"));
        let ready = meeting.answers(0, self.rank.tasks, &mut early)?;
        while members(hosted).iter().filter(|(_, lives)| *lives).count() < all {
            interrupt::check()?;
            early()?;
            std::thread::sleep(TICK);
        }
        note(self.global, format_args!("{what} are in the cluster"));
        let mut report = Report::new(&self.plan, &self.rank, ready);
        let mut watch = Watch { missing: BTreeMap::new(), limit: self.plan.silence_limit() };
        let progress = Progress::new(self.global, "broadcast", self.plan.rounds);
        for round in 0..self.plan.rounds {
            let key = format!("bench/data/{round}");
            let noise = Source::Reader(Box::new(Noise::new(noise::fresh_seed(), self.plan.size)));
            let options = PutOptions { volatile: true, ..PutOptions::default() };
            meeting.client().put(&key, noise, &options, &Silent)?;
            let step = 1 + 2 * round;
            let begin = Instant::now();
            meeting.order(step, &Order::Fetch(key.clone()))?;
            let (begun, fetched) = self.fetch(meeting, hosted, &key)?;
            meeting.answer(step, &Answer::Fetched(fetched))?;
            let deadline = begin + self.plan.limit;
            let mut check = || {
                mates.check()?;
                watch.look(hosted)?;
                until(deadline, "every receiver")
            };
            let fetched = meeting.answers(step, self.rank.tasks, &mut check)?;
            meeting.order(step + 1, &Order::Verify(key.clone()))?;
            meeting.answer(step + 1, &Answer::Verified(hosted.verify(begun)?))?;
            let verified = meeting.answers(step + 1, self.rank.tasks, &mut check)?;
            meeting.client().remove(&key, false)?;
            report.add(fetched, verified)?;
            progress.step();
        }
        report.finish();
        Ok(report)
    }

    /// What every other task does.
    fn follow(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + MEETING_LIMIT;
        let found = loop {
            interrupt::check()?;
            until(deadline, "the first task")?;
            let found = rendezvous::find(&self.plan.rendezvous, &self.rank)?;
            // A file that an earlier run has left leads to nobody.
            let answers = |found: &rendezvous::Found| {
                let head = client::Address::parse(&found.address);
                head.is_ok_and(|head| client::Client::connect(&head, Some(&Token::new(&found.token))).is_ok())
            };
            if let Some(found) = found.filter(answers) {
                break found;
            }
            std::thread::sleep(4 * TICK);
        };
        let mut hosted = Hosted::new(self.executors(), None)?;
        hosted.add(self.receivers(&found.address, &found.token)?)?;
        let Some(socket) = hosted.first().map(|first| first.local_socket()) else {
            return Err(BenchError::Idle { tasks: self.rank.tasks, receivers: self.plan.receivers }.into());
        };
        let meeting = Meeting::begin(&socket, self.rank.rank)?;
        let followed = self.follow_orders(&meeting, &hosted);
        if let Err(failure) = &followed
            && interrupt::signal().is_none()
        {
            // It cannot be told when the first task is gone.
            let _ = meeting.answer(0, &Answer::Failed(failure.to_string()));
        }
        drop(meeting);
        followed
    }

    fn follow_orders(&self, meeting: &Meeting, hosted: &Hosted) -> Result<(), Failure> {
        self.answer_ready(meeting, hosted)?;
        let (mut silent_since, limit) = (None, self.plan.silence_limit());
        let mut begun = None;
        let mut check = move |node: &daemon::Running| {
            if node.reaches_catalog() {
                silent_since = None;
                return Ok(());
            }
            let since: &mut Instant = silent_since.get_or_insert_with(Instant::now);
            if since.elapsed() < limit {
                Ok(())
            } else {
                Err(BenchError::Late { what: "the first task" }.into())
            }
        };
        for step in 1.. {
            let mut check = || hosted.first().map_or(Ok(()), |node| check(node));
            match meeting.next_order(step, &mut check)? {
                Order::Fetch(key) => {
                    let (round, fetched) = self.fetch(meeting, hosted, &key)?;
                    begun = Some(round);
                    meeting.answer(step, &Answer::Fetched(fetched))?;
                }
                Order::Verify(_) => {
                    let Some(round) = begun.take() else { continue };
                    meeting.answer(step, &Answer::Verified(hosted.verify(round)?))?;
                }
                Order::End(None) => return meeting.answer(step, &Answer::Ended),
                Order::End(Some(message)) => return Err(BenchError::Task { rank: 0, message }.into()),
            }
        }
        Ok(())
    }

    fn fetch(
        &self,
        meeting: &Meeting,
        hosted: &Hosted,
        key: &str,
    ) -> Result<(hosted::Round, meeting::Fetched), Failure> {
        hosted.fetch(meeting.chunks(key)?, Instant::now() + self.plan.limit)
    }

    fn answer_ready(&self, meeting: &Meeting, hosted: &Hosted) -> Result<(), Failure> {
        let (interface, address) = self.interface.clone();
        let host = Host::describe(self.folder.path());
        let ready = Ready { host, interface, address: address.to_string(), receivers: hosted.receivers() };
        meeting.answer(0, &Answer::Ready(Box::new(ready)))
    }

    /// The settings of the receivers that this task hosts.
    fn receivers(&self, head: &str, token: &str) -> Result<Vec<Settings>, Failure> {
        let share = self.rank.share(self.plan.receivers);
        share.map(|number| self.settings(&format!("r{number}"), Some(head), token)).collect()
    }

    fn settings(&self, name: &str, head: Option<&str>, token: &str) -> Result<Settings, Failure> {
        let size = self.plan.size;
        let is_light = self.hosts_many();
        // The origin may have two chunks for a while.
        let least = if is_light && head.is_some() { SLACK_OF_MANY } else { size.max(SLACK_MIN) };
        let flags = Flags {
            data_dir: Some(self.folder.path().join(name)),
            listen: Some(format!("{}:0", self.interface.1)),
            name: Some(name.to_owned()),
            join: head.map(str::to_owned),
            cores: is_light.then_some(1),
            transports: self.plan.transports.clone(),
            // The token is set below.
            insecure: true,
            ..Flags::default()
        };
        // The settings of the user's own nodes are not for many on one machine.
        let mut settings =
            if self.plan.is_local { Settings::of_flags(flags)? } else { Settings::resolve(flags)? };
        settings.token = Token::new(token);
        (settings.max_memory, settings.max_memory_note) = (size + slack(size, least), None);
        (settings.catalog, settings.advertise) = (None, None);
        settings.join = head.map(str::to_owned);
        Ok(settings)
    }

    fn hosts_many(&self) -> bool {
        self.plan.is_local || self.rank.share(self.plan.receivers).len() > 1
    }

    /// How many threads the shards of this task's nodes run on.
    fn executors(&self) -> u16 {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let others = if self.plan.is_local { self.rank.tasks as usize } else { 1 };
        (available / others).clamp(1, EXECUTORS_MAX) as u16
    }
}

/// The members that the origin knows, and whether each lives.
fn members(hosted: &Hosted) -> Vec<(String, bool)> {
    hosted.first().map(|first| first.members()).unwrap_or_default()
}

/// Notices nodes that stay away.
struct Watch {
    /// Who is missing, and since when.
    missing: BTreeMap<String, Instant>,
    /// How long one may be.
    limit: Duration,
}

impl Watch {
    fn look(&mut self, hosted: &Hosted) -> Result<(), Failure> {
        let away = members(hosted).into_iter().filter(|(_, lives)| !lives);
        let since = |name: &String| self.missing.get(name).copied().unwrap_or_else(Instant::now);
        let missing: BTreeMap<_, _> = away.map(|(name, _)| (name.clone(), since(&name))).collect();
        self.missing = missing;
        let gone = self.missing.iter().find(|(_, since)| since.elapsed() >= self.limit);
        gone.map_or(Ok(()), |(name, _)| Err(BenchError::Gone { name: name.clone() }.into()))
    }
}

/// Where the report goes by default, or the rendezvous beside it.
pub fn folder_of(report: Option<&Path>) -> PathBuf {
    let folder = report.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    folder.map_or_else(|| PathBuf::from("."), Path::to_owned)
}
