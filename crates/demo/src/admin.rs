//! The server's administrator: runs the verbs of `spire-server` and reads their JSON.

use std::path::PathBuf;

use serde::Deserialize;
use tokio::process::Command;

use crate::error::DemoError;

/// How much of a verb's complaint is shown.
const COMPLAINT: usize = 400;

/// Runs verbs of `spire-server`.
#[derive(Debug)]
pub(crate) struct Admin {
    program: PathBuf,
    socket: PathBuf,
}

/// A registration entry to make: who may be who.
#[derive(Debug, Clone)]
pub(crate) struct NewEntry {
    pub(crate) parent_id: String,
    pub(crate) spiffe_id: String,
    pub(crate) selectors: Vec<String>,
    /// In seconds; the server's default when there is none.
    pub(crate) ttl: Option<u32>,
}

/// What an entry's selectors are, as the server has them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Entry {
    #[serde(default)]
    pub(crate) selectors: Vec<Selector>,
}

/// One property of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Selector {
    #[serde(rename = "type")]
    kind: String,
    value: String,
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

#[derive(Deserialize)]
struct Token {
    value: String,
}

#[derive(Deserialize)]
struct Created {
    results: Vec<CreatedEntry>,
}

#[derive(Deserialize)]
struct CreatedEntry {
    status: EntryStatus,
    entry: Option<Entry>,
}

#[derive(Deserialize)]
struct EntryStatus {
    code: i32,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Shown {
    #[serde(default)]
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Agents {
    #[serde(default)]
    agents: Vec<Agent>,
}

#[derive(Deserialize)]
struct Agent {
    id: AgentId,
    #[serde(default, rename = "x509svid_expires_at")]
    expires_at: serde_json::Value,
}

#[derive(Deserialize)]
struct AgentId {
    trust_domain: String,
    path: String,
}

impl Admin {
    pub(crate) fn new(program: PathBuf, socket: PathBuf) -> Self {
        Self { program, socket }
    }

    /// A token that lets one node in, once, under the additional name `alias`.
    pub(crate) async fn token(&self, alias: &str) -> Result<String, DemoError> {
        let flags = ["-spiffeID".to_owned(), alias.to_owned()];
        Ok(self.json::<Token>(&["token", "generate"], &flags).await?.value)
    }

    /// The trust domain's bundle in PEM.
    pub(crate) async fn bundle(&self) -> Result<String, DemoError> {
        let pem = self.run(&["bundle", "show"], &[]).await?;
        Ok(String::from_utf8_lossy(&pem).into_owned())
    }

    /// The SPIFFE ID of the agent that attested last.
    pub(crate) async fn agent(&self) -> Result<Option<String>, DemoError> {
        let agents = self.json::<Agents>(&["agent", "list"], &[]).await?.agents;
        let newest = agents.into_iter().max_by_key(|agent| match &agent.expires_at {
            serde_json::Value::String(text) => text.parse().unwrap_or(0_i64),
            value => value.as_i64().unwrap_or(0),
        });
        Ok(newest.map(|agent| format!("spiffe://{}{}", agent.id.trust_domain, agent.id.path)))
    }

    /// An entry with the ID and the selectors of `entry`, if there is one.
    pub(crate) async fn find(&self, entry: &NewEntry) -> Result<Option<Entry>, DemoError> {
        let flags = ["-spiffeID".to_owned(), entry.spiffe_id.clone()];
        let shown = self.json::<Shown>(&["entry", "show"], &flags).await?;
        let wanted = |found: &Entry| {
            found.selectors.len() == entry.selectors.len()
                && found.selectors.iter().all(|it| entry.selectors.contains(&it.to_string()))
        };
        Ok(shown.entries.into_iter().find(wanted))
    }

    /// Makes an entry; what the server made of it.
    pub(crate) async fn create(&self, entry: &NewEntry) -> Result<Entry, DemoError> {
        let verb = ["entry", "create"];
        let flags = entry.flags();
        let created = self.json::<Created>(&verb, &flags).await?;
        let said = match created.results.into_iter().next() {
            Some(CreatedEntry { status: EntryStatus { code: 0, .. }, entry: Some(entry) }) => {
                return Ok(entry);
            }
            Some(refused) => refused.status.message,
            None => "no result".to_owned(),
        };
        Err(DemoError::Verb { command: shown(&verb, &flags), said })
    }

    async fn json<T: for<'a> Deserialize<'a>>(
        &self,
        verb: &[&str],
        flags: &[String],
    ) -> Result<T, DemoError> {
        let mut with_output = flags.to_vec();
        with_output.extend(["-output".to_owned(), "json".to_owned()]);
        let out = self.run(verb, &with_output).await?;
        serde_json::from_slice(&out).map_err(|error| DemoError::Verb {
            command: shown(verb, flags),
            said: error.to_string(),
        })
    }

    async fn run(&self, verb: &[&str], flags: &[String]) -> Result<Vec<u8>, DemoError> {
        let mut command = Command::new(&self.program);
        command.args(verb).arg("-socketPath").arg(&self.socket).args(flags).kill_on_drop(true);
        let failed = |said: String| DemoError::Verb { command: shown(verb, flags), said };
        let done = command.output().await.map_err(|error| failed(error.to_string()))?;
        if done.status.success() {
            return Ok(done.stdout);
        }
        let said = if done.stderr.is_empty() { &done.stdout } else { &done.stderr };
        Err(failed(String::from_utf8_lossy(said).trim().chars().take(COMPLAINT).collect()))
    }
}

impl NewEntry {
    /// The flags of `entry create` that make it.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags = vec!["-parentID".to_owned(), self.parent_id.clone()];
        flags.extend(["-spiffeID".to_owned(), self.spiffe_id.clone()]);
        for selector in &self.selectors {
            flags.extend(["-selector".to_owned(), selector.clone()]);
        }
        if let Some(ttl) = self.ttl {
            flags.extend(["-x509SVIDTTL".to_owned(), ttl.to_string()]);
        }
        flags
    }
}

fn shown(verb: &[&str], flags: &[String]) -> String {
    let words = verb.iter().copied().chain(flags.iter().map(String::as_str));
    std::iter::once("spire-server").chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> NewEntry {
        NewEntry {
            parent_id: "spiffe://example.org/node".into(),
            spiffe_id: "spiffe://example.org/web".into(),
            selectors: vec!["unix:uid:0".into(), "unix:path:/bin/web".into()],
            ttl: Some(20),
        }
    }

    #[test]
    fn an_entry_is_made_with_flags_that_one_can_type() {
        assert_eq!(
            shown(&["entry", "create"], &entry().flags()),
            "spire-server entry create -parentID spiffe://example.org/node -spiffeID \
             spiffe://example.org/web -selector unix:uid:0 -selector unix:path:/bin/web \
             -x509SVIDTTL 20"
        );
    }

    #[tokio::test]
    async fn a_verb_that_fails_is_told_with_what_it_said() {
        let dir = steeple_testkit::temp_dir();
        let program = dir.path().join("spire-server");
        std::fs::write(&program, "#!/bin/sh\necho 'no such socket' >&2\nexit 1\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        let admin = Admin::new(program, "/nonexistent".into());
        let error = admin.token("spiffe://example.org/node").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "`spire-server token generate -spiffeID spiffe://example.org/node -output json` \
             failed: no such socket"
        );
    }

    #[test]
    fn selectors_are_read_from_the_servers_json() {
        let json = r#"{"results":[{"status":{"code":0,"message":"OK"},
            "entry":{"id":"x","selectors":[{"type":"unix","value":"uid:0"}]}}]}"#;
        let created: Created = serde_json::from_str(json).unwrap();
        let entry = created.results.into_iter().next().unwrap().entry.unwrap();
        assert_eq!(entry.selectors[0].to_string(), "unix:uid:0");
    }
}
