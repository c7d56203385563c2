//! What an SVID takes, and what a fetch of a cached one allocates, counted: a program of its own
//! with one test, since the allocator that counts is the process's.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/fixtures.rs"]
mod common;

use std::alloc::System;
use std::sync::Arc;

use async_trait::async_trait;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use steeple_agent_core::attest::{AttestLimits, WorkloadAttestation};
use steeple_agent_core::bundle::CachedBundle;
use steeple_agent_core::cache::IdentityCache;
use steeple_agent_core::jwt::JwtSvids;
use steeple_agent_core::selectors::SelectorSet;
use steeple_peer::Peer;
use steeple_pki::Bundle;
use steeple_plugin::{PluginError, WorkloadAttestor};
use steeple_spiffe::{Selector, TrustDomain};
use tokio::net::UnixStream;

use common::{Authority, NOON, Tokens, entry, learn, sign};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SVIDS: usize = 1000;

/// What one SVID may take with its entry and all that leads to it, of which its certificate and
/// key are 0.7 KiB.
const BYTES_PER_SVID: usize = 1640;
/// What attesting a caller may allocate, beside what its attestors do.
const ATTESTATION: usize = 14;
/// What a stream of a known caller may allocate until its first message is at hand.
const X509: usize = 8;
/// What a token that is at hand may allocate.
const JWT: usize = 6;

/// Tells a few selectors of everybody, at once.
struct Prompt(Vec<Selector>);

#[async_trait]
impl WorkloadAttestor for Prompt {
    fn name(&self) -> &str {
        "unix"
    }

    async fn attest(&self, _: i32) -> Result<Vec<Selector>, PluginError> {
        Ok(self.0.clone())
    }
}

/// How often `work` allocates, once it has been done a few times.
async fn allocations(mut work: impl AsyncFnMut()) -> usize {
    for _ in 0..3 {
        work().await;
    }
    let region = Region::new(HEAP);
    work().await;
    let change = region.change();
    change.allocations + change.reallocations
}

#[test]
fn an_svid_and_a_fetch_of_it_are_within_their_budgets() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let authority = Authority::new().await;
        let domain = TrustDomain::parse("example.org").unwrap();
        let bundle = Bundle::from_certificates(domain, vec![authority.certificate.clone()]);
        let cache = IdentityCache::new(Arc::new(CachedBundle::new(bundle)), 10 * SVIDS);

        // As most entries of an agent: somebody's, who does not ask just now.
        learn(&cache, vec![entry(0, "uid:0")]);
        sign(&cache, &authority).await;
        let region = Region::new(HEAP);
        learn(&cache, (1..=SVIDS).map(|number| entry(number, "uid:1000")).collect());
        sign(&cache, &authority).await;
        let change = region.change();
        let each = (change.bytes_allocated - change.bytes_deallocated) / SVIDS;
        assert_eq!(cache.count_x509_svids(), SVIDS + 1);
        assert!(each <= BYTES_PER_SVID, "{each} bytes for each SVID");

        let selectors: Vec<_> = ["uid:0", "user:root", "gid:0", "group:root"]
            .map(|value| Selector::new("unix", value))
            .into();
        let attestor = Arc::new(Prompt(selectors.clone()));
        let attestation =
            WorkloadAttestation::new(vec![attestor], AttestLimits::default(), i32::MAX);
        let (stream, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&stream).unwrap();
        let attested = allocations(async || {
            attestation.attest(&peer).await.unwrap();
        })
        .await;

        let caller = SelectorSet::new(selectors);
        let x509 = allocations(async || {
            let mut subscription = cache.subscribe(caller.clone(), NOON);
            let update = subscription.ready().await;
            assert!(!update.x509_svids().bytes().is_empty());
        })
        .await;

        let tokens = JwtSvids::new(Arc::new(Tokens), 10);
        let audience = ["audience".to_owned()];
        let jwt = allocations(async || {
            for entry in cache.matching(&caller) {
                tokens.fetch(&entry, &audience, NOON).await.unwrap();
            }
        })
        .await;
        assert!(attested <= ATTESTATION, "{attested} allocations to attest a caller");
        assert!(x509 <= X509, "{x509} allocations to fetch an X.509-SVID");
        assert!(jwt <= JWT, "{jwt} allocations to fetch a token");
    });
}
