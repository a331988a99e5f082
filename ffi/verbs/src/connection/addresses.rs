//! Which addresses of this machine a device has.

use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use super::channel::ConnectionChannel;
use super::identifier::Raw;
use crate::Error;
use crate::device::Device;

/// The addresses by which others reach a device, IPv4 before IPv6: those of this machine that librdmacm finds at it
/// (`rdma_bind_addr(3)`). Addresses of one link alone are left out, because they say nothing without it.
pub fn addresses(device: &Device) -> Result<Vec<IpAddr>, Error> {
    let channel = ConnectionChannel::create()?;
    let is_of_device = |address: &IpAddr| {
        // An address without a device cannot be bound.
        let bound = Raw::bound(&channel, SocketAddr::new(*address, 0));
        bound.is_ok_and(|bound| bound.device_name().as_deref() == Some(device.name()))
    };
    let mut found: Vec<IpAddr> = of_this_machine()?.into_iter().filter(is_of_device).collect();
    found.sort_by_key(IpAddr::is_ipv6);
    Ok(found)
}

/// The addresses of this machine that others can use, in the order of its interfaces (`getifaddrs(3)`).
fn of_this_machine() -> Result<Vec<IpAddr>, Error> {
    let listed = getifaddrs().map_err(|code| Error::returned("getifaddrs", "this machine", code as i32))?;
    let addresses = listed.filter_map(|interface| ip(interface.address?));
    Ok(addresses.filter(|address| is_of_many_links(*address)).collect())
}

fn ip(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
}

fn is_of_many_links(address: IpAddr) -> bool {
    let is_of_one = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !is_of_one && !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_others_cannot_use_are_left_out() {
        let is_used = |text: &str| is_of_many_links(text.parse().unwrap());
        assert!(["10.98.0.1", "fd00::1", "2001:db8::1"].into_iter().all(is_used));
        assert!(!["127.0.0.1", "::1", "169.254.3.4", "fe80::1", "0.0.0.0"].into_iter().any(is_used));
        assert!(of_this_machine().unwrap().into_iter().all(is_of_many_links));
    }
}
