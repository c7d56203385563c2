//! The scenarios. Each measures one folder's programs once and adds its samples.
//!
//! A scenario is a file with a `SCENARIO`, its `mod` line, and its place in [`ALL`].

pub mod cli;
pub mod entries;
pub mod fetch;
pub mod fill;
pub mod idle;
pub mod many;
pub mod mint;
pub mod propagation;
pub mod restart;
pub mod sds;
pub mod soak;
pub mod start;
pub mod streams;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use crate::args::{Args, Bin};
use crate::deployment::Deployment;
use crate::error::Result;
use crate::figures::{Figure, Samples};
use crate::fleet;
use crate::server::Server;

/// Every scenario, in the order in which they run and are reported.
pub const ALL: &[Scenario] = &[
    idle::SCENARIO,
    streams::SCENARIO,
    sds::SCENARIO,
    mint::SCENARIO,
    fetch::SCENARIO,
    propagation::SCENARIO,
    entries::SCENARIO,
    many::SCENARIO,
    restart::SCENARIO,
    fill::SCENARIO,
    soak::SCENARIO,
    start::SCENARIO,
    cli::SCENARIO,
    fleet::calls::SCENARIO,
    fleet::steady::SCENARIO,
    fleet::overload::SCENARIO,
];

/// A scenario at work.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What `--only` calls it.
    pub name: &'static str,
    /// What it measures, in a line.
    pub about: &'static str,
    /// The figures that it adds samples of, in the order of the report.
    pub figures: &'static [Figure],
    /// In how many rounds it is run at most.
    pub rounds: usize,
    /// Whether it runs only when `--only` names it.
    pub by_hand: bool,
    pub run: Run,
}

/// What a scenario runs on.
#[derive(Clone, Copy)]
pub enum Run {
    /// The server and the agent that each folder has running through the round. What it leaves
    /// behind the next scenarios find.
    Shared(for<'a, 'b> fn(&'a mut Deployment, &'a mut Context<'b>) -> Running<'a>),
    /// What it starts itself, from `context.folder()`; the shared ones do not run meanwhile.
    Alone(for<'a, 'b> fn(&'a mut Context<'b>) -> Running<'a>),
}

impl Scenario {
    /// One that runs on the pair that all such scenarios share.
    pub const fn shared(
        name: &'static str,
        about: &'static str,
        figures: &'static [Figure],
        run: for<'a, 'b> fn(&'a mut Deployment, &'a mut Context<'b>) -> Running<'a>,
    ) -> Self {
        let run = Run::Shared(run);
        Self { name, about, figures, rounds: usize::MAX, by_hand: false, run }
    }

    /// One that starts what it needs itself.
    pub const fn alone(
        name: &'static str,
        about: &'static str,
        figures: &'static [Figure],
        run: for<'a, 'b> fn(&'a mut Context<'b>) -> Running<'a>,
    ) -> Self {
        let run = Run::Alone(run);
        Self { name, about, figures, rounds: usize::MAX, by_hand: false, run }
    }

    /// For what takes long and varies little: in the first `rounds` rounds only.
    pub const fn at_most(self, rounds: usize) -> Self {
        Self { rounds, ..self }
    }

    /// For what nobody wants without asking.
    pub const fn by_hand(self) -> Self {
        Self { by_hand: true, ..self }
    }

    fn is_alone(&self) -> bool {
        matches!(self.run, Run::Alone(_))
    }
}

/// The figures of all scenarios.
pub fn figures() -> impl Iterator<Item = &'static Figure> {
    ALL.iter().flat_map(|scenario| scenario.figures)
}

/// The scenarios of a round: those on the shared pair, and those that start their own.
pub fn of_round(args: &Args, round: usize) -> (Vec<&'static Scenario>, Vec<&'static Scenario>) {
    let wanted = ALL.iter().filter(|it| args.wants(it) && round < it.rounds);
    wanted.partition(|it| !it.is_alone())
}

/// What a scenario works with.
pub struct Context<'a> {
    pub args: &'a Args,
    pub samples: &'a mut Samples,
    /// The index of the folder that is measured.
    pub bin: usize,
    pub round: usize,
    /// Servers that do not run, whose databases `start` filled: by folder and number of entries.
    pub prepared: &'a mut BTreeMap<(usize, usize), Server>,
}

impl Context<'_> {
    /// Adds a sample.
    pub fn add(&mut self, id: &'static str, value: f64) {
        self.samples.add(self.bin, id, value);
    }

    /// The folder that is measured.
    pub fn folder(&self) -> &Bin {
        &self.args.bins[self.bin]
    }
}

/// Whether the answer to call `number` is to be verified fully: the first, and one of so many.
pub fn fully(number: u64, every: u64) -> bool {
    number.is_multiple_of(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_figure_and_no_scenario_is_listed_twice() {
        let ids: Vec<&str> = figures().map(|figure| figure.id).collect();
        let names: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        for list in [ids, names] {
            for (index, it) in list.iter().enumerate() {
                assert!(!list[..index].contains(it), "{it}");
            }
        }
    }
}
