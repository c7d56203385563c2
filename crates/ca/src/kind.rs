//! What sets one kind of authority apart from another; all else is written once.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use steeple_pki::{Bundle, KeyType, Signer};
use steeple_proto::journal::{Entries, Status};

pub use jwt::{JwtKey, WitKey};
pub use x509::X509Ca;

use crate::config::CaConfig;
use crate::credentials::Credentials;
use crate::error::RotationError;
use crate::rotation::{Authority, SlotId};
use crate::store::AuthorityStore;
use crate::upstream::Upstream;

pub(crate) use jwt::Jwt;
pub(crate) use wit::Wit;
pub(crate) use x509::X509;

/// The [`Row`] of a message of the journal: they all name these fields alike. What only one of
/// them has follows its name.
macro_rules! row {
    ($message:ty $(, $($own:tt)*)?) => {
        impl $crate::kind::Row for $message {
            fn slot_id(&self) -> &str {
                &self.slot_id
            }

            fn authority_id(&self) -> &str {
                &self.authority_id
            }

            fn issued_at(&self) -> std::time::SystemTime {
                $crate::kind::from_unix(self.issued_at)
            }

            fn not_after(&self) -> std::time::SystemTime {
                $crate::kind::from_unix(self.not_after)
            }

            fn status(&self) -> steeple_proto::journal::Status {
                $crate::kind::status_of(self.status)
            }

            fn set_status(&mut self, status: steeple_proto::journal::Status) {
                self.status = status.into();
            }

            $($($own)*)?
        }
    };
}

mod jwt;
mod wit;
mod x509;

/// One kind of authority: X.509 CA, JWT key or WIT key.
#[async_trait]
pub(crate) trait Kind: Send + Sync + 'static {
    /// An authority of this kind, with what signs for it.
    type Authority: Authority + Send + Sync + std::fmt::Debug + 'static;
    /// Its entry in the journal.
    type Row: Row;

    /// The name in log lines: `X509 CA`, `JWT key`.
    const NAME: &'static str;
    /// The name in log lines about the journal's slots: `X509CA slot`, `JWT key slot`.
    const SLOT_NAME: &'static str;
    /// The name in the texts of the LocalAuthority API: `X.509`, `JWT`.
    const API_NAME: &'static str;
    /// What the slot id is appended to for the key manager (CA-04).
    const KEY_PREFIX: &'static str;

    /// The type of the next key.
    fn key_type(config: &CaConfig) -> KeyType;

    /// Makes an authority out of a fresh key.
    async fn issue(
        issuing: Issuing<'_>,
        signer: Arc<dyn Signer>,
        issued_at: SystemTime,
    ) -> Result<Self::Authority, RotationError>;

    /// Adds the authority to what is to be appended to the trust bundle.
    fn add_to_bundle(bundle: &mut Bundle, authority: &Self::Authority);

    /// Puts the authority into the trust bundle and answers that.
    ///
    /// # Errors
    /// The datastore fails, or an upstream authority does.
    async fn publish(
        issuing: Issuing<'_>,
        authority: &Self::Authority,
    ) -> Result<Bundle, RotationError> {
        let mut addition = Bundle::new(issuing.config.trust_domain.clone());
        Self::add_to_bundle(&mut addition, authority);
        Ok(issuing.store.append_bundle(addition).await?)
    }

    /// What this authority signs is verified with the bundle.
    fn is_published(
        bundle: &Bundle,
        authority: &Self::Authority,
        has_upstream: bool,
        now: SystemTime,
    ) -> bool;

    /// The entries of this kind.
    fn rows(entries: &Entries) -> &Vec<Self::Row>;

    /// The entries of this kind.
    fn rows_mut(entries: &mut Entries) -> &mut Vec<Self::Row>;

    /// The entry of a newly prepared authority.
    fn to_row(slot: SlotId, authority: &Self::Authority) -> Self::Row;

    /// What an entry describes, with the key that is in its slot. `None`: the key is another.
    fn from_row(
        row: &Self::Row,
        signer: &Arc<dyn Signer>,
    ) -> Result<Option<Self::Authority>, RotationError>;

    /// Has new credentials signed by this authority.
    fn install(credentials: &Credentials, authority: &Self::Authority);

    /// What preparing one is counted and timed under.
    const PREPARE: &'static [&'static str];
    /// What activating one is counted under, as irregular as in SPIRE.
    const ACTIVATED: &'static [&'static str];

    /// The entry whose id names the row of the whole journal.
    const NAMES_THE_JOURNAL: bool = false;

    /// Id of the key in the key manager.
    fn key_id(slot: SlotId) -> String {
        format!("{}{slot}", Self::KEY_PREFIX)
    }
}

/// What authorities are made and published with.
#[derive(Clone, Copy)]
pub(crate) struct Issuing<'a> {
    pub(crate) config: &'a CaConfig,
    pub(crate) credentials: &'a Credentials,
    pub(crate) store: &'a dyn AuthorityStore,
    /// Signs X.509 CAs and publishes JWT keys; without one, this server does.
    pub(crate) upstream: Option<&'a Upstream>,
}

/// What every kind of journal entry has.
pub(crate) trait Row: Clone + Send + Sync {
    fn slot_id(&self) -> &str;
    fn authority_id(&self) -> &str;
    fn issued_at(&self) -> SystemTime;
    fn not_after(&self) -> SystemTime;
    fn status(&self) -> Status;
    fn set_status(&mut self, status: Status);
    /// `None` for kinds that know no upstream authority.
    fn upstream_authority_id(&self) -> Option<&str> {
        None
    }
}

/// Seconds since 1970, as the journal has them.
pub(crate) fn unix(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

/// The reverse of [`unix`].
pub(crate) fn from_unix(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn status_of(number: i32) -> Status {
    Status::try_from(number).unwrap_or(Status::Unknown)
}

fn bytes_of(der: &[u8]) -> Bytes {
    Bytes::copy_from_slice(der)
}
