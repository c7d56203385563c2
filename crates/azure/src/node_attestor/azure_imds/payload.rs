//! What the agent answers the challenge with.

use serde_json::{Map, Value, json};
use steeple_pki::cms;

pub use crate::metadata::AttestedDocument;

/// The longest payload that is looked at, in bytes: a signed message in base64 and what is around
/// it.
pub const MAX_LEN: usize = cms::MAX_MESSAGE_LEN / 3 * 4 + 4096;

/// A document, and where to look for the machine that it speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// What Azure signed.
    pub document: AttestedDocument,
    /// What the agent says.
    pub metadata: Metadata,
}

/// The agent's own words, which nobody vouches for: they choose where it is looked, and what is
/// found there must be the machine of the document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The domain of the tenant.
    pub agent_domain: String,
    /// The scale set that the machine is in.
    pub scale_set: Option<String>,
}

/// The payload is not the JSON that it should be; says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to unmarshal data payload: {0}")]
pub struct MalformedPayload(&'static str);

impl Payload {
    pub(super) fn to_json(&self) -> Vec<u8> {
        let AttestedDocument { encoding, signature } = &self.document;
        let Metadata { agent_domain, scale_set } = &self.metadata;
        json!({
            "document": { "encoding": encoding, "signature": signature },
            "metadata": { "agentDomain": agent_domain, "vmssName": scale_set },
        })
        .to_string()
        .into_bytes()
    }

    /// Reads a payload. What is missing is empty, as in Go.
    ///
    /// # Errors
    /// When it is too large or no such JSON.
    pub fn parse(payload: &[u8]) -> Result<Self, MalformedPayload> {
        if payload.len() > MAX_LEN {
            return Err(MalformedPayload("it is too large"));
        }
        let value = serde_json::from_slice(payload).map_err(|error| {
            MalformedPayload(match error.is_eof() {
                true => "unexpected end of JSON input",
                false => "it is not JSON",
            })
        })?;
        let mut members = object(value)?;
        let mut document = object(members.remove("document").unwrap_or_default())?;
        let mut metadata = object(members.remove("metadata").unwrap_or_default())?;
        Ok(Self {
            document: AttestedDocument {
                encoding: text(&mut document, "encoding")?.unwrap_or_default(),
                signature: text(&mut document, "signature")?.unwrap_or_default(),
            },
            metadata: Metadata {
                agent_domain: text(&mut metadata, "agentDomain")?.unwrap_or_default(),
                scale_set: text(&mut metadata, "vmssName")?,
            },
        })
    }
}

fn object(value: Value) -> Result<Map<String, Value>, MalformedPayload> {
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(members) => Ok(members),
        _ => Err(MalformedPayload("it is not a JSON object")),
    }
}

fn text(members: &mut Map<String, Value>, name: &str) -> Result<Option<String>, MalformedPayload> {
    match members.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(MalformedPayload("a member is not a string")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(scale_set: Option<&str>) -> Payload {
        Payload {
            document: AttestedDocument { encoding: "pkcs7".into(), signature: "c2ln".into() },
            metadata: Metadata {
                agent_domain: "example.com".into(),
                scale_set: scale_set.map(str::to_owned),
            },
        }
    }

    #[test]
    fn it_is_on_the_wire_what_spires_agents_send() {
        let written = String::from_utf8(payload(None).to_json()).unwrap();
        assert_eq!(
            written,
            r#"{"document":{"encoding":"pkcs7","signature":"c2ln"},"metadata":{"agentDomain":"example.com","vmssName":null}}"#
        );
        for scale_set in [None, Some("set")] {
            let payload = payload(scale_set);
            assert_eq!(Payload::parse(&payload.to_json()), Ok(payload));
        }
    }

    #[test]
    fn what_is_missing_is_empty_and_what_is_wrong_is_refused() {
        for empty in ["{}", "null", r#"{"document":null,"metadata":{"vmssName":null}}"#] {
            let read = Payload::parse(empty.as_bytes()).unwrap();
            assert_eq!((&*read.document.signature, read.metadata.scale_set), ("", None));
        }
        for (bad, why) in [
            ("{invalid json", "it is not JSON"),
            ("{", "unexpected end of JSON input"),
            ("[]", "it is not a JSON object"),
            (r#"{"document":["a","b"]}"#, "it is not a JSON object"),
            (r#"{"metadata":{"agentDomain":7}}"#, "a member is not a string"),
        ] {
            let refused = Payload::parse(bad.as_bytes()).unwrap_err().to_string();
            assert_eq!(refused, format!("failed to unmarshal data payload: {why}"));
        }
        assert_eq!(
            Payload::parse(&vec![b' '; MAX_LEN + 1]),
            Err(MalformedPayload("it is too large"))
        );
    }

    proptest! {
        #[test]
        fn no_payload_makes_it_panic(payload: Vec<u8>) {
            let _ = Payload::parse(&payload);
        }
    }
}
