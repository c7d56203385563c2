//! Servers under load, in a time that is told: what becomes of whom.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A server with a queue, and the calls that it gets.
struct Server {
    queue: Queue<usize>,
    begun: Instant,
    now: Instant,
    /// How long a call is at work that begins after so long.
    takes: fn(Duration) -> Duration,
    events: BTreeMap<(Instant, usize), Event>,
    calls: Vec<Call>,
    /// What a refused caller does.
    comes_again: bool,
    dice: fastrand::Rng,
    seen: usize,
}

enum Event {
    Asks { caller: u64, patience: Duration },
    GivesUp { call: usize, number: u64 },
    Done { call: usize, took: Duration },
}

struct Call {
    caller: u64,
    asked: Instant,
    patience: Duration,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    Refused,
    Done(Instant),
}

impl Server {
    /// With four places for a class.
    fn new(takes: fn(Duration) -> Duration) -> Self {
        let now = Instant::now();
        Self {
            queue: Queue::new(&limits(100, 4, 8_192)),
            begun: now,
            now,
            takes,
            events: BTreeMap::new(),
            calls: Vec::new(),
            comes_again: false,
            dice: fastrand::Rng::with_seed(3),
            seen: 0,
        }
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.seen += 1;
        self.events.insert((at, self.seen), event);
    }

    fn asks(&mut self, after: Duration, caller: u64, patience: Duration) {
        self.at(self.begun + after, Event::Asks { caller, patience });
    }

    fn run(&mut self) {
        while let Some(((now, _), event)) = self.events.pop_first() {
            self.now = now;
            match event {
                Event::Asks { caller, patience } => self.ask(caller, patience),
                Event::GivesUp { call, number } => {
                    let caller = self.calls[call].caller;
                    if self.queue.leave(Class::Sync, caller, number).is_some() {
                        let dice = self.dice.f64();
                        let hint = self.queue.appointment(Class::Sync, caller, dice, now);
                        self.refused(call, hint);
                    }
                }
                Event::Done { call, took } => {
                    self.queue.end(Class::Sync, self.calls[call].caller, took, now);
                    self.calls[call].end = Some(End::Done(now));
                }
            }
            while let Some(next) = self.queue.next(self.dice.f64(), self.now) {
                match next.lot {
                    Lot::Begun => self.begin(next.waiter),
                    Lot::Late(hint) => self.refused(next.waiter, hint),
                }
            }
        }
        assert_eq!(self.queue.counts(Class::Sync), (0, 0));
    }

    fn ask(&mut self, caller: u64, patience: Duration) {
        let (call, now, dice) = (self.calls.len(), self.now, self.dice.f64());
        self.calls.push(Call { caller, asked: now, patience, end: None });
        match self.queue.ask(Class::Sync, caller, patience, dice, now, || call) {
            Asked::Go => self.begin(call),
            Asked::Wait(number, gave_way) => {
                if let Some((other, hint)) = gave_way {
                    self.refused(other, hint);
                }
                self.at(now + patience, Event::GivesUp { call, number });
            }
            Asked::Refused(hint) => self.refused(call, hint),
        }
    }

    fn begin(&mut self, call: usize) {
        let took = (self.takes)(self.now - self.begun);
        self.at(self.now + took, Event::Done { call, took });
    }

    fn refused(&mut self, call: usize, hint: Duration) {
        let Call { caller, patience, .. } = self.calls[call];
        self.calls[call].end = Some(End::Refused);
        if self.comes_again {
            self.at(self.now + hint, Event::Asks { caller, patience });
        }
    }

    fn count(&self, which: impl Fn(&Call) -> bool) -> usize {
        self.calls.iter().filter(|call| which(call)).count()
    }
}

impl Call {
    fn is_refused(&self) -> bool {
        self.end == Some(End::Refused)
    }

    /// How long it took until it was done.
    fn took(&self) -> Option<Duration> {
        match self.end {
            Some(End::Done(at)) => Some(at - self.asked),
            _ => None,
        }
    }

    fn is_in_time(&self) -> bool {
        self.took().is_some_and(|took| took <= self.patience)
    }
}

/// A hundred a second.
fn steady(_: Duration) -> Duration {
    40 * MS
}

/// As [`steady`], but for four seconds ten a second.
fn starved(after: Duration) -> Duration {
    if (20..24).contains(&after.as_secs()) { 400 * MS } else { 40 * MS }
}

#[test]
fn while_a_machine_is_starved_nobody_is_refused_who_is_served_in_time() {
    let mut server = Server::new(starved);
    for number in 0..3_000 {
        // Half of what it can do; who asks last waits for three seconds.
        server.asks(number * 20 * MS, u64::from(number % 50), 6 * SECOND);
    }
    server.run();
    assert_eq!(server.count(Call::is_refused), 0);
    assert_eq!(server.count(Call::is_in_time), 3_000);
    let longest = server.calls.iter().filter_map(Call::took).max();
    assert!(longest > Some(2 * SECOND), "it was starved: {longest:?}");
}

#[test]
fn ten_times_the_load_leaves_the_share_that_can_be_served_as_it_is() {
    const MODEST: u64 = 999;
    let mut server = Server::new(steady);
    for number in 0..30_000 {
        server.asks(number * MS, u64::from(number % 200), 4_500 * MS);
    }
    // Half of its share.
    for number in 0..8 {
        server.asks(number * 4 * SECOND, MODEST, 4_500 * MS);
    }
    server.run();
    let in_time = server.count(Call::is_in_time);
    assert!(in_time >= 2_950, "{in_time} of 3000");
    assert_eq!(in_time, server.count(|call| call.took().is_some()), "no work is lost");
    let modest = server.calls.iter().filter(|call| call.caller == MODEST);
    let slowest = modest.map(|call| call.took().unwrap_or(Duration::MAX)).max();
    assert!(slowest < Some(200 * MS), "{slowest:?}");
    // Of the others none is favoured.
    let served: Vec<usize> =
        (0..200).map(|it| server.count(|call| call.caller == it && call.is_in_time())).collect();
    let (least, most) = (served.iter().min(), served.iter().max());
    assert!(least >= Some(&12) && most <= Some(&22), "{least:?} to {most:?}");
}

#[test]
fn a_machine_that_slows_down_under_load_goes_on_serving_what_it_can() {
    let mut server = Server::new(starved);
    for number in 0..40_000 {
        server.asks(number * MS, u64::from(number % 200), 4_500 * MS);
    }
    server.run();
    let within = |first: u32, last: u32| {
        let (first, last) = (server.begun + first * SECOND, server.begun + last * SECOND);
        server.count(|call| call.asked >= first && call.asked < last && call.is_in_time())
    };
    // Of two thousand, of forty, and of five hundred more.
    assert!(within(0, 20) >= 1_900, "{}", within(0, 20));
    assert!(within(20, 24) >= 30, "{}", within(20, 24));
    assert!(within(25, 30) >= 450, "{}", within(25, 30));
}

#[test]
fn a_fleet_that_comes_back_at_once_is_served_and_nobody_refused_twice() {
    let mut server = Server::new(|_| 20 * MS);
    server.comes_again = true;
    // It has served somebody before.
    server.asks(Duration::ZERO, 5_000, SECOND);
    for caller in 0..5_000 {
        // In 25 seconds all could be served, if all waited for so long.
        server.asks(SECOND, caller, 18 * SECOND);
    }
    server.run();
    let refused = server.calls.iter().filter(|call| call.is_refused()).map(|call| call.caller);
    let refused: Vec<u64> = refused.collect();
    assert!(refused.len() > 1_000, "{}", refused.len());
    assert_eq!(refused.iter().collect::<BTreeSet<_>>().len(), refused.len());
    assert_eq!(server.count(Call::is_in_time), 5_001);
    let done = |call: &Call| call.took().map(|took| call.asked + took);
    let last = server.calls.iter().filter_map(done).max().map(|last| last - server.begun);
    // Half as long again as the last was told to wait.
    assert!(last < Some(40 * SECOND), "{last:?}");
}
