//! Files that are there, change, break and vanish.

use std::fs;

use rcgen::{CertificateParams, KeyPair};
use steeple_runtime::drain;

use super::*;

fn pair() -> (String, String, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem(), certificate.der().to_vec())
}

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn config(&self) -> CertFiles {
        let at = |name| self.dir.path().join(name);
        CertFiles { cert: at("cert.pem"), key: at("key.pem"), sync_interval: None }
    }

    fn write(&self, cert: &str, key: &str) {
        fs::write(self.config().cert, cert).unwrap();
        fs::write(self.config().key, key).unwrap();
    }

    fn error(&self) -> String {
        load(&self.config()).unwrap_err().to_string()
    }
}

#[test]
fn what_is_no_certificate_is_told_in_gos_words() {
    let files = Files::new();
    let missing = files.error();
    assert!(missing.starts_with("open /") && missing.ends_with(": no such file or directory"));
    let ((cert, key, _), (_, other_key, _)) = (pair(), pair());
    files.write("", &key);
    assert_eq!(files.error(), "tls: failed to find any PEM data in certificate input");
    files.write(&cert, "");
    assert_eq!(files.error(), "tls: failed to find any PEM data in key input");
    files.write(&cert, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    assert_eq!(files.error(), "tls: failed to parse private key");
    files.write(&cert, &other_key);
    assert_eq!(files.error(), "tls: private key does not match public key");
}

#[test]
fn parameters_before_the_key_and_words_around_the_blocks_do_no_harm() {
    let files = Files::new();
    let (cert, key, der) = pair();
    let parameters =
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    files.write(&format!("words\n{cert}"), &format!("{parameters}{key}"));
    assert_eq!(load(&files.config()).unwrap().cert[0].as_ref(), der);
}

#[test]
fn a_change_is_taken_in_and_a_broken_one_leaves_the_old_certificate() {
    let files = Files::new();
    let (cert, key, first) = pair();
    files.write(&cert, &key);
    let (_drain, watcher) = drain::channel();
    let resolver = watch(files.config(), None, &Tasks::new(), &watcher).unwrap();
    let mut watched = Watched {
        files: files.config(),
        loaded: Arc::clone(&resolver.0),
        seen: None,
        subsystem: None,
    };
    let current = || resolver.0.load().cert[0].as_ref().to_vec();
    watched.look();
    assert_eq!(current(), first);

    let (cert, key, second) = pair();
    fs::write(files.config().cert, &cert).unwrap();
    set_time(&files.config().cert, 1);
    watched.look();
    assert_eq!(current(), first, "the key is still the old one");
    fs::write(files.config().key, &key).unwrap();
    watched.look();
    assert_eq!(current(), second);

    fs::remove_file(files.config().key).unwrap();
    watched.look();
    fs::write(files.config().key, "broken").unwrap();
    set_time(&files.config().key, 2);
    watched.look();
    assert_eq!(current(), second);
}

/// File systems may keep time more coarsely than a test runs.
fn set_time(path: &Path, minutes: u64) {
    let time = SystemTime::now() + Duration::from_secs(60 * minutes);
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}
