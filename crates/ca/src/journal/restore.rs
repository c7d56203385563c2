//! Which of the journal's authorities a server goes on with after a restart (CA-09).

use std::sync::Arc;
use std::time::SystemTime;

use steeple_pki::x509::authority_id;
use steeple_pki::{Bundle, Signer};
use steeple_proto::journal::Status;

use super::{Journal, SUBSYSTEM};
use crate::error::RotationError;
use crate::kind::{Kind, Row};
use crate::rotation::{Next, Rotation, SlotId};
use crate::times::go_time;

/// The two keys that the key manager holds for a kind.
pub(crate) struct SlotKeys {
    pub(crate) a: Option<Arc<dyn Signer>>,
    pub(crate) b: Option<Arc<dyn Signer>>,
}

impl SlotKeys {
    fn get(&self, slot: SlotId) -> Option<&Arc<dyn Signer>> {
        match slot {
            SlotId::A => self.a.as_ref(),
            SlotId::B => self.b.as_ref(),
        }
    }
}

/// What an earlier run left, beside the keys.
#[derive(Clone, Copy)]
pub(crate) struct Remains<'a> {
    pub(crate) journal: &'a Journal,
    pub(crate) bundle: Option<&'a Bundle>,
    pub(crate) now: SystemTime,
}

/// Goes on with the authorities for which key, journal and bundle agree: the newest active one
/// and the newest other one. What is not in the bundle is left behind: nobody could verify it.
///
/// # Errors
/// An entry that cannot be parsed, as with SPIRE.
pub(crate) fn restore<K: Kind>(
    from: Remains<'_>,
    keys: &SlotKeys,
    has_upstream: bool,
) -> Result<Rotation<K::Authority>, RotationError> {
    let journal = from.journal;
    let mut current: Option<(SlotId, K::Authority)> = None;
    let mut next: Option<(SlotId, bool, K::Authority)> = None;
    for row in K::rows(journal.entries()).iter().rev() {
        if current.is_some() && next.is_some() {
            break;
        }
        let Some((slot, authority)) = usable::<K>(row, from, keys, has_upstream)? else { continue };
        match row.status() {
            Status::Active if current.is_none() => current = Some((slot, authority)),
            Status::Active => {}
            status if next.is_none() => next = Some((slot, status == Status::Old, authority)),
            _ => {}
        }
    }
    let Some((slot, authority)) = current else {
        return Ok(match next {
            // Prepared, and the one before it is gone: it takes over on the first tick.
            Some((slot, false, authority)) => {
                Rotation::resume(slot.other(), None, Next::Prepared(authority))
            }
            _ => Rotation::empty(vacant_slot::<K>(journal, keys)),
        });
    };
    let next = match next {
        Some((beside, true, old)) if beside != slot => Next::Old(old),
        Some((beside, false, prepared)) if beside != slot => Next::Prepared(prepared),
        _ => Next::Empty,
    };
    Ok(Rotation::resume(slot, Some(authority), next))
}

/// Where a first authority goes: not where the key is by which the journal is found, or a crash
/// between the making of a key and the next write of the journal would lose it.
fn vacant_slot<K: Kind>(journal: &Journal, keys: &SlotKeys) -> SlotId {
    let anchors = |signer: &Arc<dyn Signer>| {
        K::NAMES_THE_JOURNAL
            && authority_id(&signer.public_key().subject_key_id()) == journal.anchor()
    };
    if keys.a.as_ref().is_some_and(anchors) { SlotId::B } else { SlotId::A }
}

fn usable<K: Kind>(
    row: &K::Row,
    from: Remains<'_>,
    keys: &SlotKeys,
    has_upstream: bool,
) -> Result<Option<(SlotId, K::Authority)>, RotationError> {
    let reason = match vet::<K>(row, from, keys, has_upstream) {
        Ok(Ok(usable)) => return Ok(Some(usable)),
        Ok(Err(reason)) => reason,
        Err(error) => {
            tracing::error!(
                subsystem_name = SUBSYSTEM,
                %error,
                slot = row.slot_id(),
                issued_at = go_time(row.issued_at()),
                status = row.status().as_str_name(),
                local_authority_id = row.authority_id(),
                upstream_authority_id = row.upstream_authority_id(),
                "{} failed to load",
                K::SLOT_NAME
            );
            return Err(error);
        }
    };
    tracing::warn!(
        subsystem_name = SUBSYSTEM,
        error = reason,
        slot = row.slot_id(),
        issued_at = go_time(row.issued_at()),
        status = row.status().as_str_name(),
        local_authority_id = row.authority_id(),
        upstream_authority_id = row.upstream_authority_id(),
        "{} unusable",
        K::SLOT_NAME
    );
    Ok(None)
}

type Vetted<A> = Result<(SlotId, A), &'static str>;

fn vet<K: Kind>(
    row: &K::Row,
    from: Remains<'_>,
    keys: &SlotKeys,
    has_upstream: bool,
) -> Result<Vetted<K::Authority>, RotationError> {
    let Some(slot) = SlotId::parse(row.slot_id()) else { return Ok(Err("no slot id")) };
    let Remains { bundle, now, .. } = from;
    if row.not_after() < now {
        return Ok(Err("slot expired"));
    }
    let Some(signer) = keys.get(slot) else { return Ok(Err("no key manager key")) };
    let Some(authority) = K::from_row(row, signer)? else {
        return Ok(Err("public key does not match key manager key"));
    };
    let published = |bundle| K::is_published(bundle, &authority, has_upstream, now);
    if !bundle.is_some_and(published) {
        return Ok(Err("not in the trust bundle"));
    }
    Ok(Ok((slot, authority)))
}
