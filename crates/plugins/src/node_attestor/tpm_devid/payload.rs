//! What goes over the wire: JSON with bytes in base64, as Go writes it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// The largest evidence that is looked at: room for a few certificates, and the rest is small.
pub(super) const MAX_REQUEST: usize = 64 * 1024;
/// The largest challenge or response.
const MAX_EXCHANGE: usize = 8 * 1024;

/// Bytes in base64; `null` where there are none.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Blob(pub(super) Vec<u8>);

/// The evidence.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Request {
    /// The device identity's certificate, and intermediates.
    #[serde(rename = "DevIDCert")]
    pub(super) devid_cert: Option<Vec<Blob>>,
    /// Its key's public area.
    #[serde(rename = "DevIDPub")]
    pub(super) devid_pub: Blob,
    /// The endorsement key's certificate.
    #[serde(rename = "EKCert")]
    pub(super) ek_cert: Blob,
    /// The endorsement key's public area.
    #[serde(rename = "EKPub")]
    pub(super) ek_pub: Blob,
    /// The attestation key's public area.
    #[serde(rename = "AKPub")]
    pub(super) ak_pub: Blob,
    /// What the attestation key says of the device identity's.
    #[serde(rename = "CertifiedDevID")]
    pub(super) certified_devid: Blob,
    /// Its signature over that.
    #[serde(rename = "CertificationSignature")]
    pub(super) certification_signature: Blob,
}

/// What the server asks.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Challenge {
    /// To be signed by the device identity's key.
    #[serde(rename = "DevID")]
    pub(super) devid: Blob,
    /// To be opened by the TPM.
    #[serde(rename = "CredActivation")]
    pub(super) cred_activation: Option<CredActivation>,
}

/// A secret for one TPM, while it holds one attestation key.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct CredActivation {
    /// The content of a TPM2B_ID_OBJECT.
    #[serde(rename = "Credential")]
    pub(super) credential: Blob,
    /// The content of a TPM2B_ENCRYPTED_SECRET.
    #[serde(rename = "Secret")]
    pub(super) secret: Blob,
}

/// What the agent answers.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Response {
    /// The signature.
    #[serde(rename = "DevID")]
    pub(super) devid: Blob,
    /// The secret.
    #[serde(rename = "CredActivation")]
    pub(super) cred_activation: Blob,
}

/// Why it is none of these. Nothing of what was sent is in the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("more than {0} bytes")]
    TooLarge(usize),
    #[error("unexpected end of JSON input")]
    Truncated,
    #[error("invalid JSON")]
    Syntax,
    #[error("a member is not what it should be")]
    Type,
}

impl Request {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        parse(bytes, MAX_REQUEST)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

impl Challenge {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        parse(bytes, MAX_EXCHANGE)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

impl Response {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        parse(bytes, MAX_EXCHANGE)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], limit: usize) -> Result<T, Malformed> {
    if bytes.len() > limit {
        return Err(Malformed::TooLarge(limit));
    }
    let read = serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Eof => Malformed::Truncated,
        serde_json::error::Category::Data => Malformed::Type,
        _ => Malformed::Syntax,
    })?;
    // A list of the members' values would be read as well.
    match bytes.trim_ascii_start().first() {
        Some(b'{') => Ok(read),
        _ => Err(Malformed::Type),
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and lists are JSON")
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() {
            return serializer.serialize_none();
        }
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Base64;

        impl<'de> Visitor<'de> for Base64 {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Blob, E> {
                STANDARD.decode(text).map(Blob).map_err(|_| E::custom("not base64"))
            }

            fn visit_none<E: serde::de::Error>(self) -> Result<Blob, E> {
                Ok(Blob::default())
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Blob, E> {
                Ok(Blob::default())
            }

            fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Blob, D::Error> {
                inner.deserialize_str(self)
            }
        }

        deserializer.deserialize_option(Base64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blob(bytes: &[u8]) -> Blob {
        Blob(bytes.to_vec())
    }

    /// Written by Go's encoding/json of SPIRE's structs.
    #[test]
    fn payloads_are_those_of_spire() {
        let request = Request {
            devid_cert: Some(vec![blob(b"c1"), blob(b"c2")]),
            devid_pub: blob(b"dp"),
            ek_cert: blob(b"ec"),
            ek_pub: blob(b"ep"),
            ak_pub: blob(b"ap"),
            certified_devid: blob(b"cd"),
            certification_signature: blob(b"cs"),
        };
        let text = r#"{"DevIDCert":["YzE=","YzI="],"DevIDPub":"ZHA=","EKCert":"ZWM=","EKPub":"ZXA=","AKPub":"YXA=","CertifiedDevID":"Y2Q=","CertificationSignature":"Y3M="}"#;
        assert_eq!(String::from_utf8(request.encode()).unwrap(), text);
        assert_eq!(Request::parse(text.as_bytes()).unwrap(), request);
        let challenge = Challenge {
            devid: blob(b"n"),
            cred_activation: Some(CredActivation { credential: blob(b"c"), secret: blob(b"s") }),
        };
        let text = r#"{"DevID":"bg==","CredActivation":{"Credential":"Yw==","Secret":"cw=="}}"#;
        assert_eq!(String::from_utf8(challenge.encode()).unwrap(), text);
        assert_eq!(Challenge::parse(text.as_bytes()).unwrap(), challenge);
        let response = Response { devid: blob(b"d"), cred_activation: Blob::default() };
        let text = r#"{"DevID":"ZA==","CredActivation":null}"#;
        assert_eq!(String::from_utf8(response.encode()).unwrap(), text);
        assert_eq!(Response::parse(text.as_bytes()).unwrap(), response);
    }

    #[test]
    fn what_is_missing_is_empty_and_what_is_unknown_is_left() {
        assert_eq!(Request::parse(b"{}").unwrap(), Request::default());
        let null = br#"{"DevIDCert":null,"EKPub":null,"more":[1]}"#;
        assert_eq!(Request::parse(null).unwrap(), Request::default());
    }

    #[test]
    fn what_is_none_of_these_is_refused_without_repeating_it() {
        for (bytes, error) in [
            (&b"not a payload"[..], Malformed::Syntax),
            (b"", Malformed::Truncated),
            (br#"{"DevIDPub":"#, Malformed::Truncated),
            (br#"{"DevIDPub":"%"}"#, Malformed::Type),
            (br#"{"DevIDPub":[1,2]}"#, Malformed::Type),
            (br#"{"DevIDPub":"","DevIDPub":""}"#, Malformed::Type),
            (b"{} ,", Malformed::Syntax),
            (&[b' '; MAX_REQUEST + 1], Malformed::TooLarge(MAX_REQUEST)),
        ] {
            assert_eq!(Request::parse(bytes), Err(error));
        }
        let deep = "[".repeat(10_000);
        assert!(Challenge::parse(&deep.as_bytes()[..MAX_EXCHANGE]).is_err());
        assert!(Response::parse(&[b' '; MAX_EXCHANGE + 1]).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read(devid in any::<Vec<u8>>(), secret in any::<Vec<u8>>()) {
            let response = Response { devid: Blob(devid), cred_activation: Blob(secret) };
            prop_assert_eq!(Response::parse(&response.encode()).unwrap(), response);
        }
    }
}
