//! WIT signing keys: JWT keys in every respect but where they are noted, published and used.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use steeple_pki::{Bundle, KeyType, Signer};
use steeple_proto::journal::{Entries, Status, WitKeyEntry};

use super::{Issuing, Kind, WitKey, bytes_of, unix};
use crate::config::CaConfig;
use crate::credentials::Credentials;
use crate::error::RotationError;
use crate::rotation::{Authority, SlotId};

/// The kind of [`WitKey`].
pub(crate) enum Wit {}

#[async_trait]
impl Kind for Wit {
    type Authority = WitKey;
    type Row = WitKeyEntry;

    const NAME: &'static str = "WIT key";
    const SLOT_NAME: &'static str = "WIT key slot";
    const API_NAME: &'static str = "WIT";
    const KEY_PREFIX: &'static str = "WIT-Signer-";
    const PREPARE: &'static [&'static str] = &["ca", "manager", "wit_key", "prepare"];
    const ACTIVATED: &'static [&'static str] = &["manager", "wit_key", "activate"];

    fn key_type(config: &CaConfig) -> KeyType {
        config.wit_key_type
    }

    async fn issue(
        issuing: Issuing<'_>,
        signer: Arc<dyn Signer>,
        issued_at: SystemTime,
    ) -> Result<WitKey, RotationError> {
        Ok(WitKey::fresh(issuing.config, signer, issued_at))
    }

    fn add_to_bundle(bundle: &mut Bundle, authority: &WitKey) {
        bundle.wit_authorities.push(authority.published());
    }

    fn is_published(bundle: &Bundle, authority: &WitKey, _: bool, _: SystemTime) -> bool {
        authority.is_among(&bundle.wit_authorities)
    }

    fn rows(entries: &Entries) -> &Vec<WitKeyEntry> {
        &entries.wit_keys
    }

    fn rows_mut(entries: &mut Entries) -> &mut Vec<WitKeyEntry> {
        &mut entries.wit_keys
    }

    fn to_row(slot: SlotId, authority: &WitKey) -> WitKeyEntry {
        WitKeyEntry {
            slot_id: slot.to_string(),
            issued_at: unix(authority.issued_at()),
            not_after: unix(authority.not_after()),
            kid: authority.id().to_owned(),
            public_key: bytes_of(authority.signer().public_key().spki_der()),
            status: Status::Prepared.into(),
            authority_id: authority.id().to_owned(),
        }
    }

    fn from_row(
        row: &WitKeyEntry,
        signer: &Arc<dyn Signer>,
    ) -> Result<Option<WitKey>, RotationError> {
        WitKey::restored(&row.kid, &row.public_key, row.issued_at, row.not_after, signer)
    }

    fn install(credentials: &Credentials, authority: &WitKey) {
        credentials.set_wit_key(authority);
    }
}

row!(WitKeyEntry);
