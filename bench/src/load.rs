//! Closed loops: so many callers, each sending its next call when the last one is answered.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

use crate::deployment::Deployment;
use crate::error::{Error, Result};
use crate::machine::Busy;
use crate::server::Server;

/// The longest that one call may take.
const CALL: Duration = Duration::from_secs(180);
/// How long after the last call what it left to do is still counted.
const SETTLE: Duration = Duration::from_millis(100);

/// Numbers the calls, until there were enough or the time is over.
pub struct Gate {
    end: Instant,
    most: u64,
    begun: AtomicU64,
}

impl Gate {
    pub fn new(time: Duration, most: u64) -> Arc<Self> {
        Arc::new(Self { end: Instant::now() + time, most, begun: AtomicU64::new(0) })
    }

    /// The number of the next call; `None` when there is to be none. There is a first one even if
    /// it comes too late.
    pub fn next(&self) -> Option<u64> {
        if Instant::now() >= self.end && self.begun.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        (number < self.most).then_some(number)
    }
}

/// What a load took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub calls: u64,
    pub wall: Duration,
    pub server: Duration,
    pub agent: Duration,
    /// Of the load generator.
    pub own: Duration,
    /// Of whatever else runs on the machine.
    pub foreign: Duration,
    /// Taken by the hypervisor.
    pub stolen: Duration,
}

impl Spent {
    pub fn per_second(&self) -> f64 {
        self.calls as f64 / self.wall.as_secs_f64()
    }

    /// µs per call.
    pub fn per_call(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / self.calls.max(1) as f64
    }
}

/// What a load is put on: a server, perhaps with an agent.
pub trait Programs {
    /// CPU time of the server so far.
    ///
    /// # Errors
    /// When it is gone.
    fn server_cpu(&self) -> Result<Duration>;
    /// CPU time of the agent so far; zero if there is none.
    ///
    /// # Errors
    /// When it is gone.
    fn agent_cpu(&self) -> Result<Duration>;
}

impl Programs for Deployment {
    fn server_cpu(&self) -> Result<Duration> {
        self.server.cpu()
    }

    fn agent_cpu(&self) -> Result<Duration> {
        self.agent.cpu()
    }
}

impl Programs for Server {
    fn server_cpu(&self) -> Result<Duration> {
        self.cpu()
    }

    fn agent_cpu(&self) -> Result<Duration> {
        Ok(Duration::ZERO)
    }
}

/// The clocks at one moment.
pub struct Clocks {
    wall: Instant,
    server: Duration,
    agent: Duration,
    own: Duration,
    busy: Busy,
}

impl Clocks {
    /// # Errors
    /// When one of the processes is gone.
    pub fn read(programs: &impl Programs) -> Result<Self> {
        let own = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID);
        let own = own.map_err(|error| Error::io("own CPU time")(error.into()))?;
        Ok(Self {
            wall: Instant::now(),
            server: programs.server_cpu()?,
            agent: programs.agent_cpu()?,
            own: own.into(),
            busy: Busy::now()?,
        })
    }

    /// What was spent from then to now on `calls`.
    ///
    /// # Errors
    /// When one of the processes is gone.
    pub fn spent(&self, programs: &impl Programs, calls: u64) -> Result<Spent> {
        let now = Self::read(programs)?;
        let mut spent = Spent {
            calls,
            wall: now.wall - self.wall,
            server: now.server - self.server,
            agent: now.agent - self.agent,
            own: now.own - self.own,
            foreign: Duration::ZERO,
            stolen: now.busy.stolen.saturating_sub(self.busy.stolen),
        };
        let known = spent.server + spent.agent + spent.own;
        spent.foreign = now.busy.used.saturating_sub(self.busy.used).saturating_sub(known);
        Ok(spent)
    }
}

/// Lets every one of `callers` work through the gate at once, and says what that took. `work` gets
/// its caller and the gate, and returns how many calls it made.
///
/// # Errors
/// The first that a caller had; the others are stopped.
pub async fn drive<C, F, Fut>(
    programs: &impl Programs,
    callers: Vec<C>,
    gate: Arc<Gate>,
    mut work: F,
) -> Result<Spent>
where
    F: FnMut(C, Arc<Gate>) -> Fut,
    Fut: Future<Output = Result<u64>> + Send + 'static,
{
    let clocks = Clocks::read(programs)?;
    let mut tasks = JoinSet::new();
    for caller in callers {
        tasks.spawn(work(caller, Arc::clone(&gate)));
    }
    let mut calls = 0;
    while let Some(done) = tasks.join_next().await {
        calls += done.expect("a caller does not panic")?;
    }
    let wall = clocks.wall.elapsed();
    tokio::time::sleep(SETTLE).await;
    Ok(Spent { wall, ..clocks.spent(programs, calls)? })
}

/// The answer to a call, if it comes in time.
///
/// # Errors
/// [`Error::Call`].
pub async fn answer<T>(
    call: &'static str,
    pending: impl Future<Output = std::result::Result<T, tonic::Status>>,
) -> Result<T> {
    match tokio::time::timeout(CALL, pending).await {
        Ok(answer) => answer.map_err(Error::call(call)),
        Err(_) => Err(Error::Call { call, status: format!("no answer within {CALL:?}") }),
    }
}
