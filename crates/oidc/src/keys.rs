//! The keys, and the document that they make.

use std::time::SystemTime;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use steeple_pki::bundle::public_jwk;
use steeple_pki::{KeyKind, PublicKey};

use crate::go;

/// A key that tokens are signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) public_key: PublicKey,
}

/// The JWKS (RFC 7517 section 5) of some keys.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) keys: Vec<Key>,
    /// When it changed last.
    pub(crate) modified: SystemTime,
    /// As it is served.
    pub(crate) body: Bytes,
}

impl Document {
    pub(crate) fn new(keys: Vec<Key>, set_key_use: bool, modified: SystemTime) -> Self {
        let listed: Vec<Value> = keys.iter().map(|it| jwk(it, set_key_use)).collect();
        let body = go::json(&json!({ "keys": listed })).into();
        Self { keys, modified, body }
    }
}

/// Members in go-jose's order.
fn jwk(key: &Key, set_key_use: bool) -> Value {
    let alg = match key.public_key.kind() {
        KeyKind::P256 => Some("ES256"),
        KeyKind::P384 => Some("ES384"),
        KeyKind::Rsa(_) => Some("RS256"),
        kind => {
            let error =
                format!("unable to determine signature algorithm for public key type {kind}");
            tracing::error!(kid = key.id, error, "Failed to get public key algorithm");
            None
        }
    };
    let Value::Object(mut members) = public_jwk(&key.public_key, alg.unwrap_or_default()) else {
        return Value::Null;
    };
    let mut jwk = Map::new();
    if set_key_use {
        jwk.insert("use".to_owned(), "sig".into());
    }
    if let Some(kty) = members.remove("kty") {
        jwk.insert("kty".to_owned(), kty);
    }
    if !key.id.is_empty() {
        jwk.insert("kid".to_owned(), key.id.as_str().into());
    }
    if let Some(crv) = members.remove("crv") {
        jwk.insert("crv".to_owned(), crv);
    }
    members.remove("alg");
    if let Some(alg) = alg {
        jwk.insert("alg".to_owned(), alg.into());
    }
    for name in ["x", "y", "n", "e"] {
        if let Some(value) = members.remove(name) {
            jwk.insert(name.to_owned(), value);
        }
    }
    Value::Object(jwk)
}

#[cfg(test)]
mod tests {
    use steeple_pki::{KeyType, PrivateKey};

    use super::*;

    fn key(id: &str, key_type: KeyType) -> Key {
        let public_key = PrivateKey::generate(key_type).unwrap().public_key().clone();
        Key { id: id.to_owned(), public_key }
    }

    #[test]
    fn members_stand_in_the_order_of_go_jose() {
        let keys = vec![key("<a>", KeyType::EcP384), key("b", KeyType::Rsa2048)];
        let document = Document::new(keys, true, SystemTime::UNIX_EPOCH);
        let text = std::str::from_utf8(&document.body).unwrap();
        let start = "{\n  \"keys\": [\n    {\n      \"use\": \"sig\",\n      \"kty\": \"EC\",\n      \
                     \"kid\": \"\\u003ca\\u003e\",\n      \"crv\": \"P-384\",\n      \"alg\": \
                     \"ES384\",\n      \"x\": \"";
        assert!(text.starts_with(start), "{text}");
        let rsa = "\"use\": \"sig\",\n      \"kty\": \"RSA\",\n      \"kid\": \"b\",\n      \
                   \"alg\": \"RS256\",\n      \"n\": \"";
        assert!(text.contains(rsa), "{text}");
        assert!(text.ends_with("\"e\": \"AQAB\"\n    }\n  ]\n}"), "{text}");
    }
}
