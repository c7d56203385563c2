use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use steeple_pki::{KeyType, PrivateKey};
use steeple_plugin::contract;
use steeple_spiffe::TrustDomain;

use super::*;

fn host() -> HostContext {
    HostContext::new(TrustDomain::parse("example.org").unwrap())
}

fn block(settings: &str) -> Block {
    Block::parse(settings).unwrap()
}

/// `open`, expected to fail.
fn refusal(path: &Path) -> String {
    open(path.to_owned()).err().expect("the file is refused").to_string()
}

/// A file as SPIRE writes it, made by hand of keys made elsewhere.
fn file_of(keys: &[(&str, &PrivateKey)]) -> String {
    use base64::Engine as _;
    let encode = |key: &PrivateKey| {
        base64::engine::general_purpose::STANDARD.encode(key.to_pkcs8_der().as_slice())
    };
    let lines: Vec<_> =
        keys.iter().map(|(id, key)| format!("\t\t\"{id}\": \"{}\"", encode(key))).collect();
    format!("{{\n\t\"keys\": {{\n{}\n\t}}\n}}", lines.join(",\n"))
}

#[tokio::test]
async fn keeps_the_contract_of_key_managers() {
    let dir = tempfile::tempdir().unwrap();
    let mut count = 0;
    contract::key_manager(async || {
        count += 1;
        open(dir.path().join(format!("{count}.json"))).unwrap()
    })
    .await;
}

#[tokio::test]
async fn keeps_the_contract_of_keys_that_outlive_their_manager() {
    let dir = tempfile::tempdir().unwrap();
    contract::key_manager_persists(async || open(dir.path().join("keys.json")).unwrap()).await;
}

#[tokio::test]
async fn the_file_is_spires_to_the_byte_and_only_the_owners() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    let [b, a] = [KeyType::EcP256, KeyType::EcP384].map(|kind| PrivateKey::generate(kind).unwrap());
    fs::write(&path, file_of(&[("x509-CA-B", &b), ("JWT-Signer-A", &a)])).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();

    let manager = open(path.clone()).unwrap();
    manager.generate_key("new", KeyType::EcP256).await.unwrap();
    let new = fs::read_to_string(&path).unwrap();
    let expected = file_of(&[("JWT-Signer-A", &a), ("x509-CA-B", &b)]);
    let (shared, _) = expected.rsplit_once("\"x509-CA-B\"").unwrap();
    assert!(new.starts_with(shared), "keys are not sorted or not encoded as before");
    assert!(new.ends_with("\"\n\t}\n}"), "no newline ends the file");
    assert_eq!(fsx::mode(&path).unwrap(), 0o600);

    fs::write(&path, &expected).unwrap();
    let manager = open(path.clone()).unwrap();
    manager.generate_key("x509-CA-B", KeyType::EcP256).await.unwrap();
    let (before, _) = expected.rsplit_once(": \"").unwrap();
    assert!(fs::read_to_string(&path).unwrap().starts_with(before));
}

/// Written by SPIRE's own plugin.
const OF_SPIRE: &str = include_str!("testdata/spire-keys.json");

#[tokio::test]
async fn a_file_of_spires_is_read_and_written_back_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    fs::write(&path, OF_SPIRE).unwrap();
    let file = KeysFile::new(path.clone());
    let keys = file.load().unwrap();
    let kinds: Vec<_> =
        keys.iter().map(|(id, key)| (id.as_str(), key.public_key().key_type().unwrap())).collect();
    let expected = [
        ("JWT-Signer-A", KeyType::Rsa2048),
        ("a<b>&c", KeyType::EcP256),
        ("x509-CA-A", KeyType::EcP384),
        ("x509-CA-B", KeyType::EcP256),
    ];
    assert_eq!(kinds, expected);
    fs::remove_file(&path).unwrap();
    file.write(&keys).unwrap();
    assert!(fs::read_to_string(&path).unwrap() == OF_SPIRE, "written differently than by SPIRE");
}

#[tokio::test]
async fn a_key_is_on_disk_before_anybody_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    let manager = open(path.clone()).unwrap();
    for round in 0..20 {
        let key = manager.generate_key("id", KeyType::EcP256).await.unwrap();
        let found = open(path.clone()).unwrap().key("id").await.unwrap().unwrap();
        assert!(found.public_key() == key.public_key(), "round {round}");
    }
}

#[tokio::test]
async fn a_failed_write_leaves_the_old_key_in_memory_and_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let manager = open(inner.join("keys.json")).unwrap();
    let old = manager.generate_key("id", KeyType::EcP256).await.unwrap();
    fs::rename(&inner, dir.path().join("moved")).unwrap();
    let error = manager.generate_key("id", KeyType::EcP256).await.err().unwrap().to_string();
    let start = "keymanager(disk): failed to generate key: unable to write entries: ";
    assert!(error.starts_with(start), "{error}");
    let kept = manager.key("id").await.unwrap().unwrap();
    assert!(kept.public_key() == old.public_key());
    let on_disk = open(dir.path().join("moved/keys.json")).unwrap().key("id").await.unwrap();
    assert!(on_disk.unwrap().public_key() == old.public_key());
}

#[test]
fn a_caller_that_goes_away_does_not_part_memory_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    let manager = open(path.clone()).unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for _ in 0..10 {
        let running = runtime();
        running.block_on(async {
            let generation = manager.generate_key("id", KeyType::EcP256);
            let _ = tokio::time::timeout(std::time::Duration::ZERO, generation).await;
        });
        // Waits for what was begun.
        drop(running);
        let reopened = open(path.clone()).unwrap();
        let of = |manager: &dyn KeyManager| {
            let key = runtime().block_on(manager.key("id")).unwrap();
            key.map(|key| key.public_key().clone())
        };
        assert!(of(&*manager) == of(&*reopened));
    }
}

#[test]
fn a_broken_file_is_an_error_that_names_it_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    let rsa_3072 = include_str!("testdata/rsa-3072.json");
    for (contents, expected) in [
        ("", "unable to decode keys JSON: unexpected end of JSON input"),
        ("{\"keys\": {\"a\"", "unable to decode keys JSON: unexpected end of JSON input"),
        ("nonsense", "unable to decode keys JSON: invalid JSON"),
        ("{\"keys\": 7}", "unable to decode keys JSON: not an object of keys"),
        ("{\"keys\": {\"a\": \"%\"}}", "unable to decode keys JSON: illegal base64 data"),
        ("{\"keys\": {\"a\": \"AAAA\"}}", "unable to parse key \"a\": "),
        (
            rsa_3072,
            "unable to make entry \"x\": unable to make key entry for key \"x\": \
            no RSA key type for key bit length: 3072",
        ),
    ] {
        fs::write(&path, contents).unwrap();
        let error = refusal(&path);
        assert!(error.starts_with(&format!("keymanager(disk): {expected}")), "{error}");
        let mend = format!("(in {}; restore it from a copy, or move it away", path.display());
        assert!(error.contains(&mend), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), contents);
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let error = refusal(&path);
    assert!(error.contains("unable to read keys: ") && error.contains("keys.json"), "{error}");
}

#[tokio::test]
async fn no_file_and_a_file_without_keys_are_empty_managers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    assert!(open(path.clone()).unwrap().keys().await.unwrap().is_empty());
    assert!(!path.exists(), "looking makes no file");
    for contents in ["{}", "{\"keys\":null}", "{\n\t\"keys\": {}\n}"] {
        fs::write(&path, contents).unwrap();
        assert!(open(path.clone()).unwrap().keys().await.unwrap().is_empty());
    }
}

#[test]
fn each_side_asks_for_its_own_setting() {
    let text = |result: Result<(), PluginError>| result.unwrap_err().to_string();
    assert_eq!(text(check_server(None)), "keymanager(disk): keys_path is required");
    let wrong = block("directory = \"/tmp\"");
    assert_eq!(text(check_server(Some(&wrong))), "keymanager(disk): keys_path is required");
    assert_eq!(text(check_agent(None)), "keymanager(disk): directory must be configured");
    assert!(check_agent(Some(&wrong)).is_ok());
    let error = text(check_server(Some(&block("keys_path = [1]"))));
    assert!(error.starts_with("keymanager(disk): unable to decode configuration: "), "{error}");
}

#[tokio::test]
async fn the_agents_directory_is_made_for_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("a/b");
    let settings = block(&format!("directory = \"{}\"", directory.display()));
    let manager = agent_from_config(Some(&settings), &host()).unwrap();
    manager.generate_key("agent-svid-A", KeyType::EcP256).await.unwrap();
    assert_eq!(fsx::mode(&directory).unwrap(), 0o700);
    let names: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["keys.json"], "the probe is gone");

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let settings = block(&format!("directory = \"{}/x\"", file.display()));
    let error = agent_from_config(Some(&settings), &host()).err().unwrap();
    assert_eq!(error.code, Code::FailedPrecondition);
    assert!(error.message.contains("directory validation failed: "), "{error}");
}

/// Set in the process that has a small disk of its own; where that is mounted.
const SMALL_DISK: &str = "STEEPLE_TEST_SMALL_DISK";

/// Runs itself again with a disk of 16 kB, in a mount namespace of its own.
fn on_a_small_disk(test: &str, body: impl FnOnce(&Path)) {
    if let Some(mounted) = std::env::var_os(SMALL_DISK) {
        return body(Path::new(&mounted));
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=16k none \"$1\" && shift && exec \"$@\"";
    let ran = std::process::Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", mount, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("key_manager::disk::tests::{test}"), "--nocapture"])
        .env(SMALL_DISK, dir.path())
        .output();
    let told = ran.as_ref().map(|ran| String::from_utf8_lossy(&ran.stdout).into_owned());
    match (&ran, told) {
        (Ok(ran), Ok(told)) if told.contains("running 1 test") => {
            let errors = String::from_utf8_lossy(&ran.stderr);
            assert!(ran.status.success() && told.contains("1 passed"), "{told}\n{errors}");
        }
        _ => {
            #[expect(clippy::print_stderr, reason = "says why nothing was tested")]
            {
                eprintln!("skipped: no mount namespace may be made here");
            }
        }
    }
}

#[test]
fn a_full_disk_loses_no_key_and_is_named() {
    on_a_small_disk("a_full_disk_loses_no_key_and_is_named", |disk| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let path = disk.join("keys.json");
        let manager = open(path.clone()).unwrap();
        let generate = || runtime.block_on(manager.generate_key("id", KeyType::EcP256));
        let old = generate().unwrap();
        let filler = disk.join("filler");
        assert!(fs::write(&filler, [7; 64 * 1024]).is_err(), "the disk is not full");
        let error = generate().err().unwrap().to_string();
        let start = "keymanager(disk): failed to generate key: unable to write entries: write ";
        assert!(error.starts_with(start), "{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains("no space left on device"), "{error}");
        let reopened = open(path.clone()).unwrap();
        for manager in [&manager, &reopened] {
            let kept = runtime.block_on(manager.key("id")).unwrap().unwrap();
            assert!(kept.public_key() == old.public_key());
        }
        let names: Vec<_> = fs::read_dir(disk).unwrap().flatten().collect();
        assert_eq!(names.len(), 2, "nothing of the attempt is left: {names:?}");
        // Room again: it goes on.
        fs::remove_file(&filler).unwrap();
        let next = generate().unwrap();
        let found = runtime.block_on(open(path).unwrap().key("id")).unwrap().unwrap();
        assert!(found.public_key() == next.public_key());
    });
}

#[test]
fn a_read_only_disk_loses_no_key_and_is_named() {
    on_a_small_disk("a_read_only_disk_loses_no_key_and_is_named", |disk| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let path = disk.join("keys.json");
        let manager = open(path.clone()).unwrap();
        let old = runtime.block_on(manager.generate_key("id", KeyType::EcP256)).unwrap();
        let remount =
            std::process::Command::new("mount").args(["-o", "remount,ro"]).arg(disk).status();
        assert!(remount.unwrap().success());
        let reopened = open(path).unwrap();
        for manager in [&manager, &reopened] {
            let error = runtime.block_on(manager.generate_key("id", KeyType::EcP256));
            let error = error.err().unwrap().to_string();
            assert!(
                error.contains("keys.json") && error.contains("read-only file system"),
                "{error}"
            );
            let kept = runtime.block_on(manager.key("id")).unwrap().unwrap();
            assert!(kept.public_key() == old.public_key());
        }
    });
}
