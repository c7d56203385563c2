//! On a real SoftHSM. The module finds its configuration by an environment variable when it is
//! initialised, so each test runs in a process of its own, with a folder of tokens of its own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use steeple_pki::SignatureAlgorithm;
use steeple_plugin::contract;
use steeple_spiffe::TrustDomain;

use super::*;

/// Set in the process that has tokens; the folder of them.
const FOLDER: &str = "STEEPLE_TEST_SOFTHSM";
const PIN: &str = "1234";

fn module() -> Option<PathBuf> {
    let places = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
    ];
    places.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Runs `body` in a process with a token `ours`; `test` is the path of the calling test.
fn on_softhsm(test: &str, body: impl AsyncFnOnce(&Path)) {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(body(Path::new(&folder)));
        return;
    }
    if module().is_none() || Command::new("softhsm2-util").arg("--version").output().is_err() {
        #[expect(clippy::print_stderr, reason = "says why nothing was tested")]
        {
            eprintln!("skipped: no SoftHSM on this machine");
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tokens")).unwrap();
    let mut settings = String::new();
    writeln!(settings, "directories.tokendir = {}/tokens", folder.path().display()).unwrap();
    settings.push_str("objectstore.backend = file\nlog.level = ERROR\nslots.removable = true\n");
    let conf = folder.path().join("softhsm2.conf");
    std::fs::write(&conf, settings).unwrap();
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "ours", "--pin", PIN, "--so-pin", PIN])
        .env("SOFTHSM2_CONF", &conf)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let name = format!("key_manager::pkcs11::tests::{test}");
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env("SOFTHSM2_CONF", &conf)
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

fn settings(more: &str) -> Block {
    let module = module().unwrap();
    Block::parse(&format!("module_path = {module:?}\n{more}")).unwrap()
}

fn ours(identifier: &str) -> Block {
    settings(&format!(
        "token_label = \"ours\"\npin = \"{PIN}\"\nkey_identifier_value = \"{identifier}\""
    ))
}

fn host() -> HostContext {
    HostContext::new(TrustDomain::parse("example.org").unwrap())
}

fn open(data: &Block) -> Arc<dyn KeyManager> {
    from_config(Some(data), &host()).unwrap()
}

fn refusal(data: &Block) -> String {
    from_config(Some(data), &host()).err().unwrap().to_string()
}

/// A token beside the manager's, to look into it.
fn token() -> Token {
    Token::open(config::read(Some(&ours("look"))).unwrap()).unwrap()
}

fn objects(class: ObjectClass) -> usize {
    let wanted = [Attribute::Class(class)];
    token().with_session(|open| Ok(open.session.find_objects(&wanted)?.len())).unwrap()
}

async fn signs(key: &Arc<dyn Signer>) -> Result<(), String> {
    let signed = key.sign(SignatureAlgorithm::EcdsaSha256, b"m").await;
    signed.map(drop).map_err(|error| error.to_string())
}

#[test]
fn keeps_the_contract_of_key_managers() {
    on_softhsm("keeps_the_contract_of_key_managers", async |_| {
        let next = AtomicU32::new(0);
        let fresh = || ours(&format!("server-{}", next.fetch_add(1, Ordering::Relaxed)));
        contract::key_manager(async || open(&fresh())).await;
    });
}

#[test]
fn keys_are_found_again_and_belong_to_one_server() {
    on_softhsm("keys_are_found_again_and_belong_to_one_server", async |_| {
        contract::key_manager_persists(async || open(&ours("one"))).await;
        assert_eq!(objects(ObjectClass::PRIVATE_KEY), 4, "what was replaced is destroyed");
        assert_eq!(objects(ObjectClass::PUBLIC_KEY), 4);
        // Neither a server with another identifier nor one of another trust domain has them.
        assert!(open(&ours("on")).keys().await.unwrap().is_empty());
        let other = HostContext::new(TrustDomain::parse("example.com").unwrap());
        let other = from_config(Some(&ours("one")), &other).unwrap();
        assert!(other.keys().await.unwrap().is_empty());
        other.generate_key("ec-p256", KeyType::EcP256).await.unwrap();
        assert_eq!(open(&ours("one")).keys().await.unwrap().len(), 4);
        assert_eq!(objects(ObjectClass::PRIVATE_KEY), 5);
    });
}

#[test]
fn no_key_can_be_taken_out_of_the_token() {
    on_softhsm("no_key_can_be_taken_out_of_the_token", async |_| {
        let manager = open(&ours("one"));
        manager.generate_key("x509-CA-A", KeyType::EcP384).await.unwrap();
        manager.generate_key("JWT-Signer-A", KeyType::Rsa2048).await.unwrap();
        let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY)];
        let asked = [
            AttributeType::Label,
            AttributeType::Sensitive,
            AttributeType::Extractable,
            AttributeType::AlwaysSensitive,
            AttributeType::NeverExtractable,
            AttributeType::PrivateExponent,
            AttributeType::Value,
        ];
        let told = token().with_session(|open| {
            let found = open.session.find_objects(&wanted)?;
            let told = found.iter().map(|key| open.session.get_attributes(*key, &asked));
            Ok(told.collect::<Result<Vec<_>, _>>()?)
        });
        let told = told.unwrap();
        assert_eq!(told.len(), 2);
        for attributes in told {
            for attribute in [
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::AlwaysSensitive(true),
                Attribute::NeverExtractable(true),
            ] {
                assert!(attributes.contains(&attribute), "{attribute:?}");
            }
            let label = attributes.iter().find_map(|it| match it {
                Attribute::Label(label) => Some(String::from_utf8_lossy(label).into_owned()),
                Attribute::PrivateExponent(_) | Attribute::Value(_) => panic!("the key is told"),
                _ => None,
            });
            assert!(label.unwrap().starts_with("steeple/example.org/one/"));
        }
    });
}

/// Makes another version of a key and dies before it takes the place of the one before.
fn die_while_replacing(id: &str) {
    let names = Names::new("example.org", "one");
    token().once(|open| names.make_next(&open.session, id, KeyType::EcP256)).unwrap();
}

#[test]
fn a_successor_that_was_not_acknowledged_does_not_count() {
    on_softhsm("a_successor_that_was_not_acknowledged_does_not_count", async |_| {
        let acknowledged = open(&ours("one")).generate_key("id", KeyType::EcP256).await.unwrap();
        for deaths in 1..=2 {
            die_while_replacing("id");
            assert_eq!(objects(ObjectClass::PRIVATE_KEY), 1 + deaths);
            let manager = open(&ours("one"));
            let found = manager.key("id").await.unwrap().unwrap();
            assert!(found.public_key() == acknowledged.public_key());
            signs(&found).await.unwrap();
        }
        let manager = open(&ours("one"));
        let next = manager.generate_key("id", KeyType::EcP256).await.unwrap();
        assert_eq!(objects(ObjectClass::PRIVATE_KEY), 1, "nothing is left of the dead");
        assert_eq!(objects(ObjectClass::PUBLIC_KEY), 1);
        let found = open(&ours("one")).key("id").await.unwrap().unwrap();
        assert!(found.public_key() == next.public_key());
        assert!(signs(&acknowledged).await.unwrap_err().contains("not on the token any more"));
        signs(&next).await.unwrap();
    });
}

#[test]
fn half_a_pair_or_a_wrong_one_is_not_taken_for_a_key() {
    on_softhsm("half_a_pair_or_a_wrong_one_is_not_taken_for_a_key", async |_| {
        let manager = open(&ours("one"));
        let key = manager.generate_key("id", KeyType::EcP256).await.unwrap();
        manager.generate_key("other", KeyType::EcP256).await.unwrap();
        // What a death in the midst of making a pair leaves, and what an enemy may put there:
        // public halves under the id of another key, some of them found first.
        let token = token();
        let class = |class, label: &str| {
            let label = format!("steeple/example.org/one/{label}").into_bytes();
            vec![Attribute::Class(class), Attribute::Label(label)]
        };
        token
            .with_session(|open| {
                let id = class(ObjectClass::PRIVATE_KEY, "id");
                let id = open.session.find_objects(&id)?[0];
                let id = open.session.get_attributes(id, &[AttributeType::Id])?.remove(0);
                let other = class(ObjectClass::PUBLIC_KEY, "other");
                let other = open.session.find_objects(&other)?[0];
                for _ in 0..3 {
                    open.session.copy_object(other, std::slice::from_ref(&id))?;
                }
                Ok(())
            })
            .unwrap();
        for _ in 0..5 {
            let found = open(&ours("one")).key("id").await.unwrap().unwrap();
            assert!(found.public_key() == key.public_key());
        }
        // A private half without a public one is no key, and in nobody's way.
        token
            .with_session(|open| {
                let mut wanted = class(ObjectClass::PUBLIC_KEY, "other");
                wanted.truncate(2);
                for object in open.session.find_objects(&wanted)? {
                    open.session.destroy_object(object)?;
                }
                Ok(())
            })
            .unwrap();
        let manager = open(&ours("one"));
        assert!(manager.key("other").await.unwrap().is_none());
        manager.generate_key("other", KeyType::EcP384).await.unwrap();
        let found = open(&ours("one")).key("other").await.unwrap().unwrap();
        signs_384(&found).await;
    });
}

async fn signs_384(key: &Arc<dyn Signer>) {
    key.sign(SignatureAlgorithm::EcdsaSha384, b"m").await.unwrap();
}

#[test]
fn lost_sessions_are_opened_again() {
    on_softhsm("lost_sessions_are_opened_again", async |_| {
        let manager = open(&ours("one"));
        let key = manager.generate_key("id", KeyType::EcP256).await.unwrap();
        for _ in 0..3 {
            signs(&key).await.unwrap();
            // As after a reset of the device: no session, no login, no handle is left.
            cryptoki::context::Pkcs11::new(module().unwrap()).unwrap().finalize().unwrap();
            signs(&key).await.unwrap();
        }
        cryptoki::context::Pkcs11::new(module().unwrap()).unwrap().finalize().unwrap();
        let next = manager.generate_key("id", KeyType::EcP256).await.unwrap();
        signs(&next).await.unwrap();
    });
}

#[test]
fn a_token_that_was_away_is_taken_up_again() {
    on_softhsm("a_token_that_was_away_is_taken_up_again", async |folder| {
        let manager = open(&ours("one"));
        let key = manager.generate_key("id", KeyType::EcP256).await.unwrap();
        let (here, away) = (folder.join("tokens"), folder.join("away"));
        let reset = || cryptoki::context::Pkcs11::new(module().unwrap()).unwrap().finalize();
        std::fs::rename(&here, &away).unwrap();
        std::fs::create_dir(&here).unwrap();
        reset().unwrap();
        let told = signs(&key).await.unwrap_err();
        assert_eq!(told, "keymanager(pkcs11): failed to sign: the module has no token \"ours\"");
        let told = manager.generate_key("id", KeyType::EcP256).await.err().unwrap();
        assert_eq!(told.code, Code::Unavailable);
        std::fs::remove_dir(&here).unwrap();
        std::fs::rename(&away, &here).unwrap();
        reset().unwrap();
        signs(&key).await.unwrap();
    });
}

#[test]
fn many_signatures_at_once_share_a_few_sessions() {
    on_softhsm("many_signatures_at_once_share_a_few_sessions", async |_| {
        let manager = open(&ours("one"));
        let key = manager.generate_key("id", KeyType::EcP256).await.unwrap();
        let all = (0..200).map(|_| signs(&key));
        let all = futures_util::future::join_all(all).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
    });
}

#[test]
fn what_is_wrong_is_told_by_name() {
    on_softhsm("what_is_wrong_is_told_by_name", async |_| {
        let identifier = "key_identifier_value = \"one\"";
        let told = refusal(&settings(&format!("token_label = \"theirs\"\n{identifier}")));
        assert_eq!(told, "keymanager(pkcs11): the module has no token \"theirs\"");
        let told = refusal(&settings(&format!("slot_id = 7\n{identifier}")));
        assert_eq!(told, "keymanager(pkcs11): the module has no token in slot 7");
        let wrong = settings(&format!("token_label = \"ours\"\npin = \"9999\"\n{identifier}"));
        let told = refusal(&wrong);
        assert_eq!(
            told,
            "keymanager(pkcs11): token \"ours\" refuses the PIN (PinIncorrect); it is not tried \
             again, lest the token locks: mend the PIN and restart"
        );
        let without = settings(&format!("token_label = \"ours\"\n{identifier}"));
        let told = refusal(&without);
        let expected = "token \"ours\" wants a PIN: set pin, pin_file or pin_env";
        assert_eq!(told, format!("keymanager(pkcs11): {expected}"));
        let missing = "module_path = \"/no/such.so\"\nslot_id = 0\nkey_identifier_value = \"a\"";
        let told = refusal(&Block::parse(missing).unwrap());
        assert!(told.starts_with("keymanager(pkcs11): unable to load module /no/such.so: "));
        let shell = "module_path = \"/bin/sh\"\nslot_id = 0\nkey_identifier_value = \"a\"";
        assert!(refusal(&Block::parse(shell).unwrap()).contains("unable to load module /bin/sh"));
    });
}
