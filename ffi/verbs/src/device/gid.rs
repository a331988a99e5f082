//! Addresses of ports.

use std::fmt;
use std::net::Ipv6Addr;

use crate::sys;

/// A global identifier: 16 bytes, written as an IPv6 address. On RoCE v2 it is one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Gid(pub [u8; 16]);

impl Gid {
    /// Whether it reaches beyond its own link.
    pub fn is_routable(&self) -> bool {
        !(self.0[0] == 0xfe && self.0[1] & 0xc0 == 0x80)
    }

    /// Whether the entry of the table is empty.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from(self.0).fmt(f)
    }
}

impl fmt::Debug for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How packets with a GID travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GidKind {
    /// InfiniBand.
    InfiniBand,
    /// RoCE v1: Ethernet frames, within one link.
    RoceV1,
    /// RoCE v2: UDP.
    RoceV2,
}

impl GidKind {
    pub(super) fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            sys::IBV_GID_TYPE_IB => Some(GidKind::InfiniBand),
            sys::IBV_GID_TYPE_ROCE_V1 => Some(GidKind::RoceV1),
            sys::IBV_GID_TYPE_ROCE_V2 => Some(GidKind::RoceV2),
            _ => None,
        }
    }

    /// As the kernel's `gid_attrs/types` has it. It says the same of InfiniBand and of RoCE v1.
    pub(super) fn from_text(text: &str, ethernet: bool) -> Option<Self> {
        match text {
            "IB/RoCE v1" if ethernet => Some(GidKind::RoceV1),
            "IB/RoCE v1" => Some(GidKind::InfiniBand),
            "RoCE v2" => Some(GidKind::RoceV2),
            _ => None,
        }
    }
}

impl fmt::Display for GidKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GidKind::InfiniBand => "InfiniBand",
            GidKind::RoceV1 => "RoCE v1",
            GidKind::RoceV2 => "RoCE v2",
        })
    }
}

/// An entry of a port's table of GIDs (`ibv_query_gid_table(3)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GidEntry {
    /// Place in the table.
    pub index: u8,
    /// The address.
    pub gid: Gid,
    /// How packets with it travel.
    pub kind: GidKind,
}

/// The entry to connect from: RoCE v2 before v1, what can be routed before what cannot, then the first.
pub fn choose_gid(entries: &[GidEntry]) -> Option<&GidEntry> {
    let rank = |entry: &&GidEntry| {
        let kind = match entry.kind {
            GidKind::InfiniBand | GidKind::RoceV2 => 0,
            GidKind::RoceV1 => 1,
        };
        // The prefix of a subnet of InfiniBand is link-local by default, and says nothing.
        let link_local = entry.kind != GidKind::InfiniBand && !entry.gid.is_routable();
        (kind, link_local, entry.index)
    };
    entries.iter().filter(|entry| !entry.gid.is_zero()).min_by_key(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u8, address: &str, kind: GidKind) -> GidEntry {
        GidEntry { index, gid: Gid(address.parse::<Ipv6Addr>().unwrap().octets()), kind }
    }

    #[test]
    fn udp_that_can_be_routed_is_chosen() {
        use GidKind::{InfiniBand, RoceV1, RoceV2};
        let table = [
            entry(0, "fe80::1", RoceV1),
            entry(1, "fe80::1", RoceV2),
            entry(2, "::ffff:10.0.0.1", RoceV1),
            entry(3, "::ffff:10.0.0.1", RoceV2),
            entry(4, "::ffff:10.0.1.1", RoceV2),
        ];
        assert_eq!(choose_gid(&table).map(|entry| entry.index), Some(3));
        assert_eq!(choose_gid(&table[..2]).map(|entry| entry.index), Some(1));
        let infiniband = [entry(0, "fe80::5", InfiniBand), entry(1, "fd00::5", InfiniBand)];
        assert_eq!(choose_gid(&infiniband).map(|entry| entry.index), Some(0));
        assert_eq!(choose_gid(&[entry(0, "::", RoceV2)]), None);
    }
}
