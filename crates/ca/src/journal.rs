//! The memory of which authorities this server made: one row of the table `ca_journals`.
//!
//! The blob is SPIRE's `Entries` message, field by field, so that either program goes on with the
//! other's journal. A server finds its row by the X.509 authorities that its key manager holds
//! keys of ([`Journal::load`], CA-08).

use prost::Message;
use steeple_pki::x509::authority_id;
use steeple_plugin::KeyManager;
use steeple_proto::journal::{Entries, Status};

use crate::error::RotationError;
use crate::kind::{Kind, Row};
use crate::rotation::{Authority, Change};
use crate::store::{AuthorityStore, StoredJournal};

mod restore;

pub(crate) use restore::{Remains, SlotKeys, restore};

/// The journal as it was last written.
#[derive(Clone, Default, Debug)]
pub(crate) struct Journal {
    /// The row; 0 while there is none.
    id: u64,
    /// The X.509 authority by which the row is found.
    anchor: String,
    entries: Entries,
}

impl Journal {
    /// Reads the journal of the server that holds these keys, or starts one.
    ///
    /// # Errors
    /// Key manager or datastore fail, or the blob is not a journal.
    pub(crate) async fn load(
        key_manager: &dyn KeyManager,
        store: &dyn AuthorityStore,
    ) -> Result<Self, RotationError> {
        tracing::debug!(subsystem_name = SUBSYSTEM, "Loading journal from datastore");
        for (_, signer) in key_manager.keys().await? {
            let id = authority_id(&signer.public_key().subject_key_id());
            if let Some(stored) = store.ca_journal(&id).await? {
                tracing::debug!(
                    subsystem_name = SUBSYSTEM,
                    ca_journal_id = stored.id,
                    local_authority_id = id,
                    "Found a CA journal record that matches with a local X509 authority ID"
                );
                return Self::decode(&stored);
            }
        }
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            "There is not a CA journal record that matches any of the local X509 authority IDs"
        );
        Ok(Self::default())
    }

    /// Writes a changed copy and returns it: the caller keeps the old one when that fails.
    ///
    /// # Errors
    /// The datastore fails.
    pub(crate) async fn save(mut self, store: &dyn AuthorityStore) -> Result<Self, RotationError> {
        if self.id == 0 {
            // A write whose answer was lost has made the row already.
            match store.ca_journal(&self.anchor).await? {
                Some(stored) => self.id = stored.id,
                None => {
                    tracing::info!(subsystem_name = SUBSYSTEM, "Creating a new CA journal entry");
                }
            }
        }
        self.id = store.save_ca_journal(self.encode()).await?;
        tracing::debug!(
            subsystem_name = SUBSYSTEM,
            ca_journal_id = self.id,
            local_authority_id = self.anchor,
            "Successfully stored CA journal entry in datastore"
        );
        Ok(self)
    }

    /// Was there, or is there now, a row for this journal?
    pub(crate) fn is_stored(&self) -> bool {
        self.id != 0
    }

    /// The X.509 authority by which the row is found; empty when there is no row.
    pub(crate) fn anchor(&self) -> &str {
        &self.anchor
    }

    /// The entries, of every kind.
    pub(crate) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Notes a change. At most one entry of a kind is active afterwards, and that one is not
    /// dropped when there are more than [`CAP`].
    pub(crate) fn apply<K: Kind>(&mut self, change: &Change<K::Authority>) {
        let rows = K::rows_mut(&mut self.entries);
        match change {
            Change::Prepared { slot, authority, first } => {
                rows.retain(|row| row.authority_id() != authority.id());
                for row in rows.iter_mut().filter(|row| row.slot_id() == slot.as_str()) {
                    if row.status() != Status::Active {
                        row.set_status(Status::Old); // its key has just been replaced
                    }
                }
                rows.push(K::to_row(*slot, authority));
                while rows.len() > CAP {
                    let oldest = rows.iter().position(|row| row.status() != Status::Active);
                    rows.remove(oldest.expect("one at most is active"));
                }
                if K::NAMES_THE_JOURNAL && *first {
                    authority.id().clone_into(&mut self.anchor);
                }
            }
            Change::Activated { id } => {
                for row in rows.iter_mut() {
                    if row.authority_id() == id {
                        row.set_status(Status::Active);
                    } else if row.status() == Status::Active {
                        row.set_status(Status::Old);
                    }
                }
                if K::NAMES_THE_JOURNAL {
                    self.anchor.clone_from(id);
                }
            }
        }
    }

    fn decode(stored: &StoredJournal) -> Result<Self, RotationError> {
        let entries = Entries::decode(stored.data.as_slice())?;
        Ok(Self { id: stored.id, anchor: stored.active_x509_authority_id.clone(), entries })
    }

    fn encode(&self) -> StoredJournal {
        StoredJournal {
            id: self.id,
            data: self.entries.encode_to_vec(),
            active_x509_authority_id: self.anchor.clone(),
        }
    }
}

/// How many entries of a kind are kept (CA-07).
pub(crate) const CAP: usize = 10;
pub(crate) const SUBSYSTEM: &str = "ca_manager";

#[cfg(test)]
mod tests;
