//! What to do when an authority is withdrawn ("tainted").
//!
//! The own bundle marks authorities that must no longer be relied on. Each is
//! dealt with once: SVIDs that chain to a tainted root are signed anew, a
//! hundred every five seconds so that the server is not flooded, and tokens of
//! a tainted key are dropped at once.

use std::collections::HashSet;
use std::time::Duration;

use steeple_pki::Bundle;
use steeple_pki::x509::Certificate;

use crate::entry::EntryId;

/// Remembers which tainted authorities were dealt with.
#[derive(Default)]
pub struct TaintWatch {
    x509: HashSet<String>,
    jwt: HashSet<String>,
}

/// Authorities that are tainted and were not before.
#[derive(Default)]
pub struct NewlyTainted {
    /// The X.509 authorities, with their subject key ids in hexadecimal.
    pub x509: Vec<(String, Certificate)>,
    /// Key ids of JWT authorities.
    pub jwt: HashSet<String>,
}

impl TaintWatch {
    /// What in this bundle is tainted and news; it is news only once.
    pub fn observe(&mut self, own: &Bundle) -> NewlyTainted {
        let mut news = NewlyTainted::default();
        for authority in own.x509_authorities.iter().filter(|authority| authority.tainted) {
            let id = authority.certificate.authority_id();
            if self.x509.insert(id.clone()) {
                news.x509.push((id, authority.certificate.clone()));
            }
        }
        for authority in own.jwt_authorities.iter().filter(|authority| authority.tainted) {
            if self.jwt.insert(authority.key_id.clone()) {
                news.jwt.insert(authority.key_id.clone());
            }
        }
        news
    }
}

/// The entries to look through, in batches.
pub struct TaintSweep {
    entries: std::vec::IntoIter<EntryId>,
}

impl TaintSweep {
    /// Over these entries.
    pub fn new(entries: Vec<EntryId>) -> Self {
        Self { entries: entries.into_iter() }
    }

    /// The next batch; empty when all were looked at.
    pub fn next_batch(&mut self) -> Vec<EntryId> {
        self.entries.by_ref().take(Self::BATCH).collect()
    }

    /// How many are left.
    pub fn left(&self) -> usize {
        self.entries.len()
    }

    /// Entries per batch.
    pub const BATCH: usize = 100;
    /// The pause between batches.
    pub const PAUSE: Duration = Duration::from_secs(5);
}
