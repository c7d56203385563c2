//! `agent-data.json`: what the agent keeps between runs, byte for byte as
//! SPIRE writes it, so that either program may start from the other's file.
//!
//! `{"svid":[…],"bundle":[…],"reattestable":…,"bootstrap_use":…,
//! "bootstrap_start_time":"…","connection_attempts":…}`: certificates are the
//! base64 of their PEM form, an absent list is `null`, the zero time is the
//! year 1.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use steeple_pki::x509::Certificate;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What is kept.
#[derive(Clone, Default)]
pub struct AgentData {
    /// The agent's SVID, leaf first; empty when there is none.
    pub svid: Vec<Certificate>,
    /// The trust bundle's X.509 authorities.
    pub bundle: Vec<Certificate>,
    /// Whether the node may be attested again.
    pub reattestable: bool,
    /// Whether the last contact was the first one.
    pub bootstrap_use: BootstrapUse,
    /// When the current attempts to reach the server began.
    pub bootstrap_start_time: Option<SystemTime>,
    /// How many attempts there were.
    pub connection_attempts: u64,
}

/// What the trust bundle's source is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootstrapUse {
    /// Never recorded.
    #[default]
    Unspecified,
    /// For the first contact.
    Bootstrap,
    /// For contact after the server's authority was lost.
    Rebootstrap,
}

/// Why a file is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Not the JSON that was expected.
    #[error("failed to unmarshal data: {0}")]
    Json(#[from] serde_json::Error),
    /// A certificate that cannot be read; `what` names the list.
    #[error("failed to unmarshal data: failed to parse {what}: {reason}")]
    Certificate {
        /// `SVID` or `bundle`.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl AgentData {
    /// Reads the file's contents.
    pub fn parse(json: &[u8]) -> Result<Self, StorageError> {
        let file: File = serde_json::from_slice(json)?;
        Ok(Self {
            svid: decode(file.svid, "SVID")?,
            bundle: decode(file.bundle, "bundle")?,
            reattestable: file.reattestable,
            bootstrap_use: match file.bootstrap_use {
                1 => BootstrapUse::Bootstrap,
                2 => BootstrapUse::Rebootstrap,
                _ => BootstrapUse::Unspecified,
            },
            bootstrap_start_time: file.bootstrap_start_time.0,
            connection_attempts: file.connection_attempts,
        })
    }

    /// The file's contents.
    pub fn to_json(&self) -> Vec<u8> {
        let file = File {
            svid: encode(&self.svid),
            bundle: encode(&self.bundle),
            reattestable: self.reattestable,
            bootstrap_use: self.bootstrap_use as u8,
            bootstrap_start_time: GoTime(self.bootstrap_start_time),
            connection_attempts: self.connection_attempts,
        };
        serde_json::to_vec(&file).expect("text, numbers and booleans always serialise")
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    #[serde(default)]
    svid: Option<Vec<String>>,
    #[serde(default)]
    bundle: Option<Vec<String>>,
    #[serde(default)]
    reattestable: bool,
    #[serde(default)]
    bootstrap_use: u8,
    #[serde(default)]
    bootstrap_start_time: GoTime,
    #[serde(default)]
    connection_attempts: u64,
}

fn encode(certificates: &[Certificate]) -> Option<Vec<String>> {
    (!certificates.is_empty())
        .then(|| certificates.iter().map(|cert| STANDARD.encode(cert.pem())).collect())
}

fn decode(list: Option<Vec<String>>, what: &'static str) -> Result<Vec<Certificate>, StorageError> {
    let broken = |reason: String| StorageError::Certificate { what, reason };
    list.unwrap_or_default()
        .into_iter()
        .map(|text| {
            let pem = STANDARD.decode(text).map_err(|error| broken(error.to_string()))?;
            let pem = String::from_utf8(pem).map_err(|_| broken("not text".into()))?;
            Certificate::from_pem(&pem).map_err(|error| broken(error.to_string()))
        })
        .collect()
}

/// Go's JSON form of a time, whose zero is the first of January of year 1.
#[derive(Default)]
struct GoTime(Option<SystemTime>);

impl Serialize for GoTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.0.map(|at| OffsetDateTime::from(at).format(&Rfc3339));
        match text {
            Some(Ok(text)) => serializer.serialize_str(&text),
            _ => serializer.serialize_str(ZERO_TIME),
        }
    }
}

impl<'de> Deserialize<'de> for GoTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == ZERO_TIME {
            return Ok(Self(None));
        }
        let at = OffsetDateTime::parse(&text, &Rfc3339).map_err(serde::de::Error::custom)?;
        Ok(Self(Some(at.into())))
    }
}

const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_written_as_spire_writes_it() {
        let json = String::from_utf8(AgentData::default().to_json()).unwrap();
        assert_eq!(
            json,
            r#"{"svid":null,"bundle":null,"reattestable":false,"bootstrap_use":0,"bootstrap_start_time":"0001-01-01T00:00:00Z","connection_attempts":0}"#
        );
    }

    #[test]
    fn times_come_back_with_gos_precision_and_zone() {
        let json = br#"{"svid":null,"bundle":null,"reattestable":true,"bootstrap_use":2,"bootstrap_start_time":"2026-11-22T08:30:00.123456789+02:00","connection_attempts":3}"#;
        let data = AgentData::parse(json).unwrap();
        assert!(data.reattestable);
        assert_eq!(data.bootstrap_use, BootstrapUse::Rebootstrap);
        assert_eq!(data.connection_attempts, 3);
        let again = AgentData::parse(&data.to_json()).unwrap();
        assert_eq!(again.bootstrap_start_time, data.bootstrap_start_time);
        assert!(
            String::from_utf8(data.to_json()).unwrap().contains("2026-11-22T06:30:00.123456789Z")
        );
    }

    #[test]
    fn files_of_older_versions_lack_fields() {
        let data = AgentData::parse(br#"{"svid":null,"bundle":null}"#).unwrap();
        assert!(data.svid.is_empty() && !data.reattestable && data.bootstrap_start_time.is_none());
    }

    #[test]
    fn a_broken_file_says_what_is_broken() {
        let error = |json: &[u8]| AgentData::parse(json).err().unwrap().to_string();
        assert!(error(b"{").starts_with("failed to unmarshal data: "));
        assert!(error(br#"{"svid":["!"]}"#).contains("failed to parse SVID"));
        assert!(error(br#"{"bundle":["eA=="]}"#).contains("failed to parse bundle"));
    }
}
