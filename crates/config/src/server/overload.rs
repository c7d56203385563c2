//! `server.experimental.overload`: bounds on what the server does at once. What is not set follows
//! from the machine, and is none of this crate's business.

use std::time::Duration;

use steeple_hcl::Located;

use crate::checks::{Checker, set};
use crate::raw::server::{Overload as RawOverload, OverloadClass as RawClass};

/// Bounds on what the server does at once; where one is not set, it is for the server to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overload {
    /// Calls at work at once, of all classes.
    pub at_once: Option<u32>,
    /// Attestations of nodes.
    pub attest: OverloadClass,
    /// Renewals of agents' SVIDs.
    pub renew: OverloadClass,
    /// Signatures for workloads and downstream servers.
    pub sign: OverloadClass,
    /// Entries and bundles for agents.
    pub sync: OverloadClass,
    /// Calls of operators.
    pub admin: OverloadClass,
    /// Of large requests, together, in MiB.
    pub request_memory_mib: Option<u32>,
    /// Of these, from one address, in MiB.
    pub request_memory_per_address_mib: Option<u32>,
    /// Connections over TCP.
    pub connections: Option<u32>,
    /// Of these, from one address.
    pub connections_per_address: Option<u32>,
    /// TLS handshakes under way at once.
    pub handshakes: Option<u32>,
    /// Of these, from one address.
    pub handshakes_per_address: Option<u32>,
}

/// Bounds of one class of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverloadClass {
    /// Calls at work at once.
    pub at_once: Option<u32>,
    /// Calls that wait beside those; 0 refuses what cannot begin at once.
    pub waiting: Option<u32>,
    /// The longest that one waits.
    pub longest_wait: Option<Duration>,
}

/// The most of anything: more than a machine has.
const MOST: i64 = 1_000_000;

pub(super) fn build(checker: &mut Checker, raw: &RawOverload) -> Overload {
    let mut bound = |name: &str, value: &Located<i64>| number(checker, name, value, 1);
    let overload = Overload {
        at_once: bound("at_once", &raw.at_once),
        request_memory_mib: bound("request_memory_mib", &raw.request_memory_mib),
        request_memory_per_address_mib: bound(
            "request_memory_per_address_mib",
            &raw.request_memory_per_address_mib,
        ),
        connections: bound("connections", &raw.connections),
        connections_per_address: bound("connections_per_address", &raw.connections_per_address),
        handshakes: bound("handshakes", &raw.handshakes),
        handshakes_per_address: bound("handshakes_per_address", &raw.handshakes_per_address),
        ..Overload::default()
    };
    Overload {
        attest: class(checker, "attest", &raw.attest),
        renew: class(checker, "renew", &raw.renew),
        sign: class(checker, "sign", &raw.sign),
        sync: class(checker, "sync", &raw.sync),
        admin: class(checker, "admin", &raw.admin),
        ..overload
    }
}

fn class(checker: &mut Checker, name: &str, raw: &Located<RawClass>) -> OverloadClass {
    let Some(raw) = raw.as_ref() else { return OverloadClass::default() };
    let key = |of: &str| format!("{name}.{of}");
    OverloadClass {
        at_once: number(checker, &key("at_once"), &raw.at_once, 1),
        waiting: number(checker, &key("waiting"), &raw.waiting, 0),
        longest_wait: set(&raw.longest_wait).and_then(|_| {
            let path = path(&key("longest_wait"));
            checker.duration(&path, &raw.longest_wait, |text| {
                format!("could not parse the longest wait {text}")
            })
        }),
    }
}

fn number(checker: &mut Checker, name: &str, value: &Located<i64>, least: i64) -> Option<u32> {
    let number = value.value?;
    match u32::try_from(number) {
        Ok(bound) if (least..=MOST).contains(&number) => Some(bound),
        _ => {
            let text = format!("{name} must be between {least} and {MOST}");
            checker.problem(value.line(), &path(name), text);
            None
        }
    }
}

fn path(name: &str) -> String {
    format!("server.experimental.overload.{name}")
}
