//! What is measured: the list of figures, and the samples of each.

use std::collections::BTreeMap;

use crate::load::Spent;
use crate::machine::Floors;

/// Which way a figure gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Lower,
    Higher,
}

/// The least possible work of a figure in µs of CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    None,
    /// A signature, and a verification of the CSR.
    SignVerify,
    Sign,
    Connection,
    Exchange,
}

impl Floor {
    /// In µs, if there is one.
    pub fn value(self, floors: &Floors) -> Option<f64> {
        match self {
            Self::None => None,
            Self::SignVerify => Some(floors.sign + floors.verify),
            Self::Sign => Some(floors.sign),
            Self::Connection => Some(floors.connection),
            Self::Exchange => Some(floors.exchange),
        }
    }
}

/// One figure.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub id: &'static str,
    pub label: &'static str,
    pub unit: &'static str,
    pub better: Better,
    pub floor: Floor,
}

const fn lower(id: &'static str, label: &'static str, unit: &'static str) -> Figure {
    Figure { id, label, unit, better: Better::Lower, floor: Floor::None }
}

const fn rate(id: &'static str, label: &'static str) -> Figure {
    Figure { id, label, unit: "/s", better: Better::Higher, floor: Floor::None }
}

const fn cost(id: &'static str, label: &'static str, floor: Floor) -> Figure {
    Figure { id, label, unit: "µs", better: Better::Lower, floor }
}

/// Every figure, in the order of the table.
pub const FIGURES: &[Figure] = &[
    rate("mint_x509.rate", "MintX509SVID"),
    cost("mint_x509.cpu", "MintX509SVID, server CPU per call", Floor::SignVerify),
    rate("mint_jwt.rate", "MintJWTSVID"),
    cost("mint_jwt.cpu", "MintJWTSVID, server CPU per call", Floor::Sign),
    rate("fetch_new.rate", "FetchX509SVID, connection each"),
    cost("fetch_new.cpu", "FetchX509SVID, connection each, agent CPU", Floor::Connection),
    rate("fetch_reused.rate", "FetchX509SVID, one connection"),
    cost("fetch_reused.cpu", "FetchX509SVID, one connection, agent CPU", Floor::Exchange),
    rate("fetch_jwt.rate", "FetchJWTSVID, cached"),
    cost("fetch_jwt.cpu", "FetchJWTSVID, cached, agent CPU", Floor::Exchange),
    rate("fetch_jwt_new.rate", "FetchJWTSVID, new audience"),
    cost("fetch_jwt_new.cpu", "FetchJWTSVID, new audience, agent CPU", Floor::None),
    cost("fetch_jwt_new.server", "FetchJWTSVID, new audience, server CPU", Floor::Sign),
    lower("streams.rss", "Memory per open stream (RSS)", "KiB"),
    lower("streams.pss", "Memory per open stream (PSS)", "KiB"),
    lower("streams.files", "Open files per open stream", ""),
    cost("streams.open", "Opening a stream to stay, agent CPU", Floor::Connection),
    lower("streams.agent", "Agent with all streams open (RSS)", "MiB"),
    lower("streams.left", "Agent after all are closed (RSS)", "MiB"),
    lower("streams.cpu", "Agent with all streams open, idle CPU", "ms/s"),
    lower("sds.rss", "Memory per open SDS stream (RSS)", "KiB"),
    cost("sds.open", "Opening an SDS stream to stay, agent CPU", Floor::Connection),
    lower("sds.agent", "Agent with all SDS streams open (RSS)", "MiB"),
    lower("idle.server.rss", "Server, idle (RSS)", "MiB"),
    lower("idle.server.pss", "Server, idle (PSS)", "MiB"),
    lower("idle.server.anonymous", "Server, idle (anonymous)", "MiB"),
    lower("idle.server.cpu", "Server, idle CPU", "ms/s"),
    lower("idle.server.threads", "Server, idle, threads", ""),
    lower("idle.server.files", "Server, idle, open files", ""),
    lower("idle.agent.rss", "Agent, idle (RSS)", "MiB"),
    lower("idle.agent.pss", "Agent, idle (PSS)", "MiB"),
    lower("idle.agent.anonymous", "Agent, idle (anonymous)", "MiB"),
    lower("idle.agent.cpu", "Agent, idle CPU", "ms/s"),
    lower("idle.agent.threads", "Agent, idle, threads", ""),
    lower("idle.agent.files", "Agent, idle, open files", ""),
    lower("start.server", "Server, start to first answer", "ms"),
    lower("start.agent", "Agent, start to first SVID", "ms"),
    lower("propagation.create", "Entry created to SVID on a stream", "s"),
    lower("propagation.delete", "Entry deleted to SVID gone from it", "s"),
    rate("entries.rate", "BatchCreateEntry, one entry each"),
    cost("entries.cpu", "BatchCreateEntry, server CPU per entry", Floor::None),
    rate("many_new.rate", "FetchX509SVID of 50, connection each"),
    cost("many_new.cpu", "FetchX509SVID of 50, connection each, agent CPU", Floor::Connection),
    rate("many_reused.rate", "FetchX509SVID of 50, one connection"),
    cost("many_reused.cpu", "FetchX509SVID of 50, one connection, agent CPU", Floor::Exchange),
    lower("restart.failed", "Agent replaced: fetches that failed", ""),
    lower("restart.gap", "Agent replaced: longest time without a fetch", "ms"),
    lower("restart.down", "Agent replaced: longest end of a stream", "ms"),
    lower("fill.time", "Agent start to all SVIDs of thousands", "s"),
    lower("fill.rss", "Memory per SVID held (RSS)", "KiB"),
    lower("fill.peak", "Peak memory per SVID held", "KiB"),
    lower("peak.server", "Server, peak memory of a round", "MiB"),
    lower("peak.agent", "Agent, peak memory of a round", "MiB"),
];

/// All samples of a run, and how much else went on while they were taken.
#[derive(Default)]
pub struct Samples {
    values: BTreeMap<(&'static str, usize), Vec<f64>>,
    loads: Vec<Spent>,
}

impl Samples {
    /// Adds a value of the figure `id` for the folder with this index.
    pub fn add(&mut self, bin: usize, id: &'static str, value: f64) {
        debug_assert!(FIGURES.iter().any(|figure| figure.id == id), "{id} is in the list");
        self.values.entry((id, bin)).or_default().push(value);
    }

    /// Remembers what went on beside a load.
    pub fn beside(&mut self, spent: Spent) {
        self.loads.push(spent);
    }

    /// The values of a figure for a folder.
    pub fn of(&self, id: &'static str, bin: usize) -> &[f64] {
        self.values.get(&(id, bin)).map_or(&[], Vec::as_slice)
    }

    /// Every load so far.
    pub fn loads(&self) -> &[Spent] {
        &self.loads
    }
}
