//! Gauges of the process: Go's `runtime.*` names where they make sense, and
//! Prometheus' `process_*` family.

use std::fmt::Write as _;
use std::time::Duration;

use steeple_runtime::Watcher;

use crate::prometheus::float;
use crate::registry::process_gauge;
use crate::{gauge, is_enabled};

/// Between two looks at the process.
const INTERVAL: Duration = Duration::from_secs(1);

/// Between two `uptime_in_ms`.
const UPTIME: Duration = Duration::from_secs(10);

/// What the system tells of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Memory in RAM that belongs to no file, in bytes: the heap, mostly.
    pub anonymous: u64,
    /// Memory in RAM, in bytes.
    pub resident: u64,
    /// Address space, in bytes.
    pub virtual_memory: u64,
    /// How large the address space may be, in bytes.
    pub max_virtual_memory: u64,
    /// Threads.
    pub threads: u64,
    /// CPU time of user and system, in seconds.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// How many may be open.
    pub max_fds: u64,
    /// When it started, in seconds since the epoch.
    pub start_time: f64,
}

/// Clock ticks per second in `/proc`; Linux shows the same to every program.
const TICKS: f64 = 100.0;

impl Process {
    /// Reads `/proc/self`; what cannot be read is zero.
    pub fn read() -> Self {
        let read =
            |file: &str| std::fs::read_to_string(format!("/proc/{file}")).unwrap_or_default();
        let status = read("self/status");
        let kilobytes = |key: &str| number(&status, key) * 1024;
        let stat = read("self/stat");
        // The name in parentheses may hold anything; what follows it is fixed.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
        let field = |at: usize| fields.get(at).and_then(|it| it.parse::<f64>().ok()).unwrap_or(0.0);
        let limits = read("self/limits");
        let limit = |name: &str| -> Option<u64> {
            let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
            match line.split_ascii_whitespace().next()? {
                "unlimited" => Some(u64::MAX),
                number => number.parse().ok(),
            }
        };
        let fds = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
        Self {
            anonymous: kilobytes("RssAnon:"),
            resident: kilobytes("VmRSS:"),
            virtual_memory: kilobytes("VmSize:"),
            threads: number(&status, "Threads:"),
            cpu_seconds: (field(11) + field(12)) / TICKS,
            // The directory itself is open while it is read.
            open_fds: fds.saturating_sub(1),
            max_fds: limit("Max open files").unwrap_or(0),
            max_virtual_memory: limit("Max address space").unwrap_or(0),
            start_time: number(&read("stat"), "btime") as f64 + field(19) / TICKS,
        }
    }

    /// The `process_*` family in Prometheus' text format, which every program
    /// that uses its Go client has.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for (name, sort, help, value) in [
            (
                "process_cpu_seconds_total",
                "counter",
                "Total user and system CPU time spent in seconds.",
                self.cpu_seconds,
            ),
            (
                "process_max_fds",
                "gauge",
                "Maximum number of open file descriptors.",
                self.max_fds as f64,
            ),
            ("process_open_fds", "gauge", "Number of open file descriptors.", self.open_fds as f64),
            (
                "process_resident_memory_bytes",
                "gauge",
                "Resident memory size in bytes.",
                self.resident as f64,
            ),
            (
                "process_start_time_seconds",
                "gauge",
                "Start time of the process since unix epoch in seconds.",
                self.start_time,
            ),
            (
                "process_virtual_memory_max_bytes",
                "gauge",
                "Maximum amount of virtual memory available in bytes.",
                self.max_virtual_memory as f64,
            ),
            (
                "process_virtual_memory_bytes",
                "gauge",
                "Virtual memory size in bytes.",
                self.virtual_memory as f64,
            ),
        ] {
            let value = float(value);
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {sort}\n{name} {value}\n");
        }
        out
    }
}

/// The number after a key at the beginning of a line.
fn number(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    value.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Emits `started` once, `uptime_in_ms` every ten seconds, and `runtime.*`
/// every second, until the drain begins.
pub async fn watch(version: String, trust_domain: String, mut drain: Watcher) {
    let started = tokio::time::Instant::now();
    let labels = [("version", version.as_str()), ("trust_domain_id", trust_domain.as_str())];
    gauge(&["started"], 1.0, &labels);
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next_uptime = started;
    loop {
        tokio::select! {
            () = drain.signalled() => return,
            now = ticks.tick() => {
                if !is_enabled() {
                    continue;
                }
                if now >= next_uptime {
                    next_uptime = now + UPTIME;
                    gauge(&["uptime_in_ms"], now.duration_since(started).as_millis() as f64, &[]);
                }
                emit(&Process::read());
            }
        }
    }
}

fn emit(process: &Process) {
    let tasks = tokio::runtime::Handle::try_current()
        .map_or(0, |runtime| runtime.metrics().num_alive_tasks());
    process_gauge(&["runtime", "num_goroutines"], tasks as f64);
    process_gauge(&["runtime", "alloc_bytes"], process.anonymous as f64);
    process_gauge(&["runtime", "sys_bytes"], process.resident as f64);
    process_gauge(&["runtime", "num_threads"], process.threads as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_tells_of_itself() {
        let process = Process::read();
        assert!(process.resident >= process.anonymous && process.anonymous > 0, "{process:?}");
        assert!(process.virtual_memory > process.resident && process.threads > 0, "{process:?}");
        assert!(process.open_fds > 2 && process.max_fds > 2, "{process:?}");
        let age =
            std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - process.start_time;
        assert!((-5.0..7200.0).contains(&age), "started {age} s ago");
    }

    #[test]
    fn the_family_has_the_names_of_prometheus_clients() {
        let text = Process { resident: 2_000_000, ..Process::default() }.render();
        assert!(text.contains("# TYPE process_cpu_seconds_total counter\n"));
        assert!(text.contains("\nprocess_resident_memory_bytes 2e+06\n"), "{text}");
    }
}
