//! How many servers of which size a deployment takes, and what it runs into first.

use super::demand::{Costs, Demand, Shape};

/// What one server and its database can take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    pub cores: f64,
    /// Bytes.
    pub memory: f64,
    /// Files that the process may open.
    pub files: f64,
    /// Transactions a second that the database commits.
    pub writes: f64,
    /// Bytes a second of the network.
    pub network: f64,
    /// Seconds within which all agents are to be back after an outage.
    pub recovery: f64,
}

/// Something that runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scarce {
    Cores,
    Memory,
    Files,
    Writes,
    Network,
    Recovery,
}

impl Scarce {
    /// What it is, and what one does when it runs out.
    pub const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Cores => ("CPU", "another server, or longer `sync_interval` with push"),
            Self::Memory => ("memory of a server", "more of it, or nesting: an index per region"),
            Self::Files => ("open files", "a higher limit (`LimitNOFILE`), or another server"),
            Self::Writes => ("writes of the database", "longer `agent_ttl`, PostgreSQL, nesting"),
            Self::Network => ("network", "longer `sync_interval` with push, or another server"),
            Self::Recovery => ("CPU when all come back at once", "more cores, or another server"),
        }
    }
}

/// Of what share of its limit each thing takes at `shape`, the most used first. Agents are spread
/// over the servers; writes are those of the one database.
pub fn used(shape: &Shape, costs: &Costs, room: &Room) -> Vec<(Scarce, f64)> {
    let demand = Demand::of(shape, costs);
    let cores = shape.servers * room.cores;
    let mut used = vec![
        (Scarce::Cores, demand.cores / cores),
        (Scarce::Memory, demand.memory / room.memory),
        (Scarce::Files, demand.connections / room.files),
        (Scarce::Writes, demand.writes / room.writes),
        (Scarce::Network, demand.bytes / shape.servers / room.network),
        (Scarce::Recovery, demand.recovery / cores / room.recovery),
    ];
    used.sort_by(|one, other| other.1.total_cmp(&one.1));
    used
}

/// A number of equal servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    pub servers: u32,
    pub cores: u32,
    /// GiB.
    pub memory: u32,
}

/// Sizes that servers come in.
const CORES: [u32; 5] = [1, 2, 4, 8, 16];
const GIB: [u32; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
/// So many servers at least: one may be away.
const LEAST: u32 = 2;
const MOST: u32 = 64;
/// How much of the cores and of the memory is for this, with one server away.
const CPU_SHARE: f64 = 0.5;
const MEMORY_SHARE: f64 = 0.6;

/// The least that serves `shape` with one server away: half of the cores idle on average, all
/// agents back within `room.recovery` seconds of an outage; `None` if [`MOST`] do not.
pub fn units(shape: &Shape, costs: &Costs, room: &Room) -> Option<Units> {
    for servers in LEAST..=MOST {
        let serving = f64::from(servers - 1);
        let shape = Shape { servers: serving, ..*shape };
        let demand = Demand::of(&shape, costs);
        let cores = (demand.cores / CPU_SHARE).max(demand.recovery / room.recovery) / serving;
        let fits =
            CORES.into_iter().find(|it| f64::from(*it) >= cores && f64::from(*it) <= room.cores);
        if let Some(cores) = fits
            && demand.connections <= room.files
            && demand.bytes / serving <= room.network
        {
            let gib = demand.memory / MEMORY_SHARE / f64::from(1 << 30);
            let memory = GIB.into_iter().find(|it| f64::from(*it) >= gib)?;
            return Some(Units { servers, cores, memory });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        cores: 16.0,
        memory: 16e9,
        files: 100_000.0,
        writes: 1000.0,
        network: 1e9,
        recovery: 60.0,
    };

    fn costs() -> Costs {
        Costs {
            connect_cpu: 900.0,
            sync_cpu: 100.0,
            base_memory: 30e6,
            agent_memory: 40e3,
            entry_memory: 400.0,
            ..Costs::default()
        }
    }

    fn quiet(agents: f64, workloads: f64, servers: f64) -> Shape {
        Shape { changes_per_day: 0.0, ..Shape::flat(agents, workloads, servers) }
    }

    #[test]
    fn the_smallest_deployment_is_two_servers_of_the_smallest_size() {
        let units = units(&quiet(10.0, 10.0, 1.0), &costs(), &ROOM);
        assert_eq!(units, Some(Units { servers: 2, cores: 1, memory: 1 }));
    }

    #[test]
    fn one_server_of_those_asked_for_may_be_away() {
        // 60,000 agents: 12,000 syncs of 100 µs and 333 connections of 900 µs a second, 1.5 cores;
        // coming back takes 60 s of CPU.
        let units = units(&quiet(60_000.0, 0.0, 1.0), &costs(), &ROOM);
        assert_eq!(units, Some(Units { servers: 2, cores: 4, memory: 4 }));
    }

    #[test]
    fn files_make_for_more_servers_rather_than_larger_ones() {
        let room = Room { files: 20_000.0, ..ROOM };
        let units = units(&quiet(60_000.0, 0.0, 1.0), &costs(), &room);
        assert_eq!(units, Some(Units { servers: 4, cores: 1, memory: 2 }));
    }

    #[test]
    fn what_breaks_first_is_what_is_used_most() {
        assert_eq!(used(&quiet(90_000.0, 0.0, 1.0), &costs(), &ROOM)[0].0, Scarce::Files);
        let used = used(&quiet(10.0, 39e6, 1.0), &costs(), &Room { writes: 1e9, ..ROOM });
        assert_eq!(used[0].0, Scarce::Memory);
        assert!((used[0].1 - (30e6 + 400e3 + 39e6 * 400.0) / 16e9).abs() < 1e-9);
    }

    #[test]
    fn nothing_is_promised_beyond_what_fits() {
        assert_eq!(units(&quiet(1e9, 0.0, 1.0), &costs(), &ROOM), None);
    }
}
