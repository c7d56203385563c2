//! `agent.experimental.broker`: checked as SPIRE does, though nothing of it runs
//! yet.

use std::{collections::BTreeSet, path::Path};

use steeple_hcl::Located;
use steeple_spiffe::SpiffeId;

use crate::{
    checks::{Checker, absolute, quote, set, shorten},
    raw::agent::{Broker, BrokerEntry},
};

const KEY: &str = "agent.experimental.broker";

/// `public_socket` is the Workload API's, when it is on.
pub(super) fn check(checker: &mut Checker, raw: &Located<Broker>, public_socket: Option<&Path>) {
    checker.not_yet(KEY, raw);
    let Some(broker) = raw.as_ref() else { return };
    let line = raw.line();
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
        (Some(socket), _) => {
            if let Err(error) = absolute(socket) {
                let text = format!(
                    "failed to get absolute path for experimental.broker.socket_path: {error}"
                );
                checker.problem(line, &format!("{KEY}.socket_path"), text);
            }
        }
        (None, Some(_)) => {}
    }
    if let Some(address) = set(&broker.bind_address)
        && address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err())
    {
        let text = format!(
            "invalid experimental.broker.bind_address {}: a host and a port are expected",
            quote(address)
        );
        checker.problem(broker.bind_address.line(), &format!("{KEY}.bind_address"), text);
    }

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
        if let Err(error) = SpiffeId::parse(id) {
            let key = format!("agent.{name}.id");
            checker.problem(entry.id.line(), &key, format!("{name}.id: {error}"));
        }
        reference_types(checker, entry, &name);
    }
}

fn reference_types(checker: &mut Checker, entry: &BrokerEntry, name: &str) {
    let key = format!("agent.{name}.allowed_reference_types");
    let line = entry.allowed_reference_types.line().or(entry.id.line());
    let types = entry.allowed_reference_types.value.as_deref().unwrap_or_default();
    if types.is_empty() {
        let text =
            format!("{name}.allowed_reference_types: must list at least one reference type URL");
        checker.problem(line, &key, text);
    }
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
            Some(_) => {}
        }
    }
}
