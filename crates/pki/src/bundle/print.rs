use serde::Serialize;
use serde_json::ser::{CompactFormatter, PrettyFormatter, Serializer};

use super::jwk::Jwk;
use super::{Bundle, JwtAuthority};
use crate::json;

/// How a document is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Indent {
    /// Four spaces per level, as SPIRE prints its bundles.
    FourSpaces,
    /// All on one line.
    None,
}

#[derive(Serialize)]
struct Document {
    keys: Vec<Jwk>,
    #[serde(skip_serializing_if = "is_zero")]
    spiffe_sequence: u64,
    #[serde(skip_serializing_if = "is_zero")]
    spiffe_refresh_hint: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Prints the SPIFFE bundle document: every authority with its use, sequence number and refresh
/// hint unless zero. Tainted authorities are part of it until they are revoked.
#[must_use]
pub fn spiffe(bundle: &Bundle, indent: Indent) -> String {
    let mut keys = x509_keys(bundle, Some("x509-svid"));
    keys.extend(jwt_keys(&bundle.jwt_authorities, Some("jwt-svid")));
    keys.extend(jwt_keys(&bundle.wit_authorities, Some("wit-svid")));
    let document = Document {
        keys,
        spiffe_sequence: bundle.sequence_number,
        spiffe_refresh_hint: bundle.refresh_hint.as_secs(),
    };
    print(&document, indent)
}

/// Prints a plain JWKS (RFC 7517 §5) of every authority: no use, no sequence number.
#[must_use]
pub fn jwks(bundle: &Bundle, indent: Indent) -> String {
    let mut keys = x509_keys(bundle, None);
    keys.extend(jwt_keys(&bundle.jwt_authorities, None));
    keys.extend(jwt_keys(&bundle.wit_authorities, None));
    print(&Document { keys, spiffe_sequence: 0, spiffe_refresh_hint: 0 }, indent)
}

/// Prints a plain JWKS of the JWT authorities, as FetchJWTBundles carries it.
#[must_use]
pub fn jwt_svid_jwks(bundle: &Bundle, indent: Indent) -> String {
    let keys = jwt_keys(&bundle.jwt_authorities, None).collect();
    print(&Document { keys, spiffe_sequence: 0, spiffe_refresh_hint: 0 }, indent)
}

/// Prints a plain JWKS of the WIT authorities, as FetchWITBundles carries it.
#[must_use]
pub fn wit_svid_jwks(bundle: &Bundle, indent: Indent) -> String {
    let keys = jwt_keys(&bundle.wit_authorities, None).collect();
    print(&Document { keys, spiffe_sequence: 0, spiffe_refresh_hint: 0 }, indent)
}

/// Prints the X.509 authorities as PEM; the others have no such form.
#[must_use]
pub fn pem(bundle: &Bundle) -> String {
    bundle.certificates().map(crate::Certificate::pem).collect()
}

fn x509_keys(bundle: &Bundle, key_use: Option<&str>) -> Vec<Jwk> {
    bundle
        .certificates()
        .map(|it| Jwk::of_key(it.public_key(), key_use).with_certificate(it))
        .collect()
}

fn jwt_keys(authorities: &[JwtAuthority], key_use: Option<&str>) -> impl Iterator<Item = Jwk> {
    authorities.iter().map(move |it| Jwk::of_key(&it.public_key, key_use).with_key_id(&it.key_id))
}

fn print(document: &Document, indent: Indent) -> String {
    let mut out = Vec::new();
    match indent {
        Indent::FourSpaces => {
            let formatter = PrettyFormatter::with_indent(b"    ");
            document.serialize(&mut Serializer::with_formatter(&mut out, formatter))
        }
        Indent::None => {
            document.serialize(&mut Serializer::with_formatter(&mut out, CompactFormatter))
        }
    }
    .expect("a document of strings and numbers can be printed");
    json::escape_html(String::from_utf8(out).expect("JSON is UTF-8"))
}
