//! `shoal service …`

use std::time::{Duration, Instant};

use client::kv::{Kv, Service as Record};
use flow::wire::session::FailureCode;

use crate::amount::parse_span;
use crate::failure::Failure;
use crate::global::Global;
use crate::put::note;
use crate::table::Table;
use crate::{amount, interrupt, output};

/// Time between two looks at whether a signal has come.
const TICK: Duration = Duration::from_millis(100);

/// Register services, which own keys and take them along when they end
#[derive(clap::Subcommand)]
pub enum Service {
    /// Register a service, or keep it alive once more
    #[command(after_help = "\
Examples:
  shoal service add scheduler --ttl 30s
  shoal kv put leases/gpu0 worker-3 --owner scheduler")]
    Add {
        /// Its name
        name: String,
        /// How long it lives unless it is kept alive
        #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "30s")]
        ttl: Duration,
    },
    /// List the services that are alive
    #[command(after_help = "\
Examples:
  shoal service ls")]
    Ls,
    /// End a service and remove every key that it owns
    #[command(after_help = "\
Examples:
  shoal service rm scheduler")]
    Rm {
        /// Its name
        name: String,
    },
    /// Register a service and keep it alive until Ctrl-C
    ///
    /// When this ends, however that comes, the service ends after its time and what it owns is removed.
    #[command(after_help = "\
Examples:
  shoal service keep scheduler --ttl 10s &")]
    Keep {
        /// Its name
        name: String,
        /// How long it lives when it is not kept alive any more
        #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "30s")]
        ttl: Duration,
    },
}

impl Service {
    /// Carries it out.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.connect()?;
        let kv = client.kv();
        match self {
            Service::Add { name, ttl } => {
                kv.keep_service(&name, ttl)?;
                told(global, format_args!("{name} lives for {}", amount::whole(ttl)))
            }
            Service::Ls => list(global, &kv.services()?),
            Service::Rm { name } => {
                let removed = kv.end_service(&name)?;
                if global.json {
                    return output::json(&serde_json::json!({ "removed": removed }));
                }
                told(global, format_args!("{name} has ended: removed {}", amount::count(removed, "key")))
            }
            Service::Keep { name, ttl } => keep(global, kv, &name, ttl),
        }
    }
}

fn told(global: &Global, text: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    if global.quiet || global.json { Ok(()) } else { output::line(text) }
}

fn list(global: &Global, services: &[Record]) -> Result<(), Failure> {
    if global.json {
        return output::json(&services);
    }
    let mut table = Table::new(["NAME", ">KEYS", ">TTL", ">LEFT"]);
    for Record { name, ttl_ms, left_ms, keys } in services {
        let time = |time_ms: &u64| amount::whole(Duration::from_millis(*time_ms));
        table.row([name.clone(), keys.to_string(), time(ttl_ms), time(left_ms)]);
    }
    output::text(&table.to_string())
}

/// Keeps a service alive three times as often as it needs, so that it outlives one answer that does not come.
fn keep(global: &Global, kv: Kv<'_>, name: &str, ttl: Duration) -> Result<(), Failure> {
    kv.keep_service(name, ttl)?;
    told(global, format_args!("{name} is kept alive"))?;
    let mut is_lost = false;
    loop {
        let begin = Instant::now();
        while begin.elapsed() < ttl / 3 {
            interrupt::check()?;
            std::thread::sleep(TICK.min(ttl / 3));
        }
        match kv.keep_service(name, ttl) {
            Ok(()) => is_lost = false,
            Err(error) if error.code() == Some(FailureCode::Unavailable) && can_go_on(&error) => {
                if !is_lost {
                    note(global, format_args!("{name} could not be kept alive, trying again: {error}"));
                }
                is_lost = true;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the connection is still there.
fn can_go_on(error: &client::ClientError) -> bool {
    !matches!(error, client::ClientError::Closed { .. })
}
