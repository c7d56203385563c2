//! Types that both programs' configurations share.

use std::{fmt, str::FromStr};

/// A type of key pair for a CA or a JWT signer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA over NIST P-256.
    #[default]
    EcP256,
    /// ECDSA over NIST P-384.
    EcP384,
    /// RSA of 2048 bits.
    Rsa2048,
    /// RSA of 4096 bits.
    Rsa4096,
}

impl KeyType {
    /// The name in configuration files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no key type.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("key type {0} is unknown; must be one of [rsa-2048, rsa-4096, ec-p256, ec-p384]")]
pub struct UnknownKeyType(String);

impl FromStr for KeyType {
    type Err = UnknownKeyType;

    fn from_str(text: &str) -> Result<Self, UnknownKeyType> {
        match text.to_lowercase().as_str() {
            "rsa-2048" => Ok(Self::Rsa2048),
            "rsa-4096" => Ok(Self::Rsa4096),
            "ec-p256" => Ok(Self::EcP256),
            "ec-p384" => Ok(Self::EcP384),
            _ => Err(UnknownKeyType(crate::checks::quote(text))),
        }
    }
}

/// The HTTP health listener (`health_checks`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChecks {
    /// Whether to listen at all.
    pub listener_enabled: bool,
    /// Host to listen on, without brackets.
    pub bind_address: String,
    /// Port to listen on; a text, as SPIRE has it, so that names work.
    pub bind_port: String,
    /// Path of the liveness check.
    pub live_path: String,
    /// Path of the readiness check.
    pub ready_path: String,
}
