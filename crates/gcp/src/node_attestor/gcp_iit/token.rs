//! What a stranger sends, and what of it Google vouches for.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Map, Value};
use steeple_pki::jwt::JwtAlg;
use steeple_pki::jwt::issuer::{self, Expected, IssuerKeys, IssuerTokenError};
use steeple_plugin::{Code, PluginError};
use steeple_template::Value as Given;

use super::{AUDIENCE, NAME, error};

/// The only algorithm that Google signs identity tokens with.
const ALGORITHMS: &[JwtAlg] = &[JwtAlg::RS256];
/// Who issues them.
const ISSUERS: &[&str] = &["https://accounts.google.com", "accounts.google.com"];
const LEEWAY: Duration = Duration::from_secs(60);

/// What a verified token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Identity {
    /// The service account.
    pub(super) email: String,
    google: Google,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Google {
    compute_engine: Machine,
}

/// The instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Machine {
    pub(super) project_id: String,
    project_number: i64,
    pub(super) zone: String,
    pub(super) instance_id: String,
    pub(super) instance_name: String,
    instance_creation_timestamp: i64,
}

/// Why a token is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It names a key that is not among these.
    UnknownKey,
    Other(PluginError),
}

impl Refusal {
    pub(super) fn into_error(self) -> PluginError {
        match self {
            Self::UnknownKey => unsigned(&NO_KEY),
            Self::Other(error) => error,
        }
    }
}

const NO_KEY: &str = "go-jose/go-jose: JWK with matching kid not found in JWK Set";

fn unsigned(reason: &dyn std::fmt::Display) -> PluginError {
    let text = format!("failed to validate the identity token signature: {reason}");
    error(Code::InvalidArgument, text)
}

fn unparsed(reason: &dyn std::fmt::Display) -> PluginError {
    error(Code::InvalidArgument, format!("unable to parse the identity token: {reason}"))
}

/// Refuses what no key could make a token of.
pub(super) fn shape(payload: &[u8]) -> Result<&str, PluginError> {
    let text = std::str::from_utf8(payload).map_err(|_| unparsed(&"it is not UTF-8"))?;
    match issuer::open(text, &IssuerKeys::default(), ALGORITHMS) {
        Err(IssuerTokenError::Parse(reason)) => Err(unparsed(&reason)),
        Err(IssuerTokenError::MissingKeyId) => Err(unsigned(&NO_KEY)),
        _ => Ok(text),
    }
}

/// What Google says in a token that is for us, and good now.
pub(super) fn verify(token: &str, keys: &IssuerKeys, now: SystemTime) -> Result<Identity, Refusal> {
    let signed = issuer::open(token, keys, ALGORITHMS).map_err(|reason| match reason {
        IssuerTokenError::UnknownKey(_) => Refusal::UnknownKey,
        IssuerTokenError::Parse(reason) => Refusal::Other(unparsed(&reason)),
        reason => Refusal::Other(unsigned(&reason)),
    })?;
    let expected = Expected { audiences: &[AUDIENCE], issuers: ISSUERS, now, leeway: LEEWAY };
    let verified = signed.validate(&expected).map_err(|reason| {
        let text = format!("failed to validate the identity token claims: {reason}");
        Refusal::Other(error(Code::PermissionDenied, text))
    })?;
    claims(verified).map_err(Refusal::Other)
}

/// Reads the claims that matter.
pub(super) fn claims(claims: Map<String, Value>) -> Result<Identity, PluginError> {
    serde_json::from_value(Value::Object(claims))
        .map_err(|_| unsigned(&"its claims are not those of an instance"))
}

impl Identity {
    pub(super) const fn machine(&self) -> &Machine {
        &self.google.compute_engine
    }

    /// What a path template is given.
    pub(super) fn template_data(&self) -> Given {
        let machine = self.machine();
        let of_machine = || {
            [
                ("ProjectID", Given::from(&machine.project_id)),
                ("ProjectNumber", Given::from(machine.project_number)),
                ("Zone", Given::from(&machine.zone)),
                ("InstanceID", Given::from(&machine.instance_id)),
                ("InstanceName", Given::from(&machine.instance_name)),
                ("InstanceCreationTimestamp", Given::from(machine.instance_creation_timestamp)),
            ]
        };
        let mut fields = vec![
            ("ServiceAccount", Given::from(self.email.replace('@', "_"))),
            ("ComputeEngine", Given::record("gcp.ComputeEngine", of_machine())),
            ("PluginName", Given::from(NAME)),
        ];
        fields.extend(of_machine());
        Given::record("gcp.agentPathTemplateData", fields)
    }
}
