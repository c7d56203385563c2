use async_trait::async_trait;
use steeple_pki::Bundle;
use steeple_plugins::key_manager::disk;
use steeple_spiffe::TrustDomain;

use super::*;

const AGENT: &str = "spiffe://example.org/spire/agent/a";
const DAY: Duration = Duration::from_secs(86400);
const NOON: SystemTime = SystemTime::UNIX_EPOCH;

struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join(FILE)
    }

    /// As after a restart: the keys come from the disk.
    fn cache(&self) -> OfflineCache {
        let keys = disk::open(self.directory.path().join("keys.json")).unwrap();
        OfflineCache::at(self.file(), &keys, DAY, false)
    }
}

/// Contents that can be told by their sequence number.
fn kept(number: u64) -> Kept {
    let mut bundle = Bundle::new(TrustDomain::parse("example.org").unwrap());
    bundle.sequence_number = number;
    let bundles = vec![bundle];
    Kept { confirmed_at: NOON, bundles, entries: Vec::new(), tokens: Vec::new() }
}

async fn number(cache: &OfflineCache, agent: &str) -> Result<Option<u64>, String> {
    let read = cache.read(agent, NOON).await;
    read.map(|kept| kept.map(|kept| kept.bundles[0].sequence_number)).map_err(|e| e.to_string())
}

#[tokio::test]
async fn what_is_kept_is_read_after_a_restart_and_is_private() {
    let disk = Disk::new();
    assert_eq!(number(&disk.cache(), AGENT).await, Ok(None));
    let cache = disk.cache();
    for turn in 1..4 {
        assert!(cache.save(AGENT, kept(turn)).await);
        assert_eq!(number(&disk.cache(), AGENT).await, Ok(Some(turn)));
    }
    assert_eq!(fsx::mode(&disk.file()).unwrap() & 0o777, 0o600);
}

#[tokio::test]
async fn a_file_of_another_agent_of_an_earlier_time_or_edited_is_refused() {
    let disk = Disk::new();
    let cache = disk.cache();
    cache.save(AGENT, kept(1)).await;
    let earlier = std::fs::read(disk.file()).unwrap();
    let other = format!("{AGENT}b");
    let altered = "it was altered, or sealed with another key or for another purpose";
    assert_eq!(number(&disk.cache(), &other).await, Err(altered.into()));
    cache.save(AGENT, kept(2)).await;
    let latest = std::fs::read(disk.file()).unwrap();
    let refused = async |contents: &[u8]| {
        std::fs::write(disk.file(), contents).unwrap();
        number(&disk.cache(), AGENT).await.unwrap_err()
    };
    let generation = "it was sealed earlier than the latest one, or by another agent";
    assert_eq!(refused(&earlier).await, generation);
    assert_eq!(refused(&latest[..latest.len() - 1]).await, altered);
    assert_eq!(refused(&latest[..30]).await, KeptError::Format.to_string());
    let mut edited = latest.clone();
    *edited.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&edited).await, altered);
    std::fs::write(disk.file(), &latest).unwrap();
    assert_eq!(number(&disk.cache(), AGENT).await, Ok(Some(2)), "none of it spoilt the good one");
}

#[tokio::test]
async fn a_stolen_file_is_worthless_without_the_key_manager() {
    let (disk, thief) = (Disk::new(), Disk::new());
    disk.cache().save(AGENT, kept(1)).await;
    thief.cache().save(AGENT, kept(7)).await;
    std::fs::copy(disk.file(), thief.file()).unwrap();
    assert_eq!(number(&thief.cache(), AGENT).await, Err(KeptError::Generation.to_string()));
}

#[tokio::test]
async fn after_a_ban_no_copy_can_be_put_back() {
    let disk = Disk::new();
    let cache = disk.cache();
    cache.save(AGENT, kept(1)).await;
    let copy = std::fs::read(disk.file()).unwrap();
    cache.destroy().await;
    assert!(!disk.file().exists());
    cache.save(AGENT, kept(2)).await;
    assert!(!disk.file().exists(), "nothing is written any more");
    std::fs::write(disk.file(), copy).unwrap();
    assert_eq!(number(&disk.cache(), AGENT).await, Err(KeptError::Generation.to_string()));
}

#[tokio::test]
async fn a_crash_between_the_file_and_its_keys_loses_neither() {
    let disk = Disk::new();
    let cache = disk.cache();
    cache.save(AGENT, kept(1)).await;
    let next = MARKERS[1 - cache.slot.load(Ordering::Relaxed)];
    // The marker for the next file is there, the file is not.
    disk.cache().keys.generate_key(next, KeyType::EcP256).await.unwrap();
    assert_eq!(number(&disk.cache(), AGENT).await, Ok(Some(1)));
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_keeps_the_last_file() {
    let disk = Disk::new();
    let keys = disk::open(disk.directory.path().join("keys.json")).unwrap();
    let cache = OfflineCache::at(disk.directory.path().join("no/such"), &keys, DAY, false);
    assert!(!cache.save(AGENT, kept(1)).await);
    assert!(!cache.save(AGENT, kept(1)).await);
}

/// Keys whose signatures differ each time, as some modules' do.
struct Moody(Arc<dyn KeyManager>);

struct MoodyKey(Arc<dyn Signer>, std::sync::atomic::AtomicUsize);

#[async_trait]
impl KeyManager for Moody {
    async fn generate_key(&self, id: &str, kind: KeyType) -> Result<Arc<dyn Signer>, PluginError> {
        let key = self.0.generate_key(id, kind).await?;
        Ok(Arc::new(MoodyKey(key, AtomicUsize::new(0))))
    }

    async fn key(&self, _: &str) -> Result<Option<Arc<dyn Signer>>, PluginError> {
        Ok(None)
    }

    async fn keys(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, PluginError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Signer for MoodyKey {
    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    async fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let mut signature = self.0.sign(algorithm, message).await?;
        signature[0] ^= self.1.fetch_add(1, Ordering::Relaxed) as u8;
        Ok(signature)
    }
}

#[tokio::test]
async fn a_key_manager_without_the_same_signature_twice_keeps_nothing() {
    let disk = Disk::new();
    let keys = disk::open(disk.directory.path().join("keys.json")).unwrap();
    let keys: Arc<dyn KeyManager> = Arc::new(Moody(keys));
    let cache = OfflineCache::at(disk.file(), &keys, DAY, false);
    assert!(!cache.save(AGENT, kept(1)).await);
    assert!(!disk.file().exists());
}
