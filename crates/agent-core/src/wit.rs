//! WIT-SVIDs: tokens that name a key which only the workload has. A key is made
//! per identity, the token over it is renewed at half its life.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use steeple_pki::bundle::private_jwk;
use steeple_pki::{KeyType, PrivateKey};
use tracing::warn;
use zeroize::Zeroizing;

use crate::entry::{Entry, EntryId};
use crate::lifetime::RenewalRule;

/// What the server is asked to sign.
pub struct WitRequest {
    /// By which entry.
    pub entry_id: EntryId,
    /// The public key, as a SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
    /// What the key signs with, as JOSE names it.
    pub algorithm: &'static str,
}

/// A signed token and its times.
#[derive(Clone)]
pub struct SignedWit {
    /// The compact serialisation.
    pub token: String,
    /// When it was issued.
    pub issued_at: SystemTime,
    /// When it ends.
    pub expires_at: SystemTime,
}

/// Where tokens come from: the server.
#[async_trait]
pub trait WitSource: Send + Sync {
    /// An answer for each request, in their order. Errors are texts that a
    /// workload may see.
    async fn sign(
        &self,
        requests: Vec<WitRequest>,
    ) -> Result<Vec<Result<SignedWit, String>>, String>;
}

/// An identity's token and key.
pub struct WitSvid {
    entry: Arc<Entry>,
    token: String,
    key: Zeroizing<String>,
    expires_at: SystemTime,
    due: SystemTime,
}

impl WitSvid {
    /// The entry that grants it.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The compact serialisation.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The private key, as a JSON Web Key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// When it ends.
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }
}

/// The tokens at hand.
pub struct WitSvids {
    source: Arc<dyn WitSource>,
    key_type: KeyType,
    max: usize,
    held: Mutex<HashMap<EntryId, Slot>>,
    /// One batch at a time: who waits finds its wish fulfilled by who came before.
    signing: tokio::sync::Mutex<()>,
}

struct Slot {
    svid: Arc<WitSvid>,
    used: SystemTime,
    retry_at: SystemTime,
}

impl WitSvids {
    /// Keeps at most about `max` tokens, with keys of this type.
    pub fn new(source: Arc<dyn WitSource>, key_type: KeyType, max: usize) -> Self {
        Self {
            source,
            key_type,
            max,
            held: Mutex::default(),
            signing: tokio::sync::Mutex::default(),
        }
    }

    /// The identities of `entries`, in their order: those at hand in the first
    /// half of their life, the others anew. One that cannot be renewed is served
    /// for as long as it holds; one that cannot be had is left out.
    ///
    /// # Errors
    /// When there are entries, and none can be had: why.
    pub async fn fetch(
        &self,
        entries: &[Arc<Entry>],
        now: SystemTime,
    ) -> Result<Vec<Arc<WitSvid>>, String> {
        if self.due(entries, now).is_empty() {
            return Ok(self.valid(entries, now));
        }
        let _turn = self.signing.lock().await;
        let due = self.due(entries, now);
        let failure = match due.is_empty() {
            true => None,
            false => self.sign(due, now).await.err(),
        };
        let valid = self.valid(entries, now);
        match failure {
            Some(error) if valid.is_empty() && !entries.is_empty() => Err(error),
            _ => Ok(valid),
        }
    }

    /// When [`Self::fetch`] has something to do by itself.
    pub fn next_due(&self, entries: &[Arc<Entry>]) -> Option<SystemTime> {
        let held = self.held();
        let wish =
            |entry: &Arc<Entry>| held.get(&entry.id).map(|slot| slot.svid.due.max(slot.retry_at));
        entries.iter().filter_map(wish).min()
    }

    async fn sign(&self, due: Vec<Arc<Entry>>, now: SystemTime) -> Result<(), String> {
        let mut failure = None;
        for batch in due.chunks(BATCH) {
            if let Err(error) = self.sign_batch(batch, now).await {
                warn!(subsystem_name = "manager", error, "Unable to sign WIT-SVIDs");
                self.postpone(batch, now);
                failure = Some(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn sign_batch(&self, batch: &[Arc<Entry>], now: SystemTime) -> Result<(), String> {
        let (key_type, count) = (self.key_type, batch.len());
        // Keys cost: an RSA one a good part of a second.
        let made = tokio::task::spawn_blocking(move || {
            (0..count).map(|_| PrivateKey::generate(key_type)).collect::<Result<Vec<_>, _>>()
        });
        let keys = made.await.map_err(|_| "key generation was interrupted".to_owned())?;
        let keys = keys.map_err(|error| error.to_string())?;
        let requests = batch.iter().zip(&keys).map(|(entry, key)| WitRequest {
            entry_id: entry.id.clone(),
            public_key: key.public_key().spki_der().to_vec(),
            algorithm: algorithm(key_type),
        });
        let answers = self.source.sign(requests.collect()).await?;
        if answers.len() != count {
            return Err("the server answered another number of requests".to_owned());
        }
        let mut failure = None;
        for ((entry, key), answer) in batch.iter().zip(&keys).zip(answers) {
            match answer.and_then(|signed| svid(entry, key, signed)) {
                Ok(svid) => self.install(svid, now),
                Err(error) => {
                    self.postpone(std::slice::from_ref(entry), now);
                    failure = Some(error);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn install(&self, svid: WitSvid, now: SystemTime) {
        let mut held = self.held();
        let slot = Slot { svid: Arc::new(svid), used: now, retry_at: SystemTime::UNIX_EPOCH };
        held.insert(slot.svid.entry.id.clone(), slot);
        if held.len() > self.max {
            held.retain(|_, slot| slot.svid.expires_at > now);
        }
        if held.len() > self.max {
            let by_use: BTreeMap<_, _> =
                held.iter().map(|(id, slot)| ((slot.used, id.clone()), ())).collect();
            let excess = held.len() - self.max;
            for ((_, id), ()) in by_use.into_iter().take(excess) {
                held.remove(&id);
            }
        }
    }

    fn postpone(&self, entries: &[Arc<Entry>], now: SystemTime) {
        let mut held = self.held();
        for entry in entries {
            if let Some(slot) = held.get_mut(&entry.id) {
                slot.retry_at = now + PATIENCE;
            }
        }
    }

    /// Those to sign now.
    fn due(&self, entries: &[Arc<Entry>], now: SystemTime) -> Vec<Arc<Entry>> {
        let held = self.held();
        let due = |entry: &&Arc<Entry>| match held.get(&entry.id) {
            Some(slot) if slot.fits(entry, now) => now >= slot.svid.due && now >= slot.retry_at,
            _ => true,
        };
        entries.iter().filter(due).cloned().collect()
    }

    fn valid(&self, entries: &[Arc<Entry>], now: SystemTime) -> Vec<Arc<WitSvid>> {
        let mut held = self.held();
        let valid = entries.iter().filter_map(|entry| {
            let slot = held.get_mut(&entry.id).filter(|slot| slot.fits(entry, now))?;
            slot.used = now;
            Some(slot.svid.clone())
        });
        valid.collect()
    }

    fn held(&self) -> MutexGuard<'_, HashMap<EntryId, Slot>> {
        self.held.lock().expect("no code panics while it holds the tokens")
    }
}

impl Slot {
    /// Whether it is of use for the entry as it is now.
    fn fits(&self, entry: &Arc<Entry>, now: SystemTime) -> bool {
        (Arc::ptr_eq(&self.svid.entry, entry) || *self.svid.entry == **entry)
            && now < self.svid.expires_at
    }
}

fn svid(entry: &Arc<Entry>, key: &PrivateKey, signed: SignedWit) -> Result<WitSvid, String> {
    let SignedWit { token, issued_at, expires_at } = signed;
    Ok(WitSvid {
        entry: Arc::clone(entry),
        token,
        key: private_jwk(key).map_err(|error| format!("could not encode the key: {error}"))?,
        expires_at,
        due: RenewalRule::default().due(issued_at, expires_at, fastrand::f64()),
    })
}

fn algorithm(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::EcP256 => "ES256",
        KeyType::EcP384 => "ES384",
        KeyType::Rsa2048 | KeyType::Rsa4096 => "RS256",
    }
}

/// How long a token that could not be renewed is left alone.
const PATIENCE: Duration = Duration::from_secs(5);
/// What goes into one call.
const BATCH: usize = 100;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::entry::tests::entry;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Signs for an hour, until it is told to refuse.
    #[derive(Default)]
    struct Server {
        calls: AtomicUsize,
        away: std::sync::atomic::AtomicBool,
    }

    #[async_trait]
    impl WitSource for Server {
        async fn sign(
            &self,
            requests: Vec<WitRequest>,
        ) -> Result<Vec<Result<SignedWit, String>>, String> {
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            if self.away.load(Ordering::SeqCst) {
                return Err("away".to_owned());
            }
            let sign = |request: &WitRequest| {
                if &*request.entry_id == "refused" {
                    return Err("not for you".to_owned());
                }
                let issued_at = SystemTime::UNIX_EPOCH + HOUR;
                let token = format!("{}-{call}", request.entry_id);
                Ok(SignedWit { token, issued_at, expires_at: issued_at + HOUR })
            };
            Ok(requests.iter().map(sign).collect())
        }
    }

    fn made(ids: &[&str]) -> Vec<Arc<Entry>> {
        ids.iter().map(|id| Arc::new(entry(id, &["uid:1"]))).collect()
    }

    fn tokens(svids: &[Arc<WitSvid>]) -> Vec<&str> {
        svids.iter().map(|svid| svid.token()).collect()
    }

    fn at(minutes: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + HOUR + minutes * Duration::from_secs(60)
    }

    #[tokio::test]
    async fn a_token_is_served_for_half_its_life_and_then_renewed_with_a_new_key() {
        let server = Arc::new(Server::default());
        let svids = WitSvids::new(server.clone(), KeyType::EcP256, 10);
        let entries = made(&["a", "b"]);
        let first = svids.fetch(&entries, at(0)).await.unwrap();
        assert_eq!(tokens(&first), ["a-0", "b-0"], "one call for both");
        assert_eq!(tokens(&svids.fetch(&entries, at(20)).await.unwrap()), ["a-0", "b-0"]);
        let due = svids.next_due(&entries).unwrap();
        assert!(due > at(20) && due < at(40), "about half an hour");
        let later = svids.fetch(&entries, at(45)).await.unwrap();
        assert_eq!(tokens(&later), ["a-1", "b-1"]);
        assert_ne!(first[0].key(), later[0].key());
        assert!(later[0].key().contains("\"d\""), "it is a private key");
    }

    #[tokio::test]
    async fn a_server_that_is_away_costs_nothing_until_the_token_ends() {
        let server = Arc::new(Server::default());
        let svids = WitSvids::new(server.clone(), KeyType::EcP256, 10);
        let entries = made(&["a"]);
        svids.fetch(&entries, at(0)).await.unwrap();
        server.away.store(true, Ordering::SeqCst);
        assert_eq!(tokens(&svids.fetch(&entries, at(45)).await.unwrap()), ["a-0"]);
        assert_eq!(tokens(&svids.fetch(&entries, at(45)).await.unwrap()), ["a-0"]);
        assert_eq!(server.calls.load(Ordering::SeqCst), 2, "it is left alone for a while");
        assert_eq!(svids.fetch(&entries, at(61)).await.err().unwrap(), "away");
    }

    #[tokio::test]
    async fn an_entry_that_changed_gets_a_new_token_and_a_refused_one_is_left_out() {
        let svids = WitSvids::new(Arc::new(Server::default()), KeyType::EcP256, 10);
        let entries = made(&["a", "refused"]);
        assert_eq!(tokens(&svids.fetch(&entries, at(0)).await.unwrap()), ["a-0"]);
        let changed = Entry { revision: 7, ..Entry::clone(&entries[0]) };
        let answer = svids.fetch(&[Arc::new(changed)], at(0)).await.unwrap();
        assert_eq!(tokens(&answer), ["a-1"]);
        let refused = svids.fetch(&made(&["refused"]), at(0)).await;
        assert_eq!(refused.err().unwrap(), "not for you");
    }

    #[tokio::test]
    async fn no_more_is_kept_than_allowed() {
        let svids = WitSvids::new(Arc::new(Server::default()), KeyType::EcP256, 2);
        for id in ["a", "b", "c", "d"] {
            svids.fetch(&made(&[id]), at(0)).await.unwrap();
        }
        assert_eq!(svids.held().len(), 2);
    }
}
