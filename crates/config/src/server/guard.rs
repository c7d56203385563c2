//! What guards the APIs: limits, the policy, and whom to believe about a client's address.

use std::net::IpAddr;
use std::path::PathBuf;

use steeple_hcl::Located;

use crate::checks::{Checker, quote, set, shorten};
use crate::raw::server::{OpaEngine, RateLimit as RawRateLimit, Server};

/// How much each caller may ask for, a second; 0 is without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Attestations.
    pub attestation: u32,
    /// Signatures, of each kind of SVID.
    pub signing: u32,
    /// Keys that downstream servers publish.
    pub publish: u32,
    /// Agents' reports of their status.
    pub post_status: u32,
    /// Calls that administer the server.
    pub admin: u32,
    /// Reads of bundles.
    pub bundle: u32,
    /// Reads of authorised entries.
    pub sync: u32,
    /// By what callers are told apart.
    pub by: LimitBy,
}

/// By what callers are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitBy {
    /// `ip`
    #[default]
    Ip,
    /// `spiffe_id`
    SpiffeId,
}

/// The files of an authorisation policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFiles {
    /// The rego module.
    pub rego: PathBuf,
    /// Its data, in JSON.
    pub data: Option<PathBuf>,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// An address of it.
    pub address: IpAddr,
    /// How many of its leading bits all addresses of the range share.
    pub bits: u8,
}

pub(super) fn rate_limit(checker: &mut Checker, raw: RawRateLimit) -> RateLimit {
    let rates = raw.limits.value.unwrap_or_default();
    let mut rate = |name: &str, value: &Located<i64>, default: u32| match value.value {
        None => default,
        Some(number) => u32::try_from(number).unwrap_or_else(|_| {
            let text = format!("{name} must be between 0 (no limit) and {}", u32::MAX);
            checker.problem(value.line(), &format!("server.ratelimit.limits.{name}"), text);
            default
        }),
    };
    let off = |switch: &Located<bool>| switch.value == Some(false);
    let attestation = rate("attestation", &rates.attestation, 1);
    let signing = rate("signing", &rates.signing, 500);
    let limits = RateLimit {
        attestation: if off(&raw.attestation) { 0 } else { attestation },
        signing: if off(&raw.signing) { 0 } else { signing },
        publish: rate("publish", &rates.publish, 500),
        post_status: rate("post_status", &rates.post_status, 10),
        admin: rate("admin", &rates.admin, 0),
        bundle: rate("bundle", &rates.bundle, 0),
        sync: rate("sync", &rates.sync, 0),
        by: LimitBy::Ip,
    };
    let by = match set(&rates.by) {
        None | Some("ip") => LimitBy::Ip,
        Some("spiffe_id") => LimitBy::SpiffeId,
        Some(other) => {
            let text = format!("by must be \"ip\" or \"spiffe_id\", not {}", quote(other));
            checker.problem(rates.by.line(), "server.ratelimit.limits.by", text);
            LimitBy::Ip
        }
    };
    for (name, switch, value) in [
        ("attestation", &raw.attestation, &rates.attestation),
        ("signing", &raw.signing, &rates.signing),
    ] {
        if off(switch) {
            let why = format!("ratelimit.{name} is false");
            checker.no_effect(&format!("server.ratelimit.limits.{name}"), value, &why);
        }
    }
    RateLimit { by, ..limits }
}

/// SPIRE takes an engine without a provider for a mistake when it starts; here it is one of the
/// file.
pub(super) fn policy(checker: &mut Checker, raw: &Located<OpaEngine>) -> Option<PolicyFiles> {
    let key = "server.experimental.auth_opa_policy_engine";
    let Some(local) = raw.as_ref()?.local.as_ref() else {
        let text = "policy engine configuration must define a provider";
        checker.problem(raw.line(), key, text);
        return None;
    };
    Some(PolicyFiles {
        rego: PathBuf::from(set(&local.rego_path).unwrap_or_default()),
        data: set(&local.policy_data_path).map(PathBuf::from),
    })
}

pub(super) fn trusted_cidrs(checker: &mut Checker, server: &Server) -> Vec<Cidr> {
    let mut ranges = Vec::new();
    let list = &server.proxy_protocol_trusted_cidrs;
    for (index, text) in list.value.iter().flatten().enumerate() {
        if let Some(range) = cidr(text) {
            ranges.push(range);
            continue;
        }
        let text = format!(
            "invalid proxy_protocol_trusted_cidrs value {}: invalid CIDR address: {}",
            quote(text),
            shorten(text)
        );
        let key = format!("server.proxy_protocol_trusted_cidrs[{index}]");
        checker.problem(list.line(), &key, text);
    }
    ranges
}

/// An address and a prefix length that fits it.
fn cidr(text: &str) -> Option<Cidr> {
    let (address, bits) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    if bits.is_empty() || !bits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let bits: u8 = bits.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    (bits <= most).then_some(Cidr { address, bits })
}
