//! What a workload's fetch takes of the agent's processor, beside attesting it: counted in
//! instructions, so that it does not depend on the machine.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/fixtures.rs"]
mod common;

use std::hint::black_box;
use std::sync::Arc;

use steeple_agent_core::bundle::CachedBundle;
use steeple_agent_core::cache::IdentityCache;
use steeple_agent_core::jwt::JwtSvids;
use steeple_agent_core::selectors::SelectorSet;
use steeple_agent_core::wire::{BundleFragment, IdentityFragment, x509_svids};
use steeple_pki::Bundle;
use steeple_spiffe::{Selector, TrustDomain};
use steeple_testkit::{InstructionCounter, count_instructions, hold_instructions};
use tokio::runtime::Runtime;

use common::{Authority, NOON, Tokens, entry, learn, sign};

const ENTRIES: usize = 5_000;

/// The most instructions of each path, unoptimised: about a quarter more than they were when this
/// was written.
const BUDGETS: [(&str, u64); 4] = [
    ("a fetch of a known caller", 125_000),
    ("a fetch of a new caller, of 5,000 entries", 220_000),
    ("encoding an answer", 11_500),
    ("a token that is at hand", 16_500),
];

#[test]
fn a_fetch_takes_few_instructions() {
    let counted = count_instructions("a_fetch_takes_few_instructions", |counter| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let cache = runtime.block_on(filled());
        fetches(counter, &runtime, &cache);
        encoding(counter);
        tokens(counter, &runtime, &cache);
    });
    if let Some(counted) = counted {
        hold_instructions(&counted, &BUDGETS);
    }
}

/// The selectors of the workload that asks, and one more.
fn caller(more: &str) -> SelectorSet {
    let selectors = ["uid:0", "user:root", "gid:0", "group:root", more];
    selectors.into_iter().map(|value| Selector::new("unix", value)).collect()
}

/// A cache with one entry of the caller's, and thousands of others'.
async fn filled() -> Arc<IdentityCache> {
    let authority = Authority::new().await;
    let domain = TrustDomain::parse("example.org").unwrap();
    let bundle = Bundle::from_certificates(domain, vec![authority.certificate.clone()]);
    // Nobody else's are signed before they ask.
    let cache = IdentityCache::new(Arc::new(CachedBundle::new(bundle)), 1);
    learn(&cache, vec![entry(0, "uid:0")]);
    sign(&cache, &authority).await;
    let others = (1..ENTRIES).map(|number| entry(number, &format!("uid:{number}")));
    learn(&cache, others.collect());
    cache
}

fn fetches(counter: &mut InstructionCounter, runtime: &Runtime, cache: &Arc<IdentityCache>) {
    let fetch = async |caller: &SelectorSet| {
        let mut subscription = cache.subscribe(caller.clone(), NOON);
        let update = subscription.ready().await;
        assert!(!black_box(update.x509_svids().bytes()).is_empty());
    };
    let known = caller("path:/usr/bin/known");
    let mut new = (0..).map(|number| caller(&format!("path:/usr/bin/{number:08}")));
    let [(first, _), (second, _), ..] = BUDGETS;
    counter.count(first, 200, |times| {
        runtime.block_on(async {
            for _ in 0..times {
                fetch(&known).await;
            }
        });
    });
    // Making the sets of selectors is a part of it: attestation ends with that.
    counter.count(second, 200, |times| {
        runtime.block_on(async {
            for caller in new.by_ref().take(times as usize) {
                fetch(&caller).await;
            }
        });
    });
}

fn encoding(counter: &mut InstructionCounter) {
    let (leaf, key) = ([1; 500], [2; 138]);
    let bundle = BundleFragment::new("spiffe://example.org", vec![3; 500], b"{\"keys\":[]}");
    let [_, _, (name, _), _] = BUDGETS;
    // Kept, since wiping them is the most that unoptimised programs do.
    let mut frames = Vec::with_capacity(1000);
    counter.count(name, 200, |times| {
        for _ in 0..times {
            let spiffe_id = black_box("spiffe://example.org/ns/production/sa/service");
            let chain: [&[u8]; 2] = [&leaf, &[]];
            let one = IdentityFragment { spiffe_id, chain, key_pkcs8: &key, hint: "" };
            frames.push(x509_svids([one].into_iter(), &bundle, std::iter::empty()));
        }
    });
}

fn tokens(counter: &mut InstructionCounter, runtime: &Runtime, cache: &Arc<IdentityCache>) {
    let tokens = JwtSvids::new(Arc::new(Tokens), 10);
    let audience = ["audience".to_owned()];
    let caller = caller("path:/usr/bin/known");
    let [.., (name, _)] = BUDGETS;
    counter.count(name, 200, |times| {
        runtime.block_on(async {
            for _ in 0..times {
                for entry in cache.matching(&caller) {
                    black_box(tokens.fetch(&entry, &audience, NOON).await).unwrap();
                }
            }
        });
    });
}
