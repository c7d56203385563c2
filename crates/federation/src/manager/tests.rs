use steeple_runtime::{Drain, SystemClock, drain};

use super::*;
use crate::testing::{Endpoints, Memory, domain, hinted, nobody, web};

struct Scene {
    keep: Arc<Memory>,
    endpoints: Arc<Endpoints>,
    refresher: Refresher,
    drain: Drain,
    tasks: Tasks,
}

fn scene(configured: Relationships, prepare: impl FnOnce(&Memory, &Endpoints)) -> Scene {
    let (keep, endpoints) = (Arc::new(Memory::default()), Arc::new(Endpoints::default()));
    prepare(&keep, &endpoints);
    let tasks = Tasks::new();
    let (manager, refresher) = Manager::new(ManagerConfig {
        trust_domain: domain("home"),
        configured,
        keep: Arc::clone(&keep) as _,
        fetch: Arc::clone(&endpoints) as _,
        clock: Arc::new(SystemClock),
        tasks: tasks.clone(),
    });
    let (drain, watcher) = drain::channel();
    tasks.spawn("manager", manager.run(watcher));
    Scene { keep, endpoints, refresher, drain, tasks }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_answers_delays_no_other() {
    let scene = scene(Relationships::new(), |keep, endpoints| {
        keep.follow("dead", "https://dead");
        keep.follow("live", "https://live");
        (0..10).for_each(|_| endpoints.answer("https://live", Ok(hinted("live", 60))));
    });
    sleep(Duration::from_secs(61)).await;
    assert_eq!(scene.endpoints.asked("https://dead").len(), 1);
    assert_eq!(scene.endpoints.asked("https://live").len(), 5);
    assert!(scene.refresher.refresh(&domain("live")).await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_another_server_changed_is_seen_within_ten_seconds() {
    let scene = scene(Relationships::new(), |_, endpoints| {
        endpoints.answer("https://a", Ok(hinted("a", 4000)));
    });
    sleep(Duration::from_secs(1)).await;
    scene.keep.follow("a", "https://a");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(scene.endpoints.asked("https://a").len(), 1);
    scene.keep.relationships.lock().unwrap().clear();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(scene.tasks.len(), 1, "the follower has gone");
}

#[tokio::test(start_paused = true)]
async fn a_change_by_the_api_is_seen_at_once() {
    let scene = scene(Relationships::new(), |_, endpoints| {
        endpoints.answer("https://a", Ok(hinted("a", 4000)));
    });
    sleep(Duration::from_secs(1)).await;
    scene.keep.follow("a", "https://a");
    scene.refresher.reload();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(scene.endpoints.asked("https://a").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_goes_by_the_list_of_now() {
    let scene = scene(Relationships::new(), |_, endpoints| {
        endpoints.answer("https://a", Ok(hinted("a", 4000)));
        endpoints.answer("https://a", Ok(hinted("a", 4000)));
    });
    sleep(Duration::from_secs(1)).await;
    assert!(scene.refresher.refresh(&domain("a")).await.is_none());
    scene.keep.follow("a", "https://a");
    assert!(scene.refresher.refresh(&domain("a")).await.unwrap().is_ok());
    // With the datastore away, the list of before goes on.
    *scene.keep.broken.lock().unwrap() = true;
    let error = scene.refresher.refresh(&domain("a")).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "failed to fetch local federated bundle: away");
}

#[tokio::test(start_paused = true)]
async fn the_configuration_is_followed_but_never_ourselves() {
    let configured = Relationships::from([
        (domain("home"), web("https://home")),
        (domain("a"), web("https://file")),
    ]);
    let scene = scene(configured, |keep, endpoints| {
        keep.follow("a", "https://stored");
        endpoints.answer("https://file", Err(nobody()));
    });
    sleep(Duration::from_secs(30)).await;
    assert_eq!(scene.endpoints.asked("https://file").len(), 1);
    assert!(scene.endpoints.asked("https://stored").is_empty());
    assert!(scene.endpoints.asked("https://home").is_empty());
}

#[tokio::test(start_paused = true)]
async fn everything_ends_with_the_drain_and_nobody_waits_for_ever() {
    let Scene { keep, refresher, drain, tasks, .. } = scene(Relationships::new(), |_, _| ());
    keep.follow("a", "https://never");
    let asking = refresher.clone();
    let waiting = Tasks::new();
    waiting.spawn("asking", async move {
        assert!(asking.refresh(&domain("a")).await.is_none());
    });
    sleep(Duration::from_secs(1)).await;
    assert!(drain.drain(Duration::from_secs(1)).await);
    tasks.join().await.unwrap();
    waiting.join().await.unwrap();
    assert!(refresher.refresh(&domain("a")).await.is_none());
}
