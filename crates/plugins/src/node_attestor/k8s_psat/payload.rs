//! What the agent sends: the name of its cluster and the token, in JSON (TG-33).

use serde::Serialize;
use steeple_plugin::go_json::Object;
use zeroize::Zeroize;

/// How large it may be, in bytes. Tokens have one or two thousand.
pub(super) const MAX_PAYLOAD: usize = 32 * 1024;
/// How long a cluster's name may be, in bytes.
const MAX_CLUSTER: usize = 1024;

/// The evidence. The token in it is a secret: there is no `Debug`.
#[derive(Serialize)]
pub(super) struct Payload {
    pub(super) cluster: String,
    pub(super) token: String,
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

/// Why bytes are no evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PayloadError {
    #[error("failed to unmarshal data payload: it is larger than {MAX_PAYLOAD} bytes")]
    TooLarge,
    #[error("failed to unmarshal data payload: {0}")]
    Malformed(String),
    #[error(
        "failed to unmarshal data payload: the name of the cluster is longer than {MAX_CLUSTER} \
         bytes"
    )]
    LongCluster,
    #[error("missing cluster in attestation data")]
    NoCluster,
    #[error("missing token in attestation data")]
    NoToken,
}

fn malformed(reason: String) -> PayloadError {
    PayloadError::Malformed(reason)
}

impl Payload {
    /// Reads what an agent sent.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        if bytes.len() > MAX_PAYLOAD {
            return Err(PayloadError::TooLarge);
        }
        let object = Object::parse(bytes, "k8s.PSATAttestationData").map_err(malformed)?;
        let text = |field| object.text(field).map(str::to_owned).map_err(malformed);
        let payload = Self { cluster: text("cluster")?, token: text("token")? };
        if payload.cluster.is_empty() {
            return Err(PayloadError::NoCluster);
        }
        if payload.token.is_empty() {
            return Err(PayloadError::NoToken);
        }
        if payload.cluster.len() > MAX_CLUSTER {
            return Err(PayloadError::LongCluster);
        }
        Ok(payload)
    }

    /// What an agent sends.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}
