//! Instructions of the calls that agents make all the time, cryptography apart, and of a change of
//! the index.

use std::time::Duration;

use prost::Message;
use steeple_net::tls::TlsPeer;
use steeple_pki::x509::DistinguishedName;
use steeple_pki::{KeyType, PrivateKey, csr};
use steeple_proto::spire::api::server::entry::v1 as entry_pb;
use steeple_proto::spire::api::server::svid::v1 as svid_pb;
use steeple_proto::spire::api::server::svid::v1::batch_new_x509svid_response::Result as Signed;
use steeple_proto::spire::api::types;
use steeple_server_api::GrpcService;
use steeple_server_core::index::Snapshot;
use steeple_spiffe::{Selector, TrustDomain};
use steeple_store::model::Entry;
use steeple_testkit::{InstructionCounter, count_instructions, hold_instructions};
use tokio::runtime::Runtime;

use crate::refusals::unread;
use crate::stack::{EACH, World, id, sqlite, world};

/// The most instructions of each path, unoptimised: about a quarter more than they were when this
/// was written.
const BUDGETS: [(&str, u64); 5] =
    [(SYNC, 740_000), (X509, 530_000), (JWT, 450_000), (REFUSAL, 132_000), (CHANGE, 440_000)];
const SYNC: &str = "an authorised sync of ten entries";
const X509: &str = "an X.509-SVID for an agent, with its CSR";
const JWT: &str = "a JWT-SVID for an agent";
const REFUSAL: &str = "a refusal of a signature under overload";
const CHANGE: &str = "a change of one entry in the index";

/// Agents that the sync is one of: what it takes does not depend on them, and making them does.
const AGENTS: usize = if cfg!(debug_assertions) { 10 } else { 1000 };

/// Entries in the index that changes.
const INDEXED: u32 = if cfg!(debug_assertions) { 4_000 } else { 100_000 };

#[test]
fn the_calls_of_an_agent_take_few_instructions() {
    let name = "instructions::the_calls_of_an_agent_take_few_instructions";
    let counted = count_instructions(name, |counter| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (store, _directory) = runtime.block_on(sqlite());
        let world = runtime.block_on(world(store, AGENTS, Duration::from_secs(3600)));
        syncs(counter, &runtime, &world);
        x509_svids(counter, &runtime, &world);
        jwt_svids(counter, &runtime, &world);
        refusals(counter, &runtime, &world);
        changes(counter);
        runtime.block_on(world.stop());
    });
    if let Some(counted) = counted {
        hold_instructions(&counted, &BUDGETS);
    }
}

/// What an agent asks for.
pub(crate) async fn sync<S: GrpcService>(
    world: &World<S>,
    agent: &TlsPeer,
) -> entry_pb::SyncAuthorizedEntriesResponse {
    const PATH: &str = "/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries";
    let output_mask = Some(types::EntryMask {
        spiffe_id: true,
        selectors: true,
        federates_with: true,
        admin: true,
        downstream: true,
        revision_number: true,
        store_svid: true,
        hint: true,
        additional_attributes: true,
        created_at: true,
        ..types::EntryMask::default()
    });
    let request = entry_pb::SyncAuthorizedEntriesRequest { output_mask, ids: Vec::new() };
    let answer = world.call(agent, PATH, &request).await;
    entry_pb::SyncAuthorizedEntriesResponse::decode(answer).unwrap()
}

fn syncs<S: GrpcService>(counter: &mut InstructionCounter, runtime: &Runtime, world: &World<S>) {
    counter.count(SYNC, 50, |times| {
        runtime.block_on(async {
            for _ in 0..times {
                assert_eq!(sync(world, &world.agents[7]).await.entries.len(), EACH);
            }
        });
    });
}

fn x509_svids<S: GrpcService>(
    counter: &mut InstructionCounter,
    runtime: &Runtime,
    world: &World<S>,
) {
    const PATH: &str = "/spire.api.server.svid.v1.SVID/BatchNewX509SVID";
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let csr = csr::create(&key, &DistinguishedName::default(), &[]).unwrap();
    let entry_id = world.entry_ids[0].clone();
    let params = vec![svid_pb::NewX509svidParams { entry_id, csr: csr.into() }];
    let request = svid_pb::BatchNewX509svidRequest { params };
    counter.count(X509, 20, |times| {
        runtime.block_on(async {
            for _ in 0..times {
                let answer = world.call(&world.agents[0], PATH, &request).await;
                let answer = svid_pb::BatchNewX509svidResponse::decode(answer).unwrap();
                let signed: Option<&Signed> = answer.results.first();
                assert!(signed.is_some_and(|signed| signed.svid.is_some()), "{signed:?}");
            }
        });
    });
}

fn jwt_svids<S: GrpcService>(
    counter: &mut InstructionCounter,
    runtime: &Runtime,
    world: &World<S>,
) {
    const PATH: &str = "/spire.api.server.svid.v1.SVID/NewJWTSVID";
    let (entry_id, audience) = (world.entry_ids[0].clone(), vec!["audience".to_owned()]);
    let request = svid_pb::NewJwtsvidRequest { entry_id, audience };
    counter.count(JWT, 20, |times| {
        runtime.block_on(async {
            for _ in 0..times {
                let answer = world.call(&world.agents[0], PATH, &request).await;
                let answer = svid_pb::NewJwtsvidResponse::decode(answer).unwrap();
                assert!(answer.svid.is_some_and(|svid| !svid.token.is_empty()));
            }
        });
    });
}

/// As under ten times the load, where there are nine for each answer. None of the request is read.
fn refusals<S: GrpcService>(counter: &mut InstructionCounter, runtime: &Runtime, world: &World<S>) {
    const PATH: &str = "/spire.api.server.svid.v1.SVID/BatchNewX509SVID";
    counter.count(REFUSAL, 100, |times| {
        runtime.block_on(async {
            for _ in 0..times {
                let headers = world.call_too_late(&world.agents[0], PATH, unread()).await;
                assert_eq!(headers["grpc-status"], "8");
            }
        });
    });
}

/// As the index task makes the next snapshot of the last: a copy that shares what is the same.
fn changes(counter: &mut InstructionCounter) {
    let mut snapshot = Snapshot::empty(TrustDomain::parse("example.org").unwrap());
    for number in 0..INDEXED {
        let entry = entry(number, 1);
        snapshot.put_entry(&entry.entry_id, Some(&entry));
    }
    let changed: Vec<Entry> = (0..100).map(|number| entry(number * 37, 2)).collect();
    let mut turns = changed.iter().cycle();
    counter.count(CHANGE, 100, |times| {
        for entry in turns.by_ref().take(times as usize) {
            let mut next = snapshot.clone();
            next.put_entry(&entry.entry_id, Some(entry));
            snapshot = next;
        }
    });
    assert_eq!(snapshot.entry_count(), INDEXED as usize);
}

fn entry(number: u32, revision_number: i64) -> Entry {
    // Ids scattered as random ones are.
    let scattered = number.wrapping_mul(0x9e37_79b1);
    Entry {
        entry_id: format!("{scattered:08x}-1111-4222-8333-{number:012x}"),
        spiffe_id: id(&format!("/ns/production/sa/service-{number}")),
        parent_id: id(&format!("/spire/agent/k8s_psat/cluster/{:032x}", number / 20)),
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
        revision_number,
        store_svid: false,
        hint: String::new(),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
        created_at: 1_800_000_000,
    }
}
