//! Who is served next: a state machine that is told the time.
//!
//! Each class has a bound on calls at work and a queue with a bound of its own; all classes share
//! a bound on what is at work at once. A place that becomes free goes to a class by weight, within
//! it to the callers in turn, and no caller has more than half of a class.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Class, ClassLimits, LoadLimits};

/// Of a new measurement, what goes into the running mean of how long a call is at work.
const SHARE_OF_NEW: f64 = 0.05;
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

/// A call that waited and has a place now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Begun<W> {
    pub(super) class: Class,
    pub(super) caller: u64,
    pub(super) waiter: W,
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
    turns: VecDeque<u64>,
    /// The caller that had to give way last: a flood is looked for where it was.
    flood: Option<u64>,
    /// How long a call is at work, in seconds.
    mean: f64,
    /// Until when refused callers were told to stay away.
    promised: Option<Instant>,
}

#[derive(Debug)]
struct Caller<W> {
    at_work: usize,
    waiting: VecDeque<(u64, W)>,
}

impl<W> Queue<W> {
    pub(super) fn new(limits: &LoadLimits) -> Self {
        let lines = Class::ALL.map(|class| Line::new(class, limits.class(class)));
        Self { at_once: limits.at_once.max(1), at_work: 0, asked: 0, lines }
    }

    /// A call asks for a place; its caller stops waiting after `patience`. `dice` in `0.0..1.0`
    /// spreads those who are told to come again. A `waiter` is made for one that waits.
    pub(super) fn ask(
        &mut self,
        class: Class,
        caller: u64,
        patience: Duration,
        dice: f64,
        now: Instant,
        waiter: impl FnOnce() -> W,
    ) -> Asked<W> {
        let full = self.at_work >= self.at_once;
        let line = &mut self.lines[class as usize];
        // Those whose caller has all its places wait without a turn.
        if !full && line.turns.is_empty() && line.has_room_for(caller) {
            line.begin(caller);
            self.at_work += 1;
            return Asked::Go;
        }
        if line.expected(caller) > patience {
            return Asked::Refused(line.appointment(caller, dice, now));
        }
        let mut gives_way = None;
        if line.waiting >= line.limits.waiting {
            let Some(evicted) = line.evict_for(caller) else {
                return Asked::Refused(line.appointment(caller, dice, now));
            };
            gives_way = Some((evicted.1, line.appointment(evicted.0, dice, now)));
        }
        self.asked += 1;
        line.push(caller, self.asked, waiter());
        Asked::Wait(self.asked, gives_way)
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
    pub(super) fn end(&mut self, class: Class, caller: u64, took: Duration) {
        self.at_work -= 1;
        self.lines[class as usize].end(caller, took);
    }

    /// Gives a free place to the next call that waits; to be asked until there is none.
    pub(super) fn next(&mut self) -> Option<Begun<W>> {
        if self.at_work >= self.at_once {
            return None;
        }
        let mut weights = 0;
        for line in self.lines.iter_mut().filter(|line| line.is_ready()) {
            line.credit += line.class.weight();
            weights += line.class.weight();
        }
        let ready = self.lines.iter_mut().filter(|line| line.is_ready());
        let line = ready.max_by_key(|line| line.credit)?;
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
            turns: VecDeque::new(),
            flood: None,
            mean: 0.0,
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

    fn push(&mut self, caller: u64, number: u64, waiter: W) {
        let share = self.share();
        self.waiting += 1;
        let entry = self.caller(caller);
        entry.waiting.push_back((number, waiter));
        if entry.waiting.len() == 1 && entry.at_work < share {
            self.turns.push_back(caller);
        }
    }

    fn next(&mut self) -> Option<Begun<W>> {
        let share = self.share();
        let caller = self.turns.pop_front()?;
        let entry = self.callers.get_mut(&caller)?;
        let (_, waiter) = entry.waiting.pop_front()?;
        entry.at_work += 1;
        self.at_work += 1;
        self.waiting -= 1;
        if !entry.waiting.is_empty() && entry.at_work < share {
            self.turns.push_back(caller);
        }
        Some(Begun { class: self.class, caller, waiter })
    }

    fn end(&mut self, caller: u64, took: Duration) {
        let part = if self.mean == 0.0 { 1.0 } else { SHARE_OF_NEW };
        self.mean += part * (took.as_secs_f64() - self.mean);
        let share = self.share();
        self.at_work -= 1;
        let Some(entry) = self.callers.get_mut(&caller) else { return };
        entry.at_work -= 1;
        if !entry.waiting.is_empty() {
            // It had all its places, and so no turn.
            if entry.at_work + 1 == share {
                self.turns.push_back(caller);
            }
        } else if entry.at_work == 0 {
            self.callers.remove(&caller);
        }
    }

    fn leave(&mut self, caller: u64, number: u64) -> Option<W> {
        let entry = self.callers.get_mut(&caller)?;
        let place = entry.waiting.iter().position(|(waiting, _)| *waiting == number)?;
        let (_, waiter) = entry.waiting.remove(place)?;
        self.took_out(caller);
        Some(waiter)
    }

    /// One call less waits.
    fn took_out(&mut self, caller: u64) {
        self.waiting -= 1;
        let Some(entry) = self.callers.get(&caller) else { return };
        if entry.waiting.is_empty() {
            let idle = entry.at_work == 0;
            self.turns.retain(|turn| *turn != caller);
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
        let (_, waiter) = self.callers.get_mut(&flood)?.waiting.pop_back()?;
        self.took_out(flood);
        Some((flood, waiter))
    }

    /// Seconds between two calls that end, while all places are taken.
    fn pace(&self) -> f64 {
        self.mean / self.limits.at_once as f64
    }

    /// How long a call of this caller would wait for a place and be at work.
    fn expected(&self, caller: u64) -> Duration {
        let own = self.callers.get(&caller).map_or(0, |caller| caller.waiting.len());
        let ahead = self.waiting.min((own + 1) * (self.turns.len() + 1));
        seconds(self.pace() * ahead as f64 + self.mean)
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

/// As a duration that can be added to a time.
fn seconds(amount: f64) -> Duration {
    Duration::from_secs_f64(amount.clamp(0.0, 1e6))
}

#[cfg(test)]
mod tests;
