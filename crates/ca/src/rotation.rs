//! When an authority is made, when it takes over, and in which order that is done.
//!
//! [`Rotation`] knows the two slots of one kind of authority. It performs nothing: it hands out
//! one [`Action`] at a time and is told how that went by an [`Event`], so a test replays a year
//! in a moment and a kill is nothing but dropping it between two actions.
//!
//! The order of a rotation, each step begun only when the one before has succeeded:
//!
//! ```text
//! GenerateKey → SelfSign → Journal(Prepared) → Publish │ Journal(Activated) → Activate
//! ```
//!
//! An authority that never reached the bundle leaves no trace there, one that is in use is in the
//! journal and in the bundle, and the key of the authority in use is never the one overwritten.
//! An upstream authority takes the place of `SelfSign` as a sibling action answered by the same
//! [`Event::Issued`]; nothing else here changes.

use std::time::{Duration, SystemTime};

use crate::error::AuthorityError;

/// One authority of a kind, as far as its rotation is concerned.
pub trait Authority: Clone {
    /// Identifies the authority among all of its kind (hex SKI, or `kid`).
    fn id(&self) -> &str;
    /// When it was made.
    fn issued_at(&self) -> SystemTime;
    /// When it expires.
    fn not_after(&self) -> SystemTime;
    /// Hex SKI of the upstream authority that signed it; empty when there is none.
    fn upstream_id(&self) -> &str {
        ""
    }
}

/// Which of the two keys of the key manager an authority uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotId {
    /// Slot `A`, where a first authority goes.
    A,
    /// Slot `B`.
    B,
}

impl SlotId {
    /// The slot that this one alternates with.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The name in journal, key ids and log lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }

    /// Reads the name that the journal holds.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "A" => Some(Self::A),
            "B" => Some(Self::B),
            _ => None,
        }
    }
}

impl std::fmt::Display for SlotId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the slot beside the current one holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Next<A> {
    /// Nothing, or nothing usable.
    Empty,
    /// An authority that is in the journal and in the bundle, waiting for its turn.
    Prepared(A),
    /// The authority that was in use before the current one.
    Old(A),
}

/// What the driver has to do next. Exactly one is outstanding at a time.
#[derive(Clone, PartialEq, Debug)]
pub enum Action<A> {
    /// Have the key manager make the key of this slot, replacing the one that is there.
    GenerateKey {
        /// The slot whose key is made; never the slot in use.
        slot: SlotId,
    },
    /// Make the authority out of the slot's key. (Seam: with an upstream authority the kind
    /// asks that instead and answers with the same event.)
    SelfSign {
        /// The slot whose key signs.
        slot: SlotId,
        /// The time of issue.
        issued_at: SystemTime,
    },
    /// Write this change to the journal, durably.
    Journal(Change<A>),
    /// Append the authority to the trust bundle, durably.
    Publish {
        /// The slot that holds the authority.
        slot: SlotId,
        /// What to append.
        authority: A,
    },
    /// Sign with this authority from now on. Cannot fail.
    Activate {
        /// The slot that holds the authority.
        slot: SlotId,
        /// What to sign with.
        authority: A,
    },
}

/// A change of the journal that belongs together.
#[derive(Clone, PartialEq, Debug)]
pub enum Change<A> {
    /// An authority was made in this slot.
    Prepared {
        /// The slot.
        slot: SlotId,
        /// The authority.
        authority: A,
        /// No authority is in use: the journal is to be found by this one from now on.
        first: bool,
    },
    /// An authority takes over; the one before is now old.
    Activated {
        /// Id of the authority that takes over.
        id: String,
    },
}

/// How the outstanding action went.
#[derive(Clone, PartialEq, Debug)]
pub enum Event<A> {
    /// [`Action::SelfSign`] made this.
    Issued(A),
    /// Any other action succeeded.
    Done,
    /// The action failed, or its outcome is not known.
    Failed,
}

/// Two slots of one kind of authority, and the work that is under way on them.
#[derive(Clone, Debug)]
pub struct Rotation<A> {
    /// The slot of `current`; without one, the slot where the next authority is made, which is
    /// never the one whose key the journal is found by. `next` is in the other one.
    slot: SlotId,
    current: Option<A>,
    next: Next<A>,
    /// The step that was begun and is not known to have succeeded. A driver that was interrupted
    /// never answers, so an unanswered step is one that failed.
    work: Option<Step<A>>,
    /// The journal may or may not say that `next` is the active one: a promotion was not answered.
    unsettled: bool,
}

#[derive(Clone, Debug)]
enum Step<A> {
    /// Have the journal say what is so, before the key of a slot is lost.
    Settle,
    Key(SlotId),
    Sign(SlotId),
    Record(SlotId, A),
    Publish(SlotId, A),
    Promote(A),
}

impl<A: Authority> Rotation<A> {
    /// A rotation without any authority, the first of which goes to `slot`.
    #[must_use]
    pub fn empty(slot: SlotId) -> Self {
        Self { slot, current: None, next: Next::Empty, work: None, unsettled: false }
    }

    /// A rotation that goes on with what was found at start: `current` is in `slot` and already
    /// signs, `next` is in the other. One of the two is an authority.
    #[must_use]
    pub fn resume(slot: SlotId, current: Option<A>, next: Next<A>) -> Self {
        let unsettled = current.is_none();
        Self { slot, current, next, work: None, unsettled }
    }

    /// The authority in use, which may have expired.
    #[must_use]
    pub fn current(&self) -> Option<&A> {
        self.current.as_ref()
    }

    /// The slot of the authority in use, or of the first one to be made.
    #[must_use]
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// What waits or rests in the other slot.
    #[must_use]
    pub fn next(&self) -> &Next<A> {
        &self.next
    }

    /// Says what is due at `now`, to be called every [`TICK`]. A step that failed, or was never
    /// answered, is taken again. `None`: nothing is due.
    pub fn on_timer(&mut self, now: SystemTime) -> Option<Action<A>> {
        match self.work.take() {
            // A promotion that failed is decided upon anew.
            Some(Step::Promote(_)) | None => match self.due_for_promotion(now) {
                Some(next) => Some(self.begin(Step::Promote(next), now)),
                None => self.successor_is_due(now).then(|| self.make(now)),
            },
            Some(step) => Some(self.retry(step, now)),
        }
    }

    /// Takes note of how the last action went and says what follows at once. `None`: the work is
    /// done or has to wait for the next timer.
    pub fn on_event(&mut self, event: Event<A>, now: SystemTime) -> Option<Action<A>> {
        match (self.work.take()?, event) {
            (Step::Settle, Event::Done) => {
                self.unsettled = false;
                Some(self.make(now))
            }
            (Step::Key(slot), Event::Done) => Some(self.begin(Step::Sign(slot), now)),
            (Step::Sign(slot), Event::Issued(authority)) => {
                Some(self.begin(Step::Record(slot, authority), now))
            }
            (Step::Record(slot, authority), Event::Done) => {
                if self.current.is_none() {
                    self.slot = slot.other();
                }
                // When that took half its life, a fresh one serves longer.
                (!is_stale(&authority, now))
                    .then(|| self.begin(Step::Publish(slot, authority), now))
            }
            (Step::Publish(_, authority), Event::Done) => {
                self.next = Next::Prepared(authority);
                self.due_for_promotion(now).map(|next| self.begin(Step::Promote(next), now))
            }
            (Step::Promote(authority), Event::Done) => Some(self.take_over(authority)),
            (step, _) => {
                self.work = Some(step);
                None
            }
        }
    }

    /// Operator: prepare an authority now, replacing one that is prepared already.
    ///
    /// # Errors
    /// [`AuthorityError::Initializing`] while no authority is in use.
    pub fn prepare(&mut self, now: SystemTime) -> Result<Action<A>, AuthorityError> {
        if self.current.is_none() {
            return Err(AuthorityError::Initializing);
        }
        Ok(match self.work.take() {
            Some(Step::Promote(_)) | None => self.make(now),
            Some(step) => self.retry(step, now),
        })
    }

    /// Operator: let the prepared authority take over now.
    ///
    /// # Errors
    /// The id is missing or not that of the other slot (TE-16), or what is there is not prepared
    /// (TE-17) or not valid at `now`.
    pub fn activate(&mut self, id: &str, now: SystemTime) -> Result<Action<A>, AuthorityError> {
        self.expect_next(id)?;
        match &self.next {
            Next::Prepared(next) if fits(next, now) => {
                let next = next.clone();
                Ok(self.begin(Step::Promote(next), now))
            }
            Next::Prepared(_) => Err(AuthorityError::NotValidNow),
            Next::Old(_) | Next::Empty => Err(AuthorityError::OnlyPrepared { found: "OLD" }),
        }
    }

    /// Operator: may this authority be marked as tainted? The answer is the authority.
    ///
    /// # Errors
    /// Only the old authority may be (TE-16, TE-18).
    pub fn check_taint(&self, id: &str) -> Result<&A, AuthorityError> {
        if !id.is_empty() && self.current.as_ref().is_some_and(|current| current.id() == id) {
            return Err(AuthorityError::TaintCurrent);
        }
        self.expect_next(id)?;
        match &self.next {
            Next::Old(old) => Ok(old),
            _ => Err(AuthorityError::OnlyOldTainted { found: "PREPARED" }),
        }
    }

    fn expect_next(&self, id: &str) -> Result<(), AuthorityError> {
        match &self.next {
            _ if id.is_empty() => Err(AuthorityError::NoAuthorityId),
            Next::Prepared(next) | Next::Old(next) if next.id() == id => Ok(()),
            _ => Err(AuthorityError::UnexpectedAuthorityId),
        }
    }

    /// The prepared authority, when it is time for it to take over.
    fn due_for_promotion(&self, now: SystemTime) -> Option<A> {
        let Next::Prepared(next) = &self.next else { return None };
        let due = fits(next, now)
            && self.current.as_ref().is_none_or(|current| {
                now > activation_threshold(current) || is_from_the_future(current, now)
            });
        due.then(|| next.clone())
    }

    fn successor_is_due(&self, now: SystemTime) -> bool {
        if let Next::Prepared(next) = &self.next
            && fits(next, now)
        {
            return false;
        }
        self.current.as_ref().is_none_or(|current| is_stale(current, now))
    }

    fn make(&mut self, now: SystemTime) -> Action<A> {
        if self.unsettled {
            return self.begin(Step::Settle, now);
        }
        let slot = if self.current.is_some() { self.slot.other() } else { self.slot };
        // From here on the key of that slot may be gone, and with it what it signed for.
        self.next = match std::mem::replace(&mut self.next, Next::Empty) {
            Next::Prepared(gone) | Next::Old(gone) => Next::Old(gone),
            Next::Empty => Next::Empty,
        };
        self.begin(Step::Key(slot), now)
    }

    fn retry(&mut self, step: Step<A>, now: SystemTime) -> Action<A> {
        match &step {
            Step::Publish(_, authority) if is_stale(authority, now) => self.make(now),
            // What could not be signed with may never be: make the key again, too.
            Step::Settle | Step::Key(_) | Step::Sign(_) => self.make(now),
            _ => self.begin(step, now),
        }
    }

    fn begin(&mut self, step: Step<A>, now: SystemTime) -> Action<A> {
        let first = self.current.is_none();
        let action = match step.clone() {
            Step::Settle => Action::Journal(self.what_is_so()),
            Step::Key(slot) => Action::GenerateKey { slot },
            Step::Sign(slot) => Action::SelfSign { slot, issued_at: now },
            Step::Record(slot, authority) => {
                Action::Journal(Change::Prepared { slot, authority, first })
            }
            Step::Publish(slot, authority) => Action::Publish { slot, authority },
            Step::Promote(authority) => {
                self.unsettled = true;
                Action::Journal(Change::Activated { id: authority.id().to_owned() })
            }
        };
        self.work = Some(step);
        action
    }

    /// The change after which the journal agrees with the slots.
    fn what_is_so(&self) -> Change<A> {
        match (&self.current, &self.next) {
            (Some(current), _) => Change::Activated { id: current.id().to_owned() },
            (None, Next::Prepared(next) | Next::Old(next)) => {
                let (slot, authority) = (self.slot.other(), next.clone());
                Change::Prepared { slot, authority, first: true }
            }
            (None, Next::Empty) => unreachable!("only a promotion leaves something to settle"),
        }
    }

    fn take_over(&mut self, authority: A) -> Action<A> {
        self.unsettled = false;
        self.slot = self.slot.other();
        self.next = match self.current.replace(authority.clone()) {
            Some(old) => Next::Old(old),
            None => Next::Empty,
        };
        Action::Activate { slot: self.slot, authority }
    }
}

/// When the successor of an authority has to be prepared (CA-02): half of the lifetime before
/// its end, but not earlier than thirty days before.
pub fn preparation_threshold<A: Authority>(authority: &A) -> SystemTime {
    before_end(authority, 2, 30 * DAY)
}

/// When the successor of an authority has to take over (CA-03): a sixth of the lifetime before
/// its end, but not earlier than seven days before.
pub fn activation_threshold<A: Authority>(authority: &A) -> SystemTime {
    before_end(authority, 6, 7 * DAY)
}

/// Has time to live, and its life has begun: fit to sign with for a while.
fn fits<A: Authority>(authority: &A, now: SystemTime) -> bool {
    now <= activation_threshold(authority) && !is_from_the_future(authority, now)
}

/// Its own successor would be due.
fn is_stale<A: Authority>(authority: &A, now: SystemTime) -> bool {
    now > preparation_threshold(authority) || is_from_the_future(authority, now)
}

/// The clock was set back far enough for nobody to accept what the authority signs.
fn is_from_the_future<A: Authority>(authority: &A, now: SystemTime) -> bool {
    now + FUTURE_TOLERANCE < authority.issued_at()
}

fn before_end<A: Authority>(authority: &A, divisor: u32, cap: Duration) -> SystemTime {
    let lifetime = authority.not_after().duration_since(authority.issued_at());
    authority.not_after() - cap.min(lifetime.unwrap_or_default() / divisor)
}

/// How often [`Rotation::on_timer`] is to be called (CA-01).
pub const TICK: Duration = Duration::from_secs(10);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A clock may be corrected by this much without anything being made anew.
pub(crate) const FUTURE_TOLERANCE: Duration = Duration::from_secs(5 * 60);

#[cfg(test)]
mod tests;
