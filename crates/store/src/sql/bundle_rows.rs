//! Bundles to and from the protobuf message in `bundles.data` (TB-01, TF-11).

use std::time::{Duration, SystemTime};

use prost::Message as _;
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use steeple_pki::{Bundle, Certificate, JwtAuthority, PublicKey, X509Authority};
use steeple_proto::spire::common;
use steeple_spiffe::TrustDomain;

use super::BUNDLES;
use super::tx::{Row, Tx};
use crate::error::{StoreError, excerpt};

/// A bundle as the database has it. Changes are made to this form, so that they leave alone
/// what this program does not understand.
pub(super) struct StoredBundle {
    pub(super) row_id: i64,
    pub(super) message: common::Bundle,
}

pub(super) async fn find(
    tx: &Tx,
    trust_domain: &TrustDomain,
) -> Result<Option<StoredBundle>, StoreError> {
    let mut select = Query::select();
    select
        .columns(["id", "data"])
        .from(BUNDLES)
        .and_where(Expr::col("trust_domain").eq(trust_domain.id_string()));
    tx.lock_rows(&mut select);
    tx.one(&select).await?.map(|row| read(&row)).transpose()
}

/// Reads a row of `id, data`.
pub(super) fn read(row: &Row) -> Result<StoredBundle, StoreError> {
    let row_id = row.get(0)?;
    let data: Vec<u8> = row.get_or_default(1)?;
    let message = common::Bundle::decode(data.as_slice())
        .map_err(|error| StoreError::sql(&format!("bundle in row {row_id}: {error}")))?;
    Ok(StoredBundle { row_id, message })
}

pub(super) async fn insert(tx: &Tx, message: &common::Bundle) -> Result<(), StoreError> {
    let columns = [
        ("trust_domain", message.trust_domain_id.as_str().into()),
        ("data", message.encode_to_vec().into()),
    ];
    tx.bundle_written();
    tx.insert(BUNDLES, &columns).await?;
    Ok(())
}

pub(super) async fn save(tx: &Tx, stored: &StoredBundle) -> Result<(), StoreError> {
    let mut update = Query::update();
    update
        .table(BUNDLES)
        .and_where(Expr::col("id").eq(stored.row_id))
        .value("updated_at", tx.dialect.timestamp(tx.now))
        .value("data", stored.message.encode_to_vec());
    tx.bundle_written();
    tx.execute(&update).await?;
    Ok(())
}

/// The message for a bundle.
pub(super) fn encode(bundle: &Bundle) -> common::Bundle {
    common::Bundle {
        trust_domain_id: bundle.trust_domain.id_string(),
        root_cas: bundle.x509_authorities.iter().map(encode_x509_authority).collect(),
        jwt_signing_keys: bundle.jwt_authorities.iter().map(encode_key).collect(),
        refresh_hint: i64::try_from(bundle.refresh_hint.as_secs()).unwrap_or(i64::MAX),
        sequence_number: bundle.sequence_number,
        wit_signing_keys: bundle.wit_authorities.iter().map(encode_key).collect(),
    }
}

fn encode_x509_authority(authority: &X509Authority) -> common::Certificate {
    common::Certificate {
        der_bytes: authority.certificate.der_bytes(),
        tainted_key: authority.tainted,
    }
}

fn encode_key(authority: &JwtAuthority) -> common::PublicKey {
    common::PublicKey {
        pkix_bytes: authority.public_key.spki_der().to_vec().into(),
        kid: authority.key_id.clone(),
        // 0 = never.
        not_after: authority.expires_at.map_or(0, |at| super::timestamp::Nanos::from(at).seconds()),
        tainted_key: authority.tainted,
    }
}

/// The bundle in a message. An authority of a kind that is not known here is left out with a
/// warning: the others are still good.
pub(super) fn decode(message: &common::Bundle) -> Result<Bundle, StoreError> {
    let id = &message.trust_domain_id;
    let trust_domain = TrustDomain::from_name_or_id(id)
        .map_err(|error| StoreError::sql(&format!("bundle of \"{}\": {error}", excerpt(id))))?;
    let mut bundle = Bundle::new(trust_domain);
    bundle.refresh_hint = Duration::from_secs(u64::try_from(message.refresh_hint).unwrap_or(0));
    bundle.sequence_number = message.sequence_number;
    for root_ca in &message.root_cas {
        match Certificate::parse_concatenated_der(&root_ca.der_bytes) {
            Ok(certificates) => bundle.x509_authorities.extend(
                certificates
                    .into_iter()
                    .map(|certificate| X509Authority { certificate, tainted: root_ca.tainted_key }),
            ),
            Err(error) => warn_skipped(id, "X.509", &error.to_string()),
        }
    }
    bundle.jwt_authorities = decode_keys(id, "JWT", &message.jwt_signing_keys);
    bundle.wit_authorities = decode_keys(id, "WIT", &message.wit_signing_keys);
    Ok(bundle)
}

fn decode_keys(id: &str, kind: &'static str, keys: &[common::PublicKey]) -> Vec<JwtAuthority> {
    let mut authorities = Vec::with_capacity(keys.len());
    for key in keys {
        match decode_key(key) {
            Ok(authority) => authorities.push(authority),
            Err(error) => warn_skipped(id, kind, &error.to_string()),
        }
    }
    authorities
}

/// The authority in a message.
pub(super) fn decode_key(key: &common::PublicKey) -> Result<JwtAuthority, StoreError> {
    let public_key = PublicKey::from_spki_der(&key.pkix_bytes)
        .map_err(|error| StoreError::sql(&format!("key {}: {error}", excerpt(&key.kid))))?;
    let expires_at = u64::try_from(key.not_after).ok().filter(|&seconds| seconds != 0);
    Ok(JwtAuthority {
        key_id: key.kid.clone(),
        public_key,
        expires_at: expires_at
            .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
        tainted: key.tainted_key,
    })
}

fn warn_skipped(trust_domain_id: &str, kind: &'static str, error: &str) {
    tracing::warn!(
        subsystem_name = "sql",
        trust_domain_id = %excerpt(trust_domain_id),
        kind,
        error,
        "Skipping an authority that cannot be read"
    );
}
