use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use steeple_runtime::drain;
use tokio::time::Instant;

use super::*;

/// A stored bundle that tests change.
struct Stored(Mutex<Result<Option<Bundle>, String>>);

impl Stored {
    fn with(sequence_number: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Ok(Some(bundle(sequence_number))))))
    }

    fn set(&self, sequence_number: u64) {
        *self.0.lock().unwrap() = Ok(Some(bundle(sequence_number)));
    }
}

#[async_trait]
impl OwnBundle for Stored {
    async fn own_bundle(&self) -> Result<Option<Bundle>, String> {
        self.0.lock().unwrap().clone()
    }
}

fn bundle(sequence_number: u64) -> Bundle {
    let mut bundle = Bundle::new(TrustDomain::parse("example.org").unwrap());
    bundle.sequence_number = sequence_number;
    bundle
}

/// Notes what it is told, and when; fails or hangs on demand.
#[derive(Default)]
struct Listener {
    told: Mutex<Vec<(u64, Instant)>>,
    loaded: AtomicUsize,
    hangs: AtomicBool,
    failures_left: AtomicUsize,
}

impl Listener {
    async fn hear(&self, kind: Kind, bundle: &Bundle) -> Result<(), PluginError> {
        self.told.lock().unwrap().push((bundle.sequence_number, Instant::now()));
        if self.hangs.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
        let fails = self
            .failures_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match fails {
            Ok(_) => Err(PluginError::new(kind, "test", Code::Unavailable, "out of order")),
            Err(_) => Ok(()),
        }
    }

    fn sequence(&self) -> Vec<u64> {
        self.told.lock().unwrap().iter().map(|(number, _)| *number).collect()
    }

    /// Seconds between one telling and the next.
    fn pauses(&self) -> Vec<f64> {
        let told = self.told.lock().unwrap();
        told.windows(2).map(|pair| (pair[1].1 - pair[0].1).as_secs_f64()).collect()
    }
}

#[async_trait]
impl Notifier for Listener {
    fn name(&self) -> &str {
        "test"
    }

    async fn bundle_updated(&self, bundle: &Bundle) -> Result<(), PluginError> {
        self.hear(Kind::Notifier, bundle).await
    }

    async fn bundle_loaded(&self, bundle: &Bundle) -> Result<(), PluginError> {
        self.loaded.fetch_add(1, Ordering::Relaxed);
        self.hear(Kind::Notifier, bundle).await
    }
}

#[async_trait]
impl BundlePublisher for Listener {
    fn name(&self) -> &str {
        "test"
    }

    async fn publish_bundle(&self, bundle: &Bundle) -> Result<(), PluginError> {
        self.hear(Kind::BundlePublisher, bundle).await
    }
}

/// A running server's tasks, and what hints at changes.
struct Running {
    hint: watch::Sender<u64>,
    tasks: Tasks,
    trigger: drain::Drain,
}

fn start(notify: Notify) -> Running {
    let (trigger, watcher) = drain::channel();
    let tasks = Tasks::new();
    let hint = watch::Sender::new(0);
    notify.spawn(vec![hint.subscribe()], &tasks, &watcher);
    Running { hint, tasks, trigger }
}

impl Running {
    fn hint(&self) {
        self.hint.send_modify(|count| *count += 1);
    }

    async fn stop(self) {
        assert!(self.trigger.drain(Duration::from_secs(1)).await, "somebody does not stop");
        self.tasks.join().await.unwrap();
    }
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn a_notifier_is_told_of_the_load_and_of_each_change_once() {
    let (stored, listener) = (Stored::with(1), Arc::new(Listener::default()));
    let mut notify = Notify::new(stored.clone(), vec![listener.clone()], vec![]);
    notify.bundle_loaded().await.unwrap();
    let running = start(notify);
    seconds(20).await;
    assert_eq!(listener.sequence(), [1], "what was loaded is no update");
    stored.set(2);
    running.hint();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(listener.sequence(), [1, 2], "at once");
    running.hint();
    seconds(20).await;
    assert_eq!(listener.sequence(), [1, 2], "a hint without a change is none");
    // Another server on the same database changes it: nobody hints.
    stored.set(3);
    seconds(6).await;
    assert_eq!(listener.sequence(), [1, 2, 3]);
    assert_eq!(listener.loaded.load(Ordering::Relaxed), 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_at_start_names_all_who_refuse() {
    let (good, bad) = (Arc::new(Listener::default()), Arc::new(Listener::default()));
    bad.failures_left.store(1, Ordering::Relaxed);
    let hung = Arc::new(Listener::default());
    hung.hangs.store(true, Ordering::Relaxed);
    let notifiers: Vec<Arc<dyn Notifier>> = vec![bad, hung, good.clone()];
    let mut notify = Notify::new(Stored::with(1), notifiers, vec![]);
    let refused = notify.bundle_loaded().await.unwrap_err().to_string();
    assert_eq!(
        refused,
        "one or more notifiers returned an error: notifier(test): out of order\n\
         notifier(test): no answer within 60 seconds"
    );
    assert_eq!(good.sequence(), [1], "the others were told at the same time");

    let empty = Arc::new(Stored(Mutex::new(Ok(None))));
    let mut notify = Notify::new(empty, vec![good], vec![]);
    let refused = notify.bundle_loaded().await.unwrap_err().to_string();
    assert_eq!(refused, "trust domain bundle is missing");
    let mut nobody = Notify::new(Arc::new(Stored(Mutex::new(Ok(None)))), vec![], vec![]);
    nobody.bundle_loaded().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_delays_nobody_and_hears_of_the_latest() {
    let (quick, hung) = (Arc::new(Listener::default()), Arc::new(Listener::default()));
    hung.hangs.store(true, Ordering::Relaxed);
    let (publisher, hung_publisher) =
        (Arc::new(Listener::default()), Arc::new(Listener::default()));
    hung_publisher.hangs.store(true, Ordering::Relaxed);
    let stored = Stored::with(1);
    let mut notify = Notify::new(
        stored.clone(),
        vec![quick.clone(), hung.clone()],
        vec![publisher.clone(), hung_publisher.clone()],
    );
    notify.known = Some(Arc::new(bundle(1)));
    let running = start(notify);
    seconds(1).await;
    for number in 2..=5 {
        stored.set(number);
        running.hint();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(quick.sequence(), [2, 3, 4, 5]);
    assert_eq!(publisher.sequence(), [1, 2, 3, 4, 5]);
    assert_eq!(hung.sequence(), [2]);
    assert_eq!(hung_publisher.sequence(), [1]);
    seconds(31).await;
    assert_eq!(hung.sequence(), [2, 5], "those between are of no interest any more");
    assert_eq!(hung_publisher.sequence(), [1, 5]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_publisher_publishes_at_start_at_updates_and_every_thirty_seconds() {
    let (stored, publisher) = (Stored::with(1), Arc::new(Listener::default()));
    let mut notify = Notify::new(stored.clone(), vec![], vec![publisher.clone()]);
    notify.bundle_loaded().await.unwrap();
    let running = start(notify);
    seconds(65).await;
    assert_eq!(publisher.sequence(), [1, 1, 1]);
    stored.set(2);
    running.hint();
    seconds(31).await;
    assert_eq!(publisher.sequence(), [1, 1, 1, 2, 2]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_publication_that_failed_is_tried_again_with_growing_pauses() {
    let (stored, publisher) = (Stored::with(1), Arc::new(Listener::default()));
    publisher.failures_left.store(12, Ordering::Relaxed);
    let running = start(Notify::new(stored, vec![], vec![publisher.clone()]));
    seconds(400).await;
    let pauses = publisher.pauses();
    assert!((0.9..=1.1).contains(&pauses[0]), "{pauses:?}");
    assert!(pauses[..8].is_sorted(), "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= 30.01), "{pauses:?}");
    assert!((29.9..=30.1).contains(pauses.last().unwrap()), "{pauses:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_notifier_that_fails_is_told_of_the_next_change() {
    let (stored, listener) = (Stored::with(1), Arc::new(Listener::default()));
    listener.failures_left.store(1, Ordering::Relaxed);
    let mut notify = Notify::new(stored.clone(), vec![listener.clone()], vec![]);
    notify.known = Some(Arc::new(bundle(1)));
    let running = start(notify);
    seconds(1).await;
    for number in [2, 3] {
        stored.set(number);
        running.hint();
        seconds(1).await;
    }
    assert_eq!(listener.sequence(), [2, 3]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_datastore_is_outlived() {
    let (stored, listener) = (Stored::with(1), Arc::new(Listener::default()));
    let mut notify = Notify::new(stored.clone(), vec![listener.clone()], vec![]);
    notify.known = Some(Arc::new(bundle(1)));
    let running = start(notify);
    for state in [Err("gone".to_owned()), Ok(None)] {
        *stored.0.lock().unwrap() = state;
        running.hint();
        seconds(30).await;
    }
    assert!(listener.sequence().is_empty());
    stored.set(2);
    seconds(6).await;
    assert_eq!(listener.sequence(), [2]);
    // Whoever hinted is gone; the look at the database goes on.
    let Running { hint, tasks, trigger } = running;
    drop(hint);
    stored.set(3);
    seconds(6).await;
    assert_eq!(listener.sequence(), [2, 3]);
    assert!(trigger.drain(Duration::from_secs(1)).await);
    tasks.join().await.unwrap();
}
