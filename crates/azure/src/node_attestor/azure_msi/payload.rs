//! What the agent sends: `{"token":"…"}`.

use serde_json::Value;
use steeple_pki::jwt::issuer::MAX_TOKEN_LEN;

/// The longest payload that is looked at, in bytes: a token and what is around it.
pub const MAX_LEN: usize = MAX_TOKEN_LEN + 1024;

/// Why a payload was not taken. The texts are SPIRE's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// It is not the JSON that it should be; says why.
    #[error("failed to unmarshal data payload: {0}")]
    Malformed(String),
    /// There is no token in it.
    #[error("missing token from attestation data")]
    MissingToken,
}

pub(super) fn write(token: &str) -> Vec<u8> {
    serde_json::json!({ "token": token }).to_string().into_bytes()
}

/// The token in `payload`.
///
/// # Errors
/// When there is none.
pub fn parse(payload: &[u8]) -> Result<String, PayloadError> {
    let malformed = |why: &str| PayloadError::Malformed(why.to_owned());
    if payload.len() > MAX_LEN {
        return Err(malformed("it is too large"));
    }
    let value = serde_json::from_slice(payload).map_err(|error| {
        malformed(if error.is_eof() { "unexpected end of JSON input" } else { "it is not JSON" })
    })?;
    let mut members = match value {
        Value::Null => return Err(PayloadError::MissingToken),
        Value::Object(members) => members,
        _ => return Err(malformed("it is not a JSON object")),
    };
    match members.remove("token") {
        None | Some(Value::Null) => Err(PayloadError::MissingToken),
        Some(Value::String(token)) if token.is_empty() => Err(PayloadError::MissingToken),
        Some(Value::String(token)) => Ok(token),
        Some(_) => Err(malformed("the token is not a string")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(write("a.b.c"), br#"{"token":"a.b.c"}"#);
        assert_eq!(parse(&write("a.b.c")), Ok("a.b.c".to_owned()));
    }

    #[test]
    fn nothing_else_is() {
        for (payload, why) in [
            ("", "failed to unmarshal data payload: unexpected end of JSON input"),
            ("{", "failed to unmarshal data payload: unexpected end of JSON input"),
            ("x", "failed to unmarshal data payload: it is not JSON"),
            ("[\"a\"]", "failed to unmarshal data payload: it is not a JSON object"),
            ("{\"token\":7}", "failed to unmarshal data payload: the token is not a string"),
            ("{\"token\":\"\"}", "missing token from attestation data"),
            ("{\"token\":null}", "missing token from attestation data"),
            ("null", "missing token from attestation data"),
            ("{}", "missing token from attestation data"),
        ] {
            assert_eq!(parse(payload.as_bytes()).unwrap_err().to_string(), why, "{payload}");
        }
        let large = write(&"a".repeat(MAX_LEN));
        assert_eq!(parse(&large), Err(PayloadError::Malformed("it is too large".into())));
    }

    proptest! {
        #[test]
        fn no_payload_makes_it_panic(payload: Vec<u8>) {
            let _ = parse(&payload);
        }
    }
}
