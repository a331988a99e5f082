//! How pieces may come and go.

use super::{SettingsError, refuse};

/// How pieces may come and go besides TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transports {
    /// Whether nodes of the same user on one host read each other's memory.
    pub shm: bool,
}

impl Transports {
    /// Reads a list such as `shm,tcp`.
    pub(super) fn parse(text: &str) -> Result<Self, SettingsError> {
        let names: Vec<_> = text.split(',').map(str::trim).collect();
        if !names.iter().all(|name| ["shm", "tcp"].contains(name)) {
            return refuse("--transports", text, "it must be a list of shm and tcp, such as shm,tcp");
        }
        if !names.contains(&"tcp") {
            return refuse("--transports", text, "tcp must be in it, since messages need it");
        }
        Ok(Self { shm: names.contains(&"shm") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_nonsense_is_refused() {
        for (text, shm) in [("tcp", false), ("shm,tcp", true), (" tcp , shm ", true), ("tcp,tcp", false)] {
            assert_eq!(Transports::parse(text).unwrap().shm, shm, "{text}");
        }
        for text in ["", "shm", "tcp,", "tcp,quic", "TCP"] {
            let message = Transports::parse(text).unwrap_err().to_string();
            assert!(message.starts_with(&format!("--transports is '{text}'")), "{message}");
        }
    }
}
