//! The one table of methods: who may call, where it is served, what it costs.
//!
//! A method that is not in here is not served. A test compares the table with
//! the descriptors of every server API.

use std::collections::HashMap;
use std::sync::LazyLock;

use steeple_server_core::access::Rule;

use crate::limit::{Bucket, Toll};

/// One method.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// `/package.Service/Method`.
    pub(crate) path: &'static str,
    /// Who may call it.
    pub(crate) rule: Rule,
    /// What a call takes out of the caller's bucket.
    pub(crate) toll: Toll,
    /// Served on the Unix socket only.
    pub(crate) local_only: bool,
}

/// Finds a method; `None` when there is none on that listener.
pub(crate) fn row(path: &str, local: bool) -> Option<&'static Row> {
    BY_PATH.get(path).copied().filter(|row| local || !row.local_only)
}

impl Row {
    /// Whether requests or answers are a stream of messages.
    pub(crate) fn is_stream(&self) -> bool {
        let streams =
            ["Agent/AttestAgent", "Entry/SyncAuthorizedEntries", "Health/Watch", "Push/Watch"];
        streams.iter().any(|stream| self.path.ends_with(stream))
    }

    /// `Method`.
    pub(crate) fn method(&self) -> &'static str {
        self.path.rsplit_once('/').expect("paths of the table have two slashes").1
    }

    /// The service as SPIRE's logs call it: `agent.v1.Agent`.
    pub(crate) fn service(&self) -> &'static str {
        let full = self.path[1..].rsplit_once('/').expect("paths of the table have two slashes").0;
        match full.strip_prefix("spire.api.server.").unwrap_or(full) {
            "grpc.health.v1.Health" => "Health",
            "logger.v1.Logger" => "Logger",
            other => other,
        }
    }
}

const NOBODY: Rule =
    Rule { any: false, local: false, admin: false, downstream: false, agent: false };
const ANY: Rule = Rule { any: true, ..NOBODY };
const LOCAL: Rule = Rule { local: true, ..NOBODY };
const OPERATOR: Rule = Rule { local: true, admin: true, ..NOBODY };
const AGENT: Rule = Rule { agent: true, ..NOBODY };
const OPERATOR_OR_AGENT: Rule = Rule { agent: true, ..OPERATOR };
const DOWNSTREAM: Rule = Rule { downstream: true, ..NOBODY };

const fn limited(path: &'static str, rule: Rule, toll: Toll) -> Row {
    Row { path, rule, toll, local_only: false }
}

const fn on_socket(path: &'static str, rule: Rule) -> Row {
    Row { path, rule, toll: Toll::Free, local_only: true }
}

static BY_PATH: LazyLock<HashMap<&'static str, &'static Row>> =
    LazyLock::new(|| TABLE.iter().map(|row| (row.path, row)).collect());

const ATTEST: Toll = Toll::PerCall(Bucket::Attest, "attest agent rate limiting");
const RENEW: Toll = Toll::PerCall(Bucket::SignX509, "renew agent rate limiting");
const SIGN_CA: Toll = Toll::PerCall(Bucket::SignX509, "downstream CA signing rate limit");
const SIGN_BATCH: Toll = Toll::PerItem(Bucket::SignX509, "certificate signing rate limiting");
const SIGN_JWT: Toll = Toll::PerCall(Bucket::SignJwt, "JWT signing request rate limiting");
const SIGN_WIT: Toll = Toll::PerItem(Bucket::SignWit, "certificate signing rate limiting");
const PUBLISH: Toll = Toll::PerCall(Bucket::Publish, "key publishing rate limiting");
const STATUS: Toll = Toll::PerCall(Bucket::Status, "post status rate limiting");
// SPIRE has no limits on these, nor have we unless some are set.
const ADMIN: Toll = Toll::PerCall(Bucket::Admin, "admin rate limiting");
const READ_BUNDLE: Toll = Toll::PerCall(Bucket::Bundle, "bundle rate limiting");
const SYNC: Toll = Toll::PerCall(Bucket::Sync, "entry sync rate limiting");
const PUSH: Toll = Toll::PerCall(Bucket::Sync, "push rate limiting");

/// Every method of the server's APIs, in the order of services and descriptors.
#[rustfmt::skip]
pub(crate) static TABLE: &[Row] = &[
    limited("/spire.api.server.agent.v1.Agent/CountAgents", OPERATOR, ADMIN),
    limited("/spire.api.server.agent.v1.Agent/ListAgents", OPERATOR, ADMIN),
    limited("/spire.api.server.agent.v1.Agent/GetAgent", OPERATOR, ADMIN),
    limited("/spire.api.server.agent.v1.Agent/DeleteAgent", OPERATOR, ADMIN),
    limited("/spire.api.server.agent.v1.Agent/BanAgent", OPERATOR, ADMIN),
    limited("/spire.api.server.agent.v1.Agent/AttestAgent", ANY, ATTEST),
    limited("/spire.api.server.agent.v1.Agent/RenewAgent", AGENT, RENEW),
    limited("/spire.api.server.agent.v1.Agent/PostStatus", AGENT, STATUS),
    limited("/spire.api.server.agent.v1.Agent/CreateJoinToken", OPERATOR, ADMIN),

    limited("/spire.api.server.bundle.v1.Bundle/CountBundles", OPERATOR, ADMIN),
    limited("/spire.api.server.bundle.v1.Bundle/GetBundle", ANY, READ_BUNDLE),
    limited("/spire.api.server.bundle.v1.Bundle/AppendBundle", OPERATOR, ADMIN),
    limited("/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority", DOWNSTREAM, PUBLISH),
    limited("/spire.api.server.bundle.v1.Bundle/PublishWITAuthority", DOWNSTREAM, PUBLISH),
    limited("/spire.api.server.bundle.v1.Bundle/ListFederatedBundles", OPERATOR, ADMIN),
    limited("/spire.api.server.bundle.v1.Bundle/GetFederatedBundle", OPERATOR_OR_AGENT, READ_BUNDLE),
    limited("/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle", OPERATOR, ADMIN),
    limited("/spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle", OPERATOR, ADMIN),
    limited("/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle", OPERATOR, ADMIN),
    limited("/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle", OPERATOR, ADMIN),

    limited("/spire.api.server.entry.v1.Entry/CountEntries", OPERATOR, ADMIN),
    limited("/spire.api.server.entry.v1.Entry/ListEntries", OPERATOR, ADMIN),
    limited("/spire.api.server.entry.v1.Entry/GetEntry", OPERATOR, ADMIN),
    limited("/spire.api.server.entry.v1.Entry/BatchCreateEntry", OPERATOR, ADMIN),
    limited("/spire.api.server.entry.v1.Entry/BatchUpdateEntry", OPERATOR, ADMIN),
    limited("/spire.api.server.entry.v1.Entry/BatchDeleteEntry", OPERATOR, ADMIN),
    limited("/spire.api.server.entry.v1.Entry/GetAuthorizedEntries", AGENT, SYNC),
    limited("/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries", AGENT, SYNC),

    limited("/spire.api.server.svid.v1.SVID/MintX509SVID", OPERATOR, ADMIN),
    limited("/spire.api.server.svid.v1.SVID/MintJWTSVID", OPERATOR, ADMIN),
    limited("/spire.api.server.svid.v1.SVID/MintWITSVID", OPERATOR, ADMIN),
    limited("/spire.api.server.svid.v1.SVID/BatchNewX509SVID", AGENT, SIGN_BATCH),
    limited("/spire.api.server.svid.v1.SVID/NewJWTSVID", AGENT, SIGN_JWT),
    limited("/spire.api.server.svid.v1.SVID/BatchNewWITSVID", AGENT, SIGN_WIT),
    limited("/spire.api.server.svid.v1.SVID/NewDownstreamX509CA", DOWNSTREAM, SIGN_CA),

    limited("/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships", OPERATOR, ADMIN),
    limited("/spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship", OPERATOR, ADMIN),
    limited("/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship", OPERATOR, ADMIN),
    limited("/spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship", OPERATOR, ADMIN),
    limited("/spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship", OPERATOR, ADMIN),
    limited("/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle", OPERATOR, ADMIN),

    limited("/spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/PrepareJWTAuthority", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/ActivateJWTAuthority", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/TaintJWTAuthority", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/RevokeJWTAuthority", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/PrepareX509Authority", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509Authority", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509Authority", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/GetWITAuthorityState", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/PrepareWITAuthority", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/ActivateWITAuthority", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/TaintWITAuthority", OPERATOR, ADMIN),
    limited("/spire.api.server.localauthority.v1.LocalAuthority/RevokeWITAuthority", OPERATOR, ADMIN),

    // Ours; a policy made for SPIRE does not know it, and agents then poll.
    limited("/steeple.server.push.v1.Push/Watch", AGENT, PUSH),

    limited("/steeple.server.explain.v1.Explain/ExplainAgent", OPERATOR, ADMIN),
    limited("/steeple.server.explain.v1.Explain/ExplainEntry", OPERATOR, ADMIN),

    limited("/steeple.server.jointoken.v1.JoinToken/CreateJoinToken", OPERATOR, ADMIN),
    limited("/steeple.server.jointoken.v1.JoinToken/ListJoinTokens", OPERATOR, ADMIN),
    limited("/steeple.server.jointoken.v1.JoinToken/RevokeJoinToken", OPERATOR, ADMIN),

    on_socket("/spire.api.server.logger.v1.Logger/GetLogger", LOCAL),
    on_socket("/spire.api.server.logger.v1.Logger/SetLogLevel", LOCAL),
    on_socket("/spire.api.server.logger.v1.Logger/ResetLogLevel", LOCAL),
    on_socket("/spire.api.server.debug.v1.Debug/GetInfo", LOCAL),
    on_socket("/grpc.health.v1.Health/Check", LOCAL),
    on_socket("/grpc.health.v1.Health/List", LOCAL),
    on_socket("/grpc.health.v1.Health/Watch", LOCAL),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn described() -> BTreeSet<String> {
        let files = FileDescriptorSet::decode(steeple_proto::DESCRIPTORS).unwrap();
        let mut paths = BTreeSet::new();
        for file in files.file {
            let package = file.package();
            if !["spire.api.server.", "steeple.server."].iter().any(|it| package.starts_with(it)) {
                continue;
            }
            for service in &file.service {
                for method in &service.method {
                    let (package, service) = (file.package(), service.name());
                    paths.insert(format!("/{package}.{service}/{}", method.name()));
                }
            }
        }
        paths
    }

    #[test]
    fn every_method_of_the_server_apis_has_one_row_and_no_row_is_idle() {
        let rows: BTreeSet<String> = TABLE.iter().map(|row| row.path.to_owned()).collect();
        assert_eq!(rows.len(), TABLE.len(), "a path is in the table twice");
        let described = described();
        assert!(described.len() > 50, "the descriptors hold {} methods", described.len());
        let missing: Vec<_> = described.difference(&rows).collect();
        assert!(missing.is_empty(), "without a row: {missing:?}");
        let idle: Vec<_> = rows
            .difference(&described)
            .filter(|path| !path.starts_with("/grpc.health.v1.Health/"))
            .collect();
        assert!(idle.is_empty(), "not in the descriptors: {idle:?}");
    }

    #[test]
    fn every_row_lets_somebody_in() {
        for row in TABLE {
            assert_ne!(row.rule, NOBODY, "{}", row.path);
        }
    }

    #[test]
    fn what_is_for_the_socket_is_not_found_over_tcp() {
        assert!(row("/spire.api.server.debug.v1.Debug/GetInfo", true).is_some());
        assert!(row("/spire.api.server.debug.v1.Debug/GetInfo", false).is_none());
        assert!(row("/spire.api.server.entry.v1.Entry/Nonesuch", true).is_none());
    }

    #[test]
    fn names_for_the_log_are_upstreams() {
        let row = row("/spire.api.server.agent.v1.Agent/AttestAgent", false).unwrap();
        assert_eq!((row.service(), row.method()), ("agent.v1.Agent", "AttestAgent"));
        let service = |path| super::row(path, true).unwrap().service();
        assert_eq!(service("/spire.api.server.logger.v1.Logger/GetLogger"), "Logger");
        assert_eq!(service("/spire.api.server.debug.v1.Debug/GetInfo"), "debug.v1.Debug");
        assert_eq!(service("/grpc.health.v1.Health/Check"), "Health");
    }
}
