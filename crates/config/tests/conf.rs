//! The sample configurations are valid, and the full ones name every key.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use steeple_config::{AgentFlags, ServerFlags, load_agent, load_server};

fn conf(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conf").join(folder);
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|kind| kind == "conf")).collect();
    assert!(files.len() >= 2);
    files
}

#[test]
fn servers_samples_are_valid_and_without_notices() {
    for path in conf("server") {
        let loaded = load_server(Some(&path), &ServerFlags::default(), false, &|_| None);
        let (_, notices) = loaded.unwrap_or_else(|error| panic!("{error}"));
        assert!(notices.is_empty(), "{notices:?}");
    }
}

#[test]
fn agents_samples_are_valid_and_without_notices() {
    for path in conf("agent") {
        let loaded = load_agent(Some(&path), &AgentFlags::default(), false, &|_| None);
        let (_, notices) = loaded.unwrap_or_else(|error| panic!("{error}"));
        assert!(notices.is_empty(), "{notices:?}");
    }
}

/// Every key that the raw types read stands in the full sample and in the
/// documentation.
#[test]
fn full_samples_and_documentation_name_every_key() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_to_string(here.join("../../docs/configuration.md")).unwrap();
    let not_on_this_platform = ["named_pipe_name", "admin_named_pipe_name"];
    // Spelt in capitals in the files.
    let deprecated = ["sql_transaction_timeout"];
    for program in ["server", "agent"] {
        let raw = fs::read_to_string(here.join(format!("src/raw/{program}.rs"))).unwrap();
        let sample = format!("../../conf/{program}/{program}_full.conf");
        let sample = fs::read_to_string(here.join(sample)).unwrap();
        let keys = raw.lines().filter_map(|line| {
            let field = line.trim().trim_start_matches("pub(crate) ");
            let (key, rest) = field.split_once(": Located<")?;
            rest.ends_with(',').then_some(key)
        });
        let mut count = 0;
        for key in keys {
            count += 1;
            assert!(docs.contains(key), "{key} is not in docs/configuration.md");
            if !not_on_this_platform.contains(&key) && !deprecated.contains(&key) {
                assert!(sample.contains(key), "{key} is not in {program}_full.conf");
            }
        }
        assert!(count > 40, "the raw types were not understood");
    }
}
