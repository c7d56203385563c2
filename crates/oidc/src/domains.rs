//! The names that the provider answers to.

use std::collections::HashSet;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::go::quote;

/// The configured names.
#[derive(Debug)]
pub(crate) struct Domains(HashSet<String>);

/// Why a name is none of them. The texts are SPIRE's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DomainError {
    #[error("domain {0} is not a valid domain name: {1}")]
    Invalid(String, String),
    #[error("domain {0} must already be punycode encoded")]
    NotPunycode(String),
    #[error("domain {0} is not allowed")]
    NotAllowed(String),
}

impl Domains {
    /// Exactly these, in their ASCII form.
    pub(crate) fn new(names: &[String]) -> Result<Self, DomainError> {
        names.iter().map(|it| check(it).map(|()| it.clone())).collect::<Result<_, _>>().map(Self)
    }

    /// Whether `host`, a name with or without a port, is one of them.
    pub(crate) fn verify(&self, host: &str) -> Result<(), DomainError> {
        let domain = domain_of(host);
        if self.0.contains(domain) {
            return Ok(());
        }
        check(domain)?;
        Err(DomainError::NotAllowed(quote(domain)))
    }
}

/// What Go's `net.SplitHostPort` gives, or everything when that fails.
fn domain_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, _)) if name.starts_with('[') => {
            name.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host)
        }
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    }
}

fn check(domain: &str) -> Result<(), DomainError> {
    let invalid = |reason| Err(DomainError::Invalid(quote(domain), reason));
    let disallowed = domain
        .chars()
        .find(|it| it.is_ascii() && !it.is_ascii_alphanumeric() && !".-".contains(*it));
    if let Some(rune) = disallowed {
        return invalid(format!("idna: disallowed rune U+{:04X}", u32::from(rune)));
    }
    // Longer ones are nobody's, and cost more to look at.
    if domain.len() > 1024 {
        return invalid("it is too long".to_owned());
    }
    let ascii = Uts46::new().to_ascii(
        domain.as_bytes(),
        AsciiDenyList::STD3,
        Hyphens::Check,
        DnsLength::Ignore,
    );
    match ascii {
        Err(_) => invalid("idna: invalid label".to_owned()),
        Ok(ascii) if ascii != domain => Err(DomainError::NotPunycode(quote(domain))),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains() -> Domains {
        Domains::new(&["a.test".to_owned(), "xn--bcher-kva.test".to_owned()]).unwrap()
    }

    #[test]
    fn a_configured_name_is_allowed_with_any_port() {
        for host in ["a.test", "a.test:443", "xn--bcher-kva.test:8443"] {
            assert_eq!(domains().verify(host), Ok(()), "{host}");
        }
    }

    #[test]
    fn other_names_are_refused_with_spires_reasons() {
        let pairs = [
            ("b.test", "domain \"b.test\" is not allowed"),
            ("A.test", "domain \"A.test\" must already be punycode encoded"),
            ("bücher.test", "domain \"bücher.test\" must already be punycode encoded"),
            (
                "a_b.test",
                "domain \"a_b.test\" is not a valid domain name: idna: disallowed rune U+005F",
            ),
            ("[::1]", "domain \"[::1]\" is not a valid domain name: idna: disallowed rune U+005B"),
            ("", "domain \"\" is not allowed"),
        ];
        for (host, text) in pairs {
            assert_eq!(domains().verify(host).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn a_name_must_be_configured_in_its_ascii_form() {
        assert!(Domains::new(&["bücher.test".to_owned()]).is_err());
        assert!(Domains::new(&["a.test/x".to_owned()]).is_err());
    }
}
