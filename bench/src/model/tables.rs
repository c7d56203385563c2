//! The tables of the page, in Markdown.

use super::costs::{Book, UNITS};
use super::demand::{Costs, Demand, Shape};
use super::sizing::{Room, Scarce, units, used};

/// Agents and workloads of the sizing table; what SPIRE's has, and further.
const AGENTS: [f64; 7] = [10.0, 100.0, 1000.0, 5000.0, 20_000.0, 100_000.0, 1e6];
const WORKLOADS: [f64; 7] = [10.0, 100.0, 1000.0, 10_000.0, 100_000.0, 1e6, 1e7];
/// Agents and workloads together: from a cluster to everything.
const SIZES: [(f64, f64); 8] = [
    (10.0, 100.0),
    (100.0, 1000.0),
    (1000.0, 10_000.0),
    (5000.0, 10_000.0),
    (20_000.0, 200_000.0),
    (100_000.0, 1e6),
    (300_000.0, 3e6),
    (1e6, 1e7),
];
const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;

/// The limits that the tables go by.
pub const ROOM: Room = Room {
    cores: 16.0,
    memory: 64.0 * GIB,
    // systemd's hard limit, which both programs raise theirs to.
    files: 524_288.0,
    // What an unspectacular PostgreSQL commits; SQLite is in the text.
    writes: 5000.0,
    // 10 Gbit/s, of which half are for this.
    network: 625e6,
    recovery: 60.0,
};

/// What things cost each program, with the source of each figure.
pub fn costs(book: &Book) -> String {
    let programs: Vec<&str> = book.programs().collect();
    let mut text = format!("| what | unit | {} | measured |\n", programs.join(" | "));
    text += &format!("|---|---|{}---|\n", "---:|".repeat(programs.len()));
    for unit in UNITS {
        let found: Vec<_> = programs.iter().map(|it| book.measured(it, unit.name)).collect();
        if found.iter().all(Option::is_none) {
            continue;
        }
        let kind = unit.name.split_once('.').map_or("", |(_, kind)| kind);
        let kind = if kind == "cpu" { "CPU" } else { kind };
        let values = found.iter().map(|it| it.map_or("–".into(), |it| short(it.value)));
        let values = values.collect::<Vec<_>>().join(" | ");
        let mut sources: Vec<String> =
            found.iter().flatten().map(|it| format!("{}, {}", it.date, it.source)).collect();
        sources.dedup();
        let (about, unit, sources) = (unit.about, unit.unit, sources.join("; "));
        text += &format!("| {about}, {kind} | {unit} | {values} | {sources} |\n");
    }
    text
}

/// The model's answer for the fleets that were measured.
pub fn checked(book: &Book) -> String {
    let mut text =
        "| program | agents | CPU, busy | predicted | measured | memory, predicted | measured | \
                    network, predicted | measured |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
            .to_owned();
    for point in &book.points {
        let (shape, costs) = (Shape::measured(point.agents), book.costs(&point.program));
        let demand = Demand::of(&shape, &costs);
        let busy = Demand::of(&shape, &Costs { at_ease: 1.0, ..costs });
        let set = if book.setting(&point.program) == Some(point) { " (set by it)" } else { "" };
        text += &format!(
            "| {} | {} | {} % | {} %{set} | {} % | {} MiB | {} MiB | {} kB/s | {} kB/s |\n",
            point.program,
            count(point.agents),
            short(busy.cores * 100.0),
            short(demand.cores * 100.0),
            short(point.cores * 100.0),
            short(demand.memory / MIB),
            short(point.memory / MIB),
            short(demand.bytes / 1e3),
            short(point.bytes / 1e3),
        );
    }
    text
}

/// Servers and their sizes, workloads by agents.
pub fn sizing(costs: &Costs) -> String {
    let head = AGENTS.map(|it| format!("{} agents", count(it))).join(" | ");
    let mut text = format!("| workloads | {head} |\n|---:|{}\n", "---|".repeat(AGENTS.len()));
    for workloads in WORKLOADS {
        let cells = AGENTS.map(|agents| {
            let shape = Shape::flat(agents, workloads, 1.0).pushed();
            match units(&shape, costs, &ROOM) {
                Some(it) => format!("{} × ({} CPU, {} GB)", it.servers, it.cores, it.memory),
                None => "nest".into(),
            }
        });
        text += &format!("| {} | {} |\n", count(workloads), cells.join(" | "));
    }
    text
}

/// What a deployment of one trust domain and one database needs, by size.
pub fn growth(book: &Book) -> String {
    let mut text = "| agents | workloads | program | cores | of it syncs | memory of one server | \
                    statements/s | writes/s | network | CPU to come back |\n\
                    |---:|---:|---|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for (agents, workloads) in SIZES {
        for program in book.programs() {
            let shape = Shape::flat(agents, workloads, 1.0);
            let shape = if program == "steeple" { shape.pushed() } else { shape };
            let demand = Demand::of(&shape, &book.costs(program));
            text += &format!(
                "| {} | {} | {program} | {} | {} % | {} | {} | {} | {}/s | {} s |\n",
                count(agents),
                count(workloads),
                short(demand.cores),
                short(demand.sync_cores / demand.cores * 100.0),
                bytes(demand.memory),
                short(demand.statements),
                short(demand.writes),
                bytes(demand.bytes),
                short(demand.recovery),
            );
        }
    }
    text
}

/// The ways to arrange the largest deployments.
pub fn topologies(costs: &Costs) -> String {
    let mut text = "| agents | workloads | arrangement | servers | cores in all | memory of one \
                    server | writes/s of a database | network in all |\n\
                    |---:|---:|---|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for (agents, workloads) in &SIZES[4..] {
        let flat = Shape::flat(*agents, *workloads, 1.0).pushed();
        let arrangements = [
            ("one server, sync every 5 s", flat, 1.0),
            ("three servers, sync every 5 s", Shape { servers: 3.0, ..flat }, 1.0),
            (
                "three servers, push, sync every 60 s",
                Shape { servers: 3.0, ..flat }.every(60.0),
                1.0,
            ),
            ("ten regions of three, sync every 5 s", Shape { servers: 3.0, ..flat }, 10.0),
            (
                "ten regions of three, push, sync every 60 s",
                Shape { servers: 3.0, ..flat }.every(60.0),
                10.0,
            ),
        ];
        for (name, shape, regions) in arrangements {
            let demand = Demand::of(&shape.region(regions), costs);
            let (mut servers, mut cores) = (shape.servers * regions, demand.cores * regions);
            if regions > 1.0 {
                servers += shape.servers;
                cores += Demand::of(&shape.top(regions), costs).cores;
            }
            text += &format!(
                "| {} | {} | {name} | {} | {} | {} | {} | {}/s |\n",
                count(*agents),
                count(*workloads),
                count(servers),
                short(cores),
                bytes(demand.memory),
                short(demand.writes),
                bytes(demand.bytes * regions),
            );
        }
    }
    text
}

/// What two servers of 16 cores run into first, by size.
pub fn breaks(costs: &Costs) -> String {
    let mut text = "| agents | workloads | fullest | then | what to do about the first |\n\
                    |---:|---:|---|---|---|\n"
        .to_owned();
    for (agents, workloads) in SIZES {
        let used = used(&Shape::flat(agents, workloads, 2.0).pushed(), costs, &ROOM);
        let full = |(scarce, share): (Scarce, f64)| {
            format!("{}: {} %", scarce.words().0, short(share * 100.0))
        };
        let [first, second] = [used[0], used[1]];
        let remedy = if first.1 < 0.1 { "nothing" } else { first.0.words().1 };
        text += &format!(
            "| {} | {} | {} | {} | {remedy} |\n",
            count(agents),
            count(workloads),
            full(first),
            full(second),
        );
    }
    text
}

/// Three digits that matter.
pub fn short(value: f64) -> String {
    match value.abs() {
        it if it >= 1000.0 => {
            let unit = 10f64.powf(it.log10().floor() - 2.0);
            count((value / unit).round() * unit)
        }
        it if it >= 99.95 => format!("{value:.0}"),
        it if it >= 9.995 => format!("{value:.1}"),
        it if it >= 0.9995 || it == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A whole number, with commas between thousands.
pub fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn bytes(value: f64) -> String {
    match value {
        it if it >= GIB => format!("{} GiB", short(it / GIB)),
        it if it >= MIB => format!("{} MiB", short(it / MIB)),
        it => format!("{} KiB", short(it / 1024.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_matter() {
        let found = [0.0, 0.01234, 1.234, 12.34, 123.4, 1234.0, 1_234_567.0].map(short);
        assert_eq!(found, ["0.00", "0.012", "1.23", "12.3", "123", "1,230", "1,230,000"]);
    }

    #[test]
    fn the_fleets_that_were_measured_are_not_far_from_the_model() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("model.json");
        let book = Book::read(&path).expect("it is a file of costs");
        assert!(book.points.len() >= 3, "{:?}", book.points);
        for point in &book.points {
            let shape = Shape::measured(point.agents);
            let demand = Demand::of(&shape, &book.costs(&point.program));
            for ratio in [demand.cores / point.cores, demand.memory / point.memory] {
                assert!((0.6..1.6).contains(&ratio), "{point:?}: {ratio}");
            }
        }
    }

    #[test]
    fn thousands_have_commas() {
        assert_eq!([7.0, 1000.0, 1e7].map(count), ["7", "1,000", "10,000,000"]);
    }

    #[test]
    fn each_table_has_as_many_cells_in_each_row() {
        let mut book = Book::default();
        let result = serde_json::json!({ "steeple": { "median": 20.0, "rounds": [20.0] } });
        let figures = serde_json::json!([{ "id": "agents.sync.cpu", "results": result }]);
        let report = serde_json::json!({ "folders": [{ "label": "steeple" }], "figures": figures });
        assert_eq!(book.take(&report, "2026-11-22", "a run"), 1);
        let costs = Costs { sync_cpu: 100.0, base_memory: 30e6, ..Costs::default() };
        let all = [
            super::costs(&book),
            checked(&book),
            sizing(&costs),
            growth(&book),
            topologies(&costs),
            breaks(&costs),
        ];
        for table in all {
            let cells: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
            assert!(cells.iter().all(|it| *it == cells[0]), "{table}");
        }
    }
}
