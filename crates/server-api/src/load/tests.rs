use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::*;

const LONG: Duration = Duration::from_secs(10);

fn load(at_once: usize, waiting: usize) -> Arc<Load> {
    let class = ClassLimits { at_once, waiting, longest_wait: LONG };
    Load::new(LoadLimits { attest: class, sync: class, ..LoadLimits::for_cores(1) })
}

fn from(last: u8) -> Caller {
    Caller::Remote { address: SocketAddr::from(([192, 0, 2, last], 1)), svid: None }
}

/// What a future that is asked once answers.
fn once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn who_waits_has_the_place_of_whoever_is_done() {
    let load = load(1, 10);
    let first = load.enter(Class::Attest, &from(1), None).await.unwrap();
    let other = from(2);
    let mut waiting = pin!(load.enter(Class::Attest, &other, None));
    assert!(once(waiting.as_mut()).is_none());
    drop(first);
    let second = once(waiting.as_mut()).unwrap().unwrap();
    assert_eq!(load.queue().counts(Class::Attest), (1, 0));
    drop(second);
    assert_eq!(load.queue().counts(Class::Attest), (0, 0));
}

#[tokio::test]
async fn who_has_gone_neither_waits_nor_keeps_the_place_that_it_was_given() {
    let load = load(1, 10);
    let first = load.enter(Class::Attest, &from(1), None).await.unwrap();
    let others = [from(2), from(3)];
    let mut early = Box::pin(load.enter(Class::Attest, &others[0], None));
    let mut late = Box::pin(load.enter(Class::Attest, &others[1], None));
    assert!(once(early.as_mut()).is_none() && once(late.as_mut()).is_none());
    drop(early);
    assert_eq!(load.queue().counts(Class::Attest), (1, 1));
    drop(first);
    // It has the place, and has not heard of it.
    assert_eq!(load.queue().counts(Class::Attest), (1, 0));
    drop(late);
    assert_eq!(load.queue().counts(Class::Attest), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_too_long_is_refused_with_a_hint() {
    let load = load(1, 10);
    let _first = load.enter(Class::Sync, &from(1), None).await.unwrap();
    let begun = tokio::time::Instant::now();
    let refused = load.enter(Class::Sync, &from(2), None).await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), LONG.as_secs());
    assert_eq!(load.queue().counts(Class::Sync), (1, 0));
    let status = refused.status();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "the server is overloaded: too many calls of this kind (sync)");
    assert!(steeple_net::status::retry_delay(&status).unwrap() >= Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_beyond_its_own_deadline() {
    let load = load(1, 10);
    let _first = load.enter(Class::Sync, &from(1), None).await.unwrap();
    let begun = tokio::time::Instant::now();
    let deadline = Instant::now() + Duration::from_secs(2);
    load.enter(Class::Sync, &from(2), Some(deadline)).await.unwrap_err();
    assert!(begun.elapsed() <= Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_call_whose_time_is_over_is_not_worked_on_although_there_is_room() {
    let load = load(1, 10);
    let (now, later) = (Some(Instant::now()), Some(Instant::now() + LONG));
    assert!(load.glance(Class::Sync, &from(1), now).is_err());
    assert!(load.enter(Class::Sync, &from(1), now).await.is_err());
    assert!(load.glance(Class::Sync, &from(1), later).is_ok());
    assert_eq!(load.queue().counts(Class::Sync), (0, 0));
}

#[tokio::test]
async fn a_flood_is_refused_and_gives_way_to_others() {
    let load = load(1, 2);
    let _first = load.enter(Class::Attest, &from(1), None).await.unwrap();
    let flood = from(2);
    let mut waiting: Vec<_> =
        (0..2).map(|_| Box::pin(load.enter(Class::Attest, &flood, None))).collect();
    for waiter in &mut waiting {
        assert!(once(waiter.as_mut()).is_none());
    }
    assert!(once(pin!(load.enter(Class::Attest, &flood, None))).unwrap().is_err());
    let other = from(3);
    let mut other = pin!(load.enter(Class::Attest, &other, None));
    assert!(once(other.as_mut()).is_none());
    assert!(once(waiting[1].as_mut()).unwrap().is_err(), "the latest of the flood");
    assert!(once(waiting[0].as_mut()).is_none());
}

#[test]
fn every_method_has_a_class_but_what_is_always_served() {
    let class = |path: &str| {
        let found = crate::table::TABLE.iter().find(|row| row.path.ends_with(path));
        Class::of(found.unwrap())
    };
    assert_eq!(class("Agent/AttestAgent"), Some(Class::Attest));
    assert_eq!(class("Agent/RenewAgent"), Some(Class::Renew));
    for path in ["SVID/BatchNewX509SVID", "SVID/NewJWTSVID", "SVID/NewDownstreamX509CA"] {
        assert_eq!(class(path), Some(Class::Sign), "{path}");
    }
    for path in ["Entry/SyncAuthorizedEntries", "Bundle/GetBundle", "Agent/PostStatus"] {
        assert_eq!(class(path), Some(Class::Sync), "{path}");
    }
    assert_eq!(class("Entry/ListEntries"), Some(Class::Admin));
    for row in crate::table::TABLE.iter().filter(|row| Class::of(row).is_none()) {
        assert!(row.local_only, "{}", row.path);
    }
}
