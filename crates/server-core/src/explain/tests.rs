use steeple_spiffe::Selector;

use super::*;

const NOON: i64 = 1_800_000_000;

fn noon() -> SystemTime {
    crate::time::from_unix_seconds(NOON).unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

fn selectors(texts: &[&str]) -> Vec<Selector> {
    texts.iter().map(|text| Selector::new("t", text)).collect()
}

fn entry(entry_id: &str, parent: &str, spiffe: &str, wanted: &[&str]) -> Entry {
    Entry {
        entry_id: entry_id.to_owned(),
        spiffe_id: id(spiffe),
        parent_id: id(parent),
        selectors: selectors(wanted),
        x509_svid_ttl: 0,
        jwt_svid_ttl: 0,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        expires_at: 0,
        dns_names: Vec::new(),
        revision_number: 0,
        store_svid: false,
        hint: String::new(),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
        created_at: 0,
    }
}

fn node(path: &str, shows: &[&str], expires_at: i64) -> AttestedNode {
    AttestedNode {
        spiffe_id: id(path),
        attestation_type: "test".to_owned(),
        serial_number: "1".to_owned(),
        expires_at,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: false,
        selectors: selectors(shows),
        agent_version: String::new(),
    }
}

fn snapshot(entries: &[Entry], nodes: &[AttestedNode]) -> Snapshot {
    let mut snapshot = Snapshot::empty(TrustDomain::parse("example.org").unwrap());
    for entry in entries {
        snapshot.put_entry(&entry.entry_id, Some(entry));
    }
    for node in nodes {
        snapshot.put_node(&node.spiffe_id, Some(node.clone()));
    }
    snapshot
}

fn explained(
    snapshot: &Snapshot,
    entry: &Entry,
    agent: Option<&str>,
    shown: &[&str],
) -> Explanation {
    let agent = agent.map(id);
    let shown = selectors(shown);
    let entry = Arc::new(entry.clone());
    let mut explanation = look(snapshot, entry, agent.as_ref(), &shown, noon());
    words::say(&mut explanation, snapshot, agent.as_ref(), &shown, noon());
    explanation
}

#[test]
fn a_parent_that_is_nothing_is_the_reason() {
    let web = entry("web", "/spire/agent/gone", "/web", &["x"]);
    let it = explained(&snapshot(std::slice::from_ref(&web), &[]), &web, None, &[]);
    assert_eq!(
        it.verdict,
        "Nobody gets it: its parent spiffe://example.org/spire/agent/gone is neither an attested \
         agent nor an entry's SPIFFE ID."
    );
    assert_eq!(it.authorized_agents, 0);
}

#[test]
fn the_chain_leads_over_entries_and_aliases_to_the_agents() {
    let below = entry("below", "/web", "/below", &["y"]);
    let entries = [
        entry("alias", "/spire/server", "/cluster", &["s1", "s2"]),
        entry("web", "/cluster", "/web", &["x"]),
        below.clone(),
    ];
    let nodes = [
        node("/spire/agent/whole", &["s1", "s2"], NOON + 60),
        node("/spire/agent/part", &["s1"], NOON + 60),
        node("/spire/agent/other", &["z"], NOON + 60),
    ];
    let snapshot = snapshot(&entries, &nodes);
    let it = explained(&snapshot, &below, None, &[]);
    assert_eq!(it.verdict, "1 agent gives it to workloads with all its selectors.");
    let ids: Vec<_> = it.chain.iter().map(|step| (step.depth, step.id.path())).collect();
    assert_eq!(ids, [(1, "/web"), (2, "/cluster")]);
    assert!(matches!(it.chain[1].kind, StepKind::Alias(_)));
    assert_eq!(it.agents[0].via, Some(id("/cluster")));
    let [miss] = it.near_misses.as_slice() else { panic!("{:?}", it.near_misses) };
    assert_eq!(
        (miss.agent.path(), miss.missing.as_slice()),
        ("/spire/agent/part", &selectors(&["s2"])[..])
    );

    let part = explained(&snapshot, &below, Some("/spire/agent/part"), &[]);
    assert_eq!(
        part.verdict,
        "Agent spiffe://example.org/spire/agent/part does not get it: for the alias \
         spiffe://example.org/cluster it lacks t:s2."
    );
    let unknown = explained(&snapshot, &below, Some("/spire/agent/nobody"), &[]);
    assert!(unknown.verdict.ends_with("it is not attested."), "{}", unknown.verdict);
    let alias = explained(&snapshot, &entries[0], None, &[]);
    assert_eq!(alias.verdict, "It is an alias: 1 agent has all its selectors.");
}

#[test]
fn selectors_asked_about_are_compared() {
    let web = entry("web", "/spire/agent/a", "/web", &["x", "y"]);
    let snapshot = snapshot(std::slice::from_ref(&web), &[node("/spire/agent/a", &[], NOON + 60)]);
    let it = explained(&snapshot, &web, None, &["x"]);
    assert_eq!(it.verdict, "A workload with these selectors does not get it: it lacks t:y.");
    let it = explained(&snapshot, &web, None, &["x", "y", "z"]);
    assert_eq!(it.verdict, "1 agent gives it to a workload with these selectors.");
}

#[test]
fn banned_and_expired_agents_and_entries_are_told() {
    let web = entry("web", "/spire/agent/a", "/web", &["x"]);
    let mut banned = node("/spire/agent/a", &[], NOON + 60);
    banned.serial_number = String::new();
    let it = explained(&snapshot(std::slice::from_ref(&web), &[banned]), &web, None, &[]);
    assert!(it.verdict.contains("banned or expired"), "{}", it.verdict);
    assert_eq!(it.findings, ["agent spiffe://example.org/spire/agent/a is banned"]);
    let ended = Entry { expires_at: NOON, ..web };
    let it = explained(&snapshot(std::slice::from_ref(&ended), &[]), &ended, None, &[]);
    assert!(it.verdict.starts_with("Nobody gets it: the entry expired at 2027"), "{}", it.verdict);
}

#[test]
fn entries_above_each_other_end_somewhere() {
    let entries = [entry("a", "/b", "/a", &["x"]), entry("b", "/a", "/b", &["x"])];
    let it = explained(&snapshot(&entries, &[]), &entries[0], None, &[]);
    assert_eq!(it.verdict, "Nobody gets it: nothing above it leads to an agent.");
}

#[test]
fn a_life_is_the_shortest_of_what_is_asked_and_what_the_signer_has_left() {
    let hour = Duration::from_secs(3600);
    let ends = Some(noon() + hour);
    let told = |own, ends| life(own, Duration::from_secs(600), ends, "CA", noon());
    assert_eq!(told(60, ends).ttl, Duration::from_secs(60));
    assert_eq!(told(0, ends).ttl, Duration::from_secs(600));
    let capped = told(7200, ends);
    assert_eq!(capped.ttl, hour);
    assert_eq!(
        capped.reason,
        "the active CA ends then; the entry's own TTL (2h0m0s) would be longer"
    );
    assert_eq!(told(0, None).ttl, Duration::ZERO);
}
