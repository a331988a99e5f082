//! What one node does in a round.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use suites::{Node, Outcome, Shoal, Signal};

use crate::fleet::Place;
use crate::plan::{Part, Step};

/// What all parts of a round have in common.
pub struct Stage<'a> {
    /// When it began.
    pub begin: Instant,
    /// The key that is got.
    pub key: &'a str,
    /// Where copies go.
    pub folder: &'a Path,
    /// Where the head listens.
    pub head: &'a str,
}

/// One get that runs or has ended.
pub struct Attempt {
    socket: PathBuf,
    copy: PathBuf,
    running: JoinHandle<(Outcome, Duration)>,
}

/// How a get ended.
pub struct Ended {
    /// What the command said.
    pub outcome: Outcome,
    /// The digest of what it wrote; none when it wrote nothing.
    pub digest: Option<[u8; 32]>,
    /// How long it took.
    pub took: Duration,
}

/// Does what a part says, step by step, each at its time or as soon after it as the ones before allow.
pub fn act(place: &mut Place, part: &Part, stage: &Stage) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for &(at_ms, step) in &part.steps {
        let due = stage.begin + Duration::from_millis(at_ms);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if step == Step::Join {
            place.start(Some(stage.head));
        }
        if let Step::Reach(reach) = step {
            place.host.set_reach(reach).unwrap();
        }
        let node = place.node.as_mut().expect("a node acts once it is there");
        match step {
            Step::Join | Step::Reach(_) => {}
            Step::Get => attempts.push(Attempt::start(node, stage, attempts.len())),
            Step::Kill => node.kill(),
            Step::Restart => node.restart(),
            Step::Freeze => node.signal(Signal::STOP),
            Step::Thaw => node.signal(Signal::CONT),
        }
    }
    attempts
}

impl Attempt {
    /// Begins to get the key; `number` counts the gets of one node.
    pub fn start(node: &Node, stage: &Stage, number: usize) -> Self {
        let copy = stage.folder.join(format!("{}-{number}", node.name()));
        let running = Shoal::at(node).args(["get", stage.key, "--dest"]).arg(&copy).start();
        let begin = Instant::now();
        // A thread for each: how long it took is known whoever is waited for first.
        let running = thread::spawn(move || (running.wait(), begin.elapsed()));
        Self { socket: node.socket(), copy, running }
    }

    /// Waits for its end. Panics when it hangs, and shows what its node says meanwhile.
    pub fn end(self) -> Ended {
        let ended = self.running.join();
        if ended.is_err() {
            for words in [&["status"][..], &["chunk", "ls"], &["node", "ls"]] {
                let said = Shoal::alone().env("SHOAL_NODE", &self.socket).args(words).run();
                eprintln!("{words:?}: {}{}", said.text(), said.error());
            }
        }
        let (outcome, took) = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let digest = fs::File::open(&self.copy).ok().map(|file| {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(file).expect("a copy can be read");
            fs::remove_file(&self.copy).expect("a copy can be removed");
            hasher.finalize().into()
        });
        Ended { outcome, digest, took }
    }
}
