use std::path::Path;

use steeple_plugin::contract;
use steeple_spiffe::TrustDomain;
use steeple_tpm::emulator::Emulator;

use super::folder::File;
use super::*;

fn host() -> HostContext {
    HostContext::new(TrustDomain::parse("example.org").unwrap())
}

fn open(emulator: &Emulator, directory: &Path) -> Result<Arc<dyn KeyManager>, PluginError> {
    let (directory, device) = (directory.display(), emulator.path());
    let text = format!("directory = \"{directory}\"\ntpm_device_path = \"{}\"", device.display());
    from_config(Some(&Block::parse(&text).unwrap()), &host())
}

const KINDS: [KeyType; 3] = [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048];

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_key_managers() {
    let Some(emulator) = Emulator::start() else { return };
    let mut folders = Vec::new();
    contract::key_manager_of(&KINDS, async || {
        folders.push(tempfile::tempdir().unwrap());
        open(&emulator, folders.last().unwrap().path()).unwrap()
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    contract::key_manager_persists_of(&KINDS, async || open(&emulator, folder.path()).unwrap())
        .await;
    let error = open(&emulator, folder.path()).unwrap().generate_key("a", KeyType::Rsa4096).await;
    let error = error.err().unwrap().to_string();
    let expected =
        "keymanager(tpm): failed to generate key: TPMs do not make keys of type rsa-4096";
    assert_eq!(error, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_private_and_hold_no_key_that_another_tpm_can_use() {
    let Some(mut emulator) = Emulator::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let key = open(&emulator, folder.path()).unwrap();
    let key = key.generate_key("agent-svid-A", KeyType::EcP256).await.unwrap();
    let file = folder.path().join("agent-svid-A.tpm.json");
    assert_eq!(steeple_runtime::fsx::mode(&file).unwrap() & 0o777, 0o600);
    emulator.restart();
    let again = open(&emulator, folder.path()).unwrap().key("agent-svid-A").await.unwrap().unwrap();
    assert!(again.public_key() == key.public_key());
    emulator.swap();
    let error = open(&emulator, folder.path()).err().unwrap();
    assert_eq!(error.code, Code::FailedPrecondition);
    let text = error.to_string();
    assert!(text.starts_with("keymanager(tpm): failed to load keys: the keys in "), "{text}");
    assert!(text.contains("were made by another TPM, or this TPM was cleared since"), "{text}");
    // The file says that it is this TPM's: the TPM itself says no.
    let mine = tempfile::tempdir().unwrap();
    open(&emulator, mine.path()).unwrap().generate_key("b", KeyType::EcP256).await.unwrap();
    let read = |path| -> File { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let parent_name = read(mine.path().join("b.tpm.json")).parent_name;
    let forged = File { parent_name, ..read(file.clone()) };
    std::fs::write(&file, serde_json::to_vec(&forged).unwrap()).unwrap();
    let text = open(&emulator, folder.path()).err().unwrap().to_string();
    assert!(text.contains("its integrity does not hold (TPM_RC_INTEGRITY"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_is_named_and_left_alone() {
    let Some(emulator) = Emulator::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let keys = open(&emulator, folder.path()).unwrap();
    keys.generate_key("a/../b", KeyType::EcP256).await.unwrap();
    let file = folder.path().join("a%2f%2e%2e%2fb.tpm.json");
    let whole = std::fs::read(&file).unwrap();
    for broken in [&whole[..whole.len() / 2], b"{}", &[b'x'; 20_000]] {
        std::fs::write(&file, broken).unwrap();
        let text = open(&emulator, folder.path()).err().unwrap().to_string();
        assert!(text.contains("keymanager(tpm): failed to load keys: "), "{text}");
        assert_eq!(std::fs::read(&file).unwrap(), broken);
    }
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(open(&emulator, folder.path()).unwrap().keys().await.unwrap().len(), 1);
    std::fs::copy(&file, folder.path().join("c.tpm.json")).unwrap();
    let text = open(&emulator, folder.path()).err().unwrap().to_string();
    assert!(text.contains("is not a key that was kept by this plugin"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_holds_on_while_its_tpm_is_away_and_signs_when_it_is_back() {
    let Some(mut emulator) = Emulator::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let keys = open(&emulator, folder.path()).unwrap();
    let key = keys.generate_key("a", KeyType::EcP256).await.unwrap();
    emulator.stop();
    let error = key.sign(SignatureAlgorithm::EcdsaSha256, b"x").await.unwrap_err().to_string();
    assert!(error.contains("keymanager(tpm): failed to sign: the TPM at "), "{error}");
    let error = keys.generate_key("a", KeyType::EcP256).await.err().unwrap();
    assert_eq!(error.code, Code::Unavailable);
    emulator.restart();
    let signature = key.sign(SignatureAlgorithm::EcdsaSha256, b"x").await.unwrap();
    key.public_key().verify(SignatureAlgorithm::EcdsaSha256, b"x", &signature).unwrap();
}

#[test]
fn settings_that_are_wrong_are_told() {
    for (text, problem) in [
        ("", "directory must be configured"),
        ("directory = \"/x\"\nnope = 1", "unknown configurations detected: nope"),
        (
            "directory = \"/x\"\nparent_handle = \"0x80000000\"",
            "parent_handle must be a persistent handle such as \"0x81000001\"",
        ),
    ] {
        let error = check(Some(&Block::parse(text).unwrap())).unwrap_err().to_string();
        assert_eq!(error, format!("keymanager(tpm): {problem}"));
    }
    let text = "directory = \"/x\"\ntpm_device_path = \"/nonexistent/tpm\"";
    let error = read(Some(&Block::parse(text).unwrap())).map(drop);
    assert_eq!(error, Ok(()));
}
