//! How this node becomes, and stays, an agent.
//!
//! At start: may the stored identity be used, or is the node to be attested
//! anew, and under which key ([`at_start`])? Later: is the agent's own SVID
//! due ([`AgentRotation`])? When the server refuses: go on, attest again, or
//! stop ([`Refusal`])?

use std::time::{Duration, SystemTime};

use steeple_pki::PublicKey;
use steeple_pki::x509::Certificate;

use crate::lifetime::{RenewalRule, expired};

/// The two names under which the agent's key takes turns, so that a new key
/// never overwrites the one in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySlot {
    /// `agent-svid-A`
    A,
    /// `agent-svid-B`
    B,
}

impl KeySlot {
    /// The key's id in the key manager.
    pub fn id(self) -> &'static str {
        match self {
            Self::A => "agent-svid-A",
            Self::B => "agent-svid-B",
        }
    }

    /// The slot for a new key beside the one in use.
    pub fn beside(current: Option<&str>) -> Self {
        if current == Some(Self::A.id()) { Self::B } else { Self::A }
    }
}

/// What to do with what was found on disk.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    /// The stored SVID is good and its key is at hand.
    UseStored {
        /// The id of its key.
        key_id: String,
    },
    /// Attest, with a new key in this slot.
    Attest {
        /// Where the new key goes.
        slot: KeySlot,
        /// Why what was found is of no use, for the log; none on a first start.
        because: Option<&'static str>,
    },
}

/// Decides from the stored SVID and the keys of the key manager.
pub fn at_start(
    stored: Option<&Certificate>,
    keys: &[(String, PublicKey)],
    now: SystemTime,
) -> Start {
    let key_of = |svid: &Certificate| {
        keys.iter().find(|(_, public)| public == svid.public_key()).map(|(id, _)| id.as_str())
    };
    let key_id = stored.and_then(key_of);
    let because = match (stored, key_id) {
        (Some(svid), Some(key_id)) if !expired(svid.not_after(), now) => {
            return Start::UseStored { key_id: key_id.to_owned() };
        }
        (Some(_), Some(_)) => {
            Some("SVID key recovered, but SVID is expired. Generating new keypair")
        }
        (Some(_), None) if keys.is_empty() => {
            Some("SVID recovered, but no keys found. Generating new keypair")
        }
        (Some(_), None) => Some("SVID recovered, but no SVID key found. Generating new keypair"),
        (None, _) if !keys.is_empty() => {
            Some("Keys recovered, but no SVID found. Generating new keypair")
        }
        (None, _) => None,
    };
    Start::Attest { slot: KeySlot::beside(key_id), because }
}

/// When the agent's own SVID is to be replaced.
#[derive(Debug, Clone, Copy)]
pub struct AgentRotation {
    due: SystemTime,
    ends: SystemTime,
    tainted: bool,
    forced: bool,
}

impl AgentRotation {
    /// For an SVID just received; `dice` as for [`RenewalRule::due`].
    pub fn of(svid: &Certificate, rule: RenewalRule, dice: f64) -> Self {
        let (begin, ends) = (svid.not_before(), svid.not_after());
        Self { due: rule.due(begin, ends, dice), ends, tainted: false, forced: false }
    }

    /// The authority that signed it was withdrawn: replace it now.
    pub fn taint(&mut self) {
        self.tainted = true;
    }

    /// Its time has not come, since the clock was set back: replace it now.
    pub fn force(&mut self) {
        self.forced = true;
    }

    /// Whether it is known to be tainted.
    pub fn is_tainted(&self) -> bool {
        self.tainted
    }

    /// Whether to replace it now.
    pub fn is_due(&self, now: SystemTime) -> bool {
        self.tainted || self.forced || now >= self.due
    }

    /// How long it may stay as it is; for ever once that time is over, since
    /// failed attempts are then spaced by other means.
    pub fn until_due(&self, now: SystemTime) -> Duration {
        match self.due.duration_since(now) {
            Ok(left) if !self.tainted && !self.forced => left,
            _ => Duration::MAX,
        }
    }

    /// Whether it is of no more use; a failed renewal is then the end.
    pub fn has_ended(&self, now: SystemTime) -> bool {
        now > self.ends
    }
}

/// What the server's refusal means for the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// An ordinary failure: keep serving, try again later.
    Transient,
    /// The server does not know this SVID any more: attest again.
    Reattest,
    /// The agent is banned: forget the identity and stop.
    Banned,
    /// The server's certificate does not chain to the bundle.
    UnknownAuthority,
}

/// The first pause between attempts to attest, and how long they go on.
pub const BOOTSTRAP_INTERVAL: Duration = Duration::from_secs(5);
/// See [`BOOTSTRAP_INTERVAL`].
pub const BOOTSTRAP_PATIENCE: Duration = Duration::from_secs(60);
/// How often the agent's own SVID is looked at.
pub const ROTATION_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use steeple_pki::{KeyType, PrivateKey};

    use super::*;
    use crate::testing::{Authority, HOUR, NOON};

    fn found(stored: bool, keys: &[(&str, bool)], now: SystemTime) -> Start {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let other = PrivateKey::generate(KeyType::EcP256).unwrap();
        let svid = Authority::new().sign("spiffe://example.org/spire/agent/x", &key, NOON + HOUR);
        let keys: Vec<_> = keys
            .iter()
            .map(|(id, ours)| {
                ((*id).to_owned(), if *ours { &key } else { &other }.public_key().clone())
            })
            .collect();
        at_start(stored.then_some(&svid), &keys, now)
    }

    #[test]
    fn a_valid_svid_with_its_key_spares_the_attestation() {
        let start = found(true, &[("agent-svid-A", false), ("agent-svid-B", true)], NOON);
        assert_eq!(start, Start::UseStored { key_id: "agent-svid-B".into() });
    }

    #[test]
    fn anything_else_is_attested_and_says_why() {
        let attest = |slot, because| Start::Attest { slot, because };
        let late = NOON + HOUR;
        assert_eq!(found(false, &[], NOON), attest(KeySlot::A, None));
        assert_eq!(
            found(true, &[("agent-svid-A", true)], late),
            attest(
                KeySlot::B,
                Some("SVID key recovered, but SVID is expired. Generating new keypair")
            )
        );
        assert_eq!(
            found(true, &[], NOON),
            attest(KeySlot::A, Some("SVID recovered, but no keys found. Generating new keypair"))
        );
        assert_eq!(
            found(true, &[("agent-svid-A", false)], NOON),
            attest(
                KeySlot::A,
                Some("SVID recovered, but no SVID key found. Generating new keypair")
            )
        );
        assert_eq!(
            found(false, &[("agent-svid-A", false)], NOON),
            attest(KeySlot::A, Some("Keys recovered, but no SVID found. Generating new keypair"))
        );
    }

    #[test]
    fn keys_take_turns() {
        assert_eq!(KeySlot::beside(None), KeySlot::A);
        assert_eq!(KeySlot::beside(Some("agent-svid-A")), KeySlot::B);
        assert_eq!(KeySlot::beside(Some("agent-svid-B")), KeySlot::A);
    }

    #[test]
    fn the_agents_svid_is_due_at_half_life_or_when_tainted() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let svid = Authority::new().sign("spiffe://example.org/spire/agent/x", &key, NOON + HOUR);
        let mut rotation = AgentRotation::of(&svid, RenewalRule::default(), 0.5);
        assert!(!rotation.is_due(NOON + HOUR / 2 - Duration::from_secs(1)));
        assert!(rotation.is_due(NOON + HOUR / 2));
        assert!(!rotation.has_ended(NOON + HOUR));
        rotation.taint();
        assert!(rotation.is_due(NOON));
    }
}
