//! A device that is open, and its ports.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::gid::{Gid, GidEntry, GidKind};
use super::{Device, Event, SYSFS, read};
use crate::Error;
use crate::load::{Functions, Library};
use crate::sys::{self, ibv_context};

/// Entries of a port's table of GIDs that are looked at. The index of an entry is one byte.
const GIDS_MAX: usize = 256;

/// A device that is open (`ibv_open_device(3)`). What is made from it keeps it open.
///
/// Its descriptor can be read when [`Context::next_event`] has something to say.
pub struct Context {
    device: Device,
    pointer: *mut ibv_context,
}

// SAFETY: libibverbs may be called with one context from several threads.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Opens a device.
    pub fn open(device: &Device) -> Result<Arc<Self>, Error> {
        // SAFETY: the device is an entry of the list that it holds.
        let pointer = unsafe { (device.library().functions.ibv_open_device)(device.as_ptr()) };
        if pointer.is_null() {
            return Err(Error::last("ibv_open_device", device.name()));
        }
        let context = Self { device: device.clone(), pointer };
        // Events are asked for when the descriptor can be read, and by whoever wants to know; nobody waits.
        unblock(context.as_fd()).map_err(|source| context.failed("fcntl of the events", source))?;
        Ok(Arc::new(context))
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What the device can do (`ibv_query_device(3)`).
    pub fn attributes(&self) -> Result<Attributes, Error> {
        // SAFETY: the structure is one of plain numbers.
        let mut raw: sys::ibv_device_attr = unsafe { sys::zeroed() };
        // SAFETY: the context is open and the structure lives through the call.
        let code = unsafe { (self.functions().ibv_query_device)(self.pointer, &mut raw) };
        self.check("ibv_query_device", code)?;
        let firmware: Vec<u8> =
            raw.fw_ver.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect();
        let count = |number: i32| u32::try_from(number).unwrap_or(0);
        Ok(Attributes {
            firmware: String::from_utf8_lossy(&firmware).into_owned(),
            ports: raw.phys_port_cnt,
            region_bytes_max: raw.max_mr_size,
            queue_pairs_max: count(raw.max_qp),
            work_requests_max: count(raw.max_qp_wr),
            segments_max: count(raw.max_sge),
            completions_max: count(raw.max_cqe),
            regions_max: count(raw.max_mr),
            reads_in_max: count(raw.max_qp_rd_atom).min(255) as u8,
            reads_out_max: count(raw.max_qp_init_rd_atom).min(255) as u8,
            shared_receives_max: count(raw.max_srq_wr),
        })
    }

    /// A port, by its number from 1 (`ibv_query_port(3)`).
    pub fn port(&self, number: u8) -> Result<Port, Error> {
        // SAFETY: the structure is one of plain numbers.
        let mut raw: sys::ibv_port_attr = unsafe { sys::zeroed() };
        // SAFETY: the context is open. The function fills an older form of the structure, a prefix of this one.
        let code = unsafe { (self.functions().ibv_query_port)(self.pointer, number, &mut raw) };
        self.check("ibv_query_port", code)?;
        let link_layer = match u32::from(raw.link_layer) {
            sys::IBV_LINK_LAYER_ETHERNET => LinkLayer::Ethernet,
            // Old kernels do not say it of InfiniBand.
            _ => LinkLayer::InfiniBand,
        };
        Ok(Port {
            number,
            state: PortState::from_raw(raw.state),
            mtu: Mtu::from_raw(raw.active_mtu).unwrap_or(Mtu::Bytes256),
            lid: raw.lid,
            link_layer,
            message_bytes_max: raw.max_msg_sz,
            rate_mbps: read(&self.port_files(number).join("rate")).and_then(|text| rate_mbps(&text)),
            gid_table_length: u32::try_from(raw.gid_tbl_len).unwrap_or(0),
        })
    }

    /// All its ports.
    pub fn ports(&self) -> Result<Vec<Port>, Error> {
        (1..=self.attributes()?.ports).map(|number| self.port(number)).collect()
    }

    /// The addresses of a port (`ibv_query_gid_table(3)`), without empty entries.
    pub fn gids(&self, port: &Port) -> Result<Vec<GidEntry>, Error> {
        match self.functions()._ibv_query_gid_table {
            Some(query) => {
                // SAFETY: the structure is one of plain numbers.
                let mut table = vec![unsafe { sys::zeroed::<sys::ibv_gid_entry>() }; GIDS_MAX];
                let entry_size = size_of::<sys::ibv_gid_entry>();
                // SAFETY: the context is open, and the table has room for as many entries as is said.
                let count = unsafe { query(self.pointer, table.as_mut_ptr(), table.len(), 0, entry_size) };
                match usize::try_from(count) {
                    Ok(count) => Ok(entries(&table[..count.min(GIDS_MAX)], port)),
                    // More entries than looked at; the kernel's files show the first of them.
                    Err(_) if count == -(libc::EINVAL as isize) => Ok(self.listed_gids(port)),
                    Err(_) => Err(Error::returned("ibv_query_gid_table", self.device.name(), count as i32)),
                }
            }
            // The library is older than the function; the kernel has the same in files.
            None => Ok(self.listed_gids(port)),
        }
    }

    /// What happened since the last call, if anything did. Does not wait.
    pub fn next_event(&self) -> Result<Option<Event>, Error> {
        // SAFETY: the structure is one of plain numbers and a union of pointers and a number.
        let mut raw: sys::ibv_async_event = unsafe { sys::zeroed() };
        // SAFETY: the context is open and the structure lives through the call.
        if unsafe { (self.functions().ibv_get_async_event)(self.pointer, &mut raw) } != 0 {
            let error = Error::last("ibv_get_async_event", self.device.name());
            return if error.os_error() == Some(libc::EAGAIN) { Ok(None) } else { Err(error) };
        }
        // SAFETY: the event is not acknowledged before the next line.
        let event = unsafe { Event::from_raw(&raw) };
        // SAFETY: the event came from the library, and is acknowledged once.
        unsafe { (self.functions().ibv_ack_async_event)(&mut raw) };
        Ok(Some(event))
    }

    fn listed_gids(&self, port: &Port) -> Vec<GidEntry> {
        let length = port.gid_table_length.min(GIDS_MAX as u32);
        listed_gids(&self.port_files(port.number), length, port.link_layer == LinkLayer::Ethernet)
    }

    fn port_files(&self, number: u8) -> PathBuf {
        Path::new(SYSFS).join(self.device.name()).join("ports").join(number.to_string())
    }

    pub(crate) fn functions(&self) -> &'static Functions {
        let library: &'static Library = self.device.library();
        &library.functions
    }

    pub(crate) fn as_ptr(&self) -> *mut ibv_context {
        self.pointer
    }

    /// The outcome of a call that returns 0 or its reason.
    pub(crate) fn check(&self, call: &'static str, code: i32) -> Result<(), Error> {
        if code == 0 { Ok(()) } else { Err(Error::returned(call, self.device.name(), code)) }
    }

    pub(crate) fn failed(&self, call: &'static str, source: std::io::Error) -> Error {
        Error::Call { call, device: self.device.name().to_owned(), source }
    }
}

impl AsFd for Context {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the context is.
        unsafe { BorrowedFd::borrow_raw((*self.pointer).async_fd) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: everything that was made from the context held it, so it is used no more.
        unsafe { (self.functions().ibv_close_device)(self.pointer) };
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("device", &self.device.name()).finish()
    }
}

/// Makes reading a descriptor return at once.
pub(crate) fn unblock(descriptor: BorrowedFd<'_>) -> std::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(descriptor)?;
    Ok(rustix::fs::fcntl_setfl(descriptor, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// What a device can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Version of its firmware; empty for software devices.
    pub firmware: String,
    /// How many ports it has.
    pub ports: u8,
    /// Largest memory region, in bytes.
    pub region_bytes_max: u64,
    /// Most queue pairs.
    pub queue_pairs_max: u32,
    /// Most work requests of one queue.
    pub work_requests_max: u32,
    /// Most segments of a work request.
    pub segments_max: u32,
    /// Most completions of a completion queue.
    pub completions_max: u32,
    /// Most memory regions.
    pub regions_max: u32,
    /// Most reads that a queue pair answers at once.
    pub reads_in_max: u8,
    /// Most reads that a queue pair has under way.
    pub reads_out_max: u8,
    /// Most receives of a shared queue.
    pub shared_receives_max: u32,
}

/// A port of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its number, from 1.
    pub number: u8,
    /// State of its link.
    pub state: PortState,
    /// Largest packet of its link.
    pub mtu: Mtu,
    /// Its address within an InfiniBand subnet; 0 on Ethernet.
    pub lid: u16,
    /// What its link is.
    pub link_layer: LinkLayer,
    /// Largest message, in bytes.
    pub message_bytes_max: u32,
    /// Rate of the link as the kernel shows it, in Mbit/s.
    pub rate_mbps: Option<u32>,
    /// Length of its table of GIDs, empty entries included.
    pub gid_table_length: u32,
}

/// State of a port's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortState {
    /// No link.
    Down,
    /// The link is up, and waits for the subnet manager.
    Initialising,
    /// The subnet manager is about to activate it.
    Armed,
    /// It carries traffic.
    Active,
    /// Unknown to this crate.
    Other,
}

impl PortState {
    fn from_raw(raw: u32) -> Self {
        match raw {
            sys::IBV_PORT_DOWN => PortState::Down,
            sys::IBV_PORT_INIT => PortState::Initialising,
            sys::IBV_PORT_ARMED => PortState::Armed,
            sys::IBV_PORT_ACTIVE | sys::IBV_PORT_ACTIVE_DEFER => PortState::Active,
            _ => PortState::Other,
        }
    }
}

impl std::fmt::Display for PortState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PortState::Down => "down",
            PortState::Initialising => "waits for a subnet manager",
            PortState::Armed => "armed",
            PortState::Active => "active",
            PortState::Other => "in an unknown state",
        })
    }
}

/// What a port's link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLayer {
    /// InfiniBand.
    InfiniBand,
    /// Ethernet, with RoCE or iWARP on it.
    Ethernet,
}

impl std::fmt::Display for LinkLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LinkLayer::InfiniBand => "InfiniBand",
            LinkLayer::Ethernet => "Ethernet",
        })
    }
}

/// Largest packet payload. The order is that of the sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Mtu {
    Bytes256 = sys::IBV_MTU_256 as isize,
    Bytes512 = sys::IBV_MTU_512 as isize,
    Bytes1024 = sys::IBV_MTU_1024 as isize,
    Bytes2048 = sys::IBV_MTU_2048 as isize,
    Bytes4096 = sys::IBV_MTU_4096 as isize,
}

impl Mtu {
    const ALL: [Mtu; 5] = [Mtu::Bytes256, Mtu::Bytes512, Mtu::Bytes1024, Mtu::Bytes2048, Mtu::Bytes4096];

    /// The size, in bytes.
    pub fn bytes(self) -> u32 {
        256 << (self as u32 - Mtu::Bytes256 as u32)
    }

    /// The MTU of a size in bytes, if there is one.
    pub fn from_bytes(bytes: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|mtu| mtu.bytes() == bytes)
    }

    pub(crate) fn raw(self) -> u32 {
        self as u32
    }

    fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|mtu| mtu.raw() == raw)
    }
}

fn entries(table: &[sys::ibv_gid_entry], port: &Port) -> Vec<GidEntry> {
    let of_port = table.iter().filter(|entry| entry.port_num == u32::from(port.number));
    let entry = |entry: &sys::ibv_gid_entry| {
        let index = u8::try_from(entry.gid_index).ok()?;
        Some(GidEntry { index, gid: Gid(entry.gid.raw), kind: GidKind::from_raw(entry.gid_type)? })
    };
    of_port.filter_map(entry).filter(|entry| !entry.gid.is_zero()).collect()
}

/// The entries that the kernel's files show, for libraries that cannot say it.
fn listed_gids(port_files: &Path, length: u32, ethernet: bool) -> Vec<GidEntry> {
    let entry = |index: u32| {
        let address: std::net::Ipv6Addr =
            read(&port_files.join("gids").join(index.to_string()))?.parse().ok()?;
        let kind = read(&port_files.join("gid_attrs/types").join(index.to_string()))?;
        let gid = Gid(address.octets());
        Some(GidEntry { index: u8::try_from(index).ok()?, gid, kind: GidKind::from_text(&kind, ethernet)? })
    };
    (0..length).filter_map(entry).filter(|entry| !entry.gid.is_zero()).collect()
}

/// A rate as the kernel shows it, such as `2.5 Gb/sec (1X SDR)`, in Mbit/s.
fn rate_mbps(text: &str) -> Option<u32> {
    let (number, rest) = text.split_once(' ')?;
    let gigabits: f64 = number.parse().ok()?;
    (rest.starts_with("Gb/sec") && (0.0..1e6).contains(&gigabits)).then_some((gigabits * 1000.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_the_kernel_shows_them() {
        assert_eq!(rate_mbps("2.5 Gb/sec (1X SDR)"), Some(2_500));
        assert_eq!(rate_mbps("400 Gb/sec (4X NDR)"), Some(400_000));
        assert_eq!(rate_mbps("garbage"), None);
        assert_eq!(rate_mbps("-3 Gb/sec"), None);
    }

    #[test]
    fn packet_sizes_are_those_of_the_header() {
        assert_eq!(Mtu::Bytes4096.raw(), sys::IBV_MTU_4096);
        assert_eq!(Mtu::from_raw(sys::IBV_MTU_1024), Some(Mtu::Bytes1024));
        assert_eq!(Mtu::from_bytes(2048), Some(Mtu::Bytes2048));
        assert_eq!(Mtu::from_bytes(1500), None);
    }

    #[test]
    fn addresses_are_read_from_the_kernels_files() {
        let port = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(port.path().join("gids")).unwrap();
        std::fs::create_dir_all(port.path().join("gid_attrs/types")).unwrap();
        let set = |index: u32, gid: &str, kind: &str| {
            std::fs::write(port.path().join(format!("gids/{index}")), format!("{gid}\n")).unwrap();
            std::fs::write(port.path().join(format!("gid_attrs/types/{index}")), format!("{kind}\n"))
                .unwrap();
        };
        set(0, "fe80:0000:0000:0000:0202:c9ff:fe00:0001", "IB/RoCE v1");
        set(1, "0000:0000:0000:0000:0000:ffff:0a00:0001", "RoCE v2");
        set(2, "0000:0000:0000:0000:0000:0000:0000:0000", "RoCE v2");
        let listed = listed_gids(port.path(), 5, true);
        assert_eq!(listed.len(), 2);
        assert_eq!((listed[0].index, listed[0].kind), (0, GidKind::RoceV1));
        assert_eq!(
            (listed[1].gid.to_string(), listed[1].kind),
            ("::ffff:10.0.0.1".to_owned(), GidKind::RoceV2)
        );
        assert_eq!(listed_gids(port.path(), 1, false)[0].kind, GidKind::InfiniBand);
    }
}
