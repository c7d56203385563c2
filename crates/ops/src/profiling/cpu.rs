//! CPU profiles by sampling.

use std::io;
use std::time::{Duration, SystemTime};

use super::proto::{Builder, Frame};

/// Samples a second of CPU time, as in Go.
const FREQUENCY: i32 = 100;

/// Samples for this long; the profile is encoded, not compressed.
pub(super) async fn record(time: Duration) -> io::Result<Vec<u8>> {
    let began = SystemTime::now();
    let guard = pprof::ProfilerGuardBuilder::default()
        .frequency(FREQUENCY)
        // Unwinding through these from a signal can hang.
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()
        .map_err(io::Error::other)?;
    tokio::time::sleep(time).await;
    // Looking up names takes long in a large program.
    let encoded = tokio::task::spawn_blocking(move || {
        let report = guard.report().build().map_err(io::Error::other)?;
        Ok::<_, io::Error>(encode(&report, began, time))
    });
    encoded.await.map_err(io::Error::other)?
}

fn encode(report: &pprof::Report, began: SystemTime, took: Duration) -> Vec<u8> {
    let period = 1_000_000_000 / i64::from(FREQUENCY);
    let mut builder = Builder::new(&[("samples", "count"), ("cpu", "nanoseconds")]);
    builder.times(began, took, period);
    for (stack, count) in &report.data {
        let frames = stack.frames.iter().flatten().map(|symbol| Frame {
            function: symbol.name(),
            file: symbol.filename().into_owned(),
            line: symbol.lineno(),
        });
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        let values = vec![count, count.saturating_mul(period)];
        builder.sample(frames.collect(), values, &stack.thread_name);
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_busy_thread_is_seen_at_its_work() {
        let stop = Arc::new(AtomicBool::new(false));
        let busy = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut sum = 0u64;
            while !busy.load(Ordering::Relaxed) {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
            }
            sum
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Another test may be profiling at this moment; a busy machine may give little time.
        let mut seen = false;
        for _ in 0..20 {
            let profile = runtime.block_on(record(Duration::from_millis(200)));
            let text = String::from_utf8_lossy(&profile.unwrap_or_default()).into_owned();
            seen = text.contains("a_busy_thread_is_seen_at_its_work");
            if seen {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        assert!(seen, "the busy function is in the profile");
    }
}
