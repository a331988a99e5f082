//! Devices as gswarm calls them.

use std::sync::Arc;

use flow::wire::session::{Device, GpuRecord};

use super::PoolError;
use crate::node::Node;
use crate::operate;

/// The device of this name on a node, which must have it.
pub(crate) async fn device_on(node: &Arc<Node>, name: &str, text: &str) -> Result<Device, PoolError> {
    let device = device_of(text);
    if let Some(device @ (Device::Dram | Device::Nvme)) = device {
        return Ok(device);
    }
    let gpus = operate::gpus(node, name).await?;
    let found = device.filter(|device| match device {
        Device::Gpu(index) => gpus.iter().any(|gpu| gpu.index == *index),
        _ => !gpus.is_empty(),
    });
    let there = ["dram".to_owned(), "nvme".to_owned()].into_iter().chain(gpus.iter().map(called));
    found.ok_or_else(|| PoolError::NoDevice {
        device: text.chars().take(80).collect(),
        place: format!("node '{name}'"),
        there: there.collect::<Vec<_>>().join(", "),
    })
}

fn called(gpu: &GpuRecord) -> String {
    let device = Device::Gpu(gpu.index);
    if gpu.is_emulated { format!("{device} (emulated)") } else { device.to_string() }
}

/// The device of this name, wherever it is: `dram`, `nvme` or `disk`, `gpu:N`, `cuda:N` or `device:N`, and for any GPU `gpu` or
/// `cuda`.
pub(crate) fn device_of(text: &str) -> Option<Device> {
    if text == "disk" {
        return Some(Device::Nvme);
    }
    let rest =
        text.strip_prefix("cuda").or_else(|| text.strip_prefix("device").filter(|rest| !rest.is_empty()));
    match rest {
        Some(rest) => format!("gpu{rest}").parse().ok(),
        None => text.parse().ok(),
    }
}

/// Whether a place, such as `gpu:0` or `n2:gpu:0`, is on a device.
pub(crate) fn is_on(place: &str, device: Device) -> bool {
    let of_place = device_of(place).or_else(|| device_of(place.split_once(':')?.1));
    of_place.is_some_and(|there| there == device || (device == Device::AnyGpu && there.is_gpu()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_the_names_of_both() {
        for (text, device) in [
            ("dram", Some(Device::Dram)),
            ("disk", Some(Device::Nvme)),
            ("gpu", Some(Device::AnyGpu)),
            ("cuda", Some(Device::AnyGpu)),
            ("cuda:3", Some(Device::Gpu(3))),
            ("device:0", Some(Device::Gpu(0))),
            ("gpu:12", Some(Device::Gpu(12))),
            ("device", None),
            ("", None),
            ("cuda0", None),
            ("gpu:", None),
            ("gpu:-1", None),
            ("gpu:99999", None),
        ] {
            assert_eq!(device_of(text), device, "{text}");
        }
    }

    #[test]
    fn a_place_is_on_a_device_of_whichever_node() {
        for (place, device) in [
            ("gpu:0", Device::AnyGpu),
            ("n2:gpu:1", Device::AnyGpu),
            ("n2:gpu:1", Device::Gpu(1)),
            ("gpu:dram", Device::Dram),
            ("n2:nvme", Device::Nvme),
        ] {
            assert!(is_on(place, device), "{place}");
        }
        for (place, device) in [
            ("n2:gpu:1", Device::Gpu(0)),
            ("dram", Device::AnyGpu),
            ("n2:dram", Device::Nvme),
            ("?", Device::Dram),
        ] {
            assert!(!is_on(place, device), "{place}");
        }
    }
}
