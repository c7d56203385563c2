//! Bundles: append, overwrite, prune, taint, revoke, delete (CA-05, CA-14, CA-18, TD-25).

use std::time::SystemTime;

use sea_orm::sea_query::{Cond, Expr, ExprTrait, Query};
use steeple_pki::{Bundle, Certificate, JwtAuthority};
use steeple_proto::spire::common;
use steeple_spiffe::TrustDomain;

use super::bundle_rows::{self, StoredBundle, decode, decode_key, encode};
use super::tx::Tx;
use super::{BUNDLES, FEDERATED_ENTRIES, IN_LIST, entries, entry_rows, pages, timestamp};
use crate::error::StoreError;
use crate::model::{BundleMask, DeleteMode, Page};

pub(super) async fn fetch(
    tx: &Tx,
    trust_domain: &TrustDomain,
) -> Result<Option<Bundle>, StoreError> {
    let stored = bundle_rows::find(tx, trust_domain).await?;
    stored.map(|stored| decode(&stored.message)).transpose()
}

pub(super) async fn list(
    tx: &Tx,
    page: Option<&Page>,
) -> Result<(Vec<Bundle>, Option<String>), StoreError> {
    let mut select = Query::select();
    select.columns(["id", "data"]).from(BUNDLES);
    pages::apply(tx.dialect, &mut select, page)?;
    let mut bundles = Vec::new();
    let mut last_id = None;
    for row in tx.all(&select).await? {
        let stored = bundle_rows::read(&row)?;
        last_id = Some(stored.row_id);
        bundles.push(decode(&stored.message)?);
    }
    Ok((bundles, pages::next_token(page, last_id)))
}

pub(super) async fn count(tx: &Tx) -> Result<u64, StoreError> {
    let mut select = Query::select();
    select.expr(Expr::cust("COUNT(*)")).from(BUNDLES);
    super::count(tx, &select).await
}

pub(super) async fn create(tx: &Tx, bundle: &Bundle) -> Result<Bundle, StoreError> {
    bundle_rows::insert(tx, &encode(bundle)).await?;
    Ok(bundle.clone())
}

pub(super) async fn set(tx: &Tx, bundle: &Bundle) -> Result<Bundle, StoreError> {
    let message = encode(bundle);
    match bundle_rows::find(tx, &bundle.trust_domain).await? {
        None => bundle_rows::insert(tx, &message).await?,
        Some(StoredBundle { row_id, .. }) => {
            bundle_rows::save(tx, &StoredBundle { row_id, message }).await?;
        }
    }
    Ok(bundle.clone())
}

pub(super) async fn append(tx: &Tx, bundle: &Bundle) -> Result<Bundle, StoreError> {
    let additions = encode(bundle);
    let Some(mut stored) = bundle_rows::find(tx, &bundle.trust_domain).await? else {
        bundle_rows::insert(tx, &additions).await?;
        return Ok(bundle.clone());
    };
    let message = &mut stored.message;
    // What makes an authority the same is its key, not whether it is tainted: appending a
    // tainted one once more must not bring it back clean.
    let mut changed =
        merge(&mut message.root_cas, additions.root_cas, |a, b| a.der_bytes == b.der_bytes);
    let same_key = |a: &common::PublicKey, b: &common::PublicKey| {
        a.kid == b.kid && a.pkix_bytes == b.pkix_bytes
    };
    changed |= merge(&mut message.jwt_signing_keys, additions.jwt_signing_keys, same_key);
    changed |= merge(&mut message.wit_signing_keys, additions.wit_signing_keys, same_key);
    if changed {
        message.sequence_number += 1;
        bundle_rows::save(tx, &stored).await?;
    }
    decode(&stored.message)
}

/// Adds what is not there yet; `true` = there was something to add.
fn merge<T>(to: &mut Vec<T>, from: Vec<T>, same: impl Fn(&T, &T) -> bool) -> bool {
    let before = to.len();
    for addition in from {
        if !to.iter().any(|there| same(there, &addition)) {
            to.push(addition);
        }
    }
    to.len() > before
}

pub(super) async fn update(
    tx: &Tx,
    bundle: &Bundle,
    mask: BundleMask,
) -> Result<Bundle, StoreError> {
    let mut stored = find_existing(tx, &bundle.trust_domain).await?;
    let update = encode(bundle);
    if mask.x509_authorities {
        stored.message.root_cas = update.root_cas;
    }
    if mask.jwt_authorities {
        stored.message.jwt_signing_keys = update.jwt_signing_keys;
    }
    if mask.wit_authorities {
        stored.message.wit_signing_keys = update.wit_signing_keys;
    }
    if mask.refresh_hint {
        stored.message.refresh_hint = update.refresh_hint;
    }
    if mask.sequence_number {
        stored.message.sequence_number = update.sequence_number;
    }
    bundle_rows::save(tx, &stored).await?;
    decode(&stored.message)
}

async fn find_existing(tx: &Tx, trust_domain: &TrustDomain) -> Result<StoredBundle, StoreError> {
    bundle_rows::find(tx, trust_domain).await?.ok_or_else(StoreError::not_found)
}

pub(super) async fn delete(
    tx: &Tx,
    trust_domain: &TrustDomain,
    mode: DeleteMode,
) -> Result<(), StoreError> {
    let stored = find_existing(tx, trust_domain).await?;
    let federated = federated_entries(tx, stored.row_id).await?;
    match mode {
        DeleteMode::Restrict if !federated.is_empty() => {
            return Err(StoreError::Precondition(format!(
                "datastore-sql: cannot delete bundle; federated with {} registration entries",
                federated.len()
            )));
        }
        DeleteMode::Restrict => {}
        DeleteMode::Delete => {
            for entry in &federated {
                entries::delete_stored(tx, entry).await?;
            }
        }
        DeleteMode::Dissociate => {
            for entry in &federated {
                tx.entry_event(&entry.entry.entry_id);
            }
        }
    }
    // Also takes links that old releases left behind, to entries that are gone.
    let mut unlink = Query::delete();
    unlink.from_table(FEDERATED_ENTRIES).and_where(Expr::col("bundle_id").eq(stored.row_id));
    tx.execute(&unlink).await?;
    let mut delete = Query::delete();
    delete.from_table(BUNDLES).and_where(Expr::col("id").eq(stored.row_id));
    tx.bundle_written();
    tx.execute(&delete).await?;
    Ok(())
}

/// The entries that federate with a bundle.
async fn federated_entries(
    tx: &Tx,
    bundle_row_id: i64,
) -> Result<Vec<entry_rows::StoredEntry>, StoreError> {
    let mut select = Query::select();
    select
        .column("registered_entry_id")
        .from(FEDERATED_ENTRIES)
        .and_where(Expr::col("bundle_id").eq(bundle_row_id));
    let rows = tx.all(&select).await?;
    let ids = rows.iter().map(|row| row.get(0)).collect::<Result<Vec<i64>, _>>()?;
    let mut found = Vec::with_capacity(ids.len());
    for ids in ids.chunks(IN_LIST) {
        let listed = Cond::all().add(Expr::col("id").is_in(ids.iter().copied()));
        found.extend(entry_rows::find(tx, listed, None).await?.entries);
    }
    Ok(found)
}

pub(super) async fn prune(
    tx: &Tx,
    trust_domain: &TrustDomain,
    expired_before: SystemTime,
) -> Result<bool, StoreError> {
    let Some(mut stored) = bundle_rows::find(tx, trust_domain).await? else {
        return Ok(false);
    };
    let message = &mut stored.message;
    let before = timestamp::Nanos::from(expired_before);
    let failed = |text: &str| StoreError::Internal(format!("prune failed: {text}"));

    let mut root_cas = Vec::with_capacity(message.root_cas.len());
    for root_ca in &message.root_cas {
        let certificates = Certificate::parse_concatenated_der(&root_ca.der_bytes)
            .map_err(|error| failed(&format!("cannot parse certificates: {error}")))?;
        match certificates.iter().find(|it| timestamp::Nanos::from(it.not_after()) <= before) {
            None => root_cas.push(root_ca.clone()),
            Some(expired) => tracing::info!(
                subsystem_name = "sql",
                serial_number = %expired.serial_decimal(),
                "Pruning CA certificate due to expiration"
            ),
        }
    }
    let alive = |kind: &'static str, key: &common::PublicKey| {
        let alive = key.not_after == 0 || timestamp::Nanos::from_seconds(key.not_after) > before;
        if !alive {
            tracing::info!(
                subsystem_name = "sql",
                kid = %key.kid,
                "Pruning {kind} signing key due to expiration"
            );
        }
        alive
    };
    let mut jwt_keys = message.jwt_signing_keys.clone();
    jwt_keys.retain(|key| alive("JWT", key));
    let mut wit_keys = message.wit_signing_keys.clone();
    wit_keys.retain(|key| alive("WIT", key));

    if root_cas.is_empty() {
        tracing::warn!(
            subsystem_name = "sql",
            "Pruning halted; all known CA certificates have expired"
        );
        return Err(failed("would prune all certificates"));
    }
    for (kind, keys, left) in [
        ("JWT", &message.jwt_signing_keys, &jwt_keys),
        ("WIT", &message.wit_signing_keys, &wit_keys),
    ] {
        if !keys.is_empty() && left.is_empty() {
            tracing::warn!(
                subsystem_name = "sql",
                "Pruning halted; all known {kind} signing keys have expired"
            );
            return Err(failed(&format!("would prune all {kind} signing keys")));
        }
    }
    let changed = root_cas.len() != message.root_cas.len()
        || jwt_keys.len() != message.jwt_signing_keys.len()
        || wit_keys.len() != message.wit_signing_keys.len();
    if changed {
        message.root_cas = root_cas;
        message.jwt_signing_keys = jwt_keys;
        message.wit_signing_keys = wit_keys;
        message.sequence_number += 1;
        bundle_rows::save(tx, &stored).await?;
    }
    Ok(changed)
}

pub(super) async fn taint_x509(
    tx: &Tx,
    trust_domain: &TrustDomain,
    subject_key_id: &str,
) -> Result<(), StoreError> {
    let mut stored = find_existing(tx, trust_domain).await?;
    let mut found = false;
    for root_ca in &mut stored.message.root_cas {
        if !has_key_id(root_ca, subject_key_id)? {
            continue;
        }
        if root_ca.tainted_key {
            return Err(StoreError::Invalid("root CA is already tainted".into()));
        }
        root_ca.tainted_key = true;
        found = true;
    }
    if !found {
        return Err(StoreError::NotFound("no ca found with provided subject key ID".into()));
    }
    stored.message.sequence_number += 1;
    bundle_rows::save(tx, &stored).await
}

pub(super) async fn revoke_x509(
    tx: &Tx,
    trust_domain: &TrustDomain,
    subject_key_id: &str,
) -> Result<(), StoreError> {
    let mut stored = find_existing(tx, trust_domain).await?;
    let mut left = Vec::with_capacity(stored.message.root_cas.len());
    for root_ca in &stored.message.root_cas {
        if !has_key_id(root_ca, subject_key_id)? {
            left.push(root_ca.clone());
        } else if !root_ca.tainted_key {
            return Err(StoreError::Invalid(
                "it is not possible to revoke an untainted root CA".into(),
            ));
        }
    }
    if left.len() == stored.message.root_cas.len() {
        return Err(StoreError::NotFound("no root CA found with provided subject key ID".into()));
    }
    stored.message.root_cas = left;
    stored.message.sequence_number += 1;
    bundle_rows::save(tx, &stored).await
}

fn has_key_id(root_ca: &common::Certificate, subject_key_id: &str) -> Result<bool, StoreError> {
    let certificates = Certificate::parse_concatenated_der(&root_ca.der_bytes)
        .map_err(|error| StoreError::Internal(format!("failed to parse rootCA: {error}")))?;
    Ok(certificates.iter().any(|certificate| {
        !subject_key_id.is_empty() && certificate.authority_id() == subject_key_id
    }))
}

pub(super) async fn taint_jwt(
    tx: &Tx,
    trust_domain: &TrustDomain,
    key_id: &str,
) -> Result<JwtAuthority, StoreError> {
    let mut stored = find_existing(tx, trust_domain).await?;
    let mut keys = stored.message.jwt_signing_keys.iter_mut().filter(|key| key.kid == key_id);
    let Some(key) = keys.next() else { return Err(no_jwt_key()) };
    if key.tainted_key {
        return Err(StoreError::Invalid("key is already tainted".into()));
    }
    key.tainted_key = true;
    let tainted = decode_key(key)?;
    if keys.next().is_some() {
        return Err(StoreError::Internal("another JWT Key found with the same KeyID".into()));
    }
    stored.message.sequence_number += 1;
    bundle_rows::save(tx, &stored).await?;
    Ok(tainted)
}

pub(super) async fn revoke_jwt(
    tx: &Tx,
    trust_domain: &TrustDomain,
    key_id: &str,
) -> Result<JwtAuthority, StoreError> {
    let mut stored = find_existing(tx, trust_domain).await?;
    let keys = std::mem::take(&mut stored.message.jwt_signing_keys);
    let (revoked, left): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.kid == key_id);
    let revoked = match revoked.as_slice() {
        [] => return Err(no_jwt_key()),
        [key] if !key.tainted_key => {
            return Err(StoreError::Invalid(
                "it is not possible to revoke an untainted key".into(),
            ));
        }
        [key] => decode_key(key)?,
        _ => return Err(StoreError::Internal("another key found with the same KeyID".into())),
    };
    stored.message.jwt_signing_keys = left;
    stored.message.sequence_number += 1;
    bundle_rows::save(tx, &stored).await?;
    Ok(revoked)
}

fn no_jwt_key() -> StoreError {
    StoreError::NotFound("no JWT Key found with provided key ID".into())
}
