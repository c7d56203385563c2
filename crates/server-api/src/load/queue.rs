//! Who is served next: a state machine that is told the time.
//!
//! Each class has a bound on calls at work and a queue with a bound of its own; all classes share
//! a bound on what is at work at once. A place that becomes free goes to a class by weight, within
//! it to the callers in turn, and no caller has more than half of a class.
//!
//! Who asks is refused when there is no hope, by how long calls usually are at work; who waits, when
//! its turn comes and it is too late, by how long they were lately. So a machine that is kept busy
//! by others for a moment turns nobody away, and does nothing in vain.

mod turns;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use self::turns::Turns;

use super::{Class, ClassLimits, LoadLimits};

/// Of a new measurement, what goes into the running mean of how long a call is at work.
const SHARE_OF_NEW: f64 = 0.05;
/// The expectation of how long a call is at work falls as fast as what is measured, but doubles at
/// most in this time: a machine that somebody else keeps busy for a moment is no slow server.
const DOUBLES_IN: Duration = Duration::from_secs(10);
/// The most that goes by between two measurements, for that.
const STEP: Duration = Duration::from_secs(1);
/// How many times as long as calls are at work lately there has to be left for one that begins.
const LEFT: f64 = 2.0;
/// The shortest and the longest wait that a refused caller is told, before it is spread.
const SHORTEST_HINT: Duration = Duration::from_secs(1);
const LONGEST_HINT: Duration = Duration::from_secs(60);

/// What becomes of a call that asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked<W> {
    /// It has a place.
    Go,
    /// It waits, by this number. If there was no room, another call had to give way for it, which
    /// is to come again after that time.
    Wait(u64, Option<(W, Duration)>),
    /// It is refused, and is to come again after this time.
    Refused(Duration),
}

/// What becomes of a call that waited.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next<W> {
    pub(super) class: Class,
    pub(super) caller: u64,
    pub(super) waiter: W,
    pub(super) lot: Lot,
}

/// The lot of a call whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lot {
    /// It has a place.
    Begun,
    /// It would not be done in time, and is to come again after this time.
    Late(Duration),
}

/// The places and the queues. Callers are numbers; what waits is a `W`, which is given back.
#[derive(Debug)]
pub(super) struct Queue<W> {
    at_once: usize,
    at_work: usize,
    asked: u64,
    lines: [Line<W>; Class::ALL.len()],
}

#[derive(Debug)]
struct Line<W> {
    class: Class,
    limits: ClassLimits,
    at_work: usize,
    waiting: usize,
    /// What the class has saved up for its next turn.
    credit: i64,
    callers: HashMap<u64, Caller<W>>,
    /// The callers that wait and may have a place, in the order of their turns.
    turns: Turns,
    /// The caller that had to give way last: a flood is looked for where it was.
    flood: Option<u64>,
    /// How long a call was at work lately, in seconds.
    mean: f64,
    /// How long one is expected to be: `mean`, but without haste to grow.
    usual: f64,
    /// When that was last measured.
    measured: Option<Instant>,
    /// Until when refused callers were told to stay away.
    promised: Option<Instant>,
}

#[derive(Debug)]
struct Caller<W> {
    at_work: usize,
    waiting: VecDeque<Waiting<W>>,
}

/// A call that waits.
#[derive(Debug)]
struct Waiting<W> {
    number: u64,
    /// When it has to be done.
    until: Instant,
    waiter: W,
}

impl<W> Queue<W> {
    pub(super) fn new(limits: &LoadLimits) -> Self {
        let lines = Class::ALL.map(|class| Line::new(class, limits.class(class)));
        Self { at_once: limits.at_once.max(1), at_work: 0, asked: 0, lines }
    }

    /// A call asks for a place; it has to be done after `patience`. `dice` in `0.0..1.0` spreads
    /// those who are told to come again. A `waiter` is made for one that waits.
    pub(super) fn ask(
        &mut self,
        class: Class,
        caller: u64,
        patience: Duration,
        dice: f64,
        now: Instant,
        waiter: impl FnOnce() -> W,
    ) -> Asked<W> {
        if let Some(wait) = self.refuses(class, caller, patience, dice, now) {
            return Asked::Refused(wait);
        }
        let goes = self.goes(class, caller);
        let line = &mut self.lines[class as usize];
        if goes {
            line.begin(caller);
            self.at_work += 1;
            return Asked::Go;
        }
        let mut gives_way = None;
        if line.waiting >= line.limits.waiting {
            let Some(evicted) = line.evict_for(caller) else {
                return Asked::Refused(line.appointment(caller, dice, now));
            };
            gives_way = Some((evicted.1, line.appointment(evicted.0, dice, now)));
        }
        self.asked += 1;
        let (number, waiter) = (self.asked, waiter());
        line.push(caller, Waiting { number, until: now + patience, waiter });
        Asked::Wait(number, gives_way)
    }

    /// Whether a call that asks would be refused for want of time: after how long it is to come
    /// again.
    pub(super) fn refuses(
        &mut self,
        class: Class,
        caller: u64,
        patience: Duration,
        dice: f64,
        now: Instant,
    ) -> Option<Duration> {
        // One without patience has gone.
        if self.goes(class, caller) && !patience.is_zero() {
            return None;
        }
        let line = &mut self.lines[class as usize];
        (patience.is_zero() || line.expected(caller) > patience)
            .then(|| line.appointment(caller, dice, now))
    }

    /// Whether a call that asks has a place at once.
    fn goes(&self, class: Class, caller: u64) -> bool {
        let line = &self.lines[class as usize];
        // Those whose caller has all its places wait without a turn.
        self.at_work < self.at_once && line.turns.is_empty() && line.has_room_for(caller)
    }

    /// A call goes on with its work, whatever the bounds say.
    pub(super) fn begin(&mut self, class: Class, caller: u64) {
        self.at_work += 1;
        self.lines[class as usize].begin(caller);
    }

    /// A call waits no longer. Gives it back unless it has a place already, or gave way.
    pub(super) fn leave(&mut self, class: Class, caller: u64, number: u64) -> Option<W> {
        self.lines[class as usize].leave(caller, number)
    }

    /// When a call that waited in vain is to come again.
    pub(super) fn appointment(
        &mut self,
        class: Class,
        caller: u64,
        dice: f64,
        now: Instant,
    ) -> Duration {
        self.lines[class as usize].appointment(caller, dice, now)
    }

    /// A call is over, after having been at work for `took`.
    pub(super) fn end(&mut self, class: Class, caller: u64, took: Duration, now: Instant) {
        self.at_work -= 1;
        let line = &mut self.lines[class as usize];
        line.measure(took, now);
        line.end(caller);
    }

    /// Gives a free place to the next call that waits, or refuses it since it would be late; to be
    /// asked until there is none.
    pub(super) fn next(&mut self, dice: f64, now: Instant) -> Option<Next<W>> {
        if self.at_work >= self.at_once {
            return None;
        }
        let ready = || self.lines.iter().enumerate().filter(|(_, line)| line.is_ready());
        let (best, _) = ready().max_by_key(|(_, line)| line.credit + line.class.weight())?;
        let weights: i64 = ready().map(|(_, line)| line.class.weight()).sum();
        if let Some(late) = self.lines[best].next_if_late(dice, now) {
            return Some(late);
        }
        for line in self.lines.iter_mut().filter(|line| line.is_ready()) {
            line.credit += line.class.weight();
        }
        let line = &mut self.lines[best];
        line.credit -= weights;
        let begun = line.next()?;
        self.at_work += 1;
        Some(begun)
    }

    /// How many calls of a class are at work, and how many wait.
    pub(super) fn counts(&self, class: Class) -> (usize, usize) {
        let line = &self.lines[class as usize];
        (line.at_work, line.waiting)
    }
}

impl<W> Line<W> {
    fn new(class: Class, limits: ClassLimits) -> Self {
        let limits = ClassLimits { at_once: limits.at_once.max(1), ..limits };
        Self {
            class,
            limits,
            at_work: 0,
            waiting: 0,
            credit: 0,
            callers: HashMap::new(),
            turns: Turns::default(),
            flood: None,
            mean: 0.0,
            usual: 0.0,
            measured: None,
            promised: None,
        }
    }

    /// Whether somebody waits who may have a place of the class.
    fn is_ready(&self) -> bool {
        self.at_work < self.limits.at_once && !self.turns.is_empty()
    }

    /// Places of one caller.
    fn share(&self) -> usize {
        self.limits.at_once.div_ceil(2)
    }

    fn has_room_for(&self, caller: u64) -> bool {
        let own = self.callers.get(&caller).map_or(0, |caller| caller.at_work);
        self.at_work < self.limits.at_once && own < self.share()
    }

    fn caller(&mut self, caller: u64) -> &mut Caller<W> {
        self.callers
            .entry(caller)
            .or_insert_with(|| Caller { at_work: 0, waiting: VecDeque::new() })
    }

    fn begin(&mut self, caller: u64) {
        self.at_work += 1;
        self.caller(caller).at_work += 1;
    }

    fn push(&mut self, caller: u64, call: Waiting<W>) {
        let share = self.share();
        self.waiting += 1;
        let entry = self.caller(caller);
        entry.waiting.push_back(call);
        if entry.waiting.len() == 1 && entry.at_work < share {
            self.turns.add(caller);
        }
    }

    /// Takes the next call out; its caller has had its turn.
    fn pop(&mut self) -> Option<(u64, Waiting<W>)> {
        let caller = self.turns.pop()?;
        let call = self.callers.get_mut(&caller)?.waiting.pop_front()?;
        self.waiting -= 1;
        Some((caller, call))
    }

    /// Takes the next call out if it would not be done in time.
    fn next_if_late(&mut self, dice: f64, now: Instant) -> Option<Next<W>> {
        let next = self.callers.get(&self.turns.peek()?)?.waiting.front()?;
        if now + seconds(self.mean * LEFT) <= next.until {
            return None;
        }
        let (caller, call) = self.pop()?;
        self.again(caller);
        let lot = Lot::Late(self.appointment(caller, dice, now));
        Some(Next { class: self.class, caller, waiter: call.waiter, lot })
    }

    fn next(&mut self) -> Option<Next<W>> {
        let (caller, call) = self.pop()?;
        self.begin(caller);
        self.again(caller);
        Some(Next { class: self.class, caller, waiter: call.waiter, lot: Lot::Begun })
    }

    /// A caller had its turn: it has another one if it wants one and may have it.
    fn again(&mut self, caller: u64) {
        let share = self.share();
        let Some(entry) = self.callers.get(&caller) else { return };
        if !entry.waiting.is_empty() && entry.at_work < share {
            self.turns.add_again(caller);
        } else if entry.waiting.is_empty() && entry.at_work == 0 {
            self.callers.remove(&caller);
        }
    }

    fn measure(&mut self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        let part = if self.measured.is_none() { 1.0 } else { SHARE_OF_NEW };
        self.mean += part * (took - self.mean);
        self.usual = match self.measured {
            Some(last) => {
                let step = now.saturating_duration_since(last).min(STEP);
                let grown = (step.as_secs_f64() / DOUBLES_IN.as_secs_f64()).exp2();
                self.mean.min((self.usual * grown).max(LEAST))
            }
            None => self.mean,
        };
        self.measured = Some(now);
    }

    fn end(&mut self, caller: u64) {
        let share = self.share();
        self.at_work -= 1;
        if self.waiting == 0 {
            self.turns.forget();
        }
        let Some(entry) = self.callers.get_mut(&caller) else { return };
        entry.at_work -= 1;
        if !entry.waiting.is_empty() {
            // It had all its places, and so no turn.
            if entry.at_work + 1 == share {
                self.turns.add_again(caller);
            }
        } else if entry.at_work == 0 {
            self.callers.remove(&caller);
        }
    }

    fn leave(&mut self, caller: u64, number: u64) -> Option<W> {
        let entry = self.callers.get_mut(&caller)?;
        let place = entry.waiting.iter().position(|waiting| waiting.number == number)?;
        let call = entry.waiting.remove(place)?;
        self.took_out(caller);
        Some(call.waiter)
    }

    /// One call less waits.
    fn took_out(&mut self, caller: u64) {
        self.waiting -= 1;
        let Some(entry) = self.callers.get(&caller) else { return };
        if entry.waiting.is_empty() {
            let idle = entry.at_work == 0;
            self.turns.remove(caller);
            if idle {
                self.callers.remove(&caller);
            }
        }
    }

    /// Makes room for a call of `caller` by the latest one of whoever has more waiting; none if
    /// nobody has.
    fn evict_for(&mut self, caller: u64) -> Option<(u64, W)> {
        let length = |id: u64| self.callers.get(&id).map_or(0, |caller| caller.waiting.len());
        let own = length(caller);
        let longer = |id: &u64| length(*id) > own + 1;
        let flood = self.flood.filter(longer).or_else(|| {
            let longest = self.callers.iter().max_by_key(|(_, caller)| caller.waiting.len());
            longest.map(|(id, _)| *id).filter(longer)
        })?;
        self.flood = Some(flood);
        let call = self.callers.get_mut(&flood)?.waiting.pop_back()?;
        self.took_out(flood);
        Some((flood, call.waiter))
    }

    /// Seconds between two calls that end, while all places are taken.
    fn pace(&self) -> f64 {
        self.usual / self.limits.at_once as f64
    }

    /// How long a call of this caller would wait for a place and be at work.
    fn expected(&self, caller: u64) -> Duration {
        let own = self.callers.get(&caller).map_or(0, |caller| caller.waiting.len());
        let ahead = self.turns.ahead(caller, own);
        seconds(self.pace() * ahead.min(self.waiting as f64) + self.usual)
    }

    /// When a refused caller is to come again: after those that wait, and those that were refused
    /// before it, each in the time that one call takes, so that they come as fast as they can be
    /// served. One that has other calls here is only in its own way, and puts off nobody else.
    fn appointment(&mut self, caller: u64, dice: f64, now: Instant) -> Duration {
        let after_queue = now + seconds(self.pace() * self.waiting as f64);
        let at = if self.callers.contains_key(&caller) {
            after_queue.min(now + LONGEST_HINT)
        } else {
            let last = self.promised.unwrap_or(now).max(after_queue);
            let at = (last + seconds(self.pace())).min(now + LONGEST_HINT);
            self.promised = Some(at);
            at
        };
        let wait = at.saturating_duration_since(now).max(SHORTEST_HINT);
        wait.mul_f64(0.5 + dice.clamp(0.0, 1.0))
    }
}

/// What a call is expected to take at least, in seconds: less is not told from nothing.
const LEAST: f64 = 1e-6;

/// As a duration that can be added to a time.
fn seconds(amount: f64) -> Duration {
    Duration::from_secs_f64(amount.clamp(0.0, 1e6))
}

#[cfg(test)]
mod tests;
