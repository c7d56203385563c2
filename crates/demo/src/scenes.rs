//! The scenes, in order. Each runs something real and shows what came of it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::unistd::getuid;
use steeple_pki::Certificate;
use steeple_pki::jwt;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::admin::{Entry, NewEntry};
use crate::error::DemoError;
use crate::event::Event;
use crate::place::TRUST_DOMAIN;
use crate::render;
use crate::story::{Actor, Stage};

/// How many seconds the short-lived identities live.
const SHORT_TTL: u32 = 20;
/// How long a rotation may take to come.
const ROTATION: Duration = Duration::from_secs(60);

/// The SPIFFE ID of `path` in the trust domain.
fn id(path: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/{path}")
}

impl Stage {
    /// Plays every scene. With `once` that is all; otherwise it goes on until somebody ends it.
    pub(crate) async fn play(&mut self, once: bool) -> Result<(), DemoError> {
        self.screen.title("Steeple: identities for programs, from nothing but who they are")?;
        let kept = if self.place.kept { ", kept from an earlier run" } else { "" };
        self.screen.note(&format!("State and logs: {}{kept}", self.place.root.display()))?;
        self.screen.note("Commands are shown without -socketPath; step 8 has them in full.")?;
        self.server().await?;
        self.agent().await?;
        let entries = self.entries().await?;
        self.identity(&entries).await?;
        self.token().await?;
        self.mutual_tls().await?;
        self.rotation().await?;
        self.next_commands(once)?;
        if once { Ok(()) } else { std::future::pending().await }
    }

    async fn server(&mut self) -> Result<(), DemoError> {
        self.screen.step(
            1,
            &format!("A server for the trust domain {TRUST_DOMAIN}"),
            &["It holds the signing keys and the database (SQLite, built in) of who may be who."],
        )?;
        let conf = self.place.file("server.conf");
        let conf = conf.to_string_lossy();
        self.screen.command(&format!("spire-server run -config {conf}"))?;
        let socket = self.place.server_socket.clone();
        let arguments = ["run", "-config", &conf];
        while let Err(error) = self.start("spire-server", &arguments, "server.log", &socket).await {
            // Somebody may have taken the port since it was found free.
            let ended = matches!(error, DemoError::Ended { .. });
            if !(ended && self.place.evade()?) {
                return Err(error);
            }
        }
        self.screen.good(&format!("spire-server is up ({})", self.elapsed()))?;
        let port = self.place.port;
        let why = if self.place.is_elsewhere() { " (8081 is taken)" } else { "" };
        self.screen.fact("for agents", &format!("127.0.0.1:{port}{why}"))?;
        Ok(self.screen.fact("for admins", &socket.display().to_string())?)
    }

    async fn agent(&mut self) -> Result<(), DemoError> {
        self.screen.step(
            2,
            "An agent on this node",
            &[
                "The node proves itself with a join token, good for one use. The agent knows the",
                "server by the trust bundle.",
            ],
        )?;
        let node = id("node");
        self.screen.command(&format!("spire-server token generate -spiffeID {node}"))?;
        let token = self.admin.token(&node).await?;
        self.screen.command("spire-server bundle show > bundle.pem")?;
        let bundle = self.admin.bundle().await?;
        self.place.write("bundle.pem", &bundle)?;
        let conf = self.place.file("agent.conf");
        let conf = conf.to_string_lossy();
        self.screen.command(&format!("spire-agent run -config {conf} -joinToken {token}"))?;
        let arguments = ["run", "-config", &conf, "-joinToken", &token];
        let socket = self.place.agent_socket.clone();
        self.start("spire-agent", &arguments, "agent.log", &socket).await?;
        let elapsed = self.elapsed();
        let agent = self.admin.agent().await?.unwrap_or_default();
        // An agent that kept its identity has no use for the token.
        let how = if agent.ends_with(&token) { "the node is attested" } else { "the node is back" };
        self.screen.good(&format!("{how} ({elapsed})"))?;
        self.screen.fact("agent", &agent)?;
        self.screen.fact("also", &format!("{node}, the name that entries use"))?;
        Ok(self.screen.fact("Workload API", &format!("unix://{}", socket.display()))?)
    }

    /// Registers the workloads; the entry of `web`, as the server has it.
    async fn entries(&mut self) -> Result<Entry, DemoError> {
        self.screen.step(
            3,
            "Entries: which program is who",
            &["Selectors are what the agent finds out about a process, not what it says of itself."],
        )?;
        let uid = getuid();
        let mut web = None;
        for (name, ttl) in
            [("web", None), ("db", None), ("batch", Some(SHORT_TTL)), ("you", Some(SHORT_TTL))]
        {
            let program = match name {
                "you" => self.bin.join("spire-agent"),
                name => self.place.install(name)?,
            };
            let entry = NewEntry {
                parent_id: id("node"),
                spiffe_id: id(name),
                selectors: vec![
                    format!("unix:uid:{uid}"),
                    format!("unix:path:{}", program.display()),
                ],
                ttl,
            };
            let known = if self.place.kept { self.admin.find(&entry).await? } else { None };
            let (made, how) = match known {
                Some(known) => (known, "kept"),
                None => (self.admin.create(&entry).await?, "new"),
            };
            if web.is_none() {
                let flags = entry.flags().join(" ").replace(" -s", " \\\n       -s");
                self.screen.command(&format!("spire-server entry create {flags}"))?;
            }
            let life = ttl.map_or_else(String::new, |ttl| format!(", certificates of {ttl} s"));
            self.screen.good(&format!("{} ({how}{life})", entry.spiffe_id))?;
            web = web.or(Some(made));
        }
        Ok(web.expect("the first entry is that of web"))
    }

    async fn identity(&mut self, entry: &Entry) -> Result<(), DemoError> {
        self.screen.step(
            4,
            "An identity is issued",
            &["The program web starts with no password, token or key, and asks the Workload API."],
        )?;
        let mut web = self.workload("web", &["x509"], "").await?;
        let (spiffe_id, chain, pid) = match web.next().await? {
            Event::X509 { spiffe_id, chain_pem, pid } => (spiffe_id, chain_pem, pid),
            event => return Err(web.unexpected(event)),
        };
        let leaf = leaf("web", &chain)?;
        self.screen.good(&format!("web (pid {pid}) has its identity ({})", self.elapsed()))?;
        self.screen.fact("SPIFFE ID", &spiffe_id)?;
        for (at, selector) in entry.selectors.iter().enumerate() {
            let label = if at == 0 { "earned by" } else { "" };
            self.screen.fact(label, &selector.to_string())?;
        }
        for (label, value) in render::certificate(&leaf) {
            self.screen.fact(label, &value)?;
        }
        self.screen.good("web verified the certificate with the bundle that came along")?;

        self.place.install("stranger")?;
        let why = self.workload("stranger", &["x509-now"], "").await?.refusal().await?;
        let text = format!("the same program under a name without an entry is told: {why}");
        Ok(self.screen.good(&text)?)
    }

    async fn token(&mut self) -> Result<(), DemoError> {
        self.screen.step(
            5,
            "A JWT-SVID, for where TLS does not reach",
            &["web asks for a token that is good for db only, and db has its agent check it."],
        )?;
        let audience = id("db");
        let mut web = self.workload("web", &["jwt", &audience], "").await?;
        let token = match web.next().await? {
            Event::Jwt { token } => token,
            event => return Err(web.unexpected(event)),
        };
        let parsed = jwt::parse_unverified(&token)
            .map_err(|source| DemoError::Token { workload: "web".into(), source })?;
        let header = format!("{}, key {}", parsed.alg().as_str(), parsed.key_id().unwrap_or("?"));
        self.screen.fact("signed with", &header)?;

        let mut db = self.workload("db", &["validate", &audience], &token).await?;
        let (caller, claims) = match db.next().await? {
            Event::Valid { spiffe_id, claims } => (spiffe_id, claims),
            event => return Err(db.unexpected(event)),
        };
        for (name, value) in render::claims(&claims) {
            self.screen.fact(&name, &value)?;
        }
        self.screen.good(&format!("db: the token is valid, and its bearer is {caller}"))?;
        let elsewhere = id("elsewhere");
        let why = self.workload("db", &["validate", &elsewhere], &token).await?.refusal().await?;
        Ok(self.screen.good(&format!("presented to anybody else it is refused: {why}"))?)
    }

    async fn mutual_tls(&mut self) -> Result<(), DemoError> {
        self.screen.step(
            6,
            "Mutual TLS between two workloads",
            &["Two processes, two certificates. Each lets in one SPIFFE ID, and no other."],
        )?;
        let (web_id, db_id) = (id("web"), id("db"));
        let mut db = self.workload("db", &["serve", &web_id], "").await?;
        let port = match db.next().await? {
            Event::Listening { port } => port.to_string(),
            event => return Err(db.unexpected(event)),
        };
        self.screen.note(&format!("db listens on 127.0.0.1:{port} and lets in {web_id} only"))?;

        let mut web = self.workload("web", &["call", &port, &db_id], "").await?;
        let (answer, version, group) = match web.next().await? {
            Event::Answered { said, version, key_exchange, .. } => (said, version, key_exchange),
            event => return Err(web.unexpected(event)),
        };
        let (caller, said) = match db.next().await? {
            Event::Accepted { caller, said } => (caller, said),
            event => return Err(db.unexpected(event)),
        };
        self.screen.good("web and db have verified each other")?;
        self.screen.fact("TLS", &format!("{version}, key exchange {group}"))?;
        self.screen.fact("db sees", &caller)?;
        self.screen.fact("web → db", &said)?;
        self.screen.fact("db → web", &answer)?;

        let mut batch = self.workload("batch", &["call", &port, &db_id], "").await?;
        let learnt = batch.refusal().await?;
        let why = db.refusal().await?;
        self.screen.good(&format!("db refuses batch, a valid identity but not web: {why}"))?;
        self.screen.fact("batch learns", &learnt)?;

        let mut web = self.workload("web", &["call", &port, &id("billing")], "").await?;
        let why = web.refusal().await?;
        // The server sees a handshake that was broken off, which is no caller.
        Ok(self.screen.good(&format!("web refuses db where it wants billing: {why}"))?)
    }

    async fn rotation(&mut self) -> Result<(), DemoError> {
        let about = format!(
            "batch gets certificates of {SHORT_TTL} s and holds a stream open. The agent renews \
             each in time,"
        );
        let step = ["", "with a new key, and sends it down the stream. Nothing restarts."];
        self.screen.step(7, "A rotation as it happens", &[&about, step[1]])?;
        let mut batch = self.workload("batch", &["watch"], "").await?;
        let old = next_leaf(&mut batch).await?;
        self.show_leaf("now", &old)?;
        let asked = Instant::now();
        let new = loop {
            let new = self.wait_for_leaf(&mut batch, asked).await?;
            if new.serial_decimal() != old.serial_decimal() {
                break new;
            }
        };
        self.show_leaf("then", &new)?;
        let left = old.not_after().duration_since(SystemTime::now()).unwrap_or_default();
        let key = if old.public_key() == new.public_key() { "the same key" } else { "a new key" };
        self.screen.good(&format!(
            "rotated: serial {} gave way to {}, with {key}, {} s before it expired",
            render::short(&old.serial_decimal()),
            render::short(&new.serial_decimal()),
            left.as_secs()
        ))?;
        Ok(())
    }

    /// The next certificate on the stream, with the seconds counted meanwhile.
    async fn wait_for_leaf(
        &mut self,
        batch: &mut Actor,
        asked: Instant,
    ) -> Result<Certificate, DemoError> {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let screen = &mut self.screen;
        let next = timeout(ROTATION, next_leaf(batch));
        tokio::pin!(next);
        loop {
            tokio::select! {
                leaf = &mut next => {
                    return leaf.unwrap_or(Err(DemoError::NoRotation(ROTATION.as_secs())));
                }
                _ = ticks.tick() => {
                    let seconds = asked.elapsed().as_secs();
                    screen.waiting(&format!("waiting for the next one: {seconds} s"))?;
                }
            }
        }
    }

    fn show_leaf(&mut self, label: &str, leaf: &Certificate) -> Result<(), DemoError> {
        let until = render::clock(leaf.not_after());
        let text = format!("serial {}, until {until} UTC", leaf.serial_decimal());
        Ok(self.screen.fact(label, &text)?)
    }

    fn next_commands(&mut self, once: bool) -> Result<(), DemoError> {
        let about: &[&str] = if once {
            &["These work while a demonstration is up: start it without --once."]
        } else {
            &["Server and agent stay up. In another terminal:"]
        };
        self.screen.step(8, "Three commands to try next", about)?;
        let (server, agent) =
            (shown(&self.bin.join("spire-server")), shown(&self.bin.join("spire-agent")));
        let server_socket = shown(&self.place.server_socket);
        let agent_socket = shown(&self.place.agent_socket);
        for (why, command) in [
            ("all entries", format!("{server} entry show -socketPath {server_socket}")),
            (
                "an identity for you: spire-agent, when you run it, has an entry",
                format!("{agent} api fetch x509 -socketPath {agent_socket}"),
            ),
            (
                "the same as a stream; a new certificate every few seconds",
                format!("{agent} api watch -socketPath {agent_socket}"),
            ),
        ] {
            self.screen.note(&format!("# {why}"))?;
            self.screen.note(&command)?;
        }
        self.screen.gap()?;
        if !once {
            self.screen.note("Ctrl-C stops everything.")?;
        }
        Ok(())
    }

    fn elapsed(&self) -> String {
        format!("{:.2} s after the start", self.began.elapsed().as_secs_f64())
    }
}

async fn next_leaf(actor: &mut Actor) -> Result<Certificate, DemoError> {
    match actor.next().await? {
        Event::X509 { chain_pem, .. } => leaf("batch", &chain_pem),
        event => Err(actor.unexpected(event)),
    }
}

/// The first certificate of a chain in PEM.
fn leaf(workload: &str, chain_pem: &str) -> Result<Certificate, DemoError> {
    let unreadable = |source| DemoError::Certificate { workload: workload.to_owned(), source };
    let chain = Certificate::parse_pem_bundle(chain_pem).map_err(unreadable)?;
    Ok(chain.into_iter().next().expect("a bundle has at least one certificate"))
}

/// A path as a shell takes it.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,@%=:".contains(c);
    if text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_can_be_pasted_into_a_shell() {
        assert_eq!(shown(Path::new("/work/.state/agent.sock")), "/work/.state/agent.sock");
        assert_eq!(shown(Path::new("/my work/it's")), r"'/my work/it'\''s'");
    }
}
