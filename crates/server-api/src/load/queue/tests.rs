mod loads;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(20);

fn limits(at_once: usize, each: usize, waiting: usize) -> LoadLimits {
    let class = ClassLimits { at_once: each, waiting, longest_wait: LONG };
    let usual = LoadLimits::for_cores(1);
    LoadLimits {
        at_once,
        attest: class,
        renew: class,
        sign: class,
        sync: class,
        admin: class,
        ..usual
    }
}

/// A queue whose waiters are numbers, and a time that stands still.
struct Test {
    queue: Queue<u32>,
    now: Instant,
}

impl Test {
    fn new(at_once: usize, each: usize, waiting: usize) -> Self {
        Self { queue: Queue::new(&limits(at_once, each, waiting)), now: Instant::now() }
    }

    fn ask(&mut self, class: Class, caller: u64, waiter: u32) -> Asked<u32> {
        self.queue.ask(class, caller, LONG, 0.5, self.now, || waiter)
    }

    /// Asks where it has to wait.
    fn wait(&mut self, class: Class, caller: u64, waiter: u32) -> u64 {
        match self.ask(class, caller, waiter) {
            Asked::Wait(number, None) => number,
            other => panic!("{other:?}"),
        }
    }

    fn go(&mut self, class: Class, caller: u64) {
        assert_eq!(self.ask(class, caller, 0), Asked::Go);
    }

    /// Ends a call that took no time worth counting; gives who is next.
    fn end(&mut self, class: Class, caller: u64) -> Vec<u32> {
        self.queue.end(class, caller, Duration::from_millis(1), self.now);
        self.begun().into_iter().map(|begun| begun.waiter).collect()
    }

    fn begun(&mut self) -> Vec<Next<u32>> {
        let (queue, now) = (&mut self.queue, self.now);
        let begun: Vec<_> = std::iter::from_fn(|| queue.next(0.5, now)).collect();
        assert!(begun.iter().all(|next| next.lot == Lot::Begun), "{begun:?}");
        begun
    }
}

#[test]
fn a_call_goes_at_once_while_there_are_places_and_waits_otherwise() {
    let mut test = Test::new(10, 2, 10);
    test.go(Class::Sync, 1);
    test.go(Class::Sync, 2);
    test.wait(Class::Sync, 3, 3);
    test.go(Class::Renew, 3);
    assert_eq!(test.queue.counts(Class::Sync), (2, 1));
    assert_eq!(test.end(Class::Sync, 1), [3]);
    assert_eq!(test.queue.counts(Class::Sync), (2, 0));
}

#[test]
fn callers_take_turns_however_much_one_of_them_asks_for() {
    let mut test = Test::new(10, 1, 100);
    test.go(Class::Sign, 9);
    for waiter in 10..15 {
        test.wait(Class::Sign, 1, waiter);
    }
    test.wait(Class::Sign, 2, 20);
    test.wait(Class::Sign, 3, 30);
    test.wait(Class::Sign, 3, 31);
    let mut order = test.end(Class::Sign, 9);
    for _ in 0..7 {
        let last = u64::from(order.last().unwrap() / 10);
        order.extend(test.end(Class::Sign, last));
    }
    // Every other turn is for who had none before, while there is such a caller.
    assert_eq!(order, [10, 20, 11, 30, 12, 31, 13, 14]);
}

#[test]
fn one_caller_has_no_more_than_half_of_the_places() {
    let mut test = Test::new(10, 4, 100);
    test.go(Class::Sign, 1);
    test.go(Class::Sign, 1);
    test.wait(Class::Sign, 1, 10);
    test.wait(Class::Sign, 1, 11);
    // Who waits because it has its share keeps nobody else from going.
    test.go(Class::Sign, 2);
    assert_eq!(test.end(Class::Sign, 2), [0_u32; 0]);
    assert_eq!(test.end(Class::Sign, 1), [10]);
    assert_eq!(test.end(Class::Sign, 1), [11]);
    assert_eq!(test.end(Class::Sign, 1), [0_u32; 0]);
    assert_eq!(test.end(Class::Sign, 1), [0_u32; 0]);
    assert_eq!(test.queue.counts(Class::Sign), (0, 0));
    assert!(test.queue.lines.iter().all(|line| line.callers.is_empty()));
}

#[test]
fn classes_have_places_by_weight_and_none_has_nothing() {
    let mut test = Test::new(1, 1, 1000);
    test.go(Class::Admin, 1);
    for class in Class::ALL {
        for waiter in 0..100 {
            test.wait(class, u64::from(waiter), waiter);
        }
    }
    let mut served = [0; 5];
    let mut last = (Class::Admin, 1);
    for _ in 0..46 {
        test.queue.end(last.0, last.1, Duration::ZERO, test.now);
        let [begun] = &test.begun()[..] else { panic!("one place is free") };
        served[begun.class as usize] += 1;
        last = (begun.class, begun.caller);
    }
    assert_eq!(served, Class::ALL.map(|class| 2 * class.weight()));
}

#[test]
fn places_of_a_class_with_nobody_waiting_go_to_the_others() {
    let mut test = Test::new(2, 2, 1000);
    test.go(Class::Admin, 1);
    test.go(Class::Admin, 2);
    for waiter in 0..10 {
        test.wait(Class::Attest, u64::from(waiter), waiter);
    }
    assert_eq!(test.end(Class::Admin, 1), [0]);
    assert_eq!(test.end(Class::Admin, 2), [1]);
    assert_eq!(test.end(Class::Attest, 0), [2]);
}

#[test]
fn a_full_queue_takes_a_caller_with_little_in_place_of_one_with_much() {
    let mut test = Test::new(10, 1, 4);
    test.go(Class::Attest, 9);
    for waiter in 10..14 {
        test.wait(Class::Attest, 1, waiter);
    }
    assert!(matches!(test.ask(Class::Attest, 1, 14), Asked::Refused(_)));
    let Asked::Wait(_, Some((13, _))) = test.ask(Class::Attest, 2, 20) else {
        panic!("the latest of the flood gives way")
    };
    let Asked::Wait(_, Some((12, _))) = test.ask(Class::Attest, 3, 30) else {
        panic!("and the one before")
    };
    // Two of one, one of each other: another of theirs would take as much as it leaves.
    assert!(matches!(test.ask(Class::Attest, 2, 21), Asked::Refused(_)));
    assert_eq!(test.queue.counts(Class::Attest), (1, 4));
}

#[test]
fn who_has_gone_is_not_served() {
    let mut test = Test::new(10, 1, 10);
    test.go(Class::Sync, 9);
    let first = test.wait(Class::Sync, 1, 10);
    let second = test.wait(Class::Sync, 1, 11);
    let other = test.wait(Class::Sync, 2, 20);
    assert_eq!(test.queue.leave(Class::Sync, 1, first), Some(10));
    assert_eq!(test.queue.leave(Class::Sync, 1, first), None);
    assert_eq!(test.end(Class::Sync, 9), [11]);
    assert_eq!(test.queue.leave(Class::Sync, 1, second), None, "it is at work");
    assert_eq!(test.queue.leave(Class::Sync, 2, other), Some(20));
    assert_eq!(test.end(Class::Sync, 1), [0_u32; 0]);
    assert!(test.queue.lines.iter().all(|line| line.callers.is_empty() && line.turns.is_empty()));
}

#[test]
fn what_would_come_too_late_is_refused_at_once() {
    let mut test = Test::new(10, 2, 1000);
    test.go(Class::Renew, 1);
    test.queue.end(Class::Renew, 1, SECOND, test.now);
    test.go(Class::Renew, 1);
    test.go(Class::Renew, 2);
    let mut ask = |patience| test.queue.ask(Class::Renew, 3, patience, 0.5, test.now, || 0);
    // A call takes a second, and two are at work at once.
    assert!(matches!(ask(SECOND / 2), Asked::Refused(_)));
    assert!(matches!(ask(3 * SECOND), Asked::Wait(..)));
    for _ in 0..4 {
        ask(LONG);
    }
    assert!(matches!(ask(3 * SECOND), Asked::Refused(_)));
    // Whoever has nothing waiting has the next turn but one.
    let other = test.queue.ask(Class::Renew, 4, 3 * SECOND, 0.5, test.now, || 0);
    assert!(matches!(other, Asked::Wait(..)));
}

#[test]
fn nothing_is_begun_that_would_not_be_done_in_time() {
    let mut test = Test::new(10, 1, 10);
    test.go(Class::Sync, 1);
    let early = test.queue.ask(Class::Sync, 2, 3 * SECOND, 0.5, test.now, || 20);
    assert!(matches!(early, Asked::Wait(..)));
    test.wait(Class::Sync, 3, 30);
    test.now += 2 * SECOND;
    test.queue.end(Class::Sync, 1, SECOND, test.now);
    let mut next = || test.queue.next(0.5, test.now).map(|next| (next.waiter, next.lot));
    // One second is left, and calls take as much, if not more.
    assert!(matches!(next(), Some((20, Lot::Late(_)))));
    assert_eq!(next(), Some((30, Lot::Begun)));
    assert_eq!(test.queue.counts(Class::Sync), (1, 0));
}

#[test]
fn who_asks_for_less_than_its_share_has_the_next_turn_but_one() {
    let mut test = Test::new(10, 1, 100);
    test.go(Class::Sign, 9);
    for waiter in 0..30 {
        test.wait(Class::Sign, u64::from(1 + waiter / 10), waiter);
    }
    let mut last = 9;
    let mut turn = |test: &mut Test| {
        let begun = test.end(Class::Sign, last);
        last = u64::from(1 + begun[0] / 10);
        begun[0]
    };
    // All of the crowd have had a turn.
    for _ in 0..4 {
        turn(&mut test);
    }
    test.wait(Class::Sign, 4, 30);
    let order = [turn(&mut test), turn(&mut test)];
    assert!(order.contains(&30), "{order:?}");
}

#[test]
fn refused_callers_are_told_to_come_one_after_the_other() {
    let mut test = Test::new(10, 2, 0);
    test.go(Class::Sync, 1);
    test.queue.end(Class::Sync, 1, 4 * SECOND, test.now);
    test.go(Class::Sync, 1);
    test.go(Class::Sync, 2);
    let mut hints = Vec::new();
    for caller in 100..140 {
        let Asked::Refused(hint) = test.ask(Class::Sync, caller, 0) else { panic!("no room") };
        hints.push(hint.as_secs());
    }
    // Two at once, four seconds each: one every two seconds, up to a minute.
    assert_eq!(hints[..4], [2, 4, 6, 8]);
    assert_eq!(hints[29..], [60; 11]);
    test.now += 40 * SECOND;
    let Asked::Refused(hint) = test.ask(Class::Sync, 50, 0) else { panic!("no room") };
    assert_eq!(hint, 22 * SECOND);
    // Whoever is in its own way, and only in that, hears of its own queue.
    let Asked::Refused(hint) = test.ask(Class::Sync, 1, 0) else { panic!("no room") };
    assert_eq!(hint, SECOND);
    let spread = |dice| test.queue.lines[0].appointment(9, dice, test.now);
    assert_eq!([0.0, 0.5, 1.0].map(spread), [SECOND / 2, SECOND, 3 * SECOND / 2]);
}

#[test]
fn a_call_that_rested_goes_on_whatever_the_bounds_say() {
    let mut test = Test::new(1, 1, 10);
    test.go(Class::Attest, 1);
    test.wait(Class::Attest, 2, 20);
    assert_eq!(test.end(Class::Attest, 1), [20]);
    test.queue.begin(Class::Attest, 1);
    assert_eq!(test.queue.counts(Class::Attest), (2, 0));
    test.wait(Class::Attest, 3, 30);
    assert_eq!(test.end(Class::Attest, 1), [0_u32; 0]);
    assert_eq!(test.end(Class::Attest, 2), [30]);
}

/// Whatever comes in whatever order: no bound is passed, nobody is lost, no place stays empty.
#[test]
fn no_order_of_things_breaks_the_bounds() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let (at_once, each, room) = (random.usize(1..6), random.usize(1..5), random.usize(0..8));
        let mut test = Test::new(at_once, each, room);
        let mut working: Vec<(Class, u64)> = Vec::new();
        let mut waiting: HashMap<u32, (Class, u64, u64)> = HashMap::new();
        for waiter in 0..300_u32 {
            let (class, caller) = (Class::ALL[random.usize(..5)], random.u64(1..5));
            match random.usize(..4) {
                0 | 1 => match test.ask(class, caller, waiter) {
                    Asked::Go => working.push((class, caller)),
                    Asked::Refused(..) => {}
                    Asked::Wait(number, gave_way) => {
                        if let Some((waiter, _)) = gave_way {
                            assert!(waiting.remove(&waiter).is_some());
                        }
                        waiting.insert(waiter, (class, caller, number));
                    }
                },
                2 if !working.is_empty() => {
                    let (class, caller) = working.swap_remove(random.usize(..working.len()));
                    test.queue.end(
                        class,
                        caller,
                        Duration::from_millis(random.u64(..50)),
                        test.now,
                    );
                }
                _ => {
                    let Some(waiter) = waiting.keys().next().copied() else { continue };
                    let (class, caller, number) = waiting.remove(&waiter).unwrap();
                    assert_eq!(test.queue.leave(class, caller, number), Some(waiter));
                }
            }
            for begun in test.begun() {
                let (class, caller, _) = waiting.remove(&begun.waiter).unwrap();
                assert_eq!((class, caller), (begun.class, begun.caller));
                working.push((class, caller));
            }
            assert!(working.len() <= at_once);
            for class in Class::ALL {
                let own = working.iter().filter(|it| it.0 == class).count();
                let queued = waiting.values().filter(|it| it.0 == class).count();
                assert_eq!(test.queue.counts(class), (own, queued));
                assert!(own <= each && queued <= room);
                for caller in 1..5 {
                    let of = |(c, who): &&(Class, u64)| *c == class && *who == caller;
                    let has = working.iter().filter(of).count();
                    assert!(has <= each.div_ceil(2));
                    let wants = waiting.values().any(|it| it.0 == class && it.1 == caller);
                    let may = working.len() < at_once && own < each && has < each.div_ceil(2);
                    assert!(!(wants && may), "a place stays empty");
                }
            }
        }
    }
}
