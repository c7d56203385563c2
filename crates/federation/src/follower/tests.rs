use std::collections::BTreeMap;

use steeple_runtime::{Drain, SystemClock, Tasks, drain};
use tokio::time::Instant;

use super::*;
use crate::testing::{Endpoints, Memory, domain, hinted, nobody, web};

const URL: &str = "https://a";

struct Scene {
    keep: Arc<Memory>,
    endpoints: Arc<Endpoints>,
    follower: Follower,
    tasks: Tasks,
    drain: Drain,
}

/// Somebody who follows trust domain `a`.
fn scene(prepare: impl FnOnce(&Memory, &Endpoints)) -> Scene {
    let (keep, endpoints) = (Arc::new(Memory::default()), Arc::new(Endpoints::default()));
    prepare(&keep, &endpoints);
    let means = Means {
        keep: Arc::clone(&keep) as _,
        fetch: Arc::clone(&endpoints) as _,
        clock: Arc::new(SystemClock),
    };
    let (drain, watcher) = drain::channel();
    let tasks = Tasks::new();
    let (follower, work) = Follower::new(domain("a"), web(URL), means, watcher);
    tasks.spawn("follower", work);
    Scene { keep, endpoints, follower, tasks, drain }
}

fn seconds_after(start: Instant, times: &[Instant]) -> Vec<u64> {
    times.iter().map(|at| at.duration_since(start).as_secs()).collect()
}

#[tokio::test(start_paused = true)]
async fn looks_by_the_hint_and_after_a_failure_by_the_hint_that_is_known() {
    let start = Instant::now();
    let scene = scene(|_, endpoints| {
        endpoints.answer(URL, Err(nobody()));
        endpoints.answer(URL, Ok(hinted("a", 400)));
        endpoints.answer(URL, Err(nobody()));
        endpoints.answer(URL, Ok(hinted("a", 80)));
        endpoints.answer(URL, Ok(hinted("a", 80)));
    });
    sleep(Duration::from_secs(285)).await;
    assert_eq!(seconds_after(start, &scene.endpoints.asked(URL)), [0, 60, 160, 260, 280]);
    assert_eq!(scene.keep.bundles.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_question_is_answered_at_once_and_by_a_look_that_began_after_it() {
    let scene = scene(|keep, endpoints| {
        keep.put(hinted("a", 4000));
        endpoints.answer(URL, Err(nobody()));
        endpoints.answer(URL, Ok(hinted("a", 4000)));
        endpoints.answer(URL, Err(nobody()));
    });
    sleep(Duration::from_secs(1)).await;
    let first: Vec<_> = (0..3).map(|_| scene.follower.ask()).collect();
    for ticket in first {
        assert!(ticket.answer().await.unwrap().is_ok());
    }
    assert_eq!(scene.endpoints.asked(URL).len(), 2, "one look for three questions");
    assert!(scene.follower.ask().answer().await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn another_relationship_is_followed_at_once() {
    let scene = scene(|_, endpoints| {
        endpoints.answer(URL, Ok(hinted("a", 4000)));
        endpoints.answer("https://b", Ok(hinted("a", 4000)));
    });
    sleep(Duration::from_secs(1)).await;
    assert!(!scene.follower.set(&web(URL)));
    assert!(scene.follower.set(&web("https://b")));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.endpoints.asked(URL).len(), 1);
    assert_eq!(scene.endpoints.asked("https://b").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn ends_in_the_middle_of_a_look_when_let_go_or_drained() {
    let Scene { follower, tasks, drain, .. } = scene(|_, _| ());
    sleep(Duration::from_secs(1)).await;
    let ticket = follower.ask();
    drop(follower);
    assert!(ticket.answer().await.is_none());
    tasks.join().await.unwrap();
    assert!(drain.drain(Duration::from_secs(1)).await);

    let Scene { follower, tasks, drain, .. } = scene(|_, _| ());
    sleep(Duration::from_secs(1)).await;
    assert!(drain.drain(Duration::from_secs(1)).await);
    tasks.join().await.unwrap();
    drop(follower);
}

#[tokio::test(start_paused = true)]
async fn a_day_of_a_peer_that_is_away_costs_a_look_a_minute() {
    let start = Instant::now();
    let scene = scene(|_, endpoints| {
        (0..2000).for_each(|_| endpoints.answer(URL, Err(nobody())));
    });
    sleep(Duration::from_secs(24 * 60 * 60 + 1)).await;
    let asked = scene.endpoints.asked(URL);
    assert_eq!(asked.len(), 24 * 60 + 1);
    let by_minute: BTreeMap<u64, usize> =
        seconds_after(start, &asked).into_iter().fold(BTreeMap::new(), |mut map, at| {
            *map.entry(at / 60).or_default() += 1;
            map
        });
    assert!(by_minute.values().all(|count| *count == 1));
}
