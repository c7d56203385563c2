//! The admin APIs: Debug and Logger, for the operator on the admin socket.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use steeple_agent_core::cache::IdentityCache;
use steeple_agent_core::jwt::JwtSvids;
use steeple_agent_core::svid_store::StoreCache;
use steeple_pki::Certificate;
use steeple_pki::verify::{X509Roots, verify_path, x509_svid};
use steeple_pki::x509::DistinguishedName;
use steeple_proto::spire::agent::debug::v1 as debug;
use steeple_proto::spire::agent::debug::v1::debug_server::Debug;
use steeple_proto::spire::api::agent::logger::v1 as logger;
use steeple_proto::spire::api::agent::logger::v1::logger_server::Logger;
use steeple_proto::spire::api::types;
use steeple_runtime::Clock;
use steeple_runtime::log::{Level, LogHandle};
use steeple_spiffe::SpiffeId;
use tonic::{Request, Response, Status};
use tracing::{error, info};

/// What Debug asks about the agent itself.
pub trait AgentStatus: Send + Sync {
    /// The agent's own SVID, leaf first.
    fn svid(&self) -> Vec<Certificate>;
    /// When the last successful sync ended.
    fn last_sync(&self) -> SystemTime;
    /// When the agent's own SVID is to be renewed; none when nobody knows.
    fn renews_at(&self, _now: SystemTime) -> Option<SystemTime> {
        None
    }
}

/// The Debug API.
pub struct DebugService {
    status: Arc<dyn AgentStatus>,
    cache: Arc<IdentityCache>,
    jwt: Arc<JwtSvids>,
    clock: Arc<dyn Clock>,
    started: Instant,
    answer: Mutex<Option<(SystemTime, debug::GetInfoResponse)>>,
    stored: Option<Arc<StoreCache>>,
}

impl DebugService {
    /// Counts the uptime from now.
    pub fn new(
        status: Arc<dyn AgentStatus>,
        cache: Arc<IdentityCache>,
        jwt: Arc<JwtSvids>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            status,
            cache,
            jwt,
            clock,
            started: Instant::now(),
            answer: Mutex::default(),
            stored: None,
        }
    }

    /// Counts what goes to SVID stores as well.
    #[must_use]
    pub fn with_stored(mut self, stored: Arc<StoreCache>) -> Self {
        self.stored = Some(stored);
        self
    }

    #[expect(deprecated, reason = "older clients read the count from its first place")]
    fn info(&self, now: SystemTime) -> Result<debug::GetInfoResponse, Status> {
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let svids = count(self.cache.count_x509_svids());
        let last_sync = self.status.last_sync().duration_since(SystemTime::UNIX_EPOCH);
        Ok(debug::GetInfoResponse {
            svid_chain: self.chain(now)?,
            uptime: i32::try_from(self.started.elapsed().as_secs()).unwrap_or(i32::MAX),
            svids_count: svids,
            last_sync_success: last_sync.map_or(0, |since| since.as_secs() as i64),
            cached_x509_svids_count: svids,
            cached_jwt_svids_count: count(self.jwt.count()),
            cached_svidstore_x509_svids_count: count(
                self.stored.as_ref().map_or(0, |stored| stored.count()),
            ),
        })
    }

    /// The agent's SVID with the authority that it chains to.
    fn chain(&self, now: SystemTime) -> Result<Vec<debug::get_info_response::Cert>, Status> {
        let mut chain = self.status.svid();
        let own = self.cache.own_bundle();
        let authorities: Vec<Certificate> = own.bundle().certificates().cloned().collect();
        let roots = X509Roots { trust_domain: own.trust_domain().clone(), authorities };
        x509_svid(&chain, &roots, now).map_err(|error| {
            error!(subsystem_name = "debug_api", %error, "Failed to verify agent SVID");
            Status::internal(format!("failed to verify agent SVID: {error}"))
        })?;
        let root = roots.authorities.iter().find(|root| {
            verify_path(&chain[0], &chain[1..], std::slice::from_ref(root), now).is_ok()
        });
        chain.extend(root.cloned());
        Ok(chain.iter().map(described).collect())
    }
}

fn described(certificate: &Certificate) -> debug::get_info_response::Cert {
    let id = match certificate.uri_sans() {
        [uri] => SpiffeId::parse(uri).ok(),
        _ => None,
    };
    let expires = certificate.not_after().duration_since(SystemTime::UNIX_EPOCH);
    debug::get_info_response::Cert {
        id: id.map(|id| types::Spiffeid {
            trust_domain: id.trust_domain_name().to_owned(),
            path: id.path().to_owned(),
        }),
        expires_at: expires.map_or(0, |since| since.as_secs() as i64),
        subject: certificate.subject().map(|name| subject_text(&name)).unwrap_or_default(),
    }
}

/// A name as Go prints it: the last attribute first.
fn subject_text(name: &DistinguishedName) -> String {
    let single = |text: &String| if text.is_empty() { Vec::new() } else { vec![text.clone()] };
    let attributes = [
        ("SERIALNUMBER", single(&name.serial_number)),
        ("CN", single(&name.common_name)),
        ("POSTALCODE", name.postal_code.clone()),
        ("STREET", name.street_address.clone()),
        ("ST", name.province.clone()),
        ("L", name.locality.clone()),
        ("OU", name.organizational_unit.clone()),
        ("O", name.organization.clone()),
        ("C", name.country.clone()),
    ];
    let parts =
        attributes.into_iter().filter(|(_, values)| !values.is_empty()).map(|(kind, values)| {
            let values: Vec<String> =
                values.iter().map(|value| format!("{kind}={}", escaped(value))).collect();
            values.join("+")
        });
    parts.collect::<Vec<_>>().join(",")
}

/// RFC 4514's escapes.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for (at, character) in value.char_indices() {
        let last = at + character.len_utf8() == value.len();
        let special = matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (character == '#' && at == 0)
            || (character == ' ' && (at == 0 || last));
        if special {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

#[tonic::async_trait]
impl Debug for DebugService {
    async fn get_info(
        &self,
        _: Request<debug::GetInfoRequest>,
    ) -> Result<Response<debug::GetInfoResponse>, Status> {
        let now = self.clock.now();
        let mut answer = self.answer.lock().expect("no code panics while it holds the answer");
        if let Some((at, info)) = &*answer
            && now.duration_since(*at).is_ok_and(|age| age < KEPT_FOR)
        {
            return Ok(Response::new(info.clone()));
        }
        let info = self.info(now)?;
        *answer = Some((now, info.clone()));
        Ok(Response::new(info))
    }
}

/// The Logger API: what is logged, changed while the agent runs.
pub struct LoggerService {
    log: LogHandle,
}

impl LoggerService {
    /// Over the process's log.
    pub fn new(log: LogHandle) -> Self {
        info!(launch_log_level = %log.launch_level(), "Logger service configured");
        Self { log }
    }

    fn levels(&self) -> Response<types::Logger> {
        Response::new(types::Logger {
            current_level: to_wire(self.log.level()).into(),
            launch_level: to_wire(self.log.launch_level()).into(),
        })
    }
}

#[tonic::async_trait]
impl Logger for LoggerService {
    async fn get_logger(
        &self,
        _: Request<logger::GetLoggerRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        info!(service = "Logger", method = "GetLogger", "GetLogger Called");
        Ok(self.levels())
    }

    async fn set_log_level(
        &self,
        request: Request<logger::SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let invalid = |text: &'static str| {
            error!(service = "Logger", method = "SetLogLevel", "Invalid argument: {text}");
            Status::invalid_argument(text)
        };
        let level = match types::LogLevel::try_from(request.get_ref().new_level) {
            Ok(types::LogLevel::Unspecified) => {
                return Err(invalid("newLevel value cannot be LogLevel_UNSPECIFIED"));
            }
            Ok(level) => from_wire(level),
            Err(_) => return Err(invalid("unsupported log level")),
        };
        info!(service = "Logger", method = "SetLogLevel", new_log_level = %level, "SetLogLevel Called");
        self.log.set_level(level);
        Ok(self.levels())
    }

    async fn reset_log_level(
        &self,
        _: Request<logger::ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let launch = self.log.launch_level();
        info!(service = "Logger", method = "ResetLogLevel", launch_log_level = %launch, "ResetLogLevel Called");
        self.log.set_level(launch);
        Ok(self.levels())
    }
}

fn to_wire(level: Level) -> types::LogLevel {
    match level {
        Level::Panic => types::LogLevel::Panic,
        Level::Fatal => types::LogLevel::Fatal,
        Level::Error => types::LogLevel::Error,
        Level::Warn => types::LogLevel::Warn,
        Level::Info => types::LogLevel::Info,
        Level::Debug => types::LogLevel::Debug,
        Level::Trace => types::LogLevel::Trace,
    }
}

/// `Unspecified` was refused before.
fn from_wire(level: types::LogLevel) -> Level {
    match level {
        types::LogLevel::Panic => Level::Panic,
        types::LogLevel::Fatal => Level::Fatal,
        types::LogLevel::Error => Level::Error,
        types::LogLevel::Warn => Level::Warn,
        types::LogLevel::Unspecified | types::LogLevel::Info => Level::Info,
        types::LogLevel::Debug => Level::Debug,
        types::LogLevel::Trace => Level::Trace,
    }
}

/// How long one answer of Debug serves everybody.
const KEPT_FOR: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_printed_as_go_prints_them() {
        let name = DistinguishedName {
            country: vec!["US".into()],
            organization: vec!["SPIRE".into()],
            organizational_unit: vec!["a, b".into(), "c".into()],
            common_name: " x#".into(),
            ..Default::default()
        };
        assert_eq!(subject_text(&name), "CN=\\ x#,OU=a\\, b+OU=c,O=SPIRE,C=US");
    }
}
