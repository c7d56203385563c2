//! What a certificate's URIs say to this plugin: selectors, and the path of an X.509-SVID.

use std::collections::BTreeMap;

use steeple_pki::Certificate;
use steeple_spiffe::{SpiffeId, TrustDomain};

/// The selectors of `x509pop://<trust domain>/<key>/<value>`; of several of one key the last
/// counts.
pub(super) fn selectors(
    leaf: &Certificate,
    trust_domain: &TrustDomain,
) -> BTreeMap<String, String> {
    let prefix = format!("x509pop://{}/", trust_domain.as_str());
    let mut found = BTreeMap::new();
    for uri in leaf.uri_sans() {
        let Some(rest) = without_scheme_in_capitals(uri, &prefix) else { continue };
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        let path = decoded(path).unwrap_or_default();
        match path.trim_matches('/').split_once('/') {
            Some((key, value)) => {
                found.insert(key.to_owned(), value.to_owned());
            }
            None => {
                let uri: String = uri.chars().take(100).collect();
                tracing::warn!(
                    plugin_name = super::NAME,
                    "cannot extract x509pop san selectors from {uri}"
                );
            }
        }
    }
    found
}

/// The ID of an X.509-SVID, which may have URIs of other kinds beside it: the one that is of
/// SPIFFE. Of another trust domain it is none of ours, even where both share a root.
pub(super) fn spiffe_id(leaf: &Certificate, trust_domain: &TrustDomain) -> Option<SpiffeId> {
    let is_spiffe =
        |uri: &&String| uri.get(..9).is_some_and(|it| it.eq_ignore_ascii_case("spiffe://"));
    let mut uris = leaf.uri_sans().iter().filter(is_spiffe);
    let (first, None) = (uris.next()?, uris.next()) else { return None };
    SpiffeId::parse(first).ok().filter(|id| id.is_member_of(trust_domain))
}

/// What follows `prefix`; a scheme may be written in capitals.
fn without_scheme_in_capitals<'a>(uri: &'a str, prefix: &str) -> Option<&'a str> {
    let (scheme, rest) = uri.split_once(':')?;
    let (expected, follows) = prefix.split_once(':')?;
    if !scheme.eq_ignore_ascii_case(expected) {
        return None;
    }
    rest.strip_prefix(follows)
}

/// Without percent-encoding; none when that is broken, or hides something that is no text.
fn decoded(path: &str) -> Option<String> {
    if !path.contains('%') {
        return Some(path.to_owned());
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|it| char::from(*it).to_digit(16));
        (rest, _) = match first {
            b'%' => {
                let byte = digit(0)? << 4 | digit(1)?;
                (&tail[2..], bytes.push(u8::try_from(byte).ok()?))
            }
            byte => (tail, bytes.push(*byte)),
        };
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_taken_off_or_refused() {
        assert_eq!(decoded("a%2fb/%C3%A9").as_deref(), Some("a/b/é"));
        for bad in ["%", "%2", "%zz", "%ff", "%00", "a%0a"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }

    #[test]
    fn prefixes_are_whole() {
        let prefix = "x509pop://example.org/";
        assert_eq!(without_scheme_in_capitals("X509pop://example.org/a/b", prefix), Some("a/b"));
        for other in ["x509pop://example.orgx/a/b", "x509pop://Example.org/a", "x509pop:/a"] {
            assert_eq!(without_scheme_in_capitals(other, prefix), None, "{other}");
        }
    }
}
