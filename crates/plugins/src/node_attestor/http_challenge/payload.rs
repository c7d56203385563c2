//! What the two halves say to each other.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde::Serialize;
use steeple_pki::envelope;
use steeple_plugin::go_json::Object;

/// The most that an agent may say of itself, in bytes. What is needed is a tenth of it.
const MAX_DATA: usize = 4 * 1024;

/// The most that a challenge may be, in bytes.
const MAX_CHALLENGE: usize = 4 * 1024;

/// The longest name of a host (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 253;

/// The longest name of an agent.
const MAX_AGENT: usize = 32;

/// The random bytes of a nonce.
const NONCE: usize = 32;

/// What an agent says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct AttestationData {
    #[serde(rename = "hostname")]
    pub(super) host_name: String,
    #[serde(rename = "agentname")]
    pub(super) agent_name: String,
    pub(super) port: i64,
}

/// What the server wants to be told at the agent's port.
#[derive(Clone, Default, Serialize)]
pub(super) struct Challenge {
    pub(super) nonce: String,
}

/// Attestation data that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it is larger than {0} bytes")]
    TooLarge(usize),
    #[error("{0}")]
    Json(String),
}

/// Attestation data that name no place to ask at; in upstream's words, or in ours where it would
/// ask nonetheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    #[error("hostname must be set")]
    NoHost,
    #[error("agentname must be set")]
    NoAgent,
    #[error("port is invalid")]
    Port,
    #[error("hostname can not contain a slash")]
    Slash,
    #[error("hostname can not contain a colon")]
    Colon,
    #[error("hostname is longer than {MAX_HOST} characters")]
    LongHost,
    #[error("hostname is not valid")]
    BadHost,
    #[error("agentname can not contain a dot")]
    Dot,
}

/// Where to ask: checked, and nothing of it can be mistaken for another part of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
}

impl AttestationData {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        if bytes.len() > MAX_DATA {
            return Err(Unreadable::TooLarge(MAX_DATA));
        }
        let read = || {
            let object = Object::parse(bytes, "httpchallenge.AttestationData")?;
            Ok(Self {
                host_name: object.text("hostname")?.to_owned(),
                agent_name: object.text("agentname")?.to_owned(),
                port: object.integer("port")?,
            })
        };
        read().map_err(Unreadable::Json)
    }

    /// Whether the agent's name is one: it becomes a part of a URL.
    pub(super) fn has_agent_name(&self) -> bool {
        let name = self.agent_name.as_bytes();
        name.len() <= MAX_AGENT
            && name.first().is_some_and(u8::is_ascii_alphabetic)
            && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    }

    /// Where to ask, by data whose [`AttestationData::has_agent_name`] holds.
    pub(super) fn check(&self) -> Result<Place, NoPlace> {
        let host = self.host_name.as_str();
        if host.is_empty() {
            return Err(NoPlace::NoHost);
        }
        if self.agent_name.is_empty() {
            return Err(NoPlace::NoAgent);
        }
        if self.port <= 0 {
            return Err(NoPlace::Port);
        }
        if host.contains('/') {
            return Err(NoPlace::Slash);
        }
        if host.contains(':') {
            return Err(NoPlace::Colon);
        }
        if self.agent_name.contains('.') || !self.has_agent_name() {
            return Err(NoPlace::Dot);
        }
        let port = u16::try_from(self.port).map_err(|_| NoPlace::Port)?;
        if host.len() > MAX_HOST {
            return Err(NoPlace::LongHost);
        }
        // The name becomes a segment of the agent's ID, so that no other could come to a good end;
        // and `user@host` or `host?` must not be asked for.
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !host.bytes().all(is_name) || host.bytes().all(|byte| byte == b'.') {
            return Err(NoPlace::BadHost);
        }
        Ok(Place { host: host.to_owned(), port, path: path(&self.agent_name) })
    }
}

impl Place {
    /// The URL, for messages.
    pub(super) fn url(&self) -> String {
        format!("http://{}:{}{}", self.host, self.port, self.path)
    }
}

/// Where the agent of this name answers.
pub(super) fn path(agent_name: &str) -> String {
    format!("/.well-known/spiffe/nodeattestor/http_challenge/{agent_name}/challenge")
}

impl Challenge {
    /// One that nobody can know.
    pub(super) fn random() -> Self {
        let mut bytes = [0; NONCE];
        envelope::random(&mut bytes);
        Self { nonce: URL_SAFE.encode(bytes) }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        if bytes.len() > MAX_CHALLENGE {
            return Err(Unreadable::TooLarge(MAX_CHALLENGE));
        }
        let object = Object::parse(bytes, "httpchallenge.Challenge").map_err(Unreadable::Json)?;
        let nonce = object.text("nonce").map_err(Unreadable::Json)?.to_owned();
        Ok(Self { nonce })
    }
}

/// JSON of what has strings and numbers alone.
pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers have a JSON form")
}
