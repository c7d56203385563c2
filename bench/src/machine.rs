//! The machine, and what else runs on it.

use std::fs;
use std::time::Duration;

use crate::error::{Error, Result};

/// CPU time of the whole machine since it started, from `/proc/stat`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Busy {
    /// Spent on anything.
    pub used: Duration,
    /// Taken by the hypervisor for others.
    pub stolen: Duration,
}

impl Busy {
    /// # Errors
    /// When `/proc/stat` cannot be read.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").map_err(Error::io("/proc/stat"))?;
        let line = text.lines().next().unwrap_or_default();
        // user nice system idle iowait irq softirq steal, in ticks of 10 ms.
        let ticks: Vec<u64> =
            line.split_whitespace().skip(1).filter_map(|it| it.parse().ok()).collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0) * 10;
        Ok(Self {
            used: Duration::from_millis(at(0) + at(1) + at(2) + at(5) + at(6)),
            stolen: Duration::from_millis(at(7)),
        })
    }
}

/// The load averages of 1, 5 and 15 minutes.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Kernel and processor, in words.
pub fn description() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": ")).map_or("unknown CPU", |it| it.1);
    format!("{model}, {} cores, Linux {}", cores(), kernel.trim())
}
