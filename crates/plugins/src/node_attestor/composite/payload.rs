//! How the parts' evidence, challenges and responses travel in one conversation.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::config::MAX_PARTS;

/// The longest message, in bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// The evidence of all parts, in their order.
#[derive(Debug, PartialEq, Eq)]
pub struct Payload {
    /// An attestor's name, and its evidence.
    pub parts: Vec<(String, Vec<u8>)>,
}

/// A challenge to one part, or its response, which repeats name and step.
#[derive(Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The part.
    pub attestor: String,
    /// Which challenge of the conversation it is, from 1 on.
    pub step: u32,
    /// The part's own message.
    pub data: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPayload {
    parts: Vec<RawPart>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPart {
    attestor: String,
    payload: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChallenge {
    attestor: String,
    step: u32,
    data: String,
}

impl Payload {
    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let part = |(attestor, payload): &(String, Vec<u8>)| RawPart {
            attestor: attestor.clone(),
            payload: STANDARD.encode(payload),
        };
        let raw = RawPayload { parts: self.parts.iter().map(part).collect() };
        serde_json::to_vec(&raw).unwrap_or_default()
    }

    /// What travelled; nothing when it is malformed or too large.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let raw: RawPayload = small(bytes)?;
        if raw.parts.len() > MAX_PARTS {
            return None;
        }
        let part = |part: RawPart| Some((part.attestor, STANDARD.decode(part.payload).ok()?));
        Some(Self { parts: raw.parts.into_iter().map(part).collect::<Option<_>>()? })
    }
}

impl Challenge {
    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let raw = RawChallenge {
            attestor: self.attestor.clone(),
            step: self.step,
            data: STANDARD.encode(&self.data),
        };
        serde_json::to_vec(&raw).unwrap_or_default()
    }

    /// What travelled; nothing when it is malformed or too large.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let raw: RawChallenge = small(bytes)?;
        let data = STANDARD.decode(raw.data).ok()?;
        Some(Self { attestor: raw.attestor, step: raw.step, data })
    }
}

fn small<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    (bytes.len() <= MAX_MESSAGE).then(|| serde_json::from_slice(bytes).ok()).flatten()
}
