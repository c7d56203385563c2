//! What each process of a folder takes while a scenario runs: read from `/proc` several times a
//! second, on a thread of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::postgres;
use crate::process::{self, Reading, Running};

/// How often processes are looked at.
const EVERY: Duration = Duration::from_millis(200);
/// Every so many looks, their open files are counted too.
const FILES_EVERY: u32 = 5;

/// What the processes of one program took during one scenario.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU in ms, and as share of one core.
    pub cpu: f64,
    pub cores: f64,
    /// The most that was resident at a look, and the most at any moment, in MiB.
    pub rss: f64,
    pub peak: f64,
    pub threads: f64,
    pub files: f64,
    /// System calls of the families of `read` and `write` (Linux counts no `recv` and `send`).
    pub reads: f64,
    pub writes: f64,
    /// MiB that went to a disk.
    pub written: f64,
    /// Statements to a database, of a server whose database counts them.
    pub statements: Option<f64>,
}

/// Looks at processes until it is ended.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<&'static str, Usage>>,
}

impl Sampler {
    /// Looks at what runs, or is started, under the label of a folder.
    pub fn begin(label: &str) -> Self {
        let (label, stop) = (label.to_owned(), Arc::<AtomicBool>::default());
        let told = Arc::clone(&stop);
        let mut watch = Watch::new(&label);
        let thread = std::thread::spawn(move || {
            let begun = Instant::now();
            let mut looks = 0;
            loop {
                // Told before the look, so that the last one is after the end.
                let last = told.load(Ordering::Relaxed);
                watch.look(&label, last || looks % FILES_EVERY == 0);
                looks += 1;
                if last {
                    return watch.taken(&label, begun.elapsed());
                }
                std::thread::park_timeout(EVERY);
            }
        });
        Self { stop, thread }
    }

    /// What was taken, by program.
    pub fn end(self) -> BTreeMap<&'static str, Usage> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_default()
    }
}

/// A process: how it was when the scenario began, and what was seen of it.
struct Seen {
    process: Running,
    before: Reading,
    latest: Reading,
    files: u64,
    rss: u64,
    threads: u64,
}

struct Watch {
    seen: BTreeMap<u32, Seen>,
    statements: Option<f64>,
}

impl Watch {
    /// What runs already counts from here.
    fn new(label: &str) -> Self {
        let mut seen = BTreeMap::new();
        for process in process::running(label) {
            process.reset_peak();
            let before = process.read().unwrap_or_default();
            seen.insert(process.pid, Seen::new(process, before));
        }
        Self { seen, statements: postgres::statements(label) }
    }

    fn look(&mut self, label: &str, files: bool) {
        for process in process::running(label) {
            let Some(now) = process.read() else { continue };
            let seen = self.seen.entry(process.pid);
            let seen = seen.or_insert_with(|| Seen::new(process, Reading::default()));
            seen.latest = now;
            seen.rss = seen.rss.max(now.rss);
            seen.threads = seen.threads.max(now.threads);
            if files {
                seen.files = seen.files.max(seen.process.files());
            }
        }
    }

    fn taken(&self, label: &str, wall: Duration) -> BTreeMap<&'static str, Usage> {
        let mut taken: BTreeMap<&'static str, Usage> = BTreeMap::new();
        for seen in self.seen.values() {
            let usage = taken.entry(seen.process.program).or_default();
            let (before, latest) = (&seen.before, &seen.latest);
            let mib = |kib: u64| kib as f64 / 1024.0;
            usage.cpu += latest.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e3;
            usage.cores = usage.cpu / 1e3 / wall.as_secs_f64();
            usage.rss = usage.rss.max(mib(seen.rss));
            usage.peak = usage.peak.max(mib(latest.peak));
            usage.threads = usage.threads.max(seen.threads as f64);
            usage.files = usage.files.max(seen.files as f64);
            usage.reads += latest.reads.saturating_sub(before.reads) as f64;
            usage.writes += latest.writes.saturating_sub(before.writes) as f64;
            usage.written += mib(latest.written.saturating_sub(before.written) / 1024);
        }
        if let (Some(server), Some(now)) =
            (taken.get_mut("spire-server"), postgres::statements(label))
        {
            server.statements = Some((now - self.statements.unwrap_or(0.0)).max(0.0));
        }
        taken
    }
}

impl Seen {
    fn new(process: Running, before: Reading) -> Self {
        Self { process, before, latest: before, files: 0, rss: before.rss, threads: before.threads }
    }
}
