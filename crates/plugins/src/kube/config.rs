//! Where the API server is, and who we are to it: as Go's client finds it out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use steeple_net::https::session::{ClientIdentity, ServerCheck, Session, certificates};
use steeple_runtime::gotext;
use url::Url;
use zeroize::Zeroizing;

use super::exec::{Credentials, Exec, Made};

/// Where a pod finds its service account.
pub(crate) const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How large the files may be.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Why the API server is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("unable to load Kubernetes client config: {0}")]
    File(String),
    #[error("unable to load Kubernetes client config: {0}")]
    Invalid(String),
    #[error(
        "unable to load Kubernetes client config: this is no pod with a service account, and \
         there is no kubeconfig"
    )]
    None,
    #[error("unable to load Kubernetes client config: {OUTSIDE}")]
    Outside,
}

/// What Go's client says outside of a cluster.
const OUTSIDE: &str = "unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and \
                       KUBERNETES_SERVICE_PORT must be defined";

impl ClusterError {
    /// The reason alone, for who has words of his own before it.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::File(reason) | Self::Invalid(reason) => reason,
            Self::None => "this is no pod with a service account, and there is no kubeconfig",
            Self::Outside => OUTSIDE,
        }
    }
}

/// Looks a variable up.
type Variables = dyn Fn(&str) -> Option<String> + Send + Sync;

/// What of the process's surroundings says where the cluster is.
#[derive(Clone)]
pub(crate) struct Environment {
    variable: Arc<Variables>,
    service_account: PathBuf,
    place: Place,
}

/// Where to look.
#[derive(Clone)]
enum Place {
    /// Wherever Go's tools do.
    Anywhere,
    /// In the pod that we are.
    Pod,
    /// In this kubeconfig.
    File(PathBuf),
}

impl Environment {
    /// The environment of this process.
    pub(crate) fn of_process() -> Self {
        Self::new(|name| std::env::var(name).ok(), SERVICE_ACCOUNT)
    }

    pub(crate) fn new(
        variable: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
        service_account: impl Into<PathBuf>,
    ) -> Self {
        Self {
            variable: Arc::new(variable),
            service_account: service_account.into(),
            place: Place::Anywhere,
        }
    }

    /// The same, but the cluster is that of a kubeconfig, or without one that of our pod.
    #[must_use]
    pub(crate) fn only(mut self, kubeconfig: Option<PathBuf>) -> Self {
        self.place = kubeconfig.map_or(Place::Pod, Place::File);
        self
    }

    /// The value of a variable; an empty one is none.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// What the files say now. Blocks for as long as the disk does.
    pub(super) fn cluster(&self) -> Result<Cluster, ClusterError> {
        if let Place::File(path) = &self.place {
            return Cluster::from_kubeconfig(path);
        }
        let anywhere = matches!(self.place, Place::Anywhere);
        if let Some(paths) = self.variable("KUBECONFIG").filter(|_| anywhere) {
            let path = paths.split(':').find(|path| !path.is_empty()).unwrap_or_default();
            return Cluster::from_kubeconfig(Path::new(path));
        }
        let host = self.variable("KUBERNETES_SERVICE_HOST");
        let port = self.variable("KUBERNETES_SERVICE_PORT");
        if let (Some(host), Some(port)) = (host, port) {
            return self.in_cluster(host, &port);
        }
        if !anywhere {
            return Err(ClusterError::Outside);
        }
        let home = self.variable("HOME").map(|home| Path::new(&home).join(".kube/config"));
        match home.filter(|path| path.exists()) {
            Some(path) => Cluster::from_kubeconfig(&path),
            None => Err(ClusterError::None),
        }
    }

    fn in_cluster(&self, host: String, port: &str) -> Result<Cluster, ClusterError> {
        let token = Zeroizing::new(read(&self.service_account.join("token"))?);
        let authorities = read(&self.service_account.join("ca.crt"))?;
        Ok(Cluster {
            host,
            port: port.parse().map_err(|_| {
                ClusterError::Invalid("KUBERNETES_SERVICE_PORT is not the number of a port".into())
            })?,
            secure: true,
            base: String::new(),
            server_name: None,
            authorities: Some(authorities),
            verify: true,
            identity: None,
            token: Some(trimmed(&token)),
            exec: None,
            made: None,
        })
    }
}

/// A cluster, with what the files held.
#[derive(PartialEq, Eq)]
pub(super) struct Cluster {
    host: String,
    port: u16,
    secure: bool,
    /// What stands before each path.
    pub(super) base: String,
    server_name: Option<String>,
    authorities: Option<Vec<u8>>,
    verify: bool,
    identity: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    token: Option<Zeroizing<String>>,
    /// The program that makes the credentials, the folder that it lies in or below, and what it
    /// may be told of the cluster.
    exec: Option<(Exec, PathBuf, serde_json::Value)>,
    /// What it made.
    made: Option<Arc<Credentials>>,
}

impl Cluster {
    /// Has a program make the credentials, if there is one; `held` is what it made last.
    pub(super) async fn complete(
        mut self,
        held: &tokio::sync::Mutex<Option<Made>>,
        now: SystemTime,
    ) -> Result<Self, ClusterError> {
        if let Some((exec, folder, cluster)) = &self.exec {
            let mut held = held.lock().await;
            let good = held.as_ref().and_then(|made| made.good(exec, now));
            self.made = Some(match good {
                Some(good) => good,
                None => held.insert(exec.run(folder, cluster).await?).credentials(),
            });
        }
        Ok(self)
    }

    /// Whether the credentials are a program's.
    pub(super) const fn is_made(&self) -> bool {
        self.exec.is_some()
    }

    pub(super) fn token(&self) -> Option<Zeroizing<String>> {
        let made = self.made.as_ref().and_then(|made| made.token.clone());
        made.or_else(|| self.token.clone())
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    pub(super) fn session(&self) -> Result<Session, ClusterError> {
        if !self.secure {
            return Ok(Session::plain(&self.host, self.port));
        }
        let check = match &self.authorities {
            _ if !self.verify => ServerCheck::Nobody,
            Some(pem) => ServerCheck::Name(certificates(pem).map_err(|reason| {
                ClusterError::Invalid(format!("unable to load root certificates: {reason}"))
            })?),
            None => {
                return Err(ClusterError::Invalid(
                    "the cluster has no certificate authority".to_owned(),
                ));
            }
        };
        let invalid = |reason: String| ClusterError::Invalid(reason);
        let made = self.made.as_ref().and_then(|made| made.identity.as_ref());
        let identity = match made.or(self.identity.as_ref()) {
            None => None,
            Some((chain, key)) => Some(
                ClientIdentity::from_pem(chain, key)
                    .map_err(|reason| invalid(format!("unable to load keypair: {reason}")))?,
            ),
        };
        let session = Session::tls(&self.host, self.port, &check, identity.as_ref())
            .map_err(|reason| invalid(reason.to_string()))?;
        match &self.server_name {
            None => Ok(session),
            Some(name) => session.named(name).map_err(|reason| invalid(reason.to_string())),
        }
    }

    fn from_kubeconfig(path: &Path) -> Result<Self, ClusterError> {
        let text = Zeroizing::new(read(path)?);
        let text = String::from_utf8_lossy(&text);
        let parsed = super::yaml::parse(&text).map_err(|reason| {
            ClusterError::Invalid(format!("error loading config file {path:?}: {reason}"))
        })?;
        let file: Kubeconfig = serde_json::from_value(parsed).map_err(|reason| {
            ClusterError::Invalid(format!("error loading config file {path:?}: {reason}"))
        })?;
        file.cluster(path.parent().unwrap_or(Path::new("")))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Kubeconfig {
    clusters: Vec<Named<KubeconfigCluster>>,
    users: Vec<Named<KubeconfigUser>>,
    contexts: Vec<Named<KubeconfigContext>>,
    #[serde(rename = "current-context")]
    current_context: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "user", alias = "context")]
    value: T,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct KubeconfigCluster {
    server: String,
    certificate_authority: String,
    certificate_authority_data: String,
    insecure_skip_tls_verify: bool,
    tls_server_name: String,
    proxy_url: String,
}

impl KubeconfigCluster {
    /// What a program may be told of the cluster.
    fn info(&self) -> serde_json::Value {
        let mut info = json!({"server": self.server});
        for (name, value) in [
            ("tls-server-name", &self.tls_server_name),
            ("certificate-authority-data", &self.certificate_authority_data),
        ] {
            if !value.is_empty() {
                info[name] = json!(value);
            }
        }
        if self.insecure_skip_tls_verify {
            info["insecure-skip-tls-verify"] = json!(true);
        }
        info
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct KubeconfigUser {
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: String,
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    exec: Option<Exec>,
    auth_provider: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct KubeconfigContext {
    cluster: String,
    user: String,
}

impl Kubeconfig {
    fn cluster(&self, folder: &Path) -> Result<Cluster, ClusterError> {
        let invalid = |reason: &str| ClusterError::Invalid(reason.to_owned());
        let context = find(&self.contexts, &self.current_context)
            .ok_or_else(|| invalid("the current context of the kubeconfig is not in it"))?;
        let cluster = find(&self.clusters, &context.cluster)
            .ok_or_else(|| invalid("the cluster of the kubeconfig's context is not in it"))?;
        let nobody = KubeconfigUser::default();
        let user = find(&self.users, &context.user).unwrap_or(&nobody);
        if user.auth_provider.is_some() {
            return Err(invalid("users with an auth-provider are not supported; use exec"));
        }
        if !cluster.proxy_url.is_empty() {
            return Err(invalid("clusters behind a proxy (proxy-url) are not supported"));
        }
        let url = Url::parse(&cluster.server).map_err(|_| invalid("the server is not a URL"))?;
        let secure = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(invalid("the server's URL is neither https nor http")),
        };
        let host = url.host_str().filter(|host| !host.is_empty());
        let data = |data: &str, path: &str| source(folder, data, path);
        let certificate = data(&user.client_certificate_data, &user.client_certificate)?;
        let key = data(&user.client_key_data, &user.client_key)?;
        let token = match (&user.token_file, &user.token) {
            (path, _) if !path.is_empty() => Some(trimmed(&read(&folder.join(path))?)),
            (_, token) if !token.is_empty() => Some(Zeroizing::new(token.clone())),
            _ => None,
        };
        Ok(Cluster {
            host: host.ok_or_else(|| invalid("the server's URL has no host"))?.to_owned(),
            port: url.port_or_known_default().unwrap_or(443),
            secure,
            base: url.path().trim_end_matches('/').to_owned(),
            server_name: Some(cluster.tls_server_name.clone()).filter(|name| !name.is_empty()),
            authorities: data(&cluster.certificate_authority_data, &cluster.certificate_authority)?,
            verify: !cluster.insecure_skip_tls_verify,
            identity: certificate.zip(key.map(Zeroizing::new)),
            token,
            exec: user.exec.clone().map(|exec| (exec, folder.to_owned(), cluster.info())),
            made: None,
        })
    }
}

fn find<'a, T>(all: &'a [Named<T>], name: &str) -> Option<&'a T> {
    all.iter().find(|it| it.name == name).map(|it| &it.value)
}

/// Base64 in the file itself, or the file that it names.
fn source(folder: &Path, data: &str, path: &str) -> Result<Option<Vec<u8>>, ClusterError> {
    if !data.is_empty() {
        let compact: String = data.split_whitespace().collect();
        let decoded = STANDARD.decode(compact);
        return decoded
            .map(Some)
            .map_err(|_| ClusterError::Invalid("kubeconfig data is not base64".to_owned()));
    }
    match path {
        "" => Ok(None),
        path => read(&folder.join(path)).map(Some),
    }
}

fn trimmed(token: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(String::from_utf8_lossy(token).trim().to_owned())
}

fn read(path: &Path) -> Result<Vec<u8>, ClusterError> {
    match steeple_runtime::fsx::read_limited(path, MAX_FILE) {
        Ok(Some(contents)) => Ok(contents),
        Ok(None) => {
            let text = format!("open {}: no such file or directory", path.display());
            Err(ClusterError::File(text))
        }
        Err(error) => Err(ClusterError::File(gotext::system(&error))),
    }
}
