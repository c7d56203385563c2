//! The table for people and the JSON for machines.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::args::{Args, Bin};
use crate::error::{Error, Result};
use crate::figures::{Better, Figure, Samples};
use crate::floors::{Floors, Yardstick};
use crate::machine;
use crate::pictures;
use crate::sampler::Usage;
use crate::scenario::{self, Scenario};
use crate::stats::{median, range, spread};

/// Everything that a run found out.
pub struct Report<'a> {
    args: &'a Args,
    versions: Vec<String>,
    load_before: String,
    load_after: String,
    found: Option<(Floors, Yardstick, Samples)>,
}

/// Picks what a column shows.
type Column = fn(&Usage) -> f64;

/// The columns of what programs took.
const COLUMNS: [(&str, Column); 10] = [
    ("cpu_ms", |it| it.cpu),
    ("cores", |it| it.cores),
    ("rss_mib", |it| it.rss),
    ("peak_mib", |it| it.peak),
    ("threads", |it| it.threads),
    ("files", |it| it.files),
    ("read_calls", |it| it.reads),
    ("write_calls", |it| it.writes),
    ("written_mib", |it| it.written),
    ("statements", |it| it.statements.unwrap_or(f64::NAN)),
];

/// How a folder compares to the first one.
struct Comparison {
    ratio: f64,
    verdict: &'static str,
}

impl<'a> Report<'a> {
    /// Notes how things are before anything is measured.
    pub fn begin(args: &'a Args) -> Self {
        let versions = args.bins.iter().map(version).collect();
        let load_before = machine::load_average();
        Self { args, versions, load_before, load_after: String::new(), found: None }
    }

    /// Takes in what was measured.
    pub fn end(&mut self, floors: Floors, yardstick: Yardstick, samples: Samples) {
        self.load_after = machine::load_average();
        self.found = Some((floors, yardstick, samples));
    }

    fn found(&self) -> (&Floors, &Yardstick, &Samples) {
        let (floors, yardstick, samples) = self.found.as_ref().expect("a report ends first");
        (floors, yardstick, samples)
    }

    /// The table, in Markdown.
    pub fn table(&self) -> String {
        let (floors, _, samples) = self.found();
        let bins = &self.args.bins;
        let mut head = vec!["figure".to_owned(), "unit".to_owned()];
        head.extend(bins.iter().map(|bin| bin.label.clone()));
        head.extend(bins.iter().skip(1).map(|bin| format!("{} / {}", bin.label, bins[0].label)));
        head.push("limit".to_owned());
        head.extend(bins.iter().map(|bin| format!("{} / limit", bin.label)));
        let mut rows = vec![head];
        for figure in scenario::figures() {
            if bins.iter().enumerate().all(|(bin, _)| samples.of(figure.id, bin).is_empty()) {
                continue;
            }
            let mut row = vec![figure.label.to_owned(), figure.unit.to_owned()];
            for bin in 0..bins.len() {
                let values = samples.of(figure.id, bin);
                let (least, greatest) = range(values);
                let middle = short(median(values));
                row.push(match values.len() {
                    0 => "–".to_owned(),
                    1 => middle,
                    _ => format!("{middle} ({}–{})", short(least), short(greatest)),
                });
            }
            for bin in 1..bins.len() {
                let it = compare(figure, samples, bin);
                let ratio = format!("{:.2} {}", it.ratio, it.verdict).trim_end().to_owned();
                row.push(if it.ratio.is_finite() { ratio } else { "–".to_owned() });
            }
            row.push(figure.limit_in(floors).map_or(String::new(), short));
            for bin in 0..bins.len() {
                let values = samples.of(figure.id, bin);
                let times = figure.times_limit(floors, median(values));
                let times = times.filter(|_| !values.is_empty());
                row.push(times.map_or(String::new(), |it| format!("{} ×", short(it))));
            }
            rows.push(row);
        }
        self.conditions() + &markdown(&rows) + &self.processes()
    }

    /// What each program took during each scenario.
    fn processes(&self) -> String {
        let (_, _, samples) = self.found();
        let head = "scenario,program,of,CPU ms,cores,RSS MiB,peak MiB,threads,files,reads,writes,\
                    written MiB,statements";
        let mut rows: Vec<Vec<String>> = vec![head.split(',').map(str::to_owned).collect()];
        for scenario in scenario::ALL {
            for program in ["spire-server", "spire-agent"] {
                for (bin, folder) in self.args.bins.iter().enumerate() {
                    let usages = samples.usages(scenario.name, program, bin);
                    if usages.is_empty() {
                        continue;
                    }
                    let mut row = vec![scenario.name.into(), program.into(), folder.label.clone()];
                    row.extend(COLUMNS.iter().map(|(_, pick)| {
                        short(median(&usages.iter().map(pick).collect::<Vec<_>>()))
                    }));
                    rows.push(row);
                }
            }
        }
        format!(
            "\nWhat each program took during each scenario (medians; sampled five times a second):\n\n{}",
            markdown(&rows)
        )
    }

    /// What a short run went through.
    pub fn counts(&self) -> String {
        let (_, _, samples) = self.found();
        let ran = |it: &&Scenario| it.figures.iter().any(|it| !samples.of(it.id, 0).is_empty());
        let scenarios = scenario::ALL.iter().filter(ran).count();
        let figures = scenario::figures().filter(|it| !samples.of(it.id, 0).is_empty()).count();
        let calls: u64 = samples.loads().iter().map(|it| it.calls).sum();
        format!("bench: {scenarios} scenarios passed, {figures} figures, {calls} calls in loads")
    }

    /// Draws every scenario into `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn draw(&self, folder: &Path) -> Result<()> {
        let (floors, _, samples) = self.found();
        pictures::draw(folder, self.args, floors, samples)
    }

    /// What the figures were taken under.
    fn conditions(&self) -> String {
        let (floors, yardstick, _) = self.found();
        let mut text = format!("{}\n", machine::description());
        for (bin, version) in self.args.bins.iter().zip(&self.versions) {
            let _ = writeln!(text, "{}: {version}", bin.label);
        }
        let (foreign, stolen, own) = self.beside();
        let _ = writeln!(
            text,
            "{} rounds; median (least–greatest). Load average {} before, {} after.\n\
             While measuring, other processes took {foreign:.1} % of the machine, the hypervisor \
             {stolen:.1} %; the load generator, on the same cores, {own:.1} %.",
            self.args.rounds, self.load_before, self.load_after,
        );
        let (cpu, wall) = (yardstick.cpu(), yardstick.wall());
        let _ = writeln!(
            text,
            "Limits, CPU on this machine today: P-256 signature {:.1} µs, verification {:.1} µs, \
             new key {:.1} µs; serving one request on a Unix socket: new connection {:.1} µs, open \
             connection {:.1} µs, on TCP with TLS {:.1} µs; mutual TLS 1.3 handshake, server side \
             (both sides): X25519 {:.0} ({:.0}) µs, X25519MLKEM768 {:.0} ({:.0}) µs. A page on \
             the disk takes {:.0} µs.\n\
             Bytes: {}.\n\
             Noise: the same signature, {} times through the run: CPU {:.1}–{:.1} µs (spread \
             {:.0} %), time {:.1}–{:.1} µs (spread {:.0} %).\n",
            floors.sign,
            floors.verify,
            floors.generate,
            floors.connection,
            floors.exchange,
            floors.tls_exchange,
            floors.handshake.server,
            floors.handshake.both,
            floors.hybrid_handshake.server,
            floors.hybrid_handshake.both,
            floors.sync,
            sizes(floors),
            cpu.len(),
            range(&cpu).0,
            range(&cpu).1,
            spread(&cpu),
            range(&wall).0,
            range(&wall).1,
            spread(&wall),
        );
        text
    }

    /// Percent of the machine's CPU that others, the hypervisor and we took while measuring.
    fn beside(&self) -> (f64, f64, f64) {
        let loads = self.found().2.loads();
        let wall: Duration = loads.iter().map(|it| it.wall).sum();
        let whole = wall.as_secs_f64() * machine::cores() as f64 / 100.0;
        let percent = |of: Duration| if whole > 0.0 { of.as_secs_f64() / whole } else { 0.0 };
        (
            percent(loads.iter().map(|it| it.foreign).sum()),
            percent(loads.iter().map(|it| it.stolen).sum()),
            percent(loads.iter().map(|it| it.own).sum()),
        )
    }

    /// Writes every value to `path`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let text = format!("{:#}\n", self.json());
        std::fs::write(path, text).map_err(Error::io(path.display().to_string()))
    }

    fn json(&self) -> Value {
        let (floors, yardstick, samples) = self.found();
        let args = self.args;
        let (foreign, stolen, own) = self.beside();
        let bins: Vec<Value> = (args.bins.iter().zip(&self.versions))
            .map(|(bin, version)| json!({ "label": bin.label, "version": version }))
            .collect();
        let measured = |id| (0..args.bins.len()).any(|bin| !samples.of(id, bin).is_empty());
        let figures: Vec<Value> = scenario::figures()
            .filter(|figure| measured(figure.id))
            .map(|figure| self.figure(figure, floors, samples))
            .collect();
        json!({
            "machine": {
                "description": machine::description(),
                "cores": machine::cores(),
                "load_before": self.load_before,
                "load_after": self.load_after,
                "foreign_cpu_percent": foreign,
                "stolen_cpu_percent": stolen,
                "generator_cpu_percent": own,
                "limits": {
                    "p256_sign_us": floors.sign,
                    "p256_verify_us": floors.verify,
                    "p256_generate_us": floors.generate,
                    "unix_socket_connection_us": floors.connection,
                    "unix_socket_exchange_us": floors.exchange,
                    "tls_exchange_us": floors.tls_exchange,
                    "tls_handshake_server_us": floors.handshake.server,
                    "tls_handshake_both_us": floors.handshake.both,
                    "tls_hybrid_handshake_server_us": floors.hybrid_handshake.server,
                    "tls_hybrid_handshake_both_us": floors.hybrid_handshake.both,
                    "disk_sync_us": floors.sync,
                    "svid_bytes": floors.svid,
                    "update_bytes": floors.update,
                    "entry_bytes": floors.entry,
                },
                "yardstick_cpu_us": yardstick.cpu(),
                "yardstick_wall_us": yardstick.wall(),
            },
            "options": {
                "rounds": args.rounds,
                "seconds": args.load.as_secs_f64(),
                "connections": args.connections,
                "streams": args.streams,
                "idle_seconds": args.idle.as_secs_f64(),
                "changes": args.changes,
                "agents": args.agents,
                "steady_seconds": args.steady.as_secs_f64(),
            },
            "folders": bins,
            "figures": figures,
            "processes": self.processes_json(),
        })
    }

    fn processes_json(&self) -> Value {
        let (_, _, samples) = self.found();
        let mut list = Vec::new();
        for (scenario, program, bin, usages) in samples.all_usages() {
            let mut it = Map::new();
            it.insert("scenario".into(), scenario.into());
            it.insert("program".into(), program.into());
            it.insert("folder".into(), self.args.bins[bin].label.clone().into());
            for (name, pick) in COLUMNS {
                let rounds: Vec<f64> = usages.iter().map(pick).collect();
                it.insert(name.into(), rounds.into());
            }
            list.push(Value::Object(it));
        }
        Value::Array(list)
    }

    fn figure(&self, figure: &Figure, floors: &Floors, samples: &Samples) -> Value {
        let mut results = Map::new();
        for (bin, folder) in self.args.bins.iter().enumerate() {
            let values = samples.of(figure.id, bin);
            let (least, greatest) = range(values);
            let it = compare(figure, samples, bin);
            let result = json!({
                "median": median(values),
                "least": least,
                "greatest": greatest,
                "rounds": values,
                "times_limit": figure.times_limit(floors, median(values)),
                "ratio": it.ratio,
                "verdict": it.verdict,
            });
            results.insert(folder.label.clone(), result);
        }
        json!({
            "id": figure.id,
            "label": figure.label,
            "unit": figure.unit,
            "better": if figure.better == Better::Lower { "lower" } else { "higher" },
            "limit": figure.limit_in(floors),
            "limit_is": figure.limit.map(|it| it.what),
            "results": results,
        })
    }
}

/// The ratio of the medians, and whether the ranges are apart. Nothing is said of a single round.
fn compare(figure: &Figure, samples: &Samples, bin: usize) -> Comparison {
    let (first, other) = (samples.of(figure.id, 0), samples.of(figure.id, bin));
    let ratio = median(other) / median(first);
    let ((first_least, first_greatest), (least, greatest)) = (range(first), range(other));
    let apart = greatest < first_least || least > first_greatest;
    let verdict = match (first.len(), apart, figure.better, ratio < 1.0) {
        (0 | 1, _, _, _) => "",
        (_, false, _, _) => "same",
        (_, _, Better::Lower, true) | (_, _, Better::Higher, false) => "better",
        _ => "worse",
    };
    Comparison { ratio, verdict }
}

/// What an answer and an entry weigh, where a scenario looked.
fn sizes(floors: &Floors) -> String {
    let of = [
        ("an SVID with its key", floors.svid),
        ("an update with one SVID", floors.update),
        ("an entry", floors.entry),
    ];
    let known: Vec<String> =
        of.iter().filter_map(|(what, it)| it.map(|it| format!("{what} {it:.0}"))).collect();
    if known.is_empty() { "not looked at".into() } else { known.join(", ") }
}

/// Three digits that matter.
pub fn short(value: f64) -> String {
    match value.abs() {
        it if it.is_nan() => "–".to_owned(),
        it if it >= 100.0 => format!("{value:.0}"),
        it if it >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// What the server calls its version.
fn version(bin: &Bin) -> String {
    let output = Command::new(bin.folder.join("spire-server")).arg("--version").output();
    let text = output.map(|it| [it.stdout, it.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown version").to_owned()
}

/// A table whose columns are as wide as they need to be.
fn markdown(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|it| width(it).unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, &width) in row.iter().zip(&widths) {
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            let rule = widths.iter().map(|width| format!("|{}", "-".repeat(width + 2)));
            text.push_str(&rule.collect::<String>());
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(id: &str) -> &'static Figure {
        scenario::figures().find(|it| it.id == id).expect("it is in the list")
    }

    #[test]
    fn a_difference_within_the_spread_is_none() {
        let mut samples = Samples::default();
        for (first, other) in [(10.0, 11.0), (12.0, 13.0)] {
            samples.add(0, "mint_x509.cpu", first);
            samples.add(1, "mint_x509.cpu", other);
        }
        assert_eq!(compare(figure("mint_x509.cpu"), &samples, 1).verdict, "same");
    }

    #[test]
    fn better_depends_on_the_figure() {
        let mut samples = Samples::default();
        for id in ["mint_x509.cpu", "mint_x509.cpu", "mint_x509.rate", "mint_x509.rate"] {
            samples.add(0, id, 10.0);
            samples.add(1, id, 5.0);
        }
        let cpu = compare(figure("mint_x509.cpu"), &samples, 1);
        assert_eq!((cpu.ratio, cpu.verdict), (0.5, "better"));
        assert_eq!(compare(figure("mint_x509.rate"), &samples, 1).verdict, "worse");
    }
}
