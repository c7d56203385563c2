//! What a figure is, and the samples of each. The figures are listed by the scenarios.

use std::collections::BTreeMap;

use crate::load::Spent;
use crate::machine::Floors;
use crate::scenario;

/// Which way a figure gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Lower,
    Higher,
}

/// What a figure cannot go below on this machine: the least work that any program would have to do.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// What that work is.
    pub what: &'static str,
    /// How much it is, in the figure's unit; `None` when it was not measured.
    pub of: fn(&Floors) -> Option<f64>,
}

/// A signature, and a verification of the CSR.
pub const SIGN_VERIFY: Limit =
    Limit { what: "P-256 sign + verify", of: |floors| Some(floors.sign + floors.verify) };
/// A signature.
pub const SIGN: Limit = Limit { what: "P-256 sign", of: |floors| Some(floors.sign) };
/// Accepting a connection on a Unix socket, a read and a write.
pub const CONNECTION: Limit =
    Limit { what: "accept, read, write (Unix)", of: |floors| Some(floors.connection) };
/// A read and a write on a Unix socket.
pub const EXCHANGE: Limit =
    Limit { what: "read, write (Unix)", of: |floors| Some(floors.exchange) };

/// One figure.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub id: &'static str,
    pub label: &'static str,
    pub unit: &'static str,
    pub better: Better,
    pub limit: Option<Limit>,
}

impl Figure {
    /// With a limit.
    pub const fn limit(self, limit: Limit) -> Self {
        Self { limit: Some(limit), ..self }
    }
}

/// A figure that is the better the lower it is.
pub const fn lower(id: &'static str, label: &'static str, unit: &'static str) -> Figure {
    Figure { id, label, unit, better: Better::Lower, limit: None }
}

/// So many a second.
pub const fn rate(id: &'static str, label: &'static str) -> Figure {
    Figure { id, label, unit: "/s", better: Better::Higher, limit: None }
}

/// µs of CPU.
pub const fn cost(id: &'static str, label: &'static str) -> Figure {
    lower(id, label, "µs")
}

/// All samples of a run, and how much else went on while they were taken.
#[derive(Default)]
pub struct Samples {
    values: BTreeMap<(&'static str, usize), Vec<f64>>,
    loads: Vec<Spent>,
}

impl Samples {
    /// Adds a value of the figure `id` for the folder with this index.
    pub fn add(&mut self, bin: usize, id: &'static str, value: f64) {
        debug_assert!(
            scenario::figures().any(|figure| figure.id == id),
            "{id} is in a scenario's list"
        );
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
