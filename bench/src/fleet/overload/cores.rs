//! Who has which cores: the server the first half, the load generator the others.

use std::fs;
use std::process::{Command, Stdio};

/// The cores of this process, in two parts; it has all of them again when this is dropped.
pub struct Cores {
    all: String,
    parts: Option<(String, String)>,
}

impl Cores {
    /// In halves, the middle one to the load generator. With one core, or without `taskset`, both
    /// have all of them.
    pub fn split() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let all = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let all = all.unwrap_or_default().trim().to_owned();
        let parts = halves(&all);
        let cores = Self { all, parts };
        if !cores.to_generator() {
            eprintln!("overload: server and load generator share the cores");
        }
        cores
    }

    /// What is started from now on has the server's cores.
    pub fn to_server(&self) -> bool {
        self.parts.as_ref().is_some_and(|(server, _)| pin(server))
    }

    /// Everything of this process has the load generator's.
    pub fn to_generator(&self) -> bool {
        self.parts.as_ref().is_some_and(|(_, generator)| pin(generator))
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        if self.parts.is_some() {
            pin(&self.all);
        }
    }
}

/// All threads of this process to these cores.
fn pin(cores: &str) -> bool {
    let mut command = Command::new("taskset");
    command.args(["--all-tasks", "--cpu-list", "--pid", cores, &std::process::id().to_string()]);
    let done = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

/// The two halves of a list of cores as the kernel writes it, like `0-3,8`.
fn halves(list: &str) -> Option<(String, String)> {
    let mut cores: Vec<usize> = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        cores.extend(first..=last);
    }
    if cores.len() < 2 {
        return None;
    }
    let text = |cores: &[usize]| cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let (server, generator) = cores.split_at(cores.len() / 2);
    Some((text(server), text(generator)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_and_the_load_generator_share_no_core() {
        let parts = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(halves("0-1"), parts("0", "1"));
        assert_eq!(halves("0-2,8,10-11"), parts("0,1,2", "8,10,11"));
        assert_eq!(halves("3,5,7"), parts("3", "5,7"));
    }

    #[test]
    fn one_core_is_not_split() {
        for list in ["0", "", "x-y"] {
            assert_eq!(halves(list), None, "{list}");
        }
    }
}
