//! How pieces may come and go.

use engine::{LaneSettings, RdmaSettings, UcxSettings};

use super::{SettingsError, refuse};

/// How pieces may come and go besides TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transports {
    /// Whether nodes of the same user on one host read each other's memory.
    pub shm: bool,
    /// What lanes go over: of those that reach a node the first.
    pub lanes: Vec<LaneSettings>,
}

impl Transports {
    /// Reads a list such as `rdma,shm,tcp`, and options of RDMA such as `devices=mlx5_0+mlx5_1,gid-index=3`.
    pub(super) fn parse(text: &str, rdma: Option<&str>) -> Result<Self, SettingsError> {
        let names: Vec<_> = text.split(',').map(str::trim).collect();
        if !names.iter().all(|name| ["rdma", "ucx", "shm", "tcp"].contains(name)) {
            let remedy = "it must be a list of rdma, ucx, shm and tcp, such as rdma,shm,tcp";
            return refuse("--transports", text, remedy);
        }
        if !names.contains(&"tcp") {
            return refuse("--transports", text, "tcp must be in it, since messages need it");
        }
        let options = parse_rdma(rdma.unwrap_or_default())?;
        let mut lanes = Vec::new();
        for name in &names {
            let settings = match *name {
                "rdma" => LaneSettings::Rdma(options.clone()),
                "ucx" => LaneSettings::Ucx(UcxSettings::default()),
                _ => continue,
            };
            if !lanes.contains(&settings) {
                lanes.push(settings);
            }
        }
        Ok(Self { shm: names.contains(&"shm"), lanes })
    }
}

fn parse_rdma(text: &str) -> Result<RdmaSettings, SettingsError> {
    let mut settings = RdmaSettings::default();
    for option in text.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let refused = |remedy: &str| refuse("--rdma", option, remedy);
        let small = |most: u16| value.parse().ok().filter(|number| *number <= most);
        match name {
            "devices" if !value.is_empty() => {
                settings.devices = value.split('+').map(str::to_owned).collect();
            }
            "gid-index" => match value.parse() {
                Ok(index) => settings.gid_index = Some(index),
                Err(_) => return refused("the place in the table of GIDs is a number from 0 to 255"),
            },
            "pkey-index" => match small(u16::MAX) {
                Some(index) => settings.partition_key_index = index,
                None => {
                    return refused("the place in the table of partition keys is a number from 0 to 65535");
                }
            },
            "service-level" => match small(15) {
                Some(level) => settings.service_level = level as u8,
                None => return refused("the service level is a number from 0 to 15"),
            },
            "traffic-class" => match small(255) {
                Some(class) => settings.traffic_class = class as u8,
                None => return refused("the traffic class is a number from 0 to 255"),
            },
            _ => {
                return refused(
                    "it must be a list of devices=NAME+NAME, gid-index=, pkey-index=, service-level= and \
                     traffic-class=",
                );
            }
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_nonsense_is_refused() {
        let read = |text| Transports::parse(text, None).map(|read| (read.shm, read.lanes)).unwrap();
        let rdma = || LaneSettings::Rdma(RdmaSettings::default());
        let ucx = || LaneSettings::Ucx(UcxSettings::default());
        assert_eq!(read("tcp"), (false, vec![]));
        assert_eq!(read("shm,tcp"), (true, vec![]));
        assert_eq!(read(" tcp , rdma "), (false, vec![rdma()]));
        assert_eq!(read("rdma,shm,tcp,tcp,rdma"), (true, vec![rdma()]));
        assert_eq!(read("ucx,shm,rdma,tcp"), (true, vec![ucx(), rdma()]));
        for text in ["", "shm", "rdma,shm", "tcp,", "tcp,quic", "TCP"] {
            let message = Transports::parse(text, None).unwrap_err().to_string();
            assert!(message.starts_with(&format!("--transports is '{text}'")), "{message}");
        }
    }

    #[test]
    fn options_of_rdma_are_read_and_nonsense_is_refused() {
        let text = "devices=mlx5_0+mlx5_1, gid-index=3,pkey-index=1,service-level=5,traffic-class=106";
        let settings = parse_rdma(text).unwrap();
        assert_eq!(settings.devices, ["mlx5_0", "mlx5_1"]);
        assert_eq!((settings.gid_index, settings.partition_key_index), (Some(3), 1));
        assert_eq!((settings.service_level, settings.traffic_class), (5, 106));
        assert_eq!(parse_rdma("").unwrap(), RdmaSettings::default());
        for text in ["devices=", "gid-index=256", "service-level=16", "traffic-class=x", "speed=9", "devices"]
        {
            let message = Transports::parse("rdma,tcp", Some(text)).unwrap_err().to_string();
            assert!(message.starts_with(&format!("--rdma is '{text}'")), "{message}");
        }
    }
}
