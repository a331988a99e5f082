//! Addresses as the system's calls have them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use libc::{AF_INET, AF_INET6, sockaddr_in, sockaddr_in6, sockaddr_storage};

use crate::sys;

/// What a call takes for an address.
pub(super) fn to_raw(address: SocketAddr) -> sockaddr_storage {
    // SAFETY: the structure is one of plain numbers.
    let mut storage: sockaddr_storage = unsafe { sys::zeroed() };
    let place = std::ptr::from_mut(&mut storage);
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: the structure is one of plain numbers.
            let mut raw: sockaddr_in = unsafe { sys::zeroed() };
            raw.sin_family = AF_INET as u16;
            raw.sin_port = address.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            // SAFETY: the storage has room for every kind of address, and their alignment.
            unsafe { place.cast::<sockaddr_in>().write(raw) };
        }
        SocketAddr::V6(address) => {
            // SAFETY: the structure is one of plain numbers.
            let mut raw: sockaddr_in6 = unsafe { sys::zeroed() };
            raw.sin6_family = AF_INET6 as u16;
            raw.sin6_port = address.port().to_be();
            raw.sin6_flowinfo = address.flowinfo();
            raw.sin6_addr.s6_addr = address.ip().octets();
            raw.sin6_scope_id = address.scope_id();
            // SAFETY: as above.
            unsafe { place.cast::<sockaddr_in6>().write(raw) };
        }
    }
    storage
}

/// The address in a place that a call filled, if it is one of IP.
pub(super) fn from_raw(storage: &sockaddr_storage) -> Option<SocketAddr> {
    let place = std::ptr::from_ref(storage);
    match i32::from(storage.ss_family) {
        AF_INET => {
            // SAFETY: the family says which structure it is, and the storage is as long and as aligned as any.
            let raw = unsafe { place.cast::<sockaddr_in>().read() };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(raw.sin_port)))
        }
        AF_INET6 => {
            // SAFETY: as above.
            let raw = unsafe { place.cast::<sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            Some(SocketAddrV6::new(ip, port, raw.sin6_flowinfo, raw.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were() {
        for text in ["10.98.0.1:7471", "0.0.0.0:0", "[::1]:65535", "[fe80::1%3]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(from_raw(&to_raw(address)), Some(address));
        }
    }

    #[test]
    fn bytes_are_in_the_order_of_the_network() {
        let storage = to_raw("1.2.3.4:258".parse().unwrap());
        // SAFETY: the storage is longer than 8 bytes, and has no padding there.
        let bytes = unsafe { std::ptr::from_ref(&storage).cast::<[u8; 8]>().read() };
        assert_eq!(bytes[2..], [1, 2, 1, 2, 3, 4]);
    }

    #[test]
    fn what_is_no_address_of_ip_is_none() {
        // SAFETY: the structure is one of plain numbers.
        assert_eq!(from_raw(&unsafe { sys::zeroed() }), None);
    }
}
