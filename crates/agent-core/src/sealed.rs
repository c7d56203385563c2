//! What an agent keeps on disk for a start while no server answers (ADR 11): what is in it, and
//! who may read it. Sealing and files are the driver's.
//!
//! A file begins with a magic number and names the marker that it is bound to. The rest is sealed
//! with the [`context`] of the agent and that marker, so that a file of another agent, an earlier
//! one, or one that was touched is not opened, whatever it says of itself.

mod codec;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_pki::{Bundle, Certificate, PublicKey};
use zeroize::Zeroizing;

use crate::entry::{Entry, EntryId};
use crate::jwt::JwtSvid;
use crate::lifetime::expired;

/// Everything that is kept.
pub struct Kept {
    /// When a server last confirmed it.
    pub confirmed_at: SystemTime,
    /// The own trust domain's bundle first, then the federated ones.
    pub bundles: Vec<Bundle>,
    /// Entries, the ones in use first.
    pub entries: Vec<KeptEntry>,
    /// JWT-SVIDs.
    pub tokens: Vec<KeptToken>,
}

/// An entry and what was signed for it.
pub struct KeptEntry {
    /// The entry.
    pub entry: Arc<Entry>,
    /// Its X.509-SVID.
    pub svid: Option<KeptSvid>,
}

/// An X.509-SVID with its key.
pub struct KeptSvid {
    /// The leaf first.
    pub chain: Vec<Certificate>,
    /// PKCS#8 DER.
    pub key_pkcs8: Zeroizing<Vec<u8>>,
    /// When it is to be renewed.
    pub due: SystemTime,
}

/// A JWT-SVID and whom it is for.
pub struct KeptToken {
    /// The entry that it was signed for.
    pub entry: EntryId,
    /// The audience.
    pub audience: Vec<String>,
    /// The token.
    pub svid: JwtSvid,
}

/// Why a file is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeptError {
    /// It does not begin like one.
    #[error("it is not an offline cache, or one of a version that is not known")]
    Format,
    /// Its marker is not among the key manager's keys.
    #[error("it was sealed earlier than the latest one, or by another agent")]
    Generation,
    /// Opened, and yet not what it should be.
    #[error("its contents make no sense")]
    Contents,
    /// Nobody confirmed it for longer than is allowed.
    #[error("no server confirmed it for longer than max_age")]
    Age,
    /// It is from a time that has not come yet.
    #[error("it was confirmed at a time that has not come yet")]
    Future,
}

/// The names of the two keys that take turns as the marker of the latest file.
pub const MARKERS: [&str; 2] = ["agent-cache-A", "agent-cache-B"];
/// The name of the key whose signature is the secret.
pub const SEAL_KEY: &str = "agent-cache-seal";
/// The text that is signed with it, and nothing else ever is.
pub const SEAL_TEXT: &[u8] = b"steeple: the secret of this agent's offline cache, version 1";
/// No file is larger, nor is what is kept.
pub const MAX_SIZE: usize = 64 * 1024 * 1024;

const MAGIC: &[u8; 16] = b"STEEPLE-OFFLINE1";
/// Clocks of agent and file may differ by so much.
const SKEW: Duration = Duration::from_secs(60);

/// Whether a key of the key manager is one of the cache's, and not the agent's own.
pub fn is_own_key(id: &str) -> bool {
    id == SEAL_KEY || MARKERS.contains(&id)
}

/// What a file is sealed with beside the secret.
pub fn context(agent_id: &str, marker: &PublicKey) -> Vec<u8> {
    let mut context = MAGIC.to_vec();
    context.extend_from_slice(&(agent_id.len() as u64).to_be_bytes());
    context.extend_from_slice(agent_id.as_bytes());
    context.extend_from_slice(marker.spki_der());
    context
}

/// What comes before the sealed part: says which marker to try.
pub fn header(marker: &PublicKey) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&marker.subject_key_id());
    header
}

/// Splits a file into the position of its marker among `markers`, and the sealed part.
///
/// # Errors
/// When it is no such file, or bound to another marker.
pub fn split<'f>(
    file: &'f [u8],
    markers: &[Option<PublicKey>],
) -> Result<(usize, &'f [u8]), KeptError> {
    let rest = file.strip_prefix(MAGIC.as_slice()).ok_or(KeptError::Format)?;
    let (id, sealed) = rest.split_at_checked(20).ok_or(KeptError::Format)?;
    let is_it = |marker: &Option<PublicKey>| {
        marker.as_ref().is_some_and(|marker| marker.subject_key_id() == *id)
    };
    let position = markers.iter().position(is_it).ok_or(KeptError::Generation)?;
    Ok((position, sealed))
}

impl Kept {
    /// The bytes to seal. Entries that would make it larger than [`MAX_SIZE`] are left out; gives
    /// how many there were of them.
    pub fn encode(&mut self) -> (Zeroizing<Vec<u8>>, usize) {
        codec::encode(self)
    }

    /// Reads what [`Self::encode`] made.
    ///
    /// # Errors
    /// When it is not that.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeptError> {
        codec::decode(bytes).ok_or(KeptError::Contents)
    }

    /// What of it may be served at `now`: nothing whose time is over or has not come, and no entry
    /// of which nothing is left.
    ///
    /// # Errors
    /// When all of it is too old, or of the future.
    pub fn usable(mut self, now: SystemTime, max_age: Duration) -> Result<Self, KeptError> {
        if self.confirmed_at > now + SKEW {
            return Err(KeptError::Future);
        }
        if now.duration_since(self.confirmed_at).unwrap_or_default() > max_age {
            return Err(KeptError::Age);
        }
        self.tokens.retain(|token| {
            token.svid.issued_at <= now + SKEW && !expired(token.svid.expires_at, now)
        });
        for kept in &mut self.entries {
            let entry = &kept.entry;
            let good = |svid: &KeptSvid| {
                svid.chain.first().is_some_and(|leaf| {
                    leaf.not_before() <= now
                        && !expired(leaf.not_after(), now)
                        && leaf.uri_sans() == [entry.spiffe_id.as_str()]
                })
            };
            kept.svid = kept.svid.take().filter(good);
        }
        let tokens = &self.tokens;
        self.entries.retain(|kept| {
            kept.svid.is_some() || tokens.iter().any(|token| token.entry == kept.entry.id)
        });
        let entries = &self.entries;
        self.tokens.retain(|token| entries.iter().any(|kept| kept.entry.id == token.entry));
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
