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
