//! `agent.experimental.broker`: where the SPIFFE Broker API listens, and for whom.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use steeple_hcl::Located;
use steeple_spiffe::SpiffeId;

use crate::{
    checks::{Checker, absolute, on, quote, set, shorten},
    raw::agent::{Broker, BrokerEntry},
};

const KEY: &str = "agent.experimental.broker";

/// Where the SPIFFE Broker API listens, at least one of both, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Its Unix socket, absolute.
    pub socket_path: Option<PathBuf>,
    /// Its TCP address, `host:port`.
    pub bind_address: Option<String>,
    /// Who may use it.
    pub brokers: Vec<BrokerIdentity>,
}

/// A broker, and what it may ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerIdentity {
    /// Its SPIFFE ID, of any trust domain.
    pub id: SpiffeId,
    /// The types of reference that it may use.
    pub allowed_reference_types: Vec<AllowedReferenceType>,
}

/// A type of reference that a broker may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedReferenceType {
    /// `type.googleapis.com/…`, or `*` for all there are.
    pub type_url: String,
    /// Also over TCP.
    pub allow_over_tcp: bool,
}

/// `public_socket` is the Workload API's, when it is on.
pub(super) fn build(
    checker: &mut Checker,
    raw: &Located<Broker>,
    public_socket: Option<&Path>,
) -> Option<BrokerConfig> {
    let broker = raw.as_ref()?;
    let line = raw.line();
    let mut socket_path = None;
    match (set(&broker.socket_path), set(&broker.bind_address)) {
        (None, None) => {
            let text = "experimental.broker requires socket_path, bind_address, or both";
            checker.problem(line, KEY, text);
        }
        (Some(socket), _) if super::build::shares_directory(socket, public_socket) => {
            let text = "broker socket cannot be in the same directory or a subdirectory as that \
                        containing the Workload API socket";
            checker.problem(broker.socket_path.line(), &format!("{KEY}.socket_path"), text);
        }
        (Some(socket), _) => match absolute(socket) {
            Ok(path) => socket_path = Some(path),
            Err(error) => {
                let text = format!(
                    "failed to get absolute path for experimental.broker.socket_path: {error}"
                );
                checker.problem(line, &format!("{KEY}.socket_path"), text);
            }
        },
        (None, Some(_)) => {}
    }
    if let Some(address) = set(&broker.bind_address)
        && let Err(why) = host_and_port(address)
    {
        let text = format!("invalid experimental.broker.bind_address {}: {why}", quote(address));
        checker.problem(broker.bind_address.line(), &format!("{KEY}.bind_address"), text);
    }

    let mut brokers = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, entry) in broker.brokers.value.iter().flatten().enumerate() {
        let Some(id) = set(&entry.id) else {
            let text = format!("experimental.broker.brokers[{index}].id: must be specified");
            checker.problem(broker.brokers.line(), &format!("{KEY}.brokers[{index}].id"), text);
            continue;
        };
        let name = format!("experimental.broker.brokers[{}]", shorten(id));
        if !seen.insert(id.to_owned()) {
            let text = format!("{name}.id: duplicate broker id");
            checker.problem(entry.id.line(), &format!("agent.{name}.id"), text);
        }
        let allowed_reference_types = reference_types(checker, entry, &name);
        match SpiffeId::parse(id) {
            Ok(id) => brokers.push(BrokerIdentity { id, allowed_reference_types }),
            Err(error) => {
                let key = format!("agent.{name}.id");
                checker.problem(entry.id.line(), &key, format!("{name}.id: {error}"));
            }
        }
    }
    let bind_address = set(&broker.bind_address).map(str::to_owned);
    Some(BrokerConfig { socket_path, bind_address, brokers })
}

/// What is wrong with an address, in the words of Go's resolver where they fit.
fn host_and_port(address: &str) -> Result<(), String> {
    let shown = shorten(address);
    let (_, port) = address
        .rsplit_once(':')
        .ok_or_else(|| format!("address {shown}: missing port in address"))?;
    match port.parse::<u16>() {
        Ok(_) => Ok(()),
        Err(_) if port.parse::<u64>().is_ok() => {
            Err(format!("address {}: invalid port", shorten(port)))
        }
        Err(_) => Err("a host and the number of a port are expected".into()),
    }
}

fn reference_types(
    checker: &mut Checker,
    entry: &BrokerEntry,
    name: &str,
) -> Vec<AllowedReferenceType> {
    let key = format!("agent.{name}.allowed_reference_types");
    let line = entry.allowed_reference_types.line().or(entry.id.line());
    let types = entry.allowed_reference_types.value.as_deref().unwrap_or_default();
    if types.is_empty() {
        let text =
            format!("{name}.allowed_reference_types: must list at least one reference type URL");
        checker.problem(line, &key, text);
    }
    let mut known = Vec::with_capacity(types.len());
    for (index, allowed) in types.iter().enumerate() {
        match set(&allowed.type_url) {
            None => {
                let text =
                    format!("{name}.allowed_reference_types[{index}].type_url: must be specified");
                checker.problem(line, &key, text);
            }
            Some("*") if types.len() != 1 => {
                let text = format!(
                    "{name}.allowed_reference_types: wildcard \"*\" must be the only allowed \
                     reference type"
                );
                checker.problem(line, &key, text);
            }
            Some(type_url) => known.push(AllowedReferenceType {
                type_url: type_url.to_owned(),
                allow_over_tcp: on(&allowed.allow_over_tcp),
            }),
        }
    }
    known
}
