//! Calls of remote procedures: their names, and the traces they belong to.

use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use crate::call::{Call, call_in};
use crate::is_enabled;
use crate::trace::{self, SpanContext};

/// Methods whose keys are kept; a program has far fewer.
const MAX_METHODS: usize = 512;

/// Starts to time a call of `path`, `/package.Service/Method`, which must be
/// one that exists: its name becomes a metric. `traceparent` is the header of
/// that name (W3C Trace Context), if any.
pub fn call(path: &str, traceparent: Option<&str>) -> Rpc {
    if !is_enabled() && !trace::is_enabled() {
        return Rpc { call: Call::none(), context: None };
    }
    let (context, parent) = trace::begin_rpc(traceparent).unzip();
    let span = context.map(|context| (context, parent.flatten()));
    Rpc { call: call_in(key(path), span, true), context }
}

/// A call that is going on.
#[must_use = "a call that is dropped at once was cancelled"]
pub struct Rpc {
    call: Call,
    context: Option<SpanContext>,
}

impl Rpc {
    /// Whether anybody is told of it.
    pub fn is_recorded(&self) -> bool {
        self.call.is_recorded()
    }

    /// Runs a part of its work, whose own calls become its children.
    pub fn scope<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        trace::scope(self.context, work)
    }

    /// Ends it with the name of a gRPC code.
    pub fn status(self, code: &str) {
        self.call.status(code);
    }

    /// Ends it without a trace.
    pub fn discard(self) {
        self.call.discard();
    }
}

/// `rpc.<service>.<method>` in parts; made once per method.
fn key(path: &str) -> &'static [&'static str] {
    static KEYS: LazyLock<RwLock<HashMap<String, &'static [&'static str]>>> =
        LazyLock::new(RwLock::default);
    if let Some(key) = KEYS.read().unwrap_or_else(PoisonError::into_inner).get(path) {
        return key;
    }
    let mut keys = KEYS.write().unwrap_or_else(PoisonError::into_inner);
    if keys.len() >= MAX_METHODS {
        return &["rpc", "other"];
    }
    // Methods live as long as the program does.
    let parts = parts(path).into_iter().map(|part| &*part.leak()).collect::<Vec<&'static str>>();
    keys.entry(path.to_owned()).or_insert_with(|| parts.leak())
}

fn parts(path: &str) -> Vec<String> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let (service, method) = path.split_once('/').unwrap_or((path, ""));
    let mut service = service.replace("spire.api.server.", "");
    for (long, short) in [
        ("SpiffeWorkloadAPI", "WorkloadAPI"),
        ("envoy.service.secret.v3.SecretDiscoveryService", "SDS.v3"),
        ("grpc.health.v1.Health", "Health"),
        ("spire.api.agent.logger.v1.Logger", "Logger"),
        ("logger.v1.Logger", "Logger"),
        ("spire.agent.debug.v1.Debug", "Debug"),
        ("spire.api.agent.delegatedidentity.v1.DelegatedIdentity", "DelegatedIdentity"),
    ] {
        if service == long {
            short.clone_into(&mut service);
            break;
        }
    }
    let method = match method {
        "SubscribeToX509SVIDs" => "subscribe_to_x509_svids".to_owned(),
        method => snake_case(method),
    };
    let services = service.split('.').map(snake_case);
    ["rpc".to_owned()].into_iter().chain(services).chain([method]).collect()
}

/// SPIRE's reading of names in PascalCase: an underscore before a capital that
/// has a small letter beside it.
fn snake_case(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::with_capacity(name.len() + 8);
    for (at, c) in chars.iter().enumerate() {
        if !c.is_alphanumeric() {
            out.push('_');
            continue;
        }
        let beside_small = at > 0
            && chars
                .get(at + 1)
                .is_some_and(|next| next.is_lowercase() || chars[at - 1].is_lowercase());
        if c.is_uppercase() && beside_small && !out.ends_with('_') {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_spire() {
        for (path, expected) in [
            ("/spire.api.server.agent.v1.Agent/AttestAgent", "agent.v1.agent.attest_agent"),
            ("/spire.api.server.svid.v1.SVID/BatchNewX509SVID", "svid.v1.svid.batch_new_x509svid"),
            ("/spire.api.server.svid.v1.SVID/MintJWTSVID", "svid.v1.svid.mint_jwtsvid"),
            (
                "/spire.api.server.svid.v1.SVID/NewDownstreamX509CA",
                "svid.v1.svid.new_downstream_x509ca",
            ),
            (
                "/spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState",
                "localauthority.v1.local_authority.get_jwt_authority_state",
            ),
            ("/spire.api.server.logger.v1.Logger/SetLogLevel", "logger.set_log_level"),
            ("/spire.agent.debug.v1.Debug/GetInfo", "debug.get_info"),
            ("/spire.api.server.debug.v1.Debug/GetInfo", "debug.v1.debug.get_info"),
            (
                "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/FetchJWTSVIDs",
                "delegated_identity.fetch_jwtsvi_ds",
            ),
            (
                "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509SVIDs",
                "delegated_identity.subscribe_to_x509_svids",
            ),
            ("/SpiffeWorkloadAPI/FetchX509SVID", "workload_api.fetch_x509svid"),
            (
                "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
                "sds.v3.stream_secrets",
            ),
            ("/grpc.health.v1.Health/Check", "health.check"),
            (
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                "grpc.reflection.v1alpha.server_reflection.server_reflection_info",
            ),
        ] {
            assert_eq!(parts(path).join("."), format!("rpc.{expected}"));
        }
        let again = key("/SpiffeWorkloadAPI/FetchX509SVID");
        assert!(std::ptr::eq(again, key("/SpiffeWorkloadAPI/FetchX509SVID")), "made once");
    }
}
