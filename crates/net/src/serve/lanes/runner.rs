//! One of a lane's turns: a task that polls works, and stays on its thread where it can.
//!
//! The works of a lane wake one another all the time: a connection its requests, a request its
//! connection. Told of each such wake, the runtime would queue the lane once more and wake another
//! thread to take it, which costs more than the work itself. So a wake that comes while the lane
//! is being polled only has it look again.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use futures_util::task::AtomicWaker;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::coop;

use super::Work;

/// The task of one turn.
pub(super) struct Runner {
    lane: u64,
    incoming: UnboundedReceiver<Work>,
    open: bool,
    works: FuturesUnordered<Taxed>,
    bell: Arc<Bell>,
    /// The bell, as those who are polled ring it.
    rope: Waker,
}

impl Runner {
    /// Does what `incoming` brings, and what that work has done in this `lane`, until there is
    /// none and nobody can bring more.
    pub(super) fn new(lane: u64, incoming: UnboundedReceiver<Work>) -> Self {
        let bell = Arc::new(Bell { state: AtomicU8::new(RESTING), runtime: AtomicWaker::new() });
        let rope = Waker::from(Arc::clone(&bell));
        Self { lane, incoming, open: true, works: FuturesUnordered::new(), bell, rope }
    }

    /// Polls everything that is ready once or more; ready when all is over.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            while self.open {
                match self.incoming.poll_recv(cx) {
                    Poll::Ready(Some(work)) => self.works.push(Taxed(work)),
                    Poll::Ready(None) => self.open = false,
                    Poll::Pending => break,
                }
            }
            let (polled, kept) = keeping(self.lane, || self.works.poll_next_unpin(cx));
            let grew = !kept.is_empty();
            self.works.extend(kept.into_iter().map(Taxed));
            match polled {
                Poll::Ready(Some(())) => {}
                _ if grew => {}
                Poll::Ready(None) if !self.open => return Poll::Ready(()),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Future for Runner {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.bell.runtime.register(cx.waker());
        let rope = this.rope.clone();
        loop {
            this.bell.state.store(POLLING, Ordering::SeqCst);
            if this.step(&mut Context::from_waker(&rope)).is_ready() {
                return Poll::Ready(());
            }
            if this.bell.rests() {
                return Poll::Pending;
            }
            // Rung meanwhile; but there are others who want their turn.
            if !coop::has_budget_remaining() {
                this.bell.state.store(RESTING, Ordering::SeqCst);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

/// Tells whoever is to hear of a wake: the runtime, or the runner that is polling just now.
struct Bell {
    state: AtomicU8,
    runtime: AtomicWaker,
}

/// Nobody polls: a wake is the runtime's.
const RESTING: u8 = 0;
/// The runner polls: a wake is for it to note.
const POLLING: u8 = 1;
/// It polls, and was woken since it began to.
const RUNG: u8 = 2;

impl Bell {
    /// Whether nobody rang since polling began; from here on wakes are the runtime's.
    fn rests(&self) -> bool {
        let order = (Ordering::SeqCst, Ordering::SeqCst);
        self.state.compare_exchange(POLLING, RESTING, order.0, order.1).is_ok()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let order = (Ordering::SeqCst, Ordering::SeqCst);
        match self.state.compare_exchange(POLLING, RUNG, order.0, order.1) {
            Ok(_) | Err(RUNG) => {}
            Err(_) => self.runtime.wake(),
        }
    }
}

/// Work that pays for each step, so that a lane lets others pass after a few.
struct Taxed(Work);

impl Future for Taxed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TAX {
            ready!(coop::poll_proceed(cx)).made_progress();
        }
        self.0.poll_unpin(cx)
    }
}

/// Of the 128 steps that a task may take in a row.
const TAX: usize = 8;

thread_local! {
    /// The lane that this thread polls just now, and what was to be done in it since it began.
    static POLLED: RefCell<Option<(u64, Vec<Work>)>> = const { RefCell::new(None) };
}

/// Runs `poll` in the name of `lane`, and gives the work as well that was kept for it meanwhile.
fn keeping<T>(lane: u64, poll: impl FnOnce() -> T) -> (T, Vec<Work>) {
    /// Nothing is kept for a lane that is not polled any more, whatever happens.
    struct Over;
    impl Drop for Over {
        fn drop(&mut self) {
            POLLED.set(None);
        }
    }
    POLLED.set(Some((lane, Vec::new())));
    let over = Over;
    let polled = poll();
    let kept = POLLED.take().map_or_else(Vec::new, |(_, kept)| kept);
    drop(over);
    (polled, kept)
}

/// Keeps `work` for the runner that is being polled on this thread, if it is one of `lane`'s;
/// gives it back else.
pub(super) fn keep(lane: u64, work: Work) -> Option<Work> {
    POLLED.with_borrow_mut(|polled| match polled {
        Some((of, kept)) if *of == lane => {
            kept.push(work);
            None
        }
        _ => Some(work),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
    use tokio::sync::oneshot;

    use super::*;

    /// Counts how often the runtime is told.
    #[derive(Default)]
    struct Runtime(AtomicUsize);

    impl Wake for Runtime {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn runner() -> (UnboundedSender<Work>, Runner, Arc<Runtime>) {
        let (sender, receiver) = unbounded_channel();
        (sender, Runner::new(7, receiver), Arc::default())
    }

    fn poll(runner: &mut Runner, runtime: &Arc<Runtime>) -> (Poll<()>, usize) {
        let waker = Waker::from(Arc::clone(runtime));
        let polled = Pin::new(runner).poll(&mut Context::from_waker(&waker));
        (polled, runtime.0.swap(0, Ordering::SeqCst))
    }

    #[test]
    fn works_that_wake_one_another_are_nothing_to_the_runtime() {
        let (sender, mut runner, runtime) = runner();
        let (ask, asked) = oneshot::channel::<u32>();
        let (tell, told) = oneshot::channel::<u32>();
        // The first work waits for the second, which waits for the first.
        sender.send(Box::pin(async { tell.send(asked.await.unwrap() + 1).unwrap() })).unwrap();
        let (over, mut done) = oneshot::channel();
        let second = async move {
            ask.send(1).unwrap();
            over.send(told.await.unwrap()).unwrap();
        };
        sender.send(Box::pin(second)).unwrap();
        assert_eq!(poll(&mut runner, &runtime), (Poll::Pending, 0));
        assert_eq!(done.try_recv(), Ok(2));
        drop(sender);
        assert_eq!(runtime.0.load(Ordering::SeqCst), 1, "its end is from outside");
        assert_eq!(poll(&mut runner, &runtime).0, Poll::Ready(()));
    }

    #[test]
    fn what_wakes_a_lane_from_outside_is_told_to_the_runtime_each_time() {
        let (sender, mut runner, runtime) = runner();
        let (mut steps, mut feet) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (step, foot) = oneshot::channel::<()>();
            steps.push(step);
            feet.push(foot);
        }
        let walk = async move {
            for foot in feet {
                foot.await.unwrap();
            }
        };
        sender.send(Box::pin(walk)).unwrap();
        assert_eq!(poll(&mut runner, &runtime), (Poll::Pending, 0));
        for step in steps {
            step.send(()).unwrap();
            assert_eq!(poll(&mut runner, &runtime), (Poll::Pending, 1));
        }
        drop(sender);
        assert_eq!(poll(&mut runner, &runtime), (Poll::Ready(()), 1));
    }

    #[test]
    fn work_that_work_brings_is_done_by_the_same_runner_and_others_work_is_not_its() {
        let (sender, mut runner, runtime) = runner();
        let (done, mut did) = unbounded_channel();
        let inner = move || -> Work { Box::pin(async move { done.send("inner").unwrap() }) };
        let outer = async move {
            assert!(keep(8, Box::pin(async {})).is_some(), "another lane's");
            assert!(keep(7, inner()).is_none());
        };
        sender.send(Box::pin(outer)).unwrap();
        assert_eq!(poll(&mut runner, &runtime), (Poll::Pending, 0));
        assert_eq!(did.try_recv(), Ok("inner"));
        assert!(keep(7, Box::pin(async {})).is_some(), "nobody polls it");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_lane_that_never_rests_lets_others_pass() {
        let (sender, receiver) = unbounded_channel::<Work>();
        let turns = Arc::new(AtomicUsize::new(0));
        let restless = Arc::clone(&turns);
        let work = std::future::poll_fn(move |cx| {
            restless.fetch_add(1, Ordering::SeqCst);
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        sender.send(Box::pin(work)).unwrap();
        let runner = tokio::spawn(Runner::new(7, receiver));
        let other = tokio::spawn(async {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        });
        other.await.unwrap();
        assert!(turns.load(Ordering::SeqCst) > 0);
        runner.abort();
    }
}
