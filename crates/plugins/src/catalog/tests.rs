use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use steeple_spiffe::TrustDomain;

use super::*;

fn host() -> HostContext {
    HostContext::new(TrustDomain::parse("example.org").unwrap())
}

#[test]
fn the_table_is_sorted_and_names_a_plugin_once() {
    let keys: Vec<_> = BUILTINS.iter().map(|it| (it.side, it.kind, it.name)).collect();
    assert!(keys.is_sorted_by(|left, right| left < right), "{keys:?}");
    let names: Vec<_> = NODE_ATTESTORS.iter().map(|[agent, _]| agent.name).collect();
    assert!(names.is_sorted_by(|left, right| left < right), "{names:?}");
}

/// A name in only one of the two would be refused by the one or by the other.
#[test]
fn the_configuration_knows_the_same_plugins() {
    for (side, types) in [
        (Side::Agent, steeple_config::agent_plugins()),
        (Side::Server, steeple_config::server_plugins()),
    ] {
        let mut known: Vec<_> = types
            .iter()
            .flat_map(|it| it.built.iter().map(|name| (it.kind.to_owned(), *name)))
            // The datastore is no plugin of this crate.
            .filter(|(kind, _)| kind != "DataStore")
            .collect();
        let of_side = builtins().filter(|it| it.side == side);
        let mut here: Vec<_> = of_side.map(|it| (it.kind.to_string(), it.name)).collect();
        known.sort();
        here.sort();
        assert_eq!(known, here, "{side:?}");
    }
}

#[test]
fn a_name_that_is_nowhere_is_refused_and_not_repeated_at_length() {
    let error = |name| workload_attestor(name, None, &host()).err().unwrap();
    assert_eq!(
        error("k9s").to_string(),
        "no built-in plugin \"k9s\" for type \"WorkloadAttestor\""
    );
    assert!(error(&"x".repeat(10_000)).to_string().len() < 200);
    let error = key_manager(Side::Agent, "aws_kms", None, &host()).err().unwrap();
    assert_eq!(error.code, Code::NotFound, "the agent has no such plugin anywhere");
}

#[tokio::test]
async fn each_kind_is_made_by_name() {
    assert!(key_manager(Side::Server, "memory", None, &host()).is_ok());
    let dir = tempfile::tempdir().unwrap();
    let data = format!("keys_path = \"{}/keys.json\"", dir.path().display());
    let data = Block::parse(&data).unwrap();
    let manager = key_manager(Side::Server, "disk", Some(&data), &host()).unwrap();
    assert!(manager.keys().await.unwrap().is_empty());
    assert_eq!(workload_attestor("unix", None, &host()).unwrap().name(), "unix");
    assert_eq!(node_evidence("join_token", None, &host()).unwrap().name(), "join_token");
}

#[test]
fn validation_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent");
    let data = Block::parse(&format!("directory = \"{}\"", path.display())).unwrap();
    validate(Side::Agent, Kind::KeyManager, "disk", Some(&data)).unwrap();
    assert!(!path.exists());
}

#[derive(Deserialize)]
struct Sample {
    plugins: HashMap<String, HashMap<String, Plugin>>,
}

#[derive(Deserialize)]
struct Plugin {
    plugin_data: Option<Block>,
}

/// The HCL samples in a README.
fn samples(readme: &str) -> Vec<String> {
    let blocks = readme.split("```hcl\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn every_plugin_has_a_readme_whose_samples_are_valid_for_a_side() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for builtin in builtins() {
        let folder = match builtin.kind {
            Kind::CredentialComposer => "credential_composer",
            Kind::KeyManager => "key_manager",
            Kind::NodeAttestor => "node_attestor",
            Kind::UpstreamAuthority => "upstream_authority",
            Kind::SvidStore => "svid_store",
            Kind::WorkloadAttestor => "workload_attestor",
            other => panic!("no folder for {other}"),
        };
        // A vendor's plugins have a crate of their own.
        let path = Path::new("src").join(folder).join(builtin.name).join("README.md");
        let homes = ["plugins", "aws", "azure", "gcp"];
        let found =
            homes.iter().find_map(|it| fs::read_to_string(crates.join(it).join(&path)).ok());
        let readme = found.unwrap_or_else(|| panic!("{}", path.display()));
        let samples = samples(&readme);
        assert!(!samples.is_empty(), "{} has no sample", path.display());
        let mut valid = 0;
        for sample in samples {
            let parsed = Block::parse(&sample).unwrap().decode::<Sample>().unwrap();
            assert!(parsed.unknown.is_empty());
            for (kind, plugins) in &parsed.value.plugins {
                for (name, plugin) in plugins {
                    // A sample may show what goes with the plugin; that has a README of its own.
                    if (kind.as_str(), name.as_str()) != (builtin.kind.name(), builtin.name) {
                        continue;
                    }
                    let data = plugin.plugin_data.as_ref();
                    // The files that a sample names are on the reader's machine.
                    let checked = (builtin.check)(data).err().map(|error| error.message);
                    let missing = |text: String| text.ends_with("no such file or directory");
                    valid += usize::from(checked.is_none_or(missing));
                }
            }
        }
        assert!(valid > 0, "no sample in {} fits the {:?}", path.display(), builtin.side);
    }
}
