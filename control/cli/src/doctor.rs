//! `shoal doctor`

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::global::{self, Global};
use crate::host::Host;
use crate::output;
use crate::table::Table;

/// Say what this machine offers, which fast paths a node would take, and how to get the others
///
/// Exits with 1 when no node can run here.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal doctor
  shoal doctor --data-dir /nvme/shoal
  shoal doctor --host          The whole machine in JSON, as reports of benchmarks have it
  shoal doctor --json | jq '.[] | select(.remedy)'")]
pub struct Doctor {
    /// Where the node would keep its files [env: SHOAL_DATA_DIR] [default: that of `shoal serve`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Describe the machine as well: kernel, processors, NUMA nodes, network cards and RDMA ports; in JSON
    #[arg(long)]
    host: bool,
}

/// A finding as `--json` prints it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// What was looked for.
    pub topic: String,
    /// What is there.
    pub found: String,
    /// What a node does because of it.
    pub taken: String,
    /// How to get the faster path, when it is not taken.
    pub remedy: Option<String>,
    /// Whether no node can run here because of it.
    pub fatal: bool,
}

impl Doctor {
    /// Looks at the machine.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let data_dir = self.data_dir.unwrap_or_else(global::data_dir);
        if self.host {
            return output::json(&Host::describe(&data_dir));
        }
        let findings = daemon::doctor::report(&data_dir);
        let lines: Vec<Line> = findings.into_iter().map(Line::from).collect();
        if global.json {
            output::json(&lines)?;
        } else {
            output::text(&describe(&lines))?;
        }
        let blocking: Vec<String> =
            lines.into_iter().filter(|line| line.fatal).map(|line| line.topic).collect();
        if blocking.is_empty() { Ok(()) } else { Err(Failure::Unfit(blocking.join(", "))) }
    }
}

impl From<daemon::doctor::Finding> for Line {
    fn from(finding: daemon::doctor::Finding) -> Self {
        let fatal = finding.prevents_running();
        let daemon::doctor::Finding { topic, found, taken, remedy, .. } = finding;
        Self { topic: topic.into(), found, taken, remedy, fatal }
    }
}

/// The findings as a table, and below it what to do.
fn describe(lines: &[Line]) -> String {
    let mut table = Table::new(["TOPIC", "FOUND", "USED"]);
    lines.iter().for_each(|line| table.row([line.topic.clone(), line.found.clone(), line.taken.clone()]));
    let mut remedies = Table::new(["TO DO", ""]);
    for line in lines {
        if let Some(remedy) = &line.remedy {
            remedies.row([line.topic.clone(), remedy.clone()]);
        }
    }
    if remedies.is_empty() { table.to_string() } else { format!("{table}\n{remedies}") }
}
