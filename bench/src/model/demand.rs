//! The arithmetic: from what single things cost to what a deployment needs.

/// What single things cost one of the programs. All of it is measured: `costs.rs` says where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// How many times the CPU below a call takes of a server at ease: one that has gone to sleep
    /// since the call before, and finds its caches cold.
    pub at_ease: f64,
    /// Server CPU, in µs, of an agent that is attested, its connection included.
    pub attest_cpu: f64,
    /// Of an agent that connects with its SVID and makes a call.
    pub connect_cpu: f64,
    /// Of a sync without news on an open connection.
    pub sync_cpu: f64,
    /// Of fetching the bundle, which is part of each sync.
    pub bundle_cpu: f64,
    /// Of an agent's SVID renewed.
    pub renew_cpu: f64,
    /// Of an X.509-SVID signed for a workload, in a call of its own.
    pub sign_cpu: f64,
    /// Of a JWT-SVID.
    pub jwt_cpu: f64,
    /// Of an entry created in a call of its own; as much again for its end.
    pub create_cpu: f64,
    /// CPU of a server that has nothing to do, in µs a second.
    pub idle_cpu: f64,
    /// Memory of a server that has nothing to do, in bytes.
    pub base_memory: f64,
    /// Memory of a connected agent: connection, stream and node, in bytes.
    pub agent_memory: f64,
    /// Memory of an entry, in bytes.
    pub entry_memory: f64,
    /// Bytes both ways, TLS included, of the same things.
    pub connect_bytes: f64,
    pub sync_bytes: f64,
    pub bundle_bytes: f64,
    pub renew_bytes: f64,
    pub sign_bytes: f64,
    pub jwt_bytes: f64,
    /// Statements that the database gets for the same things.
    pub connect_statements: f64,
    pub sync_statements: f64,
    pub renew_statements: f64,
    pub sign_statements: f64,
    pub jwt_statements: f64,
    pub create_statements: f64,
    /// Statements a second of a server that has nothing to do.
    pub idle_statements: f64,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            at_ease: 1.0,
            attest_cpu: 0.0,
            connect_cpu: 0.0,
            sync_cpu: 0.0,
            bundle_cpu: 0.0,
            renew_cpu: 0.0,
            sign_cpu: 0.0,
            jwt_cpu: 0.0,
            create_cpu: 0.0,
            idle_cpu: 0.0,
            base_memory: 0.0,
            agent_memory: 0.0,
            entry_memory: 0.0,
            connect_bytes: 0.0,
            sync_bytes: 0.0,
            bundle_bytes: 0.0,
            renew_bytes: 0.0,
            sign_bytes: 0.0,
            jwt_bytes: 0.0,
            connect_statements: 0.0,
            sync_statements: 0.0,
            renew_statements: 0.0,
            sign_statements: 0.0,
            jwt_statements: 0.0,
            create_statements: 0.0,
            idle_statements: 0.0,
        }
    }
}

/// What a deployment is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub agents: f64,
    /// Workloads in all, each with an entry and on one agent.
    pub workloads: f64,
    /// Servers that share the agents evenly, on one database.
    pub servers: f64,
    /// Seconds between two syncs of an agent.
    pub sync_interval: f64,
    /// Seconds that an SVID is good for; it is renewed at half of that.
    pub ttl: f64,
    /// Tokens that a workload asks for in an hour and its agent does not have.
    pub jwt_per_hour: f64,
    /// How often in a day a workload ends and another comes in its place, with an entry of its own.
    pub changes_per_day: f64,
    /// Whether servers hint: each change then makes one agent sync at once.
    pub push: bool,
}

/// Seconds after which servers end a connection.
const CONNECTION: f64 = 180.0;
/// One in so many agents renews its SVID when all come back after an outage.
const RENEWING: f64 = 10.0;
const HOUR: f64 = 3600.0;
const DAY: f64 = 86_400.0;

impl Shape {
    /// One trust domain with `servers` servers and what is usual of everything else: a sync every
    /// five seconds, SVIDs of an hour, no tokens, each workload replaced once a day.
    pub const fn flat(agents: f64, workloads: f64, servers: f64) -> Self {
        Self {
            agents,
            workloads,
            servers,
            sync_interval: 5.0,
            ttl: HOUR,
            jwt_per_hour: 0.0,
            changes_per_day: 1.0,
            push: false,
        }
    }

    /// The fleet that the benchmark measures: two workloads an agent, none of which changes.
    pub const fn measured(agents: f64) -> Self {
        Self { changes_per_day: 0.0, ..Self::flat(agents, 2.0 * agents, 1.0) }
    }

    /// With hints.
    pub const fn pushed(self) -> Self {
        Self { push: true, ..self }
    }

    /// With other pauses between syncs, in seconds.
    pub const fn every(self, sync_interval: f64) -> Self {
        Self { sync_interval, ..self }
    }

    /// One of `regions` that share its agents and workloads evenly, each with a database and as
    /// many servers of its own.
    pub fn region(self, regions: f64) -> Self {
        Self { agents: self.agents / regions, workloads: self.workloads / regions, ..self }
    }

    /// The deployment on top of `regions`: the agents beside their servers, and no other.
    pub fn top(self, regions: f64) -> Self {
        let below = regions * self.servers;
        Self { agents: below, workloads: below, changes_per_day: 0.0, ..self }
    }
}

/// How often things happen, each a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    pub syncs: f64,
    pub connections: f64,
    pub renewals: f64,
    pub signatures: f64,
    pub tokens: f64,
    /// Entries created, and as many deleted.
    pub changes: f64,
}

impl Rates {
    pub fn of(shape: &Shape) -> Self {
        let changes = shape.workloads * shape.changes_per_day / DAY;
        let hinted = if shape.push { 2.0 * changes } else { 0.0 };
        Self {
            syncs: shape.agents / shape.sync_interval + hinted,
            connections: shape.agents / CONNECTION,
            renewals: shape.agents / (shape.ttl / 2.0),
            // What is new is signed too.
            signatures: shape.workloads / (shape.ttl / 2.0) + changes,
            tokens: shape.workloads * shape.jwt_per_hour / HOUR,
            changes,
        }
    }
}

/// What a deployment needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// CPU of all its servers, in cores.
    pub cores: f64,
    /// Of this the share of syncs.
    pub sync_cores: f64,
    /// Memory of one server, in bytes.
    pub memory: f64,
    /// Connections of one server.
    pub connections: f64,
    /// Statements that the database gets, a second.
    pub statements: f64,
    /// Transactions that write, a second.
    pub writes: f64,
    /// Bytes a second between agents and servers, both ways.
    pub bytes: f64,
    /// CPU seconds until all agents are back that lost their servers at the same time.
    pub recovery: f64,
}

impl Demand {
    pub fn of(shape: &Shape, costs: &Costs) -> Self {
        let rates = Rates::of(shape);
        let sync_cpu = costs.sync_cpu + costs.bundle_cpu;
        let calls = rates.syncs * sync_cpu
            + rates.connections * costs.connect_cpu
            + rates.renewals * costs.renew_cpu
            + rates.signatures * costs.sign_cpu
            + rates.tokens * costs.jwt_cpu
            + rates.changes * 2.0 * costs.create_cpu;
        let micros = calls * costs.at_ease + shape.servers * costs.idle_cpu;
        let statements = rates.syncs * costs.sync_statements
            + rates.connections * costs.connect_statements
            + rates.renewals * costs.renew_statements
            + rates.signatures * costs.sign_statements
            + rates.tokens * costs.jwt_statements
            + rates.changes * 2.0 * costs.create_statements
            + shape.servers * costs.idle_statements;
        let bytes = rates.syncs * (costs.sync_bytes + costs.bundle_bytes)
            + rates.connections * costs.connect_bytes
            + rates.renewals * costs.renew_bytes
            + rates.signatures * costs.sign_bytes
            + rates.tokens * costs.jwt_bytes;
        // Nobody is at ease then.
        let back = costs.connect_cpu + sync_cpu + costs.renew_cpu / RENEWING;
        Self {
            cores: micros / 1e6,
            sync_cores: rates.syncs * sync_cpu * costs.at_ease / 1e6,
            memory: costs.base_memory
                + shape.workloads * costs.entry_memory
                + shape.agents / shape.servers * costs.agent_memory,
            connections: shape.agents / shape.servers,
            statements,
            writes: rates.renewals + 2.0 * rates.changes,
            bytes,
            recovery: shape.agents * back / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9 * expected.abs().max(1.0), "{found} {expected}");
    }

    /// Costs that are easy to add up.
    fn costs() -> Costs {
        Costs {
            attest_cpu: 5000.0,
            connect_cpu: 1000.0,
            sync_cpu: 60.0,
            bundle_cpu: 40.0,
            renew_cpu: 500.0,
            sign_cpu: 200.0,
            jwt_cpu: 100.0,
            create_cpu: 300.0,
            idle_cpu: 1000.0,
            base_memory: 20e6,
            agent_memory: 40e3,
            entry_memory: 500.0,
            connect_bytes: 6000.0,
            sync_bytes: 1500.0,
            bundle_bytes: 900.0,
            renew_bytes: 2000.0,
            sign_bytes: 1800.0,
            jwt_bytes: 1000.0,
            renew_statements: 4.0,
            create_statements: 6.0,
            idle_statements: 2.0,
            ..Costs::default()
        }
    }

    #[test]
    fn a_fleet_syncs_connects_and_renews_at_its_intervals() {
        let rates = Rates::of(&Shape::flat(3600.0, 8640.0, 1.0));
        close(rates.syncs, 720.0);
        close(rates.connections, 20.0);
        close(rates.renewals, 2.0);
        close(rates.changes, 0.1);
        close(rates.signatures, 4.8 + 0.1);
        close(rates.tokens, 0.0);
    }

    #[test]
    fn a_million_agents_with_svids_of_an_hour_renew_556_a_second() {
        close(Rates::of(&Shape::flat(1e6, 0.0, 1.0)).renewals.round(), 556.0);
    }

    #[test]
    fn cores_are_the_sum_of_what_happens() {
        let shape = Shape { changes_per_day: 0.0, ..Shape::flat(3600.0, 9000.0, 1.0) };
        let demand = Demand::of(&shape, &costs());
        // 720 syncs of 100 µs, 20 connections of 1 ms, 2 renewals of 0.5, 5 signatures of 0.2.
        close(demand.cores, 0.072 + 0.020 + 0.001 + 0.001 + 0.001);
        close(demand.sync_cores, 0.072);
        close(demand.writes, 2.0);
        close(demand.statements, 2.0 * 4.0 + 2.0);
        close(demand.bytes, 720.0 * 2400.0 + 20.0 * 6000.0 + 2.0 * 2000.0 + 5.0 * 1800.0);
        close(demand.recovery, 3600.0 * 1150.0 / 1e6);
    }

    #[test]
    fn calls_of_a_server_at_ease_take_more_and_a_recovery_does_not() {
        let shape = Shape { changes_per_day: 0.0, ..Shape::flat(3600.0, 9000.0, 1.0) };
        let demand = Demand::of(&shape, &Costs { at_ease: 3.0, ..costs() });
        close(demand.cores, 3.0 * (0.072 + 0.020 + 0.001 + 0.001) + 0.001);
        close(demand.sync_cores, 3.0 * 0.072);
        close(demand.recovery, 3600.0 * 1150.0 / 1e6);
    }

    #[test]
    fn servers_share_agents_and_each_has_all_entries() {
        let one = Demand::of(&Shape::flat(1000.0, 10_000.0, 1.0), &costs());
        let four = Demand::of(&Shape::flat(1000.0, 10_000.0, 4.0), &costs());
        close(one.memory, 20e6 + 10_000.0 * 500.0 + 1000.0 * 40e3);
        close(four.memory, 20e6 + 10_000.0 * 500.0 + 250.0 * 40e3);
        close(four.connections, 250.0);
        close(four.cores, one.cores + 3.0 * 0.001);
    }

    #[test]
    fn regions_share_everything_and_what_is_on_top_has_their_servers_only() {
        let shape = Shape::flat(100_000.0, 1e6, 3.0);
        let (region, top) = (shape.region(10.0), shape.top(10.0));
        close(region.agents, 10_000.0);
        close(region.workloads, 100_000.0);
        close(top.agents, 30.0);
        close(top.workloads, 30.0);
        let all = 10.0 * Demand::of(&region, &costs()).cores;
        let flat = Demand::of(&Shape { servers: 30.0, ..shape }, &costs()).cores;
        close(all, flat);
    }

    #[test]
    fn hints_add_a_sync_for_each_change_and_allow_for_longer_intervals() {
        let shape = Shape { changes_per_day: 24.0, ..Shape::flat(1000.0, 3600.0, 1.0) };
        let polling = Rates::of(&shape);
        close(polling.changes, 1.0);
        close(Rates::of(&shape.pushed()).syncs, polling.syncs + 2.0);
        let seldom = Rates::of(&shape.pushed().every(60.0));
        close(seldom.syncs, 1000.0 / 60.0 + 2.0);
    }
}
