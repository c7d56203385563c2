//! DNS names that may stand in an X.509-SVID.
//!
//! The rules are SPIRE's (ASCII; one leading `*.` at most; labels as IDNA
//! wants them), and one of our own: a byte that no host name has (a space, a
//! slash, NUL) is refused, where Go's lax profile lets it into a certificate.

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

use crate::text::Quoted;

/// Why a DNS name is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DnsNameError {
    /// A byte above 127: the name has to come in its ASCII form.
    #[error("name must be ascii")]
    NotAscii,
    /// More than one `*`.
    #[error("too many wildcards")]
    TooManyWildcards,
    /// A `*` that is not the whole first label.
    #[error("wildcard must be first label")]
    WildcardNotFirst,
    /// Nothing, or nothing but blanks.
    #[error("empty or only whitespace")]
    Empty,
    /// The root dot is written out.
    #[error("domain ends with dot")]
    EndsWithDot,
    /// A label that IDNA does not know.
    #[error("idna error\nidna: invalid label {0}")]
    Label(Quoted),
    /// A character that is not part of host names.
    #[error("idna error\nidna: disallowed rune U+{0:04X}")]
    Character(u32),
    /// A wildcard and a name it covers, in one list.
    #[error("name {0} overlaps with an existing wildcard name in the list: wildcard overlap")]
    Overlap(Quoted),
}

/// The longest name and label (RFC 1035 §2.3.4), without the root dot.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Checks one DNS name of an entry or a CSR.
///
/// # Errors
/// The first rule that the name breaks.
pub fn check(name: &str) -> Result<(), DnsNameError> {
    if !name.is_ascii() {
        return Err(DnsNameError::NotAscii);
    }
    match name.bytes().filter(|byte| *byte == b'*').count() {
        0 => check_plain(name),
        1 => check_plain(name.strip_prefix("*.").ok_or(DnsNameError::WildcardNotFirst)?),
        _ => Err(DnsNameError::TooManyWildcards),
    }
}

/// Checks that no name of the list is covered by a wildcard of the same list.
///
/// # Errors
/// [`DnsNameError::Overlap`] with the covered name.
pub fn check_overlap<S: AsRef<str>>(names: &[S]) -> Result<(), DnsNameError> {
    let wildcards: std::collections::HashSet<&str> =
        names.iter().filter_map(|name| name.as_ref().strip_prefix("*.")).collect();
    if wildcards.is_empty() {
        return Ok(());
    }
    for name in names.iter().map(AsRef::as_ref) {
        if let Some((first, rest)) = name.split_once('.')
            && first != "*"
            && wildcards.contains(rest)
        {
            return Err(DnsNameError::Overlap(Quoted::new(name)));
        }
    }
    Ok(())
}

fn check_plain(name: &str) -> Result<(), DnsNameError> {
    let name = name.trim();
    if name.is_empty() {
        return Err(DnsNameError::Empty);
    }
    if name.ends_with('.') {
        return Err(DnsNameError::EndsWithDot);
    }
    if name.len() > MAX_NAME {
        return Err(DnsNameError::Label(Quoted::new(name)));
    }
    if let Some(odd) = name.chars().find(|c| !is_host_char(*c)) {
        return Err(DnsNameError::Character(odd.into()));
    }
    for label in name.split('.') {
        if label.is_empty() {
            // IDNA blames the whole name for a label that is not there.
            return Err(DnsNameError::Label(Quoted::new(name)));
        }
        if !is_label(label) {
            return Err(DnsNameError::Label(Quoted::new(label)));
        }
    }
    Ok(())
}

fn is_host_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    if bytes.len() > MAX_LABEL || bytes.starts_with(b"-") || bytes.ends_with(b"-") {
        return false;
    }
    if label.starts_with("xn--") {
        return is_canonical_a_label(label);
    }
    bytes.get(2..4) != Some(b"--")
}

/// Decoding and encoding again has to give the same bytes.
fn is_canonical_a_label(label: &str) -> bool {
    Uts46::new()
        .to_ascii(label.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Check, DnsLength::Verify)
        .is_ok_and(|checked| checked == label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_and_one_leading_wildcard_pass() {
        for name in [
            "com",
            "example.com",
            "*.example.com",
            "a-hello.com",
            "a_b",
            "FOO.com",
            "1.2.3.4",
            "xn--ls8h.org",
            "xn--bcher-kva.de",
            "abc--d",
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        assert_eq!(check(&"a".repeat(63)), Ok(()));
    }

    #[test]
    fn each_rule_has_its_own_text() {
        for (name, text) in [
            ("", "empty or only whitespace"),
            (" ", "empty or only whitespace"),
            (".", "domain ends with dot"),
            ("example.com.", "domain ends with dot"),
            ("*.foo.*.bar", "too many wildcards"),
            ("foo.*.bar", "wildcard must be first label"),
            ("*", "wildcard must be first label"),
            ("bücher.de", "name must be ascii"),
            ("-hello.com", "idna error\nidna: invalid label \"-hello\""),
            ("hello-.com", "idna error\nidna: invalid label \"hello-\""),
            ("ab--cd", "idna error\nidna: invalid label \"ab--cd\""),
            ("XN--bcher-kva", "idna error\nidna: invalid label \"XN--bcher-kva\""),
            ("a..b", "idna error\nidna: invalid label \"a..b\""),
            ("a b", "idna error\nidna: disallowed rune U+0020"),
            ("a\0b", "idna error\nidna: disallowed rune U+0000"),
        ] {
            assert_eq!(check(name).unwrap_err().to_string(), text, "{name:?}");
        }
        for name in ["xn--", "xn--a", "xn--BCHER-KVA", "xn--foo-"] {
            assert!(matches!(check(name), Err(DnsNameError::Label(_))), "{name}");
        }
        assert!(check(&"a".repeat(64)).is_err());
        assert!(check(&["a"; 128].join(".")).is_err());
    }

    #[test]
    fn a_wildcard_may_not_cover_a_name_beside_it() {
        assert_eq!(check_overlap(&["*.a.org", "b.org", "x.y.a.org", "a.org"]), Ok(()));
        assert_eq!(
            check_overlap(&["x.a.org", "*.a.org"]).unwrap_err().to_string(),
            "name \"x.a.org\" overlaps with an existing wildcard name in the list: wildcard overlap"
        );
    }
}
