//! Credentials that a program of the kubeconfig's user makes, as Go's client runs it
//! (`client.authentication.k8s.io`): what EKS, GKE and AKS write into kubeconfigs.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Value, json};
use steeple_runtime::gotext;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::ClusterError;

/// How long the program may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// How much it may print, in bytes.
const MAX_OUTPUT: u64 = 256 * 1024;
/// As much of its complaints as an error repeats, in bytes.
const MAX_ECHO: u64 = 256;
/// Credentials are made anew so long before their end.
const EARLY: Duration = Duration::from_secs(10);

/// The program, as the kubeconfig says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Exec {
    api_version: String,
    command: String,
    args: Vec<String>,
    env: Vec<Variable>,
    provide_cluster_info: bool,
    interactive_mode: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Variable {
    name: String,
    value: String,
}

/// What the program made.
#[derive(PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) token: Option<Zeroizing<String>>,
    pub(super) identity: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

/// Credentials, and what they were made by.
pub(super) struct Made {
    exec: Exec,
    credentials: Arc<Credentials>,
    until: Option<SystemTime>,
    at: Instant,
}

impl Made {
    /// How long ago they were made.
    pub(super) fn age(&self) -> Duration {
        self.at.elapsed()
    }

    /// The credentials, if they are this program's and good yet.
    pub(super) fn good(&self, exec: &Exec, now: SystemTime) -> Option<Arc<Credentials>> {
        let good = self.exec == *exec && self.until.is_none_or(|until| now + EARLY < until);
        good.then(|| Arc::clone(&self.credentials))
    }

    pub(super) fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials)
    }
}

impl Exec {
    /// Runs the program; `folder` is the kubeconfig's, `cluster` what it may be told of the
    /// cluster.
    pub(super) async fn run(&self, folder: &Path, cluster: &Value) -> Result<Made, ClusterError> {
        let failed =
            |what: &str| ClusterError::Invalid(format!("getting credentials: exec: {what}"));
        if self.interactive_mode == "Always" {
            return Err(failed("the program wants to ask somebody, and nobody is here"));
        }
        let known = ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];
        if !known.contains(&self.api_version.as_str()) {
            return Err(failed("its apiVersion is not supported"));
        }
        let program = self.program(folder);
        let shown: String = self.command.chars().take(128).collect();
        let mut child = Command::new(&program)
            .args(&self.args)
            .envs(self.env.iter().map(|it| (&it.name, &it.value)))
            .env("KUBERNETES_EXEC_INFO", self.info(cluster))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => failed(&format!("executable {shown} not found")),
                _ => failed(&format!("executable {shown}: {}", gotext::system(&error))),
            })?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (out, err) = tokio::join!(read(out, MAX_OUTPUT), read(err, MAX_ECHO));
            (child.wait().await, out, err)
        };
        let Ok((status, out, err)) = tokio::time::timeout(DEADLINE, work).await else {
            return Err(failed(&format!("executable {shown} did not end in time")));
        };
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => {
                let code = status.code().unwrap_or(-1);
                let said = String::from_utf8_lossy(&err);
                let text = format!("executable {shown} failed with exit code {code}: {said}");
                return Err(failed(text.trim_end_matches([':', ' ', '\n'])));
            }
            Err(error) => return Err(failed(&gotext::system(&error))),
        }
        let (credentials, until) = self.parse(&out).map_err(failed)?;
        let credentials = Arc::new(credentials);
        Ok(Made { exec: self.clone(), credentials, until, at: Instant::now() })
    }

    /// The program: beside the kubeconfig if it is a relative path, else where the system looks.
    fn program(&self, folder: &Path) -> PathBuf {
        let path = Path::new(&self.command);
        match self.command.contains('/') && path.is_relative() {
            true => folder.join(path),
            false => path.to_owned(),
        }
    }

    fn info(&self, cluster: &Value) -> String {
        let mut spec = json!({"interactive": false});
        if self.provide_cluster_info {
            spec["cluster"] = cluster.clone();
        }
        let info = json!({"kind": "ExecCredential", "apiVersion": self.api_version, "spec": spec});
        info.to_string()
    }

    fn parse(&self, out: &[u8]) -> Result<(Credentials, Option<SystemTime>), &'static str> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Printed {
            api_version: String,
            kind: String,
            status: Status,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Status {
            expiration_timestamp: Option<String>,
            token: String,
            client_certificate_data: String,
            client_key_data: String,
        }
        // The parser's own words could have a piece of the token in them.
        let printed: Printed =
            serde_json::from_slice(out).map_err(|_| "decoding stdout: it is no ExecCredential")?;
        if printed.kind != "ExecCredential" || printed.api_version != self.api_version {
            return Err("plugin returned another kind or version than was asked for");
        }
        let status = printed.status;
        let (certificate, key) = (status.client_certificate_data, status.client_key_data);
        if certificate.is_empty() != key.is_empty() {
            return Err("plugin returned only certificate or key, not both");
        }
        if status.token.is_empty() && certificate.is_empty() {
            return Err("exec plugin didn't return a token or cert/key pair");
        }
        let until = match status.expiration_timestamp {
            None => None,
            Some(text) => Some(
                OffsetDateTime::parse(&text, &Rfc3339)
                    .map_err(|_| "the expirationTimestamp is not a time")?
                    .into(),
            ),
        };
        let identity = (!certificate.is_empty())
            .then(|| (certificate.into_bytes(), Zeroizing::new(key.into_bytes())));
        let token = Some(Zeroizing::new(status.token)).filter(|token| !token.is_empty());
        Ok((Credentials { token, identity }, until))
    }
}

/// Reads to the end, and keeps the beginning.
async fn read(from: Option<impl AsyncRead + Unpin>, limit: u64) -> Zeroizing<Vec<u8>> {
    let mut kept = Zeroizing::new(Vec::new());
    let Some(mut from) = from else { return kept };
    let _ = (&mut from).take(limit).read_to_end(&mut kept).await;
    // A program that prints more is not to hang for want of a reader.
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    kept
}
