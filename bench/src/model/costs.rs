//! What things cost, as measured: one file, with where and when each figure is from.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::demand::{Costs, Demand, Shape};
use crate::error::{Error, Result};
use crate::fleet::steady::EACH;

/// One of the costs in the file.
#[derive(Clone, Copy)]
pub struct Unit {
    /// Its name there.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// In which unit it is there.
    pub unit: &'static str,
    /// The figure of a benchmark's report that it is.
    pub figure: &'static str,
    /// How many of the model's units one of the file's has.
    scale: f64,
    place: fn(&mut Costs) -> &mut f64,
}

const fn unit(
    name: &'static str,
    about: &'static str,
    unit: &'static str,
    figure: &'static str,
    place: fn(&mut Costs) -> &mut f64,
) -> Unit {
    Unit { name, about, unit, figure, scale: 1.0, place }
}

const fn scaled(scale: f64, of: Unit) -> Unit {
    Unit { scale, ..of }
}

const MIB: f64 = 1024.0 * 1024.0;

/// Every cost, in the order of the page.
#[rustfmt::skip]
pub const UNITS: &[Unit] = &[
    unit("attest.cpu", "agent attested, with its connection", "µs", "agents.attest.cpu", |it| &mut it.attest_cpu),
    unit("connect.cpu", "agent connects, first call", "µs", "agents.connect.cpu", |it| &mut it.connect_cpu),
    unit("sync.cpu", "sync without news", "µs", "agents.sync.cpu", |it| &mut it.sync_cpu),
    unit("bundle.cpu", "bundle fetched, part of each sync", "µs", "agents.bundle.cpu", |it| &mut it.bundle_cpu),
    unit("renew.cpu", "agent's SVID renewed", "µs", "agents.renew.cpu", |it| &mut it.renew_cpu),
    unit("sign.cpu", "X.509-SVID signed, alone", "µs", "agents.sign1.cpu", |it| &mut it.sign_cpu),
    unit("jwt.cpu", "JWT-SVID signed", "µs", "agents.jwt.cpu", |it| &mut it.jwt_cpu),
    unit("create.cpu", "entry created, alone", "µs", "entries.cpu", |it| &mut it.create_cpu),
    scaled(1000.0, unit("idle.cpu", "server idle", "ms/s", "idle.server.cpu", |it| &mut it.idle_cpu)),
    scaled(MIB, unit("base.memory", "server idle", "MiB", "idle.server.rss", |it| &mut it.base_memory)),
    scaled(1024.0, unit("agent.memory", "agent connected, with node and stream of hints", "KiB", "fleet.connection", |it| &mut it.agent_memory)),
    unit("entry.memory", "entry in the index", "B", "start.many.rss", |it| &mut it.entry_memory),
    unit("connect.bytes", "agent connects, first call", "B", "agents.connect.bytes", |it| &mut it.connect_bytes),
    unit("sync.bytes", "sync without news, 10 entries", "B", "agents.sync.bytes", |it| &mut it.sync_bytes),
    unit("bundle.bytes", "bundle fetched", "B", "agents.bundle.bytes", |it| &mut it.bundle_bytes),
    unit("renew.bytes", "agent's SVID renewed", "B", "agents.renew.bytes", |it| &mut it.renew_bytes),
    unit("sign.bytes", "X.509-SVID signed", "B", "agents.sign1.bytes", |it| &mut it.sign_bytes),
    unit("jwt.bytes", "JWT-SVID signed", "B", "agents.jwt.bytes", |it| &mut it.jwt_bytes),
    unit("connect.statements", "agent connects", "", "agents.connect.statements", |it| &mut it.connect_statements),
    unit("sync.statements", "sync without news", "", "agents.sync.statements", |it| &mut it.sync_statements),
    unit("renew.statements", "agent's SVID renewed", "", "agents.renew.statements", |it| &mut it.renew_statements),
    unit("sign.statements", "X.509-SVID signed", "", "agents.sign1.statements", |it| &mut it.sign_statements),
    unit("jwt.statements", "JWT-SVID signed", "", "agents.jwt.statements", |it| &mut it.jwt_statements),
    unit("create.statements", "entry created", "", "entries.statements", |it| &mut it.create_statements),
    unit("idle.statements", "server idle", "/s", "agents.idle.statements", |it| &mut it.idle_statements),
];

/// A measured value, and where it is from.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub value: f64,
    /// `2026-11-22`.
    pub date: String,
    pub source: String,
}

/// A fleet at work that was measured, to hold the model against.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub program: String,
    pub agents: f64,
    /// Of a core.
    pub cores: f64,
    /// Bytes resident.
    pub memory: f64,
    /// A second, of the whole fleet.
    pub bytes: f64,
    pub date: String,
    pub source: String,
}

/// Everything in the file.
#[derive(Clone, Debug, Default)]
pub struct Book {
    programs: BTreeMap<String, BTreeMap<String, Measured>>,
    pub points: Vec<Point>,
}

impl Book {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or is not what [`Self::write`] writes.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(Error::io(&name))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| Error::Usage(format!("{name}: {error}")))?;
        Self::parse(&value).ok_or_else(|| Error::Usage(format!("{name}: not a file of costs")))
    }

    fn parse(value: &Value) -> Option<Self> {
        let mut book = Self::default();
        for (program, costs) in value.get("programs")?.as_object()? {
            for (name, it) in costs.as_object()? {
                let measured = Measured {
                    value: it.get("value")?.as_f64()?,
                    date: it.get("date")?.as_str()?.into(),
                    source: it.get("source")?.as_str()?.into(),
                };
                book.programs.entry(program.clone()).or_default().insert(name.clone(), measured);
            }
        }
        for it in value.get("points")?.as_array()? {
            let number = |name: &str| it.get(name).and_then(Value::as_f64);
            let text = |name: &str| it.get(name).and_then(Value::as_str).map(str::to_owned);
            book.points.push(Point {
                program: text("program")?,
                agents: number("agents")?,
                cores: number("cores")?,
                memory: number("memory")?,
                bytes: number("bytes")?,
                date: text("date")?,
                source: text("source")?,
            });
        }
        Some(book)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut programs = Map::new();
        for (program, costs) in &self.programs {
            let mut map = Map::new();
            for unit in UNITS {
                if let Some(it) = costs.get(unit.name) {
                    let it = json!({
                        "value": it.value,
                        "unit": unit.unit,
                        "date": it.date,
                        "source": it.source,
                    });
                    map.insert(unit.name.into(), it);
                }
            }
            programs.insert(program.clone(), map.into());
        }
        let points: Vec<Value> = self.points.iter().map(point).collect();
        let text = format!("{:#}\n", json!({ "programs": programs, "points": points }));
        fs::write(path, text).map_err(Error::io(path.display().to_string()))
    }

    /// Takes what a benchmark's report (`bench --json`) has of the costs, and the fleets in it; the
    /// rest stays. `date` and `source` say where it is from. How many figures were taken.
    pub fn take(&mut self, report: &Value, date: &str, source: &str) -> usize {
        let median = |figure: &str, program: &str| {
            let figures = report.get("figures")?.as_array()?;
            let figure = figures.iter().find(|it| it.get("id").is_some_and(|id| id == figure))?;
            let found = figure.get("results")?.get(program)?;
            let samples = found.get("rounds").and_then(Value::as_array).map_or(0, Vec::len);
            found.get("median")?.as_f64().filter(|_| samples > 0)
        };
        let folders = report.get("folders").and_then(Value::as_array).into_iter().flatten();
        let agents = report.pointer("/options/agents").and_then(Value::as_f64);
        let (date, source) = (date.to_owned(), source.to_owned());
        let mut taken = 0;
        for program in folders.filter_map(|it| it.get("label").and_then(Value::as_str)) {
            for unit in UNITS {
                if let Some(value) = median(unit.figure, program) {
                    let value = (value * 1000.0).round() / 1000.0;
                    let it = Measured { value, date: date.clone(), source: source.clone() };
                    let costs = self.programs.entry(program.to_owned()).or_default();
                    costs.insert(unit.name.to_owned(), it);
                    taken += 1;
                }
            }
            let fleet = |name: &str| median(&format!("fleet.{name}"), program);
            let of = (agents, fleet("cpu"), fleet("rss"), fleet("bytes"));
            if let (Some(agents), Some(cpu), Some(rss), Some(bytes)) = of {
                let whole = |value: f64| (value * 1e4).round() / 1e4;
                self.points.retain(|it| it.program != program || it.agents != agents);
                self.points.push(Point {
                    program: program.to_owned(),
                    agents,
                    cores: whole(cpu / 100.0),
                    memory: (rss * MIB).round(),
                    bytes: (bytes * agents).round(),
                    date: date.clone(),
                    source: source.clone(),
                });
                taken += 1;
            }
        }
        self.points.sort_by(|one, other| {
            (&one.program, one.agents).partial_cmp(&(&other.program, other.agents)).expect("no NaN")
        });
        taken
    }

    /// The costs of `program`, in the model's units; what is missing costs nothing.
    pub fn costs(&self, program: &str) -> Costs {
        let mut costs = Costs::default();
        for unit in UNITS {
            if let Some(it) = self.measured(program, unit.name) {
                *(unit.place)(&mut costs) = it.value * unit.scale;
            }
        }
        // A fleet's memory was measured with its entries, which count for themselves.
        let entries = EACH as f64 * costs.entry_memory;
        costs.agent_memory = (costs.agent_memory - entries).max(0.0);
        if let Some(point) = self.setting(program) {
            let busy = Demand::of(&Shape::measured(point.agents), &costs).cores;
            let idle = costs.idle_cpu / 1e6;
            if busy > idle {
                costs.at_ease = ((point.cores - idle) / (busy - idle)).max(1.0);
            }
        }
        costs
    }

    /// The fleet that tells what calls cost a server at ease: the one in the middle by size.
    pub fn setting(&self, program: &str) -> Option<&Point> {
        let points: Vec<&Point> = self.points.iter().filter(|it| it.program == program).collect();
        points.get(points.len() / 2).copied()
    }

    /// One of the costs of `program`.
    pub fn measured(&self, program: &str, name: &str) -> Option<&Measured> {
        self.programs.get(program)?.get(name)
    }

    /// The programs that there are costs of.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        self.programs.keys().map(String::as_str)
    }
}

fn point(it: &Point) -> Value {
    json!({
        "program": it.program,
        "agents": it.agents,
        "cores": it.cores,
        "memory": it.memory,
        "bytes": it.bytes,
        "date": it.date,
        "source": it.source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Value {
        let result = |value: f64| json!({ "steeple": { "median": value, "rounds": [value] } });
        json!({
            "folders": [{ "label": "steeple" }],
            "options": { "agents": 500 },
            "figures": [
                { "id": "agents.sync.cpu", "results": result(20.0) },
                { "id": "idle.server.rss", "results": result(16.0) },
                { "id": "fleet.cpu", "results": result(3.0) },
                { "id": "fleet.rss", "results": result(40.0) },
                { "id": "fleet.bytes", "results": result(600.0) },
                { "id": "agents.renew.cpu", "results": { "steeple": { "median": 0.0, "rounds": [] } } },
            ],
        })
    }

    #[test]
    fn a_report_replaces_what_it_has_and_leaves_the_rest() {
        let mut book = Book::default();
        assert_eq!(book.take(&report(), "2026-11-22", "a run"), 3);
        let costs = book.costs("steeple");
        assert_eq!((costs.sync_cpu, costs.base_memory), (20.0, 16.0 * MIB));
        assert_eq!(book.measured("steeple", "renew.cpu"), None);
        let again = json!({
            "folders": [{ "label": "steeple" }],
            "figures": [{ "id": "agents.sync.cpu",
                "results": { "steeple": { "median": 18.0, "rounds": [18.0] } } }],
        });
        assert_eq!(book.take(&again, "2026-11-23", "another"), 1);
        let costs = book.costs("steeple");
        assert_eq!((costs.sync_cpu, costs.base_memory), (18.0, 16.0 * MIB));
    }

    #[test]
    fn a_fleet_of_the_same_size_replaces_the_one_before() {
        let mut book = Book::default();
        book.take(&report(), "2026-11-22", "a run");
        book.take(&report(), "2026-11-23", "another");
        let [point] = &book.points[..] else { panic!("{:?}", book.points) };
        assert_eq!((point.agents, point.cores, point.bytes), (500.0, 0.03, 300_000.0));
        assert_eq!(point.date, "2026-11-23");
    }

    #[test]
    fn the_fleet_in_the_middle_says_what_calls_cost_at_ease() {
        let mut book = Book::default();
        book.take(&report(), "2026-11-22", "a run");
        assert_eq!(book.setting("spire"), None);
        let costs = book.costs("steeple");
        let of = |costs| Demand::of(&Shape::measured(500.0), &costs).cores;
        // 100 syncs a second of 20 µs are 0.002 cores; 0.03 were measured.
        assert!((of(costs) - 0.03).abs() < 1e-9, "{costs:?}");
        assert!((costs.at_ease - 15.0).abs() < 1e-9, "{costs:?}");
    }

    #[test]
    fn what_is_written_is_read() {
        let mut book = Book::default();
        book.take(&report(), "2026-11-22", "a run");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.json");
        book.write(&path).expect("written");
        let read = Book::read(&path).expect("read");
        assert_eq!((read.programs, read.points), (book.programs, book.points));
    }

    #[test]
    fn no_cost_is_listed_twice() {
        for (index, unit) in UNITS.iter().enumerate() {
            assert!(UNITS[..index].iter().all(|it| it.name != unit.name), "{}", unit.name);
        }
    }
}
