//! Which device reaches which, as far as their addresses tell, and which of several to take: pure but for two files of the
//! kernel.

use std::net::{Ipv4Addr, Ipv6Addr};

use flow::wire::lane::QueuePairAddress;

/// What the prefix of an InfiniBand subnet is unless somebody has set another, so that it says nothing.
const DEFAULT_PREFIX: [u8; 8] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0];

/// Where a port is in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a subnet of InfiniBand: the upper half of a GID is its prefix.
    InfiniBand {
        /// The port's address.
        gid: [u8; 16],
    },
    /// On Ethernet, where a GID is an IP address.
    Ethernet {
        /// The port's address.
        gid: [u8; 16],
        /// How many bits of it are those of its subnet, where that is known.
        prefix_bits: Option<u8>,
    },
}

impl Place {
    /// Whether a queue pair there could be the other end of one here. Subnets of InfiniBand with different prefixes are
    /// taken to be apart, since routers between them are rare; IP is routed.
    pub(super) fn reaches(self, remote: &QueuePairAddress) -> bool {
        match self {
            // Only InfiniBand has local addresses.
            Self::InfiniBand { gid } => remote.lid != 0 && gid[..8] == remote.gid[..8],
            Self::Ethernet { gid, .. } => remote.lid == 0 && is_ipv4(&gid) == is_ipv4(&remote.gid),
        }
    }

    /// Whether it is known to be in the same subnet: the same rail, where each rail is a subnet.
    pub(super) fn shares_subnet(self, remote: &QueuePairAddress) -> bool {
        self.reaches(remote)
            && match self {
                Self::InfiniBand { gid } => gid[..8] != DEFAULT_PREFIX,
                Self::Ethernet { gid, prefix_bits } => prefix_bits.is_some_and(|bits| {
                    let differs = u128::from_be_bytes(gid) ^ u128::from_be_bytes(remote.gid);
                    !is_link_local(&gid) && differs.leading_zeros() >= bits.into()
                }),
            }
    }
}

/// Which rail answers the offer of a peer's rail of number `offered`: of those that reach it, given with whether they share
/// a subnet with it, one that does, if there is any, and of these the one with the same number, or else the one whose turn
/// it is.
pub(crate) fn answering_rail(offered: u16, reaching: &[(u16, bool)]) -> Option<u16> {
    let is_near = reaching.iter().any(|(_, shares_subnet)| *shares_subnet);
    let best = reaching.iter().filter(|(_, shares_subnet)| *shares_subnet == is_near);
    let best: Vec<u16> = best.map(|(rail, _)| *rail).collect();
    let turn = usize::from(offered).checked_rem(best.len())?;
    best.iter().copied().find(|rail| *rail == offered).or_else(|| best.get(turn).copied())
}

/// How many bits of an address of this machine are those of its subnet, by the kernel's tables of addresses and routes.
pub(super) fn prefix_bits(gid: &[u8; 16]) -> Option<u8> {
    match Ipv6Addr::from(*gid).to_ipv4_mapped() {
        Some(address) => ipv4_prefix_bits(address, &std::fs::read_to_string("/proc/net/route").ok()?),
        None => ipv6_prefix_bits(gid, &std::fs::read_to_string("/proc/net/if_inet6").ok()?),
    }
}

/// By the narrowest route that leads to the address without a gateway. Such lines of `/proc/net/route` read
/// `eth0 0000A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0`: interface, destination, gateway, …, mask as the eighth, in
/// the order of the machine's bytes. The bits count from the start of the mapped address.
fn ipv4_prefix_bits(address: Ipv4Addr, routes: &str) -> Option<u8> {
    let word =
        |text: &str| u32::from_str_radix(text, 16).ok().map(|word| u32::from_be_bytes(word.to_ne_bytes()));
    let masks = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, destination, gateway, _, _, _, _, mask, ..] = fields[..] else { return None };
        let (destination, gateway, mask) = (word(destination)?, word(gateway)?, word(mask)?);
        let leads_there = gateway == 0 && mask != 0 && address.to_bits() & mask == destination;
        leads_there.then_some(mask)
    });
    masks.map(|mask| 96 + mask.leading_ones() as u8).max()
}

/// Lines of `/proc/net/if_inet6` read `fe80000000000000021a2bfffe3c4d5e 02 40 20 80 eth0`: address, number of the
/// interface, bits of the prefix in hexadecimal, ….
fn ipv6_prefix_bits(gid: &[u8; 16], addresses: &str) -> Option<u8> {
    addresses.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        let bits = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
        (address.to_be_bytes() == *gid).then_some(bits)
    })
}

fn is_ipv4(gid: &[u8; 16]) -> bool {
    Ipv6Addr::from(*gid).to_ipv4_mapped().is_some()
}

fn is_link_local(gid: &[u8; 16]) -> bool {
    Ipv6Addr::from(*gid).is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(text: &str) -> [u8; 16] {
        text.parse::<Ipv6Addr>().unwrap().octets()
    }

    fn remote(text: &str, lid: u16) -> QueuePairAddress {
        QueuePairAddress {
            gid: gid(text),
            lid,
            queue_pair: 1,
            packet_sequence_number: 1,
            mtu_bytes: 4096,
            key: 1,
            base: 0,
            length: 1,
        }
    }

    #[test]
    fn infiniband_reaches_its_own_subnet_and_a_default_prefix_is_none() {
        let here = Place::InfiniBand { gid: gid("fec0:0:0:1::5") };
        let (same, other) = (remote("fec0:0:0:1::9", 3), remote("fec0:0:0:2::9", 3));
        assert!(here.reaches(&same) && here.shares_subnet(&same));
        assert!(!here.reaches(&other) && !here.shares_subnet(&other));
        assert!(!here.reaches(&remote("fec0:0:0:1::9", 0)), "that is Ethernet");
        let unset = Place::InfiniBand { gid: gid("fe80::5") };
        assert!(unset.reaches(&remote("fe80::9", 3)) && !unset.shares_subnet(&remote("fe80::9", 3)));
    }

    #[test]
    fn ethernet_reaches_what_ip_reaches_and_knows_its_subnet() {
        let here = Place::Ethernet { gid: gid("::ffff:10.1.2.3"), prefix_bits: Some(96 + 24) };
        assert!(here.shares_subnet(&remote("::ffff:10.1.2.77", 0)));
        let far = remote("::ffff:10.1.3.3", 0);
        assert!(here.reaches(&far) && !here.shares_subnet(&far));
        assert!(!here.reaches(&remote("2001:db8::1", 0)) && !here.reaches(&remote("::ffff:10.1.2.77", 5)));
        let unknown = Place::Ethernet { gid: gid("::ffff:10.1.2.3"), prefix_bits: None };
        let near = remote("::ffff:10.1.2.77", 0);
        assert!(unknown.reaches(&near) && !unknown.shares_subnet(&near));
        let link_local = Place::Ethernet { gid: gid("fe80::1"), prefix_bits: Some(64) };
        assert!(!link_local.shares_subnet(&remote("fe80::2", 0)), "every link has that prefix");
    }

    #[test]
    fn of_the_rails_that_reach_an_offer_one_of_its_subnet_in_its_place_answers() {
        assert_eq!(answering_rail(0, &[]), None);
        assert_eq!(answering_rail(2, &[(0, false), (1, false), (2, false)]), Some(2));
        assert_eq!(answering_rail(2, &[(0, false), (1, true), (2, false)]), Some(1));
        assert_eq!(answering_rail(2, &[(0, true), (1, false), (2, true), (3, false)]), Some(2));
        assert_eq!(answering_rail(5, &[(0, false), (1, false)]), Some(1));
        assert_eq!(answering_rail(3, &[(0, true), (2, true)]), Some(2));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn prefixes_come_from_the_tables_of_the_kernel() {
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                      eth0 00000000 0102A8C0 0003 0 0 0 00000000 0 0 0\n\
                      eth0 0002A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
                      eth1 0000000A 00000000 0001 0 0 0 000000FF 0 0 0\n\
                      eth1 0001010A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
                      eth1 x\n";
        let bits = |text: &str| ipv4_prefix_bits(text.parse().unwrap(), routes);
        assert_eq!(bits("192.168.2.9"), Some(96 + 24));
        assert_eq!((bits("10.1.1.7"), bits("10.9.1.7")), (Some(96 + 24), Some(96 + 8)));
        assert_eq!(bits("172.16.0.1"), None, "only a gateway leads there");
        let addresses = "00000000000000000000000000000001 01 80 10 80       lo\n\
                         20010db8000000000000000000000007 02 40 00 00     eth0\n\
                         nonsense\n";
        assert_eq!(ipv6_prefix_bits(&gid("2001:db8::7"), addresses), Some(64));
        assert_eq!(ipv6_prefix_bits(&gid("2001:db8::8"), addresses), None);
    }
}
