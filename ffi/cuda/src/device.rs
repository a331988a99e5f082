//! GPUs and what they are.

use std::ffi::{CStr, c_char, c_int};

use cudarc::driver::sys;

use crate::Error;
use crate::error::check;
use crate::load::driver;

/// Bytes for a name; longer ones are cut off.
const NAME_BYTES: usize = 256;

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its number, as CUDA counts. CUDA_VISIBLE_DEVICES decides which GPU has which.
    pub ordinal: u16,
    /// What its maker calls it.
    pub name: String,
    /// What no other GPU is called, as `nvidia-smi -L` shows it.
    pub uuid: String,
    /// Where it is in the machine, such as `0000:3b:00.0`.
    pub bus: String,
    /// Bytes of its memory.
    pub memory_bytes: u64,
}

/// The GPUs of this machine. It takes none of their memory, since no context is made.
pub fn devices() -> Result<Vec<Device>, Error> {
    driver()?;
    (0..count()?).map(describe).collect()
}

fn count() -> Result<u16, Error> {
    let mut count: c_int = 0;
    // SAFETY: the driver was started; the function writes one number.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    Ok(u16::try_from(count).unwrap_or(0))
}

/// The driver's handle of a device.
pub(crate) fn handle(ordinal: u16) -> Result<sys::CUdevice, Error> {
    driver()?;
    let count = count()?;
    if ordinal >= count {
        return Err(Error::NoDevice { ordinal, count });
    }
    let mut device = 0;
    // SAFETY: the driver was started; the function writes one number.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut device, ordinal.into()) })?;
    Ok(device)
}

fn describe(ordinal: u16) -> Result<Device, Error> {
    let device = handle(ordinal)?;
    let (mut name, mut bus) = ([0 as c_char; NAME_BYTES], [0 as c_char; NAME_BYTES]);
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    let mut memory_bytes = 0;
    let room = NAME_BYTES as c_int;
    // SAFETY: the device is one that the driver gave; the function writes at most `room` bytes, the last of them zero.
    check("cuDeviceGetName", unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), room, device) })?;
    // SAFETY: as above.
    check("cuDeviceGetPCIBusId", unsafe { sys::cuDeviceGetPCIBusId(bus.as_mut_ptr(), room, device) })?;
    // SAFETY: as above; the function writes 16 bytes.
    check("cuDeviceGetUuid_v2", unsafe { sys::cuDeviceGetUuid_v2(&mut uuid, device) })?;
    // SAFETY: as above; the function writes one number.
    check("cuDeviceTotalMem_v2", unsafe { sys::cuDeviceTotalMem_v2(&mut memory_bytes, device) })?;
    Ok(Device {
        ordinal,
        name: text(&name),
        uuid: in_words(uuid.bytes.map(|byte| byte as u8)),
        bus: text(&bus).to_lowercase(),
        memory_bytes: memory_bytes as u64,
    })
}

fn text(bytes: &[c_char; NAME_BYTES]) -> String {
    let bytes = bytes.map(|byte| byte as u8);
    CStr::from_bytes_until_nul(&bytes)
        .map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
}

/// A UUID as `nvidia-smi` shows it.
fn in_words(bytes: [u8; 16]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let (a, rest) = digits.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (c, rest) = rest.split_at(4);
    let (d, e) = rest.split_at(4);
    format!("GPU-{a}-{b}-{c}-{d}-{e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_described_or_it_is_said_what_is_missing() {
        match devices() {
            Ok(devices) => {
                for device in &devices {
                    assert!(device.memory_bytes > 0 && device.uuid.starts_with("GPU-"), "{device:?}");
                }
                let count = devices.len() as u16;
                assert_eq!(handle(count), Err(Error::NoDevice { ordinal: count, count }));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn names_are_as_nvidia_smi_shows_them() {
        let bytes: [u8; 16] = std::array::from_fn(|at| at as u8 * 17);
        assert_eq!(in_words(bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }
}
