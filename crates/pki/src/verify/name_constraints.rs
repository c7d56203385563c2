//! Which names the CAs of a path may sign for (RFC 5280 §4.2.1.10), as Go reads that: DNS names,
//! IP addresses, the hosts of URIs, and e-mail addresses.

use std::net::IpAddr;

use thiserror::Error;

use crate::der::{self, DerError, Reader};
use crate::x509::Certificate;

/// How many names are compared with constraints.
const MAX_COMPARISONS: usize = 250_000;
/// How much of a name an error repeats.
const MAX_ECHO: usize = 100;

/// Why a name is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// The constraints cannot be read, or are of kinds that nobody here reads.
    #[error("constraints that cannot be understood")]
    Unreadable,
    /// Nothing permits the name.
    #[error("{0} {1:?} is not permitted by any constraint")]
    NotPermitted(&'static str, String),
    /// Something excludes the name.
    #[error("{0} {1:?} is excluded by constraint {2:?}")]
    Excluded(&'static str, String, String),
    /// A URI's host cannot be compared.
    #[error("URI {0:?} cannot be matched against constraints")]
    Uri(String),
    /// More names and constraints than are compared.
    #[error("too many constraints")]
    TooMany,
}

/// Holds the names of each certificate of `path`, the leaf first, against the constraints of those
/// above it.
pub(super) fn check(path: &[&Certificate]) -> Result<(), ConstraintError> {
    let mut budget = MAX_COMPARISONS;
    for (index, authority) in path.iter().enumerate() {
        let Some(encoded) = authority.name_constraints_der() else { continue };
        let constraints = Constraints::parse(encoded).map_err(|_| ConstraintError::Unreadable)?;
        for below in &path[..index] {
            constraints.check(below, &mut budget)?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Constraints {
    permitted: Subtrees,
    excluded: Subtrees,
}

#[derive(Default)]
struct Subtrees {
    dns: Vec<String>,
    uris: Vec<String>,
    emails: Vec<String>,
    networks: Vec<Network>,
}

struct Network {
    address: IpAddr,
    /// As many leading bits count.
    prefix: u32,
}

impl Constraints {
    fn parse(encoded: &[u8]) -> Result<Self, DerError> {
        let mut fields = Reader::sequence_of(encoded)?;
        let mut out = Self::default();
        if let Some(list) = fields.optional(der::context_constructed(0))? {
            out.permitted = Subtrees::parse(list)?;
        }
        if let Some(list) = fields.optional(der::context_constructed(1))? {
            out.excluded = Subtrees::parse(list)?;
        }
        fields.finish()?;
        Ok(out)
    }

    fn check(&self, names: &Certificate, budget: &mut usize) -> Result<(), ConstraintError> {
        for name in names.dns_sans() {
            let lists = (&*self.permitted.dns, &*self.excluded.dns);
            one("DNS name", name, lists, budget, |it| in_domain(name, it), String::clone)?;
            // A wildcard stands for names that an exclusion may be about.
            if let Some(below) = name.strip_prefix("*.") {
                spend(budget, self.excluded.dns.len())?;
                let hit = self.excluded.dns.iter().find(|it| in_domain(it, below));
                if let Some(hit) = hit {
                    return Err(ConstraintError::Excluded("DNS name", shown(name), shown(hit)));
                }
            }
        }
        for name in names.ip_sans() {
            let lists = (&*self.permitted.networks, &*self.excluded.networks);
            let text = name.to_string();
            one("IP address", &text, lists, budget, |it| it.contains(*name), Network::text)?;
        }
        if !(self.permitted.uris.is_empty() && self.excluded.uris.is_empty()) {
            for uri in names.uri_sans() {
                let host = host(uri).ok_or_else(|| ConstraintError::Uri(shown(uri)))?;
                let lists = (&*self.permitted.uris, &*self.excluded.uris);
                one("URI", uri, lists, budget, |it| in_domain(host, it), String::clone)?;
            }
        }
        for name in names.email_sans() {
            let lists = (&*self.permitted.emails, &*self.excluded.emails);
            one("email address", name, lists, budget, |it| is_mailbox(name, it), String::clone)?;
        }
        Ok(())
    }
}

impl Subtrees {
    fn parse(list: &[u8]) -> Result<Self, DerError> {
        let mut out = Self::default();
        let mut list = Reader::new(list);
        while !list.is_empty() {
            // minimum and maximum must be absent (RFC 5280 §4.2.1.10).
            let mut subtree = list.sequence()?;
            let base = subtree.any()?;
            subtree.finish()?;
            match base.tag {
                0x82 => out.dns.push(text(base.value)?),
                0x86 => out.uris.push(text(base.value)?),
                0x81 => out.emails.push(text(base.value)?),
                0x87 => out.networks.push(Network::parse(base.value)?),
                // A kind that is not read cannot be kept to.
                _ => return Err(DerError::Value("name constraints")),
            }
        }
        Ok(out)
    }
}

impl Network {
    fn parse(value: &[u8]) -> Result<Self, DerError> {
        const BAD: DerError = DerError::Value("name constraints");
        let (address, mask) = value.split_at(value.len() / 2);
        let address = match (address.first_chunk::<4>(), address.first_chunk::<16>()) {
            (_, Some(v6)) if value.len() == 32 => IpAddr::from(*v6),
            (Some(v4), _) if value.len() == 8 => IpAddr::from(*v4),
            _ => return Err(BAD),
        };
        let prefix = mask.iter().map(|byte| byte.leading_ones()).sum();
        let ones: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
        let leading = mask.iter().position(|byte| *byte != 0xff).is_none_or(|first| {
            let contiguous = mask[first].leading_ones() == mask[first].count_ones();
            contiguous && mask[first + 1..].iter().all(|byte| *byte == 0)
        });
        if !leading || prefix != ones {
            return Err(BAD);
        }
        Ok(Self { address, prefix })
    }

    fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(network), IpAddr::V4(other)) => {
                let differ = network.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= self.prefix
            }
            (IpAddr::V6(network), IpAddr::V6(other)) => {
                let differ = network.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= self.prefix
            }
            _ => false,
        }
    }

    fn text(&self) -> String {
        format!("{}/{}", self.address, self.prefix)
    }
}

/// One name against the permitted and the excluded of its kind.
fn one<C>(
    kind: &'static str,
    name: &str,
    (permitted, excluded): (&[C], &[C]),
    budget: &mut usize,
    matches: impl Fn(&C) -> bool,
    text: impl Fn(&C) -> String,
) -> Result<(), ConstraintError> {
    spend(budget, permitted.len() + excluded.len())?;
    if !permitted.is_empty() && !permitted.iter().any(&matches) {
        return Err(ConstraintError::NotPermitted(kind, shown(name)));
    }
    match excluded.iter().find(|it| matches(it)) {
        Some(hit) => Err(ConstraintError::Excluded(kind, shown(name), shown(&text(hit)))),
        None => Ok(()),
    }
}

fn spend(budget: &mut usize, comparisons: usize) -> Result<(), ConstraintError> {
    *budget = budget.checked_sub(comparisons).ok_or(ConstraintError::TooMany)?;
    Ok(())
}

/// Whether `name` is `domain` or lies under it; a domain with a dot in front has no place of its
/// own. The empty one is that of all names.
fn in_domain(name: &str, domain: &str) -> bool {
    let Some(start) = name.len().checked_sub(domain.len()) else { return false };
    let (Some(before), Some(end)) = (name.get(..start), name.get(start..)) else { return false };
    let borders = domain.is_empty() || before.is_empty() || domain.starts_with('.');
    end.eq_ignore_ascii_case(domain)
        && (borders || before.ends_with('.'))
        && !(before.is_empty() && domain.starts_with('.'))
}

fn is_mailbox(address: &str, constraint: &str) -> bool {
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    match constraint.rsplit_once('@') {
        Some((wanted, of)) => wanted == local && of.eq_ignore_ascii_case(domain),
        // Without a dot in front, a constraint is one host; Go takes what lies under it as well.
        None => in_domain(domain, constraint),
    }
}

/// The host of a URI, if it is a name.
fn host(uri: &str) -> Option<&str> {
    let (_, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.starts_with('[') {
        return None;
    }
    let host = host.split_once(':').map_or(host, |(host, _)| host);
    (!host.is_empty() && host.parse::<IpAddr>().is_err()).then_some(host)
}

fn text(value: &[u8]) -> Result<String, DerError> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.is_ascii());
    text.map(str::to_owned).ok_or(DerError::Value("name constraints"))
}

fn shown(name: &str) -> String {
    name.chars().take(MAX_ECHO).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_border_at_dots() {
        assert!(in_domain("a.example.org", "example.org"));
        assert!(in_domain("Example.org", "example.ORG"));
        assert!(in_domain("a.example.org", ".example.org") && in_domain("anything", ""));
        assert!(!in_domain("example.org", ".example.org"));
        assert!(!in_domain("xexample.org", "example.org") && !in_domain("org", "example.org"));
    }

    #[test]
    fn hosts_of_uris_are_names() {
        assert_eq!(host("spiffe://example.org/a"), Some("example.org"));
        assert_eq!(host("https://user@example.org:8443/a"), Some("example.org"));
        for none in ["urn:x", "https://10.0.0.1/", "https://[::1]/", "https:///a"] {
            assert_eq!(host(none), None, "{none}");
        }
    }

    #[test]
    fn mailboxes_are_compared_as_a_whole_or_by_their_host() {
        assert!(is_mailbox("a@example.org", "a@Example.org"));
        assert!(!is_mailbox("b@example.org", "a@example.org"));
        assert!(is_mailbox("b@example.org", "example.org"));
        assert!(!is_mailbox("nobody", "example.org"));
    }

    #[test]
    fn networks_have_whole_masks() {
        let network = Network::parse(&[10, 0, 0, 0, 255, 128, 0, 0]).unwrap();
        assert_eq!(network.text(), "10.0.0.0/9");
        assert!(network.contains([10, 127, 0, 1].into()));
        assert!(!network.contains([10, 128, 0, 1].into()));
        assert!(Network::parse(&[10, 0, 0, 0, 255, 0, 255, 0]).is_err());
        assert!(Network::parse(&[10, 0, 0, 0, 254, 1, 0, 0]).is_err());
        assert!(Network::parse(&[10, 0, 0, 0]).is_err());
    }
}
