//! The process's threads, and how many tasks the runtime has.

use std::collections::BTreeMap;
use std::io;

use super::proto::{Builder, Frame};

struct Thread {
    id: u32,
    name: String,
    state: String,
    cpu_ticks: u64,
}

/// By id; a thread that ends meanwhile is left out.
fn threads() -> io::Result<Vec<Thread>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|it| it.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, rest)) = stat.rsplit_once(") ") else { continue };
        let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
        let state = fields.first().copied().unwrap_or_default().to_owned();
        threads.push(Thread { id, name, state, cpu_ticks: number(11) + number(12) });
    }
    threads.sort_by_key(|thread| thread.id);
    Ok(threads)
}

/// A line per thread.
pub(super) fn text() -> String {
    let metrics = tokio::runtime::Handle::try_current().map(|runtime| runtime.metrics());
    let (tasks, workers) =
        metrics.map_or((0, 0), |metrics| (metrics.num_alive_tasks(), metrics.num_workers()));
    let threads = threads().unwrap_or_default();
    let mut out = format!(
        "tasks: {tasks}\nworkers: {workers}\nthreads: {}\n\n{:>8}  {:5}  {:>9}  name\n",
        threads.len(),
        "id",
        "state",
        "cpu ms"
    );
    for Thread { id, name, state, cpu_ticks } in threads {
        out.push_str(&format!("{id:>8}  {state:5}  {:>9}  {name}\n", cpu_ticks * 10));
    }
    out
}

/// Threads counted by name, for `go tool pprof`.
pub(super) fn profile() -> io::Result<Vec<u8>> {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for thread in threads()? {
        *counts.entry(thread.name).or_default() += 1;
    }
    let mut builder = Builder::new(&[("threads", "count")]);
    for (name, count) in counts {
        builder.sample(
            vec![Frame { function: name, file: String::new(), line: 0 }],
            vec![count],
            "",
        );
    }
    Ok(builder.finish())
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_thread_is_among_them() {
        let text = super::text();
        assert!(text.contains(&format!("\n{:>8}  ", std::process::id())), "{text}");
        assert!(!super::profile().unwrap().is_empty());
    }
}
