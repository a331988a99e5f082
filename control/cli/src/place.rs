//! `NODE:DEVICE`, the place of a replica.

use std::str::FromStr;

use flow::wire::session::Device;

/// A node, and perhaps a device on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the node.
    pub node: String,
    /// The device, when one was named.
    pub device: Option<Device>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (node, device) = match text.rsplit_once(':') {
            Some((node, device)) => (node, Some(parse_device(device)?)),
            None => (text, None),
        };
        if node.is_empty() || node.contains(':') {
            return Err(format!("'{text}' is not a place; write NODE:DEVICE, such as n2:dram"));
        }
        Ok(Self { node: node.into(), device })
    }
}

fn parse_device(text: &str) -> Result<Device, String> {
    match text {
        "dram" => Ok(Device::Dram),
        "nvme" => Ok(Device::Nvme),
        _ => Err(format!("'{text}' is not a device that chunks can be placed on; there are dram and nvme")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let place = |node: &str, device| Ok(Place { node: node.into(), device });
        assert_eq!("n2:dram".parse(), place("n2", Some(Device::Dram)));
        assert_eq!("n2:nvme".parse(), place("n2", Some(Device::Nvme)));
        assert_eq!("host-7.rack".parse(), place("host-7.rack", None));
        for text in ["", ":dram", "n2:", "n2:tape", "n2:gpu:0", "a:b:dram"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
