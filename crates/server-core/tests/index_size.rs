//! How much memory an entry takes in the index: counted, so that it does not depend on the
//! machine. Alone in this binary, since the count is the whole process's.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use steeple_server_core::index::Snapshot;
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use steeple_store::model::Entry;

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ENTRIES: u32 = 50_000;

/// Children of one agent.
const SIBLINGS: u32 = 20;

/// Bytes for each entry with all that finds it. The target is 400 of resident memory at a million
/// entries; an allocator rounds, and its tables may be half empty.
const BUDGET: usize = 330;

/// What is copied when one entry changes: a page, the lists above it, and a part of each table.
const CHANGE: usize = 64 * 1024;

fn entry(home: &TrustDomain, number: u32) -> Entry {
    let id = |path: &str| SpiffeId::from_path(home, path).unwrap();
    // Ids scattered as random ones are.
    let scattered = number.wrapping_mul(0x9e37_79b1);
    Entry {
        entry_id: format!("{scattered:08x}-1111-4222-8333-{number:012x}"),
        spiffe_id: id(&format!("/ns/production/sa/service-{number}")),
        parent_id: id(&format!("/spire/agent/k8s_psat/cluster/{:032x}", number / SIBLINGS)),
        selectors: vec![
            Selector::new("k8s", "ns:production"),
            Selector::new("k8s", &format!("sa:service-{number}")),
        ],
        x509_svid_ttl: 0,
        jwt_svid_ttl: 0,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        expires_at: 0,
        dns_names: Vec::new(),
        revision_number: 1,
        store_svid: false,
        hint: String::new(),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
        created_at: 1_800_000_000,
    }
}

fn held(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change.bytes_allocated - change.bytes_deallocated
}

#[test]
fn an_entry_takes_few_bytes_and_its_change_copies_few() {
    let home = TrustDomain::parse("example.org").unwrap();
    let region = Region::new(COUNTING);
    let mut snapshot = Snapshot::empty(home.clone());
    let empty = held(&region);
    assert!(empty < 256 * 1024, "an empty index takes {empty} bytes");
    for number in 0..ENTRIES {
        let entry = entry(&home, number);
        snapshot.put_entry(&entry.entry_id, Some(&entry));
    }
    let each = (held(&region) - empty) / ENTRIES as usize;
    assert!(each <= BUDGET, "an entry takes {each} bytes");
    let told = snapshot.entry_bytes() / ENTRIES as usize;
    assert!(told.abs_diff(each) <= 16, "told are {told} bytes, and counted {each}");

    let published = snapshot.clone();
    let region = Region::new(COUNTING);
    let changed = Entry { revision_number: 2, ..entry(&home, 77) };
    snapshot.put_entry(&changed.entry_id, Some(&changed));
    let copied = region.change().bytes_allocated;
    assert!(copied <= CHANGE, "the change of an entry copied {copied} bytes");
    assert_eq!(published.entry(&changed.entry_id).unwrap().to_entry().revision_number, 1);
    assert_eq!(snapshot.entry(&changed.entry_id).unwrap().to_entry().revision_number, 2);
}
