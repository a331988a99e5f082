//! Who talks to whom, and how (`ibv_modify_qp(3)`).

use crate::device::{Gid, GidEntry, LinkLayer, Mtu, Port};
use crate::sys::{self, ibv_ah_attr};

/// What the other end must know of a queue pair to connect to it. The caller carries it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Address within an InfiniBand subnet; 0 on Ethernet.
    pub lid: u16,
    /// Global address of the port.
    pub gid: Gid,
    /// Number of the queue pair: 24 bits.
    pub queue_pair_number: u32,
    /// Number of the first packet that it sends: 24 bits, of its own choice.
    pub packet_sequence_number: u32,
    /// Largest packet that its port takes. Both ends use the smaller one.
    pub mtu: Mtu,
}

/// The port and address that a queue pair uses on its own side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// Number of the port, from 1.
    pub port: u8,
    /// Its address within an InfiniBand subnet.
    pub lid: u16,
    /// Largest packet that it takes.
    pub mtu: Mtu,
    /// What its link is.
    pub link_layer: LinkLayer,
    /// The address to send from.
    pub gid: GidEntry,
    /// Place of the partition key in the port's table; 0 is the default partition.
    pub partition_key_index: u16,
}

impl Attachment {
    /// A port, with one of its addresses and the default partition.
    pub fn new(port: &Port, gid: &GidEntry) -> Self {
        Self {
            port: port.number,
            lid: port.lid,
            mtu: port.mtu,
            link_layer: port.link_layer,
            gid: *gid,
            partition_key_index: 0,
        }
    }

    /// The way to the other end.
    pub(super) fn raw_route(&self, remote: &Endpoint, reliability: &Reliability) -> ibv_ah_attr {
        // SAFETY: the structure is one of plain numbers.
        let mut route: ibv_ah_attr = unsafe { sys::zeroed() };
        // Within a subnet of InfiniBand the LID is enough, and the header with GIDs only takes room.
        let needs_gid = self.link_layer == LinkLayer::Ethernet || remote.lid == 0;
        route.port_num = self.port;
        route.sl = reliability.service_level;
        route.dlid = remote.lid;
        if needs_gid {
            route.is_global = 1;
            route.grh.dgid.raw = remote.gid.0;
            route.grh.sgid_index = self.gid.index;
            route.grh.hop_limit = reliability.hop_limit;
            route.grh.traffic_class = reliability.traffic_class;
        }
        route
    }
}

/// How hard a queue pair tries, and how its packets are treated on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reliability {
    /// How long an acknowledgement is waited for: 4.096 µs × 2ⁿ, n up to 31. 0 waits for ever.
    pub acknowledgement_timeout_exponent: u8,
    /// How often a packet is sent again, up to 7, which Soft-RoCE takes for without end.
    pub retries_max: u8,
    /// How often is tried again when the other end has no receive posted, up to 6; 7 is without end.
    pub receiver_not_ready_retries_max: u8,
    /// The code of the time that others wait when no receive is posted here: 12 is 0.64 ms; `ibv_modify_qp(3)` has all.
    pub receiver_not_ready_timer: u8,
    /// Reads under way at once in each direction. The device's own limits apply too.
    pub reads_max: u8,
    /// InfiniBand's service level, up to 15; on Ethernet the priority.
    pub service_level: u8,
    /// Traffic class of the global header; its upper six bits are DSCP.
    pub traffic_class: u8,
    /// How many routers may be passed.
    pub hop_limit: u8,
}

impl Default for Reliability {
    /// Waits 67 ms for acknowledgements, with all retries.
    fn default() -> Self {
        Self {
            acknowledgement_timeout_exponent: 14,
            retries_max: 7,
            receiver_not_ready_retries_max: 7,
            receiver_not_ready_timer: 12,
            reads_max: 16,
            service_level: 0,
            traffic_class: 0,
            hop_limit: 64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::GidKind;

    fn attachment(link_layer: LinkLayer) -> Attachment {
        let gid = GidEntry { index: 3, gid: Gid([1; 16]), kind: GidKind::RoceV2 };
        Attachment { port: 1, lid: 4, mtu: Mtu::Bytes4096, link_layer, gid, partition_key_index: 0 }
    }

    #[test]
    fn ethernet_needs_the_global_header_and_a_subnet_of_infiniband_does_not() {
        let remote = Endpoint {
            lid: 9,
            gid: Gid([2; 16]),
            queue_pair_number: 1,
            packet_sequence_number: 0,
            mtu: Mtu::Bytes1024,
        };
        let route = attachment(LinkLayer::Ethernet).raw_route(&remote, &Reliability::default());
        assert_eq!((route.is_global, route.grh.sgid_index, route.grh.dgid.raw), (1, 3, [2; 16]));
        let route = attachment(LinkLayer::InfiniBand).raw_route(&remote, &Reliability::default());
        assert_eq!((route.is_global, route.dlid, route.port_num), (0, 9, 1));
    }
}
