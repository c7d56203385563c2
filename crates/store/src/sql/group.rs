//! Group commit on SQLite, where one transaction writes at a time: those who wait for their turn
//! share the next one, and with it one sync of the disk.
//!
//! Nobody is answered before the commit that his work is part of. They share in good faith,
//! without savepoints: a work that fails before it changed anything is simply left out; if one
//! fails after that, all is taken back, and each is done in a transaction of its own.
//!
//! A task does the work, so that no caller who goes away takes others' work with him.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::oneshot;

use super::admit::{self, Admission, Admitted, Renewal};
use super::create::{self, Made};
use super::dialect::Dialect;
use super::tx::{Failed, Tx};
use super::{Attempts, IfMade, SqlStore};
use crate::error::StoreError;
use crate::model::NewEntry;

/// So many calls share a transaction at most; a reader of the feed wants to see some of it.
const MOST_JOBS: usize = 128;
/// And of entries to be made so many, but for those of a single call.
const MOST_ENTRIES: usize = 512;

/// What is done in a transaction.
pub(super) type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Those who wait for the writer.
#[derive(Default)]
pub(super) struct Group {
    queue: Mutex<Queue>,
    store: OnceLock<Weak<SqlStore>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    /// A task is at work on it.
    led: bool,
}

impl Group {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the lead back from a task that ended before its time (a panic, the end of the runtime):
/// whoever waits is told, and the next one begins anew.
struct Lead<'a>(&'a Group);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.led = false;
        queue.waiting.clear();
    }
}

enum Job {
    /// Entries to be made, which go into the same statements as others'.
    Create(Create),
    /// An attestation to be recorded, likewise.
    Admit(Box<One<Admission, Admitted>>),
    /// A renewal to be recorded, likewise; whether there is such an agent.
    Renew(One<Renewal, bool>),
    Work(Box<dyn Work>),
}

struct Create {
    new: Vec<NewEntry>,
    made: Vec<Made>,
    tell: oneshot::Sender<Vec<Made>>,
}

/// One of a kind that goes into statements with others.
struct One<W, T> {
    wanted: W,
    done: Option<T>,
    tell: oneshot::Sender<Result<T, StoreError>>,
}

impl<W, T> One<W, T> {
    fn answer(self, outcome: Result<(), StoreError>) {
        // Who is gone needs no answer.
        let _ = self.tell.send(outcome.and_then(|()| self.done.ok_or_else(closed)));
    }
}

trait Work: Send {
    /// Does it; can be done again in another transaction if the first was taken back.
    fn run<'a>(&'a mut self, tx: &'a Tx) -> Doing<'a, ()>;
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
    fn is_wanted(&self) -> bool;
}

struct Call<T, F> {
    work: F,
    done: Option<T>,
    tell: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Work for Call<T, F>
where
    T: Send,
    F: for<'a> Fn(&'a Tx) -> Doing<'a, T> + Send,
{
    fn run<'a>(&'a mut self, tx: &'a Tx) -> Doing<'a, ()> {
        let doing = (self.work)(tx);
        Box::pin(async {
            self.done = Some(doing.await?);
            Ok(())
        })
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { done, tell, .. } = *self;
        // Who is gone needs no answer.
        let _ = tell.send(outcome.and_then(|()| done.ok_or_else(closed)));
    }

    fn is_wanted(&self) -> bool {
        !self.tell.is_closed()
    }
}

impl Job {
    fn is_wanted(&self) -> bool {
        match self {
            Self::Create(create) => !create.tell.is_closed(),
            Self::Admit(one) => !one.tell.is_closed(),
            Self::Renew(one) => !one.tell.is_closed(),
            Self::Work(work) => work.is_wanted(),
        }
    }

    fn entries(&self) -> usize {
        match self {
            Self::Create(create) => create.new.len(),
            Self::Admit(_) | Self::Renew(_) | Self::Work(_) => 0,
        }
    }

    fn refuse(self, error: &StoreError) {
        match self {
            Self::Create(create) => {
                let made = create.new.iter().map(|_| Err(error.clone())).collect();
                let _ = create.tell.send(made);
            }
            Self::Admit(one) => one.answer(Err(error.clone())),
            Self::Renew(one) => one.answer(Err(error.clone())),
            Self::Work(work) => work.answer(Err(error.clone())),
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("datastore-sql: the connection to the database is closed".into())
}

impl SqlStore {
    /// The store, in which writers may wait for each other.
    pub(crate) fn shared(self) -> Arc<Self> {
        let store = Arc::new(self);
        let _ = store.group.store.set(Arc::downgrade(&store));
        store
    }

    /// Whether those who write share transactions.
    pub(super) fn groups(&self) -> bool {
        matches!(self.dialect, Dialect::Sqlite { .. }) && self.group.store.get().is_some()
    }

    /// Does the work in a transaction that others may share.
    pub(super) async fn together<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> Fn(&'a Tx) -> Doing<'a, T> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        self.enqueue(Job::Work(Box::new(Call { work, done: None, tell })));
        told.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Makes entries in a transaction that others may share.
    pub(super) async fn create_together(&self, new: Vec<NewEntry>) -> Vec<Made> {
        let count = new.len();
        let (tell, told) = oneshot::channel();
        self.enqueue(Job::Create(Create { new, made: Vec::new(), tell }));
        told.await.unwrap_or_else(|_| (0..count).map(|_| Err(closed())).collect())
    }

    /// Records an attestation in a transaction that others may share.
    pub(super) async fn admit_together(&self, wanted: Admission) -> Result<Admitted, StoreError> {
        let (tell, told) = oneshot::channel();
        self.enqueue(Job::Admit(Box::new(One { wanted, done: None, tell })));
        told.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Records a renewal in a transaction that others may share.
    pub(super) async fn renew_together(&self, wanted: Renewal) -> Result<bool, StoreError> {
        let (tell, told) = oneshot::channel();
        self.enqueue(Job::Renew(One { wanted, done: None, tell }));
        told.await.unwrap_or_else(|_| Err(closed()))
    }

    fn enqueue(&self, job: Job) {
        let mut queue = self.group.queue();
        queue.waiting.push_back(job);
        let led = std::mem::replace(&mut queue.led, true);
        drop(queue);
        if led {
            return;
        }
        match self.group.store.get().and_then(Weak::upgrade) {
            Some(store) => {
                self.tasks.spawn("sql_writer", async move { store.lead().await });
            }
            None => drop(Lead(&self.group)),
        }
    }

    async fn lead(&self) {
        let lead = Lead(&self.group);
        loop {
            self.share_one().await;
            let mut queue = self.group.queue();
            if queue.waiting.is_empty() {
                queue.led = false;
                drop(queue);
                // Another may lead already.
                std::mem::forget(lead);
                return;
            }
        }
    }

    /// One transaction for those who wait.
    async fn share_one(&self) {
        let waited = self.group.queue().waiting.len();
        let tx = match self.write().await {
            Ok(tx) => tx,
            Err(error) => {
                // Those who came meanwhile have not waited for long.
                let refused: Vec<Job> = self.group.queue().waiting.drain(..waited).collect();
                refused.into_iter().for_each(|job| job.refuse(&error));
                return;
            }
        };
        let mut jobs = self.next_jobs();
        let (outcomes, done) = match run_all(&tx, &mut jobs).await {
            Ok(outcomes) => (outcomes, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        let committed = match self.end(tx, done).await {
            Ok(()) => Ok(()),
            Err(Failed::Unknown(error)) => Err(error),
            Err(Failed::TakenBack(error, _)) => {
                let shared = jobs.len() > 1;
                for job in jobs {
                    if shared {
                        self.alone(job).await;
                    } else {
                        self.was_alone(job, error.clone()).await;
                    }
                }
                return;
            }
        };
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            answer(job, outcome, &committed);
        }
    }

    fn next_jobs(&self) -> Vec<Job> {
        let mut queue = self.group.queue();
        let mut jobs = Vec::new();
        let mut entries = 0;
        while let Some(job) = queue.waiting.front() {
            entries += job.entries();
            if jobs.len() >= MOST_JOBS || (entries > MOST_ENTRIES && !jobs.is_empty()) {
                break;
            }
            jobs.extend(queue.waiting.pop_front().filter(Job::is_wanted));
        }
        jobs
    }

    /// What failed with nobody beside it.
    async fn was_alone(&self, job: Job, error: StoreError) {
        match job {
            Job::Create(Create { new, tell, .. }) if !is_final(&error, new.len()) => {
                let _ = tell.send(self.create_one_by_one(new).await);
            }
            job => job.refuse(&error),
        }
    }

    /// What did not go together.
    async fn alone(&self, job: Job) {
        match job {
            Job::Create(Create { new, tell, .. }) => {
                let _ = tell.send(self.create_alone(new).await);
            }
            job => {
                let mut jobs = [job];
                let outcome = self.alone_in_one(&mut jobs).await;
                let [job] = jobs;
                answer(job, outcome, &Ok(()));
            }
        }
    }

    async fn alone_in_one(&self, job: &mut [Job; 1]) -> Result<(), StoreError> {
        let mut attempts = Attempts::new(IfMade::Refuse);
        loop {
            let tx = self.write().await?;
            let done = run_all(&tx, job).await.and_then(|outcomes| outcomes.into_iter().collect());
            let (done, retry) = self.finish(tx, done).await;
            if done.is_ok() || !attempts.go_on(retry).await {
                return done;
            }
        }
    }

    /// Makes entries in one transaction if that can be, else in one each.
    pub(super) async fn create_alone(&self, new: Vec<NewEntry>) -> Vec<Made> {
        if new.len() == 1 {
            return self.create_one_by_one(new).await;
        }
        let in_one = self.within(async {
            let mut attempts = Attempts::new(IfMade::Refuse);
            loop {
                let tx = self.write().await?;
                let done = create::create_many(&tx, new.clone()).await;
                let (done, retry) = self.finish(tx, done).await;
                if done.is_ok() || !attempts.go_on(retry).await {
                    return done;
                }
            }
        });
        match in_one.await {
            Ok(made) => made,
            Err(error) if is_final(&error, new.len()) => {
                new.iter().map(|_| Err(error.clone())).collect()
            }
            Err(_) => self.create_one_by_one(new).await,
        }
    }

    /// Makes each entry in a transaction of its own.
    async fn create_one_by_one(&self, new: Vec<NewEntry>) -> Vec<Made> {
        let mut made = Vec::with_capacity(new.len());
        let mut away = None;
        for new in new {
            made.push(match &away {
                Some(error) => Err(StoreError::clone(error)),
                None => self.within(self.create_one(new, &mut away)).await,
            });
        }
        made
    }

    /// Makes an entry; `away` is set if not even a transaction could be begun.
    async fn create_one(&self, new: NewEntry, away: &mut Option<StoreError>) -> Made {
        let mut attempts = Attempts::new(IfMade::LookAgain);
        loop {
            let tx = self.write().await.inspect_err(|error| *away = Some(error.clone()))?;
            let done = create::create_or_return_similar(&tx, new.clone()).await;
            let (done, retry) = self.finish(tx, done).await;
            if done.is_ok() || !attempts.go_on(retry).await {
                return done;
            }
        }
    }
}

/// Whether trying one by one is of no use: the database is away, or there is only one.
pub(super) fn is_final(error: &StoreError, count: usize) -> bool {
    count == 1 || matches!(error, StoreError::Unavailable(_))
}

/// Does what jobs ask for, and answers what came of each.
///
/// # Errors
/// When one failed that had changed something, or the database did.
async fn run_all(tx: &Tx, jobs: &mut [Job]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
    let mut outcomes = Vec::with_capacity(jobs.len());
    let all: Vec<NewEntry> = jobs
        .iter()
        .filter_map(|job| match job {
            Job::Create(create) => Some(create.new.iter().cloned()),
            Job::Admit(_) | Job::Renew(_) | Job::Work(_) => None,
        })
        .flatten()
        .collect();
    let mut made = if all.is_empty() { Vec::new() } else { create::create_many(tx, all).await? };
    admit_all(tx, jobs).await?;
    renew_all(tx, jobs).await?;
    for job in jobs {
        outcomes.push(match job {
            Job::Create(create) => {
                let rest = made.split_off(create.new.len().min(made.len()));
                create.made = std::mem::replace(&mut made, rest);
                Ok(())
            }
            Job::Admit(_) | Job::Renew(_) => Ok(()),
            Job::Work(work) => {
                let before = tx.progress();
                match work.run(tx).await {
                    Err(error) if tx.progress() != before => return Err(error),
                    outcome => outcome,
                }
            }
        });
    }
    Ok(outcomes)
}

async fn admit_all(tx: &Tx, jobs: &mut [Job]) -> Result<(), StoreError> {
    let all: Vec<&mut One<_, _>> = jobs
        .iter_mut()
        .filter_map(|job| if let Job::Admit(one) = job { Some(&mut **one) } else { None })
        .collect();
    let wanted = all.iter().map(|one| one.wanted.clone()).collect();
    let admitted = admit::admit_many(tx, wanted).await?;
    all.into_iter().zip(admitted).for_each(|(one, admitted)| one.done = Some(admitted));
    Ok(())
}

async fn renew_all(tx: &Tx, jobs: &mut [Job]) -> Result<(), StoreError> {
    let all: Vec<&mut One<_, _>> = jobs
        .iter_mut()
        .filter_map(|job| if let Job::Renew(one) = job { Some(one) } else { None })
        .collect();
    let wanted: Vec<Renewal> = all.iter().map(|one| one.wanted.clone()).collect();
    let renewed = admit::renew_many(tx, &wanted).await?;
    all.into_iter().zip(renewed).for_each(|(one, renewed)| one.done = Some(renewed));
    Ok(())
}

fn answer(job: Job, outcome: Result<(), StoreError>, committed: &Result<(), StoreError>) {
    match job {
        Job::Create(Create { made, tell, .. }) => {
            let told = made.into_iter().map(|made| match committed {
                Ok(()) => made,
                Err(error) => made.and(Err(error.clone())),
            });
            let _ = tell.send(told.collect());
        }
        Job::Admit(one) => one.answer(outcome.and(committed.clone())),
        Job::Renew(one) => one.answer(outcome.and(committed.clone())),
        Job::Work(work) => work.answer(outcome.and(committed.clone())),
    }
}
