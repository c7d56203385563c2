//! SPIRE's server and this store on one database. Needs `SPIRE_BIN_DIR`; without it, each test
//! says so and passes.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sea_orm::sqlx::{Connection as _, Executor as _, Row as _};
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use steeple_store::{
    AttestedNode, EntryFilter, JoinToken, NewEntry, NodeFilter, Since, Store, StoreConfig, open,
};

fn spire_server() -> Option<PathBuf> {
    let path = std::env::var_os("SPIRE_BIN_DIR").map(|dir| Path::new(&dir).join("spire-server"));
    if path.is_none() {
        #[expect(clippy::print_stderr, reason = "a skipped test must not look like one that ran")]
        {
            eprintln!("skipped: SPIRE_BIN_DIR is not set");
        }
    }
    path
}

/// A SPIRE server on a database of its own, stopped when dropped.
struct Spire {
    dir: tempfile::TempDir,
    program: PathBuf,
    child: Option<Child>,
}

impl Spire {
    fn new(program: PathBuf) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), program, child: None }
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("datastore.sqlite3")
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    fn start(&mut self) {
        let dir = self.dir.path().display();
        // SPIRE takes port 0 for its default.
        let port = steeple_testkit::free_port().unwrap();
        let config = format!(
            r#"server {{ bind_address = "127.0.0.1" bind_port = "{port}" socket_path = "{dir}/api.sock"
                 trust_domain = "example.org" data_dir = "{dir}" log_level = "WARN" }}
               plugins {{
                 DataStore "sql" {{ plugin_data {{ database_type = "sqlite3"
                   connection_string = "{dir}/datastore.sqlite3" }} }}
                 KeyManager "disk" {{ plugin_data {{ keys_path = "{dir}/keys.json" }} }}
                 NodeAttestor "join_token" {{ plugin_data {{}} }} }}"#
        );
        let path = self.dir.path().join("server.conf");
        std::fs::write(&path, config).unwrap();
        let child = Command::new(&self.program)
            .args(["run", "-config"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.cli(&["healthcheck"]).status.success() {
            assert!(Instant::now() < deadline, "SPIRE's server does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(&self.program)
            .args(arguments)
            .arg("-socketPath")
            .arg(self.socket())
            .output()
            .unwrap()
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn store(&self) -> Arc<dyn Store> {
        let database = self.database();
        open(&StoreConfig::sqlite(database.to_str().unwrap(), "1.15.0")).await.unwrap()
    }
}

impl Drop for Spire {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn schema(path: &Path) -> Vec<String> {
    let options = SqliteConnectOptions::new().filename(path);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let select = "SELECT type || ' ' || name || ' ' || tbl_name || ' ' || ifnull(sql, '') \
                  FROM sqlite_master";
    let rows = connection.fetch_all(select).await.unwrap();
    // gorm makes a table's indices in any order.
    let mut texts: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    texts.sort_unstable();
    texts
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

fn entry(path: &str) -> NewEntry {
    NewEntry::new(id(path), id("/agent"), vec![Selector::new("unix", "uid:1")])
}

fn joined() -> AttestedNode {
    AttestedNode {
        spiffe_id: id("/spire/agent/join_token/x"),
        attestation_type: "join_token".into(),
        serial_number: "1234".into(),
        expires_at: 4_102_444_800,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: false,
        selectors: vec![Selector::new("a", "b")],
        agent_version: "1.15.0".into(),
    }
}

#[tokio::test]
async fn our_schema_is_spires_to_the_letter() {
    let Some(program) = spire_server() else { return };
    let mut spire = Spire::new(program);
    spire.start();
    let ours = spire.dir.path().join("ours.sqlite3");
    open(&StoreConfig::sqlite(ours.to_str().unwrap(), "1.15.0")).await.unwrap();
    assert_eq!(schema(&ours).await, schema(&spire.database()).await);
}

#[tokio::test]
async fn spires_database_is_read_and_followed_while_it_writes() {
    let Some(program) = spire_server() else { return };
    let mut spire = Spire::new(program);
    spire.start();
    spire.done(&[
        "entry",
        "create",
        "-entryID",
        "whole",
        "-spiffeID",
        "spiffe://example.org/w",
        "-parentID",
        "spiffe://example.org/agent",
        "-selector",
        "unix:uid:7",
        "-selector",
        "unix:gid:7",
        "-dns",
        "z.example",
        "-dns",
        "a.example",
        "-admin",
        "-downstream",
        "-entryExpiry",
        "4102444800",
        "-x509SVIDTTL",
        "60",
        "-jwtSVIDTTL",
        "30",
        "-hint",
        "h",
        "-disableX509SVIDPrefetch",
    ]);
    let token = spire.done(&["token", "generate", "-spiffeID", "spiffe://example.org/alias"]);
    let token = token.lines().next().unwrap().trim_start_matches("Token: ").trim().to_owned();

    let store = spire.store().await;
    assert!(!store.was_created());
    let whole = store.fetch_entry("whole").await.unwrap().unwrap();
    assert_eq!((whole.spiffe_id.path(), whole.parent_id.path()), ("/w", "/agent"));
    assert_eq!(whole.selectors.len(), 2);
    assert_eq!(whole.dns_names, ["z.example", "a.example"]);
    assert!(whole.admin && whole.downstream && whole.disable_x509_svid_prefetch);
    assert_eq!((whole.x509_svid_ttl, whole.jwt_svid_ttl), (60, 30));
    assert_eq!((whole.expires_at, whole.hint.as_str()), (4_102_444_800, "h"));
    assert!(whole.created_at > 1_700_000_000);
    let own = TrustDomain::parse("example.org").unwrap();
    let bundle = store.fetch_bundle(&own).await.unwrap().unwrap();
    assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (1, 1));
    let journal = store.list_ca_journals().await.unwrap().pop().unwrap();
    let authority_id = bundle.x509_authorities[0].certificate.authority_id();
    assert_eq!(journal.active_x509_authority_id, authority_id);

    let mut revision = store.snapshot().await.unwrap().revision;
    let mut follow = async || match store.changes_since(&revision).await.unwrap() {
        Since::Changes(changes) => {
            revision = changes.revision;
            changes.entries
        }
        Since::ResnapshotNeeded(reason) => panic!("{reason}"),
    };
    spire.done(&[
        "entry",
        "update",
        "-entryID",
        "whole",
        "-spiffeID",
        "spiffe://example.org/w",
        "-parentID",
        "spiffe://example.org/agent",
        "-selector",
        "unix:uid:8",
    ]);
    let changes = follow().await;
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].entry.as_ref().unwrap().revision_number, 1);
    spire.done(&["entry", "delete", "-entryID", "whole"]);
    assert_eq!(follow().await[0].entry, None);

    let expires_at = store.fetch_join_token(&token).await.unwrap().unwrap().expires_at;
    assert!(expires_at > 1_700_000_000);
    store.delete_join_token(&token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn spire_reads_what_we_write_beside_it() {
    let Some(program) = spire_server() else { return };
    let mut spire = Spire::new(program);
    // Made by us, then taken over by SPIRE.
    let store = spire.store().await;
    assert!(store.was_created());
    let whole = NewEntry {
        entry_id: Some("whole".into()),
        admin: true,
        hint: "h".into(),
        dns_names: vec!["z.example".into()],
        expires_at: 4_102_444_800,
        jwt_svid_include_jti: true,
        ..entry("/w")
    };
    store.create_entry(whole).await.unwrap();
    store.upsert_attested_node(joined()).await.unwrap();
    let token = JoinToken { token: "t".into(), expires_at: 4_102_444_800 };
    store.create_join_token(token, None).await.unwrap();
    spire.start();
    let shown = spire.done(&["entry", "show", "-output", "json"]);
    for part in [
        r#""id":"whole""#,
        r#""admin":true"#,
        r#""hint":"h""#,
        r#""dns_names":["z.example"]"#,
        r#""expires_at":"4102444800""#,
        r#""jwt_svid_include_jti":true"#,
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    let agents = spire.done(&["agent", "list", "-output", "json"]);
    for part in [
        r#""x509svid_expires_at":"4102444800""#,
        r#""x509svid_serial_number":"1234""#,
        r#""selectors":[{"type":"a","value":"b"}]"#,
    ] {
        assert!(agents.contains(part), "{part} is not in {agents}");
    }

    write_at_once(&spire, &store).await;

    spire.done(&["agent", "evict", "-spiffeID", "spiffe://example.org/spire/agent/join_token/x"]);
    assert_eq!(store.count_nodes(&NodeFilter::default()).await.unwrap(), 0);
}

/// Both write at once; ours are never refused, and none is missed.
async fn write_at_once(spire: &Spire, store: &Arc<dyn Store>) {
    let mut revision = store.snapshot().await.unwrap().revision;
    let busy = {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            for number in 0..200 {
                store.create_entry(entry(&format!("/ours/{number}"))).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    };
    for number in 0..10 {
        let path = format!("spiffe://example.org/theirs/{number}");
        let create = [
            "entry",
            "create",
            "-spiffeID",
            &path,
            "-parentID",
            "spiffe://example.org/agent",
            "-selector",
            "unix:uid:1",
        ];
        // SPIRE reads before it asks for the write lock, which SQLite refuses when we wrote in
        // between; so it is beside a second SPIRE. Its callers try again.
        while let refused = spire.cli(&create)
            && !refused.status.success()
        {
            let text = String::from_utf8_lossy(&refused.stderr);
            assert!(text.contains("database is locked"), "{text}");
        }
    }
    busy.await.unwrap();
    let mut told = 0;
    loop {
        let Since::Changes(changes) = store.changes_since(&revision).await.unwrap() else {
            panic!("a snapshot is needed")
        };
        if changes.is_empty() {
            break;
        }
        told += changes.entries.len();
        revision = changes.revision;
    }
    assert_eq!(told, 210);
    assert_eq!(store.count_entries(&EntryFilter::default()).await.unwrap(), 211);
    assert_eq!(spire.done(&["entry", "count"]).trim(), "211 registration entries");
}
