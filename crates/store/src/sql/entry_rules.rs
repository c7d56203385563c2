//! What the datastore demands of an entry, in SPIRE's order and words (ER-06, ER-09, ER-10,
//! ER-13). The API demands more; this is the last line.

use steeple_spiffe::Selector;

use crate::error::StoreError;
use crate::model::{EntryUpdate, NewEntry};

const MAX_ENTRY_ID: usize = 255;

pub(super) fn check_new(entry: &NewEntry) -> Result<(), StoreError> {
    check_selectors(&entry.selectors)?;
    // Of updates SPIRE does not ask this, so entries with both exist.
    if entry.store_svid && entry.disable_x509_svid_prefetch {
        return Err(StoreError::validation(
            "specifying cache behaviour is incompatible with storable SVIDs",
        ));
    }
    check_storable(entry.store_svid, &entry.selectors)?;
    check_entry_id(entry.entry_id.as_deref().unwrap_or_default())?;
    check_ttls(entry.x509_svid_ttl, entry.jwt_svid_ttl)
}

pub(super) fn check_update(update: &EntryUpdate) -> Result<(), StoreError> {
    if let Some(selectors) = &update.selectors {
        check_selectors(selectors)?;
    }
    check_ttls(update.x509_svid_ttl.unwrap_or(0), update.jwt_svid_ttl.unwrap_or(0))
}

/// An entry whose SVID goes to a store: the store is named by the one type of its selectors.
pub(super) fn check_storable(store_svid: bool, selectors: &[Selector]) -> Result<(), StoreError> {
    if !store_svid {
        return Ok(());
    }
    if selectors.iter().any(|selector| selector.kind != selectors[0].kind) {
        return Err(StoreError::validation(
            "invalid registration entry: selector types must be the same when store SVID is enabled",
        ));
    }
    Ok(())
}

fn check_selectors(selectors: &[Selector]) -> Result<(), StoreError> {
    if selectors.is_empty() {
        return Err(StoreError::validation("invalid registration entry: missing selector list"));
    }
    Ok(())
}

fn check_entry_id(entry_id: &str) -> Result<(), StoreError> {
    if entry_id.len() > MAX_ENTRY_ID {
        return Err(StoreError::validation("invalid registration entry: entry ID too long"));
    }
    if !entry_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        return Err(StoreError::validation(
            "invalid registration entry: entry ID contains invalid characters",
        ));
    }
    Ok(())
}

fn check_ttls(x509_svid_ttl: i32, jwt_svid_ttl: i32) -> Result<(), StoreError> {
    if x509_svid_ttl < 0 {
        return Err(StoreError::validation("invalid registration entry: X509SvidTtl is not set"));
    }
    if jwt_svid_ttl < 0 {
        return Err(StoreError::validation("invalid registration entry: JwtSvidTtl is not set"));
    }
    Ok(())
}
