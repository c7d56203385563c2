//! The loads, one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::tally::Outcome;
use super::{Caller, Counts, EACH, PATIENCE, Tally};
use crate::error::{Error, Result};
use crate::scenario::fully;

/// How many calls may be under way at once: what the load generator has memory for.
const UNDER_WAY: usize = 40_000;
/// How often calls are begun that are due.
const TICK: Duration = Duration::from_millis(2);
/// How often each polite caller wants something.
const WANTS: Duration = Duration::from_secs(1);
/// What a caller waits that was refused and not told for how long: as SPIRE's agents.
const PAUSE: Duration = Duration::from_secs(5);
/// How many calls have to take no longer than usual before all is as before.
const IN_A_ROW: usize = 5;
/// How much longer than usual is nothing unusual: what a busy machine does.
const USUAL: f64 = 2.0;

impl Caller {
    /// Has its first `count` entries signed.
    ///
    /// # Errors
    /// When the answer is wrong.
    pub async fn sign(&self, count: usize, fully: bool) -> Result<Outcome<()>> {
        self.agent.try_sign(&self.entries[..count], &self.keys, fully, PATIENCE).await
    }
}

/// What the server does for a few callers, each with its next call when the last one is answered.
///
/// # Errors
/// When an answer is wrong.
pub async fn carried(callers: &[Caller], load: Duration, every: u64) -> Result<Counts> {
    let tally = Arc::<Tally>::default();
    let end = Instant::now() + load;
    let mut tasks = JoinSet::new();
    for caller in callers {
        let caller = caller.clone();
        let tally = Arc::clone(&tally);
        tasks.spawn(async move {
            let mut number = 0;
            while Instant::now() < end {
                let begun = Instant::now();
                tally.add(caller.sign(EACH, fully(number, every)).await, begun, end);
                number += 1;
            }
        });
    }
    done(tasks).await;
    tally.counts(load)
}

/// `rate` calls a second, whatever becomes of them.
///
/// # Errors
/// When an answer is wrong.
pub async fn rude(
    callers: &Arc<[Caller]>,
    rate: f64,
    load: Duration,
    every: u64,
) -> Result<Counts> {
    let tally = Arc::<Tally>::default();
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    let begun = Instant::now();
    let end = begun + load;
    let mut tick = tokio::time::interval(TICK);
    let mut number = 0_u64;
    while Instant::now() < end && !tally.is_wrong() {
        tick.tick().await;
        let due = (begun.elapsed().min(load).as_secs_f64() * rate) as u64;
        for number in number..due {
            // What there is no room for is not offered.
            let Ok(room) = Arc::clone(&room).try_acquire_owned() else { break };
            let (callers, tally) = (Arc::clone(callers), Arc::clone(&tally));
            tokio::spawn(async move {
                let caller = &callers[number as usize % callers.len()];
                let begun = Instant::now();
                tally.add(caller.sign(EACH, fully(number, every)).await, begun, end);
                drop(room);
            });
        }
        number = due;
    }
    // All of them end: none waits for longer than it is patient.
    let all = u32::try_from(UNDER_WAY).unwrap_or(u32::MAX);
    let _all = room.acquire_many(all).await;
    tally.counts(load)
}

/// Callers that want `rate` calls a second together, and come again when they are told to.
///
/// # Errors
/// When an answer is wrong.
pub async fn polite(
    callers: &Arc<[Caller]>,
    rate: f64,
    load: Duration,
    every: u64,
) -> Result<Counts> {
    let tally = Arc::<Tally>::default();
    let count = ((rate * WANTS.as_secs_f64()) as usize).clamp(1, UNDER_WAY);
    let twice = Arc::<AtomicUsize>::default();
    let end = Instant::now() + load;
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let (tally, twice) = (Arc::clone(&tally), Arc::clone(&twice));
        let caller = callers[number % callers.len()].clone();
        tasks.spawn(async move {
            tokio::time::sleep(WANTS.mul_f64(number as f64 / count as f64)).await;
            let (mut calls, mut refusals) = (number as u64, 0);
            while Instant::now() < end {
                let begun = Instant::now();
                let outcome = caller.sign(EACH, fully(calls, every)).await;
                let pause = match &outcome {
                    Ok(Outcome::Answered(())) => WANTS.saturating_sub(begun.elapsed()),
                    Ok(Outcome::Refused(Some(hint))) => *hint,
                    _ => PAUSE,
                };
                refusals = match &outcome {
                    Ok(Outcome::Answered(())) => 0,
                    _ => refusals + 1,
                };
                if refusals == 2 {
                    twice.fetch_add(1, Ordering::Relaxed);
                }
                tally.add(outcome, begun, end);
                calls += 1;
                let left = end.saturating_duration_since(Instant::now());
                tokio::time::sleep(pause.min(left)).await;
            }
        });
    }
    done(tasks).await;
    let twice = twice.load(Ordering::Relaxed) as f64 / count as f64 * 100.0;
    Ok(Counts { twice, ..tally.counts(load)? })
}

/// Seconds until `caller` is answered as fast as usual, a few times in a row, and no more than
/// `limit`; `usual` is in ms.
///
/// # Errors
/// When its connection was lost each time until `limit`, or an answer is wrong.
pub async fn back(caller: &Caller, usual: f64, limit: Duration) -> Result<f64> {
    let begun = Instant::now();
    let mut since = begun;
    let (mut in_a_row, mut is_there) = (0, false);
    while in_a_row < IN_A_ROW {
        if begun.elapsed() > limit {
            let what = format!("nobody there within {limit:?} of the end of the load");
            let wrong = Error::Wrong { call: super::SIGN, what };
            return if is_there { Ok(limit.as_secs_f64()) } else { Err(wrong) };
        }
        let called = Instant::now();
        let outcome = caller.sign(EACH, true).await?;
        let took = called.elapsed().as_secs_f64() * 1e3;
        is_there |= outcome != Outcome::Lost;
        if outcome == Outcome::Answered(()) && took <= usual * USUAL {
            in_a_row += 1;
        } else {
            (in_a_row, since) = (0, Instant::now());
        }
    }
    Ok((since - begun).as_secs_f64())
}

async fn done(mut tasks: JoinSet<()>) {
    while let Some(done) = tasks.join_next().await {
        done.expect("a caller does not panic");
    }
}
