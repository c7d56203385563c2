//! Which addresses the server may be made to call.
//!
//! Whoever reaches the server chooses the name that it looks up. Upstream refuses the name
//! `localhost` and no address; what follows is ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::config::ServerConfig;

/// Where clouds tell a machine its secrets, and no agent is: of AWS, Azure, GCP, OpenStack and
/// others; of AWS by IPv6; of GCP by IPv6; of Azure's agents; of Alibaba; of Oracle.
const METADATA: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

impl ServerConfig {
    /// Whether to call this address.
    pub(super) fn allows(&self, address: IpAddr) -> bool {
        let address = meant(address);
        let nobodys = match address {
            IpAddr::V4(it) => it.octets()[0] == 0 || it.is_multicast() || it.is_broadcast(),
            IpAddr::V6(it) => it.is_unspecified() || it.is_multicast(),
        };
        if nobodys || METADATA.contains(&address) || self.deny_local_addresses && local(address) {
            return false;
        }
        self.allowed_ranges.is_empty()
            || self.allowed_ranges.iter().any(|range| range.contains(address))
    }
}

/// The loopback, and what is on the same cable only.
fn local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(it) => it.is_loopback() || it.is_link_local(),
        IpAddr::V6(it) => it.is_loopback() || it.is_unicast_link_local(),
    }
}

/// The IPv4 address that an IPv6 address leads to, if it does: written as one (`::ffff:a.b.c.d`,
/// `::a.b.c.d`), by a translator (RFC 6052) or by 6to4.
fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| {
        IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}
