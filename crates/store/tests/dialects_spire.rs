//! SPIRE's server and this store on one PostgreSQL or MariaDB database, at the same time. Needs
//! `SPIRE_BIN_DIR`; without it, each test says so and passes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::too_many_lines,
    reason = "these are tests"
)]

#[path = "common/fixture.rs"]
mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Fixture, agent, changes, entry};
use steeple_spiffe::TrustDomain;
use steeple_store::{EntryFilter, JoinToken, NewEntry, NodeFilter, StoreError};
use steeple_testkit::DatabaseKind;

fn spire_server() -> Option<PathBuf> {
    let path = std::env::var_os("SPIRE_BIN_DIR").map(|dir| Path::new(&dir).join("spire-server"));
    if path.is_none() {
        eprintln!("skipped: SPIRE_BIN_DIR is not set");
    }
    path
}

/// A SPIRE server on a database, stopped when dropped.
struct Spire {
    dir: tempfile::TempDir,
    program: PathBuf,
    child: Child,
}

impl Spire {
    fn start(program: &Path, fixture: &Fixture) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database_type = match fixture.server.kind() {
            DatabaseKind::Postgres => "postgres",
            DatabaseKind::MariaDb => "mysql",
        };
        let connection_string = fixture.server.connection_string(&fixture.name);
        let path = dir.path().join("server.conf");
        // SPIRE takes port 0 for its default; a port that is lost to another is tried again.
        let port = steeple_testkit::free_port().unwrap();
        let place = dir.path().display();
        let config = format!(
            r#"server {{ bind_address = "127.0.0.1" bind_port = "{port}"
                 socket_path = "{place}/api.sock"
                 trust_domain = "example.org" data_dir = "{place}" log_level = "WARN" }}
               plugins {{
                 DataStore "sql" {{ plugin_data {{ database_type = "{database_type}"
                   connection_string = "{connection_string}" }} }}
                 KeyManager "memory" {{ plugin_data {{}} }}
                 NodeAttestor "join_token" {{ plugin_data {{}} }} }}"#
        );
        std::fs::write(&path, config).unwrap();
        let child = Command::new(program)
            .args(["run", "-config"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut spire = Self { dir, program: program.to_owned(), child };
        if spire.is_up() { spire } else { Self::start(program, fixture) }
    }

    fn is_up(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline && self.child.try_wait().unwrap().is_none() {
            if self.cli(&["healthcheck"]).status.success() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(&self.program)
            .args(arguments)
            .arg("-socketPath")
            .arg(self.dir.path().join("api.sock"))
            .output()
            .unwrap()
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Spire {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The schema, sorted: gorm makes the indices of a table in no certain order.
fn schema(fixture: &Fixture) -> BTreeSet<String> {
    let dump = fixture.server.dump_schema(&fixture.name);
    let without_counter = |line: &str| match line.split_once(" AUTO_INCREMENT=") {
        Some((before, after)) => {
            format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => line.trim_end_matches(',').to_owned(),
    };
    let told = |line: &&str| !line.starts_with("--") && !line.contains("restrict");
    dump.lines().filter(told).map(without_counter).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_schema_is_spires() {
    let Some(program) = spire_server() else { return };
    for theirs in Fixture::each() {
        let spire = Spire::start(&program, &theirs);
        let ours = Fixture::new(theirs.server.kind()).unwrap();
        ours.open().await.close().await;
        assert_eq!(schema(&ours), schema(&theirs));
        drop(spire);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reads_and_follows_what_the_other_writes() {
    let Some(program) = spire_server() else { return };
    for fixture in Fixture::each() {
        // Made by SPIRE, opened by us beside it.
        let spire = Spire::start(&program, &fixture);
        let store = fixture.open().await;
        assert!(!store.was_created());
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let bundle = store.fetch_bundle(&trust_domain).await.unwrap().unwrap();
        assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (1, 1));
        assert_eq!(store.list_ca_journals().await.unwrap().len(), 1);
        store.create_entry(entry("/first")).await.unwrap();
        let mut revision = store.snapshot().await.unwrap().revision;
        let parent = ["-parentID", "spiffe://example.org/agent"];
        let create = ["entry", "create", "-entryID", "theirs", "-selector", "unix:uid:7"];
        let path = ["-spiffeID", "spiffe://example.org/theirs", "-hint", "h", "-dns", "a.example"];
        spire.done(&[&create[..], &path, &parent].concat());
        let news = changes(&*store, &revision).await;
        let told = news.entries[0].entry.as_ref().unwrap();
        assert_eq!((told.entry_id.as_str(), told.hint.as_str()), ("theirs", "h"));
        assert_eq!(
            (told.dns_names.as_slice(), told.selectors.len()),
            (&["a.example".into()][..], 1)
        );
        let age = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
            .abs_diff(told.created_at.unsigned_abs());
        assert!(age < 300, "created {age} s ago");
        revision = news.revision;
        spire.done(&["entry", "delete", "-entryID", "theirs"]);
        let news = changes(&*store, &revision).await;
        assert_eq!(news.entries[0].entry, None);

        // Written by us, read by SPIRE.
        let whole = NewEntry {
            entry_id: Some("ours".into()),
            admin: true,
            hint: "h".into(),
            dns_names: vec!["z.example".into()],
            expires_at: 4_102_444_800,
            jwt_svid_include_jti: true,
            ..entry("/w")
        };
        let made = store.create_entry(whole).await.unwrap();
        let shown = spire.done(&["entry", "show", "-entryID", "ours", "-output", "json"]);
        for part in [
            r#""id":"ours""#,
            r#""admin":true"#,
            r#""hint":"h""#,
            r#""dns_names":["z.example"]"#,
            r#""expires_at":"4102444800""#,
            r#""jwt_svid_include_jti":true"#,
            &format!(r#""created_at":"{}""#, made.created_at),
        ] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
        let joined = steeple_store::AttestedNode {
            expires_at: 4_102_444_800,
            serial_number: "1234".into(),
            ..agent("/spire/agent/join_token/x")
        };
        store.upsert_attested_node(joined).await.unwrap();
        let agents = spire.done(&["agent", "list", "-output", "json"]);
        assert!(agents.contains(r#""x509svid_expires_at":"4102444800""#), "{agents}");
        spire.done(&[
            "agent",
            "evict",
            "-spiffeID",
            "spiffe://example.org/spire/agent/join_token/x",
        ]);
        assert_eq!(store.count_nodes(&NodeFilter::default()).await.unwrap(), 0);
        // A token made by one is spent by the other.
        let token = spire.done(&["token", "generate"]);
        let token = token.lines().next().unwrap().trim_start_matches("Token: ").trim().to_owned();
        let now = std::time::SystemTime::now();
        store.attest_with_join_token(agent("/joined"), &token, now).await.unwrap();
        let token = JoinToken { token: "t".into(), expires_at: 4_102_444_800 };
        store.create_join_token(token.clone(), None).await.unwrap();
        let again = store.create_join_token(token, None).await.unwrap_err();
        assert!(matches!(&again, StoreError::AlreadyExists(_)), "{again}");
        // The same refusal in the same words.
        let twice = ["entry", "create", "-entryID", "ours", "-selector", "unix:uid:9"];
        let path = ["-spiffeID", "spiffe://example.org/other"];
        let theirs = spire.cli(&[&twice[..], &path, &parent].concat());
        let theirs = String::from_utf8_lossy(&theirs.stderr).replace("\\\"", "\"");
        let ours = NewEntry { entry_id: Some("ours".into()), ..entry("/third") };
        let ours = store.create_entry(ours).await.unwrap_err().to_string();
        assert!(theirs.contains(&ours), "{theirs}\nis not about\n{ours}");
        store.close().await;
    }
}

/// Both write at once; nobody is refused, and none is missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_write_at_once() {
    let Some(program) = spire_server() else { return };
    for fixture in Fixture::each() {
        let spire = Spire::start(&program, &fixture);
        let store = fixture.open().await;
        store.create_entry(entry("/first")).await.unwrap();
        let mut revision = store.snapshot().await.unwrap().revision;
        let busy = {
            let store = std::sync::Arc::clone(&store);
            tokio::spawn(async move {
                for number in 0..60 {
                    store.create_entry(entry(&format!("/ours/{number}"))).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        };
        let mut told = 0;
        for number in 0..8 {
            let path = format!("spiffe://example.org/theirs/{number}");
            let parent = "spiffe://example.org/agent";
            spire.done(&[
                "entry",
                "create",
                "-spiffeID",
                &path,
                "-parentID",
                parent,
                "-selector",
                "a:b",
            ]);
            let news = changes(&*store, &revision).await;
            told += news.entries.len();
            revision = news.revision;
        }
        busy.await.unwrap();
        told += changes(&*store, &revision).await.entries.len();
        assert_eq!(told, 68);
        assert_eq!(store.count_entries(&EntryFilter::default()).await.unwrap(), 69);
        assert_eq!(spire.done(&["entry", "count"]).trim(), "69 registration entries");
        store.close().await;
    }
}
