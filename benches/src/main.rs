//! `scenarios`: Shoal and its peers, round by round.

use std::process::ExitCode;

fn main() -> ExitCode {
    benches::command_line::main()
}
