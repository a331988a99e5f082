//! `NODE:DEVICE`, the place of a replica.

use std::str::FromStr;

use flow::wire::session::{Device, NoDevice};

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
        let (node, device) = match text.split_once(':') {
            Some((node, device)) => (node, Some(device)),
            None => (text, None),
        };
        if node.is_empty() {
            return Err(format!("'{text}' is not a place; write NODE:DEVICE, such as n2:dram"));
        }
        let told = |error: NoDevice| format!("'{}': {error}", device.unwrap_or_default());
        let device = device.map(str::parse).transpose().map_err(told)?;
        Ok(Self { node: node.into(), device })
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
        assert_eq!("n2:gpu".parse(), place("n2", Some(Device::AnyGpu)));
        assert_eq!("n2:gpu:1".parse(), place("n2", Some(Device::Gpu(1))));
        assert_eq!("host-7.rack".parse(), place("host-7.rack", None));
        for text in ["", ":dram", "n2:", "n2:tape", "n2:gpu:", "n2:gpu:+1", "n2:gpu:70000", "a:b:dram"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
