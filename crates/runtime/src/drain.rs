//! How the process ends: a drain that everything that serves watches, and the tasks it waits for.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Makes a drain and its first watcher.
pub fn channel() -> (Drain, Watcher) {
    let (sender, receiver) = watch::channel(false);
    (Drain(sender), Watcher(receiver))
}

/// The trigger: one per process.
#[derive(Debug)]
pub struct Drain(watch::Sender<bool>);

impl Drain {
    /// Another watcher of this drain.
    pub fn watcher(&self) -> Watcher {
        Watcher(self.0.subscribe())
    }

    /// Signals every watcher, then waits until the last one is dropped, at most `grace`.
    ///
    /// Answers whether all of them let go in time.
    pub async fn drain(self, grace: Duration) -> bool {
        self.0.send_replace(true);
        tokio::time::timeout(grace, self.0.closed()).await.is_ok()
    }
}

/// Whoever holds one of these is waited for, so hold it for as long as the work lasts.
#[derive(Clone, Debug)]
pub struct Watcher(watch::Receiver<bool>);

impl Watcher {
    /// Resolves once the drain was triggered, or its trigger dropped; at once if it was already.
    pub async fn signalled(&mut self) {
        // An error means that the trigger is gone: nobody can ask us to go on.
        let _ = self.0.wait_for(|signalled| *signalled).await;
    }

    /// Whether the drain was triggered.
    pub fn is_signalled(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// The tasks of a process: cheap to clone, the only place that spawns.
///
/// A finished task leaves nothing behind, so that a task per connection costs nothing over years.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    first_panic: watch::Sender<Option<&'static str>>,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self { tracker: TaskTracker::new(), first_panic: watch::Sender::new(None) }
    }

    /// Runs `work` in the background; the process cannot do without it.
    ///
    /// A panic in it is logged and surfaces in [`Tasks::panicked`] and [`Tasks::join`].
    pub fn spawn<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.run(name, Some(self.first_panic.clone()), work);
    }

    /// Runs `work` that stands for itself, such as one connection: a panic in it is logged and
    /// takes nothing else down.
    pub fn spawn_isolated<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.run(name, None, work);
    }

    /// Resolves with the name of the first task of [`Tasks::spawn`] that panicked; never, if none
    /// does.
    pub async fn panicked(&self) -> &'static str {
        let mut first_panic = self.first_panic.subscribe();
        loop {
            if let Some(name) = *first_panic.borrow_and_update() {
                return name;
            }
            if first_panic.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// How many tasks are running.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task is running.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits for every task to end.
    ///
    /// # Errors
    /// With the name of the first task of [`Tasks::spawn`] that panicked.
    pub async fn join(self) -> Result<(), TaskPanicked> {
        self.tracker.close();
        self.tracker.wait().await;
        let first_panic = *self.first_panic.borrow();
        first_panic.map_or(Ok(()), |task| Err(TaskPanicked { task }))
    }

    fn run<F>(
        &self,
        name: &'static str,
        report: Option<watch::Sender<Option<&'static str>>>,
        work: F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let guard = PanicGuard { name, report };
        self.tracker.spawn(async move {
            let _guard = guard;
            work.await;
        });
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

/// A task that the process cannot do without ended in a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {task} panicked")]
pub struct TaskPanicked {
    /// The name that the task was spawned with.
    pub task: &'static str,
}

/// Dropped while its task unwinds, it tells; dropped otherwise, it does nothing.
struct PanicGuard {
    name: &'static str,
    report: Option<watch::Sender<Option<&'static str>>>,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        tracing::error!(task = self.name, "Task panicked");
        if let Some(report) = &self.report {
            report.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert(self.name);
                is_first
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_drain_ends_when_the_last_watcher_lets_go() {
        let (drain, watcher) = channel();
        let tasks = Tasks::new();
        for mut watcher in [watcher.clone(), watcher.clone(), drain.watcher()] {
            tasks.spawn("server", async move { watcher.signalled().await });
        }
        drop(watcher);
        assert!(drain.drain(SOON).await);
        assert_eq!(tasks.join().await, Ok(()));
    }

    #[tokio::test]
    async fn a_watcher_that_holds_on_costs_the_grace_and_no_more() {
        let (drain, watcher) = channel();
        assert!(!watcher.is_signalled());
        assert!(!drain.drain(Duration::from_millis(20)).await);
        assert!(watcher.is_signalled());
    }

    #[tokio::test]
    async fn a_late_watcher_learns_at_once_that_the_process_is_ending() {
        let (drain, mut watcher) = channel();
        drop(drain);
        watcher.signalled().await;
        assert!(watcher.is_signalled());
    }

    #[tokio::test]
    async fn a_panic_of_a_needed_task_surfaces_by_name() {
        let tasks = Tasks::new();
        tasks.spawn("steady", async {});
        tasks.spawn("ca_manager", async { panic!("on purpose") });
        assert_eq!(tasks.panicked().await, "ca_manager");
        assert_eq!(tasks.join().await, Err(TaskPanicked { task: "ca_manager" }));
    }

    #[tokio::test]
    async fn a_panic_of_an_isolated_task_stays_there() {
        let tasks = Tasks::new();
        tasks.spawn_isolated("connection", async { panic!("on purpose") });
        assert_eq!(tasks.join().await, Ok(()));
    }
}
