//! What a figure is, and the samples of each. The figures are listed by the scenarios.

use std::collections::BTreeMap;

use crate::floors::Floors;
use crate::load::Spent;
use crate::sampler::Usage;
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
/// A read and a write on a connection with TLS.
pub const TLS_EXCHANGE: Limit =
    Limit { what: "read, write (TCP, TLS)", of: |floors| Some(floors.tls_exchange) };
/// The serving side of a mutual TLS handshake, with the key exchange that the programs agree on.
pub const HANDSHAKE: Limit = Limit {
    what: "mutual TLS 1.3 handshake, X25519MLKEM768, server side",
    of: |floors| Some(floors.hybrid_handshake.server),
};
/// What an attestation takes: a handshake, a CSR verified, an SVID signed.
pub const ATTEST: Limit = Limit {
    what: "mutual TLS 1.3 handshake, server side + P-256 sign + verify",
    of: |floors| Some(floors.hybrid_handshake.server + floors.sign + floors.verify),
};
/// Entries that are on the disk, eight callers with one each.
pub const SYNC_RATE: Limit =
    Limit { what: "8 in the time of one fsync", of: |floors| Some(8e6 / floors.sync) };
/// An identity's bytes, in KiB.
pub const SVID_BYTES: Limit =
    Limit { what: "chain and key in DER", of: |floors| floors.svid.map(|it| it / 1024.0) };
/// An entry's bytes.
pub const ENTRY_BYTES: Limit = Limit { what: "the entry as a message", of: |floors| floors.entry };

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

    /// The limit in the figure's unit, if it has one that was measured.
    pub fn limit_in(&self, floors: &Floors) -> Option<f64> {
        self.limit.and_then(|limit| (limit.of)(floors))
    }

    /// How many times as much as the limit says, or as little where more is better.
    pub fn times_limit(&self, floors: &Floors, value: f64) -> Option<f64> {
        let limit = self.limit_in(floors)?;
        let times = if self.is_lower_better() { value / limit } else { limit / value };
        times.is_finite().then_some(times)
    }

    pub fn is_lower_better(&self) -> bool {
        self.better == Better::Lower
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
    /// What each program took, by scenario, program and folder.
    usages: BTreeMap<(&'static str, &'static str, usize), Vec<Usage>>,
    /// Sizes of answers, in bytes: the least that was seen.
    sizes: BTreeMap<Size, f64>,
}

/// What bytes are counted of, for the limits of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// A certificate chain and its private key, in DER.
    Svid,
    /// An update of the X.509 stream with one SVID, as a message.
    Update,
    /// A registration entry, as a message.
    Entry,
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

    /// Remembers what a program took during a scenario.
    pub fn usage(&mut self, scenario: &'static str, program: &'static str, bin: usize, it: Usage) {
        self.usages.entry((scenario, program, bin)).or_default().push(it);
    }

    /// What a program of a folder took during a scenario, in each round.
    pub fn usages(&self, scenario: &str, program: &str, bin: usize) -> &[Usage] {
        let found = self.usages.iter();
        let mut found = found.filter(|((s, p, b), _)| (*s, *p, *b) == (scenario, program, bin));
        found.next().map_or(&[], |(_, usages)| usages.as_slice())
    }

    /// What all programs took: scenario, program, folder, and the rounds.
    pub fn all_usages(
        &self,
    ) -> impl Iterator<Item = (&'static str, &'static str, usize, &[Usage])> {
        self.usages
            .iter()
            .map(|((scenario, program, bin), it)| (*scenario, *program, *bin, it.as_slice()))
    }

    /// Remembers how large something is.
    pub fn size(&mut self, of: Size, bytes: usize) {
        let least = self.sizes.entry(of).or_insert(f64::INFINITY);
        *least = least.min(bytes as f64);
    }

    /// The least size that was seen.
    pub fn least(&self, of: Size) -> Option<f64> {
        self.sizes.get(&of).copied()
    }

    /// Every load so far.
    pub fn loads(&self) -> &[Spent] {
        &self.loads
    }
}
