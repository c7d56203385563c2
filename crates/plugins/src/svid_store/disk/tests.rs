use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use steeple_pki::x509::{
    Certificate, DistinguishedName, KeyUsage, SerialNumber, Template, self_sign,
};
use steeple_pki::{Bundle, KeyType, PrivateKey, Signer};
use steeple_spiffe::{SpiffeId, TrustDomain};

use super::*;

struct Scene {
    folder: tempfile::TempDir,
    store: Arc<dyn SvidStore>,
}

fn store_at(root: &Path, extra: &str) -> Arc<dyn SvidStore> {
    let text = format!("directory = {:?}\n{extra}", root.display().to_string());
    let block = steeple_hcl::parse(text.as_bytes()).unwrap();
    from_config(Some(&block), &HostContext::new(domain())).unwrap()
}

impl Scene {
    fn new(extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = store_at(&folder.path().join("svids"), extra);
        Self { folder, store }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("svids")
    }

    /// Everything below the root but directories, by path.
    fn files(&self) -> Vec<String> {
        fn walk(path: &Path, root: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(path).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), root, found);
                } else {
                    let path = entry.path();
                    found.push(path.strip_prefix(root).unwrap().display().to_string());
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.root(), &self.root(), &mut found);
        found.sort();
        found
    }
}

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

async fn certificate(key: &Arc<PrivateKey>) -> Certificate {
    let now = SystemTime::now();
    let template = Template {
        subject: DistinguishedName::default(),
        public_key: key.public_key().clone(),
        serial: SerialNumber::random(),
        not_before: now,
        not_after: now + std::time::Duration::from_secs(3600),
        ca: false,
        key_usage: KeyUsage::SVID,
        ext_key_usage: Vec::new(),
        uri_sans: vec!["spiffe://example.org/w".into()],
        dns_names: Vec::new(),
        policies: Vec::new(),
        extra_extensions: Vec::new(),
    };
    let signer: Arc<dyn Signer> = key.clone();
    self_sign(&template, signer).await.unwrap()
}

async fn svid(metadata: &[&str]) -> StoredX509Svid {
    let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
    let leaf = certificate(&key).await;
    let other = TrustDomain::parse("other.org").unwrap();
    StoredX509Svid {
        spiffe_id: SpiffeId::parse("spiffe://example.org/w").unwrap(),
        expires_at: leaf.not_after(),
        private_key: PrivateKey::from_pkcs8_der(&key.to_pkcs8_der()).unwrap(),
        bundle: Bundle::from_certificates(domain(), vec![leaf.clone()]),
        federated_bundles: vec![Bundle::from_certificates(other, vec![leaf.clone()])],
        chain: vec![leaf],
        metadata: metadata.iter().map(|it| (*it).to_owned()).collect(),
    }
}

fn owned(metadata: &[&str]) -> Vec<String> {
    metadata.iter().map(|it| (*it).to_owned()).collect()
}

/// Whether the key in a directory is the certificate's.
fn matches(directory: &Path) -> Option<bool> {
    // By one handle, as a reader should.
    let opened = fs::File::open(directory).ok()?;
    let at = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened)));
    let leaf = fs::read_to_string(at.join(tree::SVID)).ok()?;
    let key = fs::read_to_string(at.join(tree::KEY)).ok()?;
    let leaf = Certificate::from_pem(&leaf).unwrap();
    Some(leaf.public_key() == PrivateKey::from_pem(&key).unwrap().public_key())
}

#[tokio::test]
async fn an_svid_is_found_under_its_directory_with_key_and_bundles() {
    let scene = Scene::new("max_mode = \"0640\"");
    let svid = svid(&["dir:web/front", "mode:0640"]).await;
    scene.store.put_x509_svid(&svid).await.unwrap();
    let place = scene.root().join("web/front");
    assert_eq!(matches(&place), Some(true));
    let read = |name: &str| fs::read_to_string(place.join(name)).unwrap();
    assert_eq!(read("bundle.pem"), pem(&svid.bundle));
    assert_eq!(read("federated_bundle.other.org.pem"), pem(&svid.federated_bundles[0]));
    let mode = |name: &str| fs::metadata(place.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("svid.key"), mode("svid.pem"), mode("bundle.pem")), (0o640, 0o644, 0o644));
}

#[tokio::test]
async fn the_same_again_writes_nothing_also_after_a_restart() {
    let scene = Scene::new("");
    let svid = svid(&["dir:a"]).await;
    scene.store.put_x509_svid(&svid).await.unwrap();
    let before = (fs::read_link(scene.root().join("a")).unwrap(), scene.files());
    store_at(&scene.root(), "").put_x509_svid(&svid).await.unwrap();
    assert_eq!((fs::read_link(scene.root().join("a")).unwrap(), scene.files()), before);
}

#[tokio::test]
async fn readers_never_see_a_key_of_another_certificate() {
    let scene = Scene::new("");
    scene.store.put_x509_svid(&svid(&["dir:a"]).await).await.unwrap();
    let (place, stop) = (scene.root().join("a"), Arc::new(AtomicBool::new(false)));
    let reader = {
        let (place, stop) = (place.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut seen = 0;
            while !stop.load(Ordering::Relaxed) {
                // None: it was slow, and the files that it had begun to read are gone.
                let found = matches(&place);
                assert_ne!(found, Some(false));
                seen += usize::from(found == Some(true));
            }
            seen
        })
    };
    let mut renewed = Vec::new();
    for _ in 0..20 {
        renewed.push(svid(&["dir:a"]).await);
    }
    for svid in renewed {
        scene.store.put_x509_svid(&svid).await.unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    stop.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0);
    let kept = scene.files().iter().filter(|it| it.ends_with("svid.key")).count();
    assert_eq!(kept, 2, "no more than the one before is kept");
}

#[tokio::test]
async fn delete_takes_what_was_written_and_nothing_else() {
    let scene = Scene::new("");
    fs::write(scene.root().join("mine"), "x").unwrap();
    for _ in 0..2 {
        scene.store.put_x509_svid(&svid(&["dir:a/b"]).await).await.unwrap();
    }
    scene.store.put_x509_svid(&svid(&["dir:a/bc"]).await).await.unwrap();
    scene.store.delete_x509_svid(&owned(&["dir:a/b"])).await.unwrap();
    assert!(!scene.root().join("a/b").exists());
    assert_eq!(matches(&scene.root().join("a/bc")), Some(true));
    scene.store.delete_x509_svid(&owned(&["dir:a/bc"])).await.unwrap();
    assert_eq!(scene.files(), ["mine"]);
    scene.store.delete_x509_svid(&owned(&["dir:never/there"])).await.unwrap();
}

#[tokio::test]
async fn what_is_somebody_elses_is_left_alone() {
    let scene = Scene::new("");
    let elsewhere = scene.folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("svid.pem"), "x").unwrap();
    fs::create_dir(scene.root().join("dir")).unwrap();
    fs::write(scene.root().join("file"), "x").unwrap();
    symlink(&elsewhere, scene.root().join("link")).unwrap();
    for name in ["dir", "file", "link"] {
        let selector = format!("dir:{name}");
        let put = scene.store.put_x509_svid(&svid(&[&selector]).await).await.unwrap_err();
        assert!(put.message.contains("was not made by this plugin"), "{}", put.message);
        scene.store.delete_x509_svid(&owned(&[&selector])).await.unwrap();
        assert!(scene.root().join(name).exists(), "{name}");
        assert!(put.message.starts_with("svidstore(disk): "), "{}", put.message);
    }
    // No way through a link either.
    let through = scene.store.put_x509_svid(&svid(&["dir:link/a"]).await).await;
    assert!(through.is_err());
    assert!(!elsewhere.join("a").exists());
    assert_eq!(fs::read_to_string(elsewhere.join("svid.pem")).unwrap(), "x");
}

#[tokio::test]
async fn selectors_that_make_no_sense_are_told_as_such() {
    let scene = Scene::new("");
    for metadata in [&["dir:../x"][..], &["dir:/etc"], &[], &["dir:a", "owner:12345"]] {
        let put = scene.store.put_x509_svid(&svid(metadata).await).await.unwrap_err();
        assert_eq!(put.code, Code::InvalidArgument, "{metadata:?}");
        let delete = scene.store.delete_x509_svid(&owned(metadata)).await.unwrap_err();
        assert_eq!(delete.code, Code::InvalidArgument);
    }
    assert!(scene.files().is_empty());
}

#[tokio::test]
async fn files_belong_to_whom_the_entry_says_as_far_as_allowed() {
    if !nix::unistd::geteuid().is_root() {
        skipped("only root gives files away");
        return;
    }
    let scene = Scene::new("owners = [\"4711\"] groups = [\"4712\"]");
    scene.store.put_x509_svid(&svid(&["dir:a", "owner:4711", "group:4712"]).await).await.unwrap();
    let about = fs::metadata(scene.root().join("a/svid.key")).unwrap();
    assert_eq!((about.uid(), about.gid()), (4711, 4712));
}

fn skipped(why: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: {why}\n"));
}

/// A file system of its own, as root may have.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=40k", "none"]).arg(at).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_costs_nothing_of_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&folder.path().join("small")) else {
        skipped("no file system of our own can be mounted here");
        return;
    };
    let store = store_at(&small.0.join("svids"), "");
    store.put_x509_svid(&svid(&["dir:a"]).await).await.unwrap();
    let place = small.0.join("svids/a");
    let before = fs::read(place.join("svid.pem")).unwrap();
    // Whatever room is left goes.
    let filler = small.0.join("filler");
    let _ = fs::write(&filler, vec![0; 64 * 1024]);
    let error = store.put_x509_svid(&svid(&["dir:a"]).await).await.unwrap_err();
    assert!(error.message.contains("No space left"), "{}", error.message);
    assert_eq!(fs::read(place.join("svid.pem")).unwrap(), before);
    assert_eq!(matches(&place), Some(true));
    fs::remove_file(filler).unwrap();
    store.put_x509_svid(&svid(&["dir:a"]).await).await.unwrap();
    assert_ne!(fs::read(place.join("svid.pem")).unwrap(), before);
}
