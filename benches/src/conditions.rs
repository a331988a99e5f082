//! What is the same for all: congestion control, folders, sizes.

use std::io;
use std::path::PathBuf;

use rustix::net::sockopt::set_tcp_congestion;
use rustix::net::{AddressFamily, SocketType};

use crate::failure::Failure;

/// What congestion control is taken where nothing else is asked for and the kernel has it: over loopback the choice
/// matters more than any program, and this one is everywhere.
const CONGESTION_CONTROL: &str = "cubic";
/// Fewest bytes that a run moves, however much it is shrunk.
const BYTES_MIN: u64 = 1 << 20;
/// Fewest operations that a run does.
const OPERATIONS_MIN: u64 = 64;

/// What holds for all contenders of a run.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// TCP congestion control of every data connection; the system's own when there is none.
    pub congestion_control: Option<String>,
    /// Where files are written that a disk takes part in.
    pub folder: PathBuf,
    /// What part of its bytes a run moves: one in so many.
    pub shrink: u64,
    /// Whether Shoal runs without its peers.
    pub alone: bool,
    /// Whether contenders of a broadcast are started for each of their turns and end after it.
    pub in_turn: bool,
    /// The Python of peers that are libraries for it.
    pub peers_python: PathBuf,
}

impl Conditions {
    /// The system's own congestion control and temporary folder, all bytes, and all peers.
    #[cfg(test)]
    pub fn plain() -> Self {
        let peers_python = PathBuf::from("python3");
        let folder = std::env::temp_dir();
        Self { congestion_control: None, folder, shrink: 1, alone: false, in_turn: false, peers_python }
    }

    /// How many bytes are moved where a scenario says `bytes`.
    pub fn sized(&self, bytes: u64) -> u64 {
        (bytes / self.shrink.max(1)).max(BYTES_MIN)
    }

    /// How many operations are done where a scenario says `operations`.
    pub fn counted(&self, operations: u64) -> u64 {
        (operations / self.shrink.max(1)).max(OPERATIONS_MIN)
    }
}

/// The congestion control that was asked for, or else [`CONGESTION_CONTROL`] where the kernel has it.
pub fn congestion_control(asked: Option<String>) -> Result<Option<String>, Failure> {
    let taken = |name: &str| {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        set_tcp_congestion(&socket, name).map_err(io::Error::from)
    };
    match asked {
        None => Ok(taken(CONGESTION_CONTROL).is_ok().then(|| CONGESTION_CONTROL.to_owned())),
        Some(name) => match taken(&name) {
            Ok(()) => Ok(Some(name)),
            Err(source) => {
                let offered = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
                let offered = offered.unwrap_or_default().trim().to_owned();
                Err(Failure::CongestionControl { name, source, offered })
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_never_shrunk_to_nothing() {
        let conditions = |shrink| Conditions { shrink, ..Conditions::plain() };
        assert_eq!(conditions(1).sized(1 << 30), 1 << 30);
        assert_eq!(conditions(64).sized(1 << 30), 16 << 20);
        assert_eq!(conditions(1 << 20).sized(1 << 30), BYTES_MIN);
    }

    #[test]
    fn an_unknown_congestion_control_is_refused() {
        let refused = congestion_control(Some("no-such-control".into()));
        assert!(matches!(refused, Err(Failure::CongestionControl { .. })), "{refused:?}");
        assert!(congestion_control(None).is_ok());
    }
}
