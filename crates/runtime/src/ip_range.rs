//! A range of IP addresses, as operators write it: `10.0.0.0/8`, `2001:db8::/32`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// All addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpRange {
    first: IpAddr,
    bits: u8,
}

impl IpRange {
    /// Whether the address lies in it. An IPv4 address in the form of an IPv6 one counts as what
    /// it is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => masked_v4(address, self.bits) == first,
            (IpAddr::V6(first), IpAddr::V6(address)) => masked_v6(address, self.bits) == first,
            _ => false,
        }
    }
}

impl FromStr for IpRange {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let (address, bits) = text.split_once('/').ok_or(NotARange)?;
        let address: IpAddr = address.parse().map_err(|_| NotARange)?;
        // `+8` and `008` are numbers to the standard library, and no prefix lengths.
        let plain = bits.bytes().all(|byte| byte.is_ascii_digit());
        if !plain || bits.len() > 3 || (bits.len() > 1 && bits.starts_with('0')) {
            return Err(NotARange);
        }
        let bits: u8 = bits.parse().map_err(|_| NotARange)?;
        let first = match address {
            IpAddr::V4(address) if bits <= 32 => IpAddr::V4(masked_v4(address, bits)),
            IpAddr::V6(address) if bits <= 128 => IpAddr::V6(masked_v6(address, bits)),
            _ => return Err(NotARange),
        };
        Ok(Self { first, bits })
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

/// Not an address, a slash and a number of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address")]
pub struct NotARange;

fn masked_v4(address: Ipv4Addr, bits: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() & mask)
}

fn masked_v6(address: Ipv6Addr, bits: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> IpRange {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_in_the_ranges_whose_bits_it_begins_with() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.0/31", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
            ("::1/128", "::1", "127.0.0.1"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "ffff::", "1.2.3.4"),
        ] {
            assert!(range(text).contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(!range(text).contains(outside.parse().unwrap()), "{text} {outside}");
        }
    }

    #[test]
    fn it_prints_as_its_first_address_and_reads_again() {
        for (text, printed) in [("10.1.2.3/8", "10.0.0.0/8"), ("2001:db8::1/32", "2001:db8::/32")] {
            assert_eq!(range(text).to_string(), printed);
            assert_eq!(range(printed), range(text));
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0/8",
            "::/129",
            "::/1000",
            "a/8",
            "10.0.0.0/8/8",
            " 10.0.0.0/8",
        ] {
            assert_eq!(text.parse::<IpRange>(), Err(NotARange), "{text}");
        }
    }
}
