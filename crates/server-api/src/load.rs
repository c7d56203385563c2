//! Admission by class: how much of what the server does at once (ADR 18).
//!
//! A call that may be made still needs a place to be worked on. Each class of calls has so many,
//! and a queue; what cannot be served in time, or has no room in the queue, is refused at once with
//! a hint when to come again, since work on it would be lost and take the time of others. Who is
//! next is decided in [`queue`]; what requests may weigh in [`bytes`].

mod bytes;
mod queue;

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use steeple_runtime::Throttle;
use steeple_server_core::access::Caller;
use steeple_telemetry as telemetry;
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::{Code, Status};

use self::bytes::{Budget, Metered};
pub(crate) use self::bytes::{Held, Sender};
use self::queue::{Asked, Lot, Next, Queue};
use crate::limit::{Bucket, Toll, retry_later, site};
use crate::status::Answer;
use crate::table::Row;

/// What is admitted together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Attestations of nodes.
    Attest,
    /// New SVIDs for agents that have one.
    Renew,
    /// Signatures for workloads and downstream servers.
    Sign,
    /// What agents ask for again and again: entries, bundles.
    Sync,
    /// Calls of operators.
    Admin,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Attest, Self::Renew, Self::Sign, Self::Sync, Self::Admin];

    /// Its name in the configuration, in logs and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attest => "attest",
            Self::Renew => "renew",
            Self::Sign => "sign",
            Self::Sync => "sync",
            Self::Admin => "admin",
        }
    }

    /// Its part of the places while all classes want them. An agent that cannot renew loses all
    /// that its workloads have, for good if it cannot attest again; a renewal is one signature. A
    /// sync costs next to nothing, and nothing is signed without. Who attests has nothing to lose
    /// yet. No class gets nothing.
    const fn weight(self) -> i64 {
        match self {
            Self::Attest => 2,
            Self::Renew | Self::Sync => 8,
            Self::Sign => 4,
            Self::Admin => 1,
        }
    }

    /// The class of a method that takes its place before its handler, or, if it pays per item or
    /// has a conversation first, within; none for what is always served.
    pub(crate) fn of(row: &Row) -> Option<Self> {
        let (Toll::PerCall(bucket, _) | Toll::PerItem(bucket, _)) = row.toll else { return None };
        Some(match bucket {
            Bucket::Attest => Self::Attest,
            Bucket::SignX509 if row.path.ends_with("/RenewAgent") => Self::Renew,
            Bucket::SignX509 | Bucket::SignJwt | Bucket::SignWit | Bucket::Publish => Self::Sign,
            Bucket::Status | Bucket::Bundle | Bucket::Sync => Self::Sync,
            Bucket::Admin => Self::Admin,
        })
    }
}

/// What one class may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassLimits {
    /// Calls at work at once; at least one.
    pub at_once: usize,
    /// Calls that wait beside those.
    pub waiting: usize,
    /// The longest that one waits.
    pub longest_wait: Duration,
}

/// What is worked on at once, and what requests may weigh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoadLimits {
    /// Calls at work at once, of all classes; at least one.
    pub at_once: usize,
    /// Attestations of nodes.
    pub attest: ClassLimits,
    /// Renewals of agents' SVIDs.
    pub renew: ClassLimits,
    /// Signatures.
    pub sign: ClassLimits,
    /// Entries and bundles.
    pub sync: ClassLimits,
    /// Operators.
    pub admin: ClassLimits,
    /// Bytes of large requests, together.
    pub request_bytes: usize,
    /// Of these, what one address may have.
    pub request_bytes_per_address: usize,
}

impl LoadLimits {
    /// What fits a machine with so many cores: much more at once than it can do at once, so that
    /// nobody waits who would not wait for the processor, and queues that a fleet of thousands of
    /// agents fits into.
    #[must_use]
    pub const fn for_cores(cores: usize) -> Self {
        let cores = if cores == 0 { 1 } else { cores };
        let seconds = Duration::from_secs;
        Self {
            at_once: 64 * cores,
            // Most of it is waiting for the client, for a vendor's API, for the disk.
            attest: ClassLimits {
                at_once: 32 * cores,
                waiting: 4_096,
                // An agent of SPIRE's gives up a minute after it began.
                longest_wait: seconds(30),
            },
            renew: ClassLimits { at_once: 32 * cores, waiting: 8_192, longest_wait: seconds(20) },
            // Nothing but processor time, and a batch has much of it.
            sign: ClassLimits { at_once: 8 * cores, waiting: 8_192, longest_wait: seconds(20) },
            sync: ClassLimits { at_once: 32 * cores, waiting: 8_192, longest_wait: seconds(20) },
            admin: ClassLimits { at_once: 16 * cores, waiting: 1_024, longest_wait: seconds(20) },
            request_bytes: 256 << 20,
            request_bytes_per_address: 64 << 20,
        }
    }

    pub(crate) const fn class(&self, class: Class) -> ClassLimits {
        match class {
            Class::Attest => self.attest,
            Class::Renew => self.renew,
            Class::Sign => self.sign,
            Class::Sync => self.sync,
            Class::Admin => self.admin,
        }
    }
}

/// A call has no place, and will not have one in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the server is overloaded: too many calls of this kind ({class})", class = class.name())]
pub(crate) struct Overloaded {
    pub(crate) class: Class,
    /// When to come again.
    pub(crate) wait: Duration,
}

impl Answer for Overloaded {
    /// Agents of SPIRE's try again after any code but `PERMISSION_DENIED`; this one sends nobody to
    /// another server at once, as `UNAVAILABLE` would, who would not be served there either.
    fn code(&self) -> Code {
        Code::ResourceExhausted
    }

    fn status(&self) -> Status {
        retry_later(self.text(), self.wait)
    }
}

impl From<Overloaded> for Status {
    fn from(overloaded: Overloaded) -> Self {
        overloaded.status()
    }
}

/// Who is at work, and who waits.
#[derive(Debug)]
pub(crate) struct Load {
    limits: LoadLimits,
    queue: Mutex<Queue<Waiter>>,
    keys: RandomState,
    budget: Arc<Budget>,
    said: [Throttle; Class::ALL.len()],
}

/// How a call that waits hears how that ended.
type Waiter = oneshot::Sender<Result<Place, Overloaded>>;

/// The part of the time that its client waits in which a call is to be done: the answer has a way
/// to go, too, and a refusal is to be there before the client has gone.
const PATIENCE: f64 = 0.9;

/// Between two lines of log about one class.
const SAY_EVERY: Duration = Duration::from_secs(5);

impl Load {
    pub(crate) fn new(limits: LoadLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            queue: Mutex::new(Queue::new(&limits)),
            keys: RandomState::new(),
            budget: Arc::new(Budget::new(limits.request_bytes, limits.request_bytes_per_address)),
            said: [const { Throttle::new(SAY_EVERY) }; Class::ALL.len()],
        })
    }

    /// Has a request's large messages wait until there is room for them. What is answered keeps
    /// that room for as long as somebody holds it.
    pub(crate) fn meter(&self, sender: Sender, body: Body) -> (Body, Held) {
        let held = Held::default();
        let metered = Metered::new(body, Arc::clone(&self.budget), sender, held.clone());
        (Body::new(metered), held)
    }

    /// Waits for a place. Dropping the future is to go.
    ///
    /// # Errors
    /// [`Overloaded`], as soon as it is known that there will be none before `deadline`.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        class: Class,
        caller: &Caller,
        deadline: Option<Instant>,
    ) -> Result<Place, Overloaded> {
        let caller = self.key(caller);
        let now = Instant::now();
        let patience = self.patience(class, deadline, now);
        let mut heard = None;
        let asked = self.queue().ask(class, caller, patience, fastrand::f64(), now, || {
            let (waiter, hears) = oneshot::channel();
            heard = Some(hears);
            waiter
        });
        let number = match asked {
            Asked::Go => {
                telemetry::incr(&ADMITTED, 1.0, &[("class", class.name())]);
                return Ok(self.place(class, caller));
            }
            Asked::Refused(wait) => return Err(self.shed(class, wait)),
            Asked::Wait(number, gave_way) => {
                if let Some((waiter, wait)) = gave_way {
                    // Its call may have gone.
                    let _ = waiter.send(Err(self.shed(class, wait)));
                }
                number
            }
        };
        let heard = heard.expect("who waits has something to hear by");
        // Boxed: most calls do not wait.
        Box::pin(self.wait(Waiting { load: self, class, caller, number }, heard, patience)).await
    }

    async fn wait(
        &self,
        waiting: Waiting<'_>,
        heard: oneshot::Receiver<Result<Place, Overloaded>>,
        patience: Duration,
    ) -> Result<Place, Overloaded> {
        let (class, caller) = (waiting.class, waiting.caller);
        telemetry::incr(&QUEUED, 1.0, &[("class", class.name())]);
        let outcome = tokio::time::timeout(patience, heard).await;
        drop(waiting);
        match outcome {
            Ok(Ok(outcome)) => outcome,
            // The sender was dropped, which only a queue does that is dropped itself.
            Ok(Err(_)) | Err(_) => {
                let wait = self.queue().appointment(class, caller, fastrand::f64(), Instant::now());
                Err(self.shed(class, wait))
            }
        }
    }

    /// Refuses a call that [`Self::enter`] would refuse at once, before its request is read.
    ///
    /// # Errors
    /// [`Overloaded`].
    pub(crate) fn glance(
        &self,
        class: Class,
        caller: &Caller,
        deadline: Option<Instant>,
    ) -> Result<(), Overloaded> {
        let (caller, now) = (self.key(caller), Instant::now());
        let patience = self.patience(class, deadline, now);
        let wait = self.queue().refuses(class, caller, patience, fastrand::f64(), now);
        wait.map_or(Ok(()), |wait| Err(self.shed(class, wait)))
    }

    /// How long a call may take from now on.
    fn patience(&self, class: Class, deadline: Option<Instant>, now: Instant) -> Duration {
        let longest = self.limits.class(class).longest_wait;
        deadline
            .map_or(longest, |it| it.saturating_duration_since(now).mul_f64(PATIENCE).min(longest))
    }

    /// A place, whatever else is at work, for a call that had one before.
    pub(crate) fn again(self: &Arc<Self>, class: Class, caller: &Caller) -> Place {
        let caller = self.key(caller);
        self.queue().begin(class, caller);
        self.place(class, caller)
    }

    /// Callers are numbers to the queue, which nobody can choose.
    fn key(&self, caller: &Caller) -> u64 {
        match caller {
            Caller::Local => 0,
            Caller::Remote { svid: Some(svid), .. } => self.keys.hash_one(svid.id.as_str()),
            Caller::Remote { address, svid: None } => self.keys.hash_one(site(address.ip())),
        }
    }

    fn place(self: &Arc<Self>, class: Class, caller: u64) -> Place {
        Place { load: Arc::clone(self), class, caller, begun: Instant::now() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Waiter>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a refusal, and says so once in a while.
    fn shed(&self, class: Class, wait: Duration) -> Overloaded {
        telemetry::incr(&SHED, 1.0, &[("class", class.name())]);
        if let Some(more) = self.said[class as usize].admit(Instant::now()) {
            let (at_work, waiting) = self.queue().counts(class);
            tracing::warn!(
                subsystem_name = "api",
                class = class.name(),
                at_work,
                waiting,
                shed = more + 1,
                "Overloaded: refusing calls that cannot be served in time"
            );
        }
        Overloaded { class, wait }
    }

    /// Gives free places to those that wait.
    fn pass_on(self: &Arc<Self>) {
        loop {
            let next = self.queue().next(fastrand::f64(), Instant::now());
            let Some(Next { class, caller, waiter, lot }) = next else { return };
            if let Lot::Late(wait) = lot {
                let _ = waiter.send(Err(self.shed(class, wait)));
                continue;
            }
            telemetry::incr(&ADMITTED, 1.0, &[("class", class.name())]);
            // If its caller has gone, the place is dropped here, which passes it on.
            let _ = waiter.send(Ok(self.place(class, caller)));
        }
    }
}

const ADMITTED: [&str; 3] = ["rpc", "load", "admitted"];
const QUEUED: [&str; 3] = ["rpc", "load", "queued"];
const SHED: [&str; 3] = ["rpc", "load", "shed"];

/// A call that waits; dropped, it waits no longer.
struct Waiting<'a> {
    load: &'a Load,
    class: Class,
    caller: u64,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.load.queue().leave(self.class, self.caller, self.number);
    }
}

/// A call's place, for as long as it is worked on.
#[derive(Debug)]
pub(crate) struct Place {
    load: Arc<Load>,
    class: Class,
    caller: u64,
    begun: Instant,
}

impl Drop for Place {
    fn drop(&mut self) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.begun);
        self.load.queue().end(self.class, self.caller, took, now);
        self.load.pass_on();
    }
}

#[cfg(test)]
mod tests;
