//! The RDMA devices of the machine.

mod context; // a device that is open, and its ports
mod event; // what devices report by themselves
mod gid; // addresses of ports

use std::ffi::{CStr, c_int};
use std::path::Path;
use std::sync::Arc;

use crate::Error;
use crate::load::Library;
use crate::sys::{self, ibv_device};

pub(crate) use context::unblock;
pub use context::{Attributes, Context, LinkLayer, Mtu, Port, PortState};
pub use event::Event;
pub use gid::{Gid, GidEntry, GidKind, choose_gid};

/// Where the kernel describes RDMA devices.
const SYSFS: &str = "/sys/class/infiniband";

/// The RDMA devices of this machine, in the order of the library (`ibv_get_device_list(3)`). None is not an error.
pub fn devices() -> Result<Vec<Device>, Error> {
    let library = Library::get()?;
    let mut count: c_int = 0;
    // SAFETY: the count lives through the call.
    let first = unsafe { (library.functions.ibv_get_device_list)(&mut count) };
    if first.is_null() {
        let error = Error::last("ibv_get_device_list", "this machine");
        // A kernel without the modules of RDMA has no devices either.
        return if error.os_error() == Some(libc::ENOSYS) { Ok(Vec::new()) } else { Err(error) };
    }
    let list = Arc::new(List { library, first });
    // SAFETY: the library says that the list has that many entries.
    Ok((0..count as usize).map(|index| Device::new(&list, unsafe { *first.add(index) })).collect())
}

/// What kind of network a device speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// InfiniBand, or its transport over Ethernet (RoCE).
    InfiniBand,
    /// iWARP, over TCP.
    Iwarp,
    /// Another one, which has no reliable connections as this crate makes them.
    Other,
}

/// A device that need not be open.
#[derive(Clone)]
pub struct Device {
    list: Arc<List>,
    pointer: *mut ibv_device,
    name: String,
}

// SAFETY: the library's device is immutable while the list is held, and the list is freed once.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    fn new(list: &Arc<List>, pointer: *mut ibv_device) -> Self {
        // SAFETY: the pointer is an entry of the list; the name is within the device and ends with a zero byte.
        let name = unsafe { CStr::from_ptr((list.library.functions.ibv_get_device_name)(pointer)) };
        Self { list: list.clone(), pointer, name: name.to_string_lossy().into_owned() }
    }

    /// Name of the kernel's, such as `mlx5_0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Globally unique number of the device (`ibv_get_device_guid(3)`).
    pub fn guid(&self) -> u64 {
        // SAFETY: the pointer is an entry of the list that is held.
        u64::from_be(unsafe { (self.list.library.functions.ibv_get_device_guid)(self.pointer) })
    }

    /// What kind of network it speaks to.
    pub fn transport(&self) -> Transport {
        // SAFETY: the pointer is an entry of the list that is held.
        match unsafe { (*self.pointer).transport_type } {
            sys::IBV_TRANSPORT_IB => Transport::InfiniBand,
            sys::IBV_TRANSPORT_IWARP => Transport::Iwarp,
            _ => Transport::Other,
        }
    }

    /// The NUMA node that it is attached to, if the kernel knows.
    pub fn numa_node(&self) -> Option<u32> {
        numa_node(&Path::new(SYSFS).join(&self.name))
    }

    /// Its address on the PCI bus, such as `0000:3b:00.0`. Software devices have none.
    pub fn pci_address(&self) -> Option<String> {
        pci_address(&Path::new(SYSFS).join(&self.name))
    }

    pub(super) fn library(&self) -> &'static Library {
        self.list.library
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_device {
        self.pointer
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("name", &self.name).finish()
    }
}

/// The library's list, which keeps its devices.
struct List {
    library: &'static Library,
    first: *mut *mut ibv_device,
}

// SAFETY: the list is only read, and freed when its last holder is gone.
unsafe impl Send for List {}
// SAFETY: as above.
unsafe impl Sync for List {}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the list came from ibv_get_device_list and nobody holds it; open devices have a hold of their own.
        unsafe { (self.library.functions.ibv_free_device_list)(self.first) };
    }
}

fn numa_node(device: &Path) -> Option<u32> {
    // The kernel says -1 where it does not know.
    read(&device.join("device/numa_node"))?.parse().ok()
}

fn pci_address(device: &Path) -> Option<String> {
    let target = std::fs::canonicalize(device.join("device")).ok()?;
    let name = target.file_name()?.to_str()?;
    let is_pci = name.split([':', '.']).map(str::len).eq([4, 2, 2, 1]);
    is_pci.then(|| name.to_owned())
}

/// The text of a file of the kernel's, without the white space around it.
fn read(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_in_the_machine_is_read_from_the_kernels_files() {
        let root = tempfile::tempdir().unwrap();
        let bus = root.path().join("pci0000:3a/0000:3b:00.0");
        let class = root.path().join("infiniband/mlx5_0");
        std::fs::create_dir_all(&bus).unwrap();
        std::fs::create_dir_all(&class).unwrap();
        std::fs::write(bus.join("numa_node"), "1\n").unwrap();
        std::os::unix::fs::symlink(&bus, class.join("device")).unwrap();
        assert_eq!(numa_node(&class), Some(1));
        assert_eq!(pci_address(&class).as_deref(), Some("0000:3b:00.0"));
        std::fs::write(bus.join("numa_node"), "-1\n").unwrap();
        assert_eq!(numa_node(&class), None);
        let software = root.path().join("infiniband/rxe0");
        assert_eq!((numa_node(&software), pci_address(&software)), (None, None));
    }

    #[test]
    fn a_machine_without_devices_has_an_empty_list_or_says_what_is_missing() {
        match devices() {
            Ok(devices) => devices.iter().for_each(|device| assert!(!device.name().is_empty())),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
