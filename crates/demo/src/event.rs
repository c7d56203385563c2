//! What a workload tells the demonstration: one JSON object on a line of its standard output.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What happened in a workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// It has an X.509-SVID, and verified it with the bundle that came along.
    X509 { spiffe_id: String, chain_pem: String, pid: u32 },
    /// It has a JWT-SVID.
    Jwt { token: String },
    /// The agent found a token good.
    Valid { spiffe_id: String, claims: Map<String, Value> },
    /// It serves.
    Listening { port: u16 },
    /// It let a caller in, who said something.
    Accepted { caller: String, said: String },
    /// It had an answer.
    Answered { by: String, said: String, version: String, key_exchange: String },
    /// It was refused something, or refused somebody.
    Refused { why: String },
}
