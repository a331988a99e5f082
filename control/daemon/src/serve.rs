//! The process of a node: its log, its limits, and the signals that end it.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::running::{NodeError, Running};
use crate::settings::{self, Settings};

/// How often the parent process is looked for.
const PARENT_LOOK: Duration = Duration::from_millis(500);

/// Runs a node until a signal ends it. It logs to standard error; what it found on the machine and where it listens
/// comes first. SIGTERM and SIGINT let transfers end first; a second one does not wait.
pub fn serve(settings: Settings) -> ExitCode {
    start_log();
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start_log() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("SHOAL_LOG");
    let filter =
        filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,fjall=warn,lsm_tree=warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // A program that embeds the daemon may have a log of its own.
    let _ = log.with_ansi(io::stderr().is_terminal()).try_init();
}

fn run(settings: Settings) -> Result<(), NodeError> {
    allow_many_files();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(16).build()?;
    let ended = runtime.block_on(live(settings));
    // Whatever still reads the catalog may end by itself; its writes are on disk when they are acknowledged.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// Lets this process open as many files as it may, and gives how many that is: every connection and every open chunk file
/// is a descriptor, and the usual limit of 1024 is a convention of shells.
pub fn allow_many_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

async fn live(settings: Settings) -> Result<(), NodeError> {
    let mut signals = Signals::new()?;
    let mut parent = std::pin::pin!(parent_gone(settings.exit_with_parent));
    report_variables();
    let mut running = tokio::select! {
        () = signals.next() => return Ok(()),
        () = &mut parent => return Ok(()),
        started = Running::start(settings, None) => started?,
    };
    let taking_part = async {
        running.enter().await?;
        Err(running.ended().await)
    };
    let ended = tokio::select! {
        () = signals.next() => Ok(()),
        () = &mut parent => Ok(()),
        ended = taking_part => ended,
    };
    tokio::select! {
        () = running.stop() => tracing::info!("stopped"),
        () = signals.next() => {
            tracing::warn!("a second signal: stopping at once");
            std::process::exit(128 + signals.last);
        }
    }
    ended
}

fn report_variables() {
    let variables = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    for name in settings::unknown_variables(variables) {
        tracing::warn!(
            "the environment variable {name} is no setting; `shoal serve --help` names those that are"
        );
    }
}

/// Ends when this process has another parent than the one with this number; zero is the one at the time of the call.
/// Without a number it never ends.
fn parent_gone(parent: Option<u32>) -> impl Future<Output = ()> {
    let current = std::os::unix::process::parent_id;
    let parent = parent.map(|number| if number == 0 { current() } else { number });
    async move {
        let Some(parent) = parent else { return std::future::pending().await };
        while current() == parent {
            tokio::time::sleep(PARENT_LOOK).await;
        }
        tracing::info!("the process that started this node is gone");
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    last: i32,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)?, last: 0 })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => self.last = SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => self.last = SignalKind::interrupt().as_raw_value(),
        }
    }
}
