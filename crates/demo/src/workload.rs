//! The other side of the demonstration: a program that owns nothing and asks who it is.
//!
//! The demonstration starts it under the names `web`, `db` and so on. It finds the Workload API by
//! `SPIFFE_ENDPOINT_SOCKET`, as every workload does, and tells what it gets as [`Event`]s.

use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost_types::value::Kind;
use serde_json::{Map, Value};
use steeple_net::channel::{self, Channel, ConnectError};
use steeple_net::serve::Accept as _;
use steeple_net::tls::{
    self, ClientTls, Identity, Roots, ServerTls, TlsIncoming, TlsLimits, TlsStream,
};
use steeple_pki::verify::{self, X509Roots};
use steeple_pki::x509::CertificateError;
use steeple_pki::{Certificate, KeyError, PrivateKey};
use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use steeple_proto::workload::{
    JwtsvidRequest, ValidateJwtsvidRequest, X509svidRequest, X509svidResponse,
};
use steeple_runtime::drain::Tasks;
use steeple_spiffe::{IdError, SpiffeId};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tonic::transport::server::Connected as _;
use tonic::{Code, Request, Status, Streaming};

use crate::args::Role;
use crate::event::Event;

/// How long a workload waits for an entry to reach the agent.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often it asks meanwhile.
const RETRY: Duration = Duration::from_millis(50);
/// The longest line that one workload reads from another.
const LONGEST_LINE: u64 = 512;
/// The longest token that is read.
const LONGEST_TOKEN: u64 = 64 * 1024;

type Api = SpiffeWorkloadApiClient<Channel>;

/// Why a workload could not do its part. Being refused is no such reason but an answer.
#[derive(Debug, thiserror::Error)]
enum WorkloadError {
    #[error("SPIFFE_ENDPOINT_SOCKET must be unix://, followed by the path of a socket")]
    NoSocket,
    #[error("the Workload API answered {:?}: {}", .0.code(), .0.message())]
    Api(Status),
    #[error("the agent sent no identity")]
    Nothing,
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("the certificate that the agent sent: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the key that the agent sent: {0}")]
    Key(#[from] KeyError),
    #[error("the certificate that the agent sent: {0}")]
    Svid(#[from] verify::VerifyError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An X.509-SVID with what verifies others'.
struct Svid {
    id: SpiffeId,
    chain: Vec<Certificate>,
    key: Arc<PrivateKey>,
    authorities: Vec<Certificate>,
}

/// Plays `role` and ends.
pub(crate) fn main(role: Role) -> ExitCode {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(play(role)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

async fn play(role: Role) -> Result<(), WorkloadError> {
    let mut api = api()?;
    match role {
        Role::X509 { wait } => match svid(&mut api, wait).await {
            Ok(svid) => tell(&svid.event()),
            Err(error) => refusal(error),
        },
        Role::Watch => watch(&mut api).await,
        Role::Jwt { audience } => jwt(&mut api, audience).await,
        Role::Validate { audience } => validate(&mut api, audience).await,
        Role::Serve { allow } => serve(&svid(&mut api, true).await?, &allow).await,
        Role::Call { port, expect } => call(&svid(&mut api, true).await?, port, expect).await,
    }
}

/// The Workload API, where the environment says it is (SPIFFE Workload Endpoint §4).
fn api() -> Result<Api, WorkloadError> {
    let socket = std::env::var_os("SPIFFE_ENDPOINT_SOCKET")
        .and_then(|it| it.into_string().ok())
        .ok_or(WorkloadError::NoSocket)?;
    let path = socket.strip_prefix("unix://").ok_or(WorkloadError::NoSocket)?;
    Ok(SpiffeWorkloadApiClient::new(channel::unix(&PathBuf::from(path))))
}

/// A request with the header that browsers cannot be tricked into sending (Workload Endpoint §5).
fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().expect("it is ASCII"));
    request
}

/// This process's identity. With `wait`, one that is not there yet is waited for.
async fn svid(api: &mut Api, wait: bool) -> Result<Svid, WorkloadError> {
    updates(api, wait).await.map(|(svid, _)| svid)
}

/// The first identity, and the stream that brings the next ones.
async fn updates(
    api: &mut Api,
    wait: bool,
) -> Result<(Svid, Streaming<X509svidResponse>), WorkloadError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let first = async {
            let mut stream = api.fetch_x509svid(request(X509svidRequest {})).await?.into_inner();
            Ok((stream.message().await?, stream))
        };
        match first.await {
            Ok((Some(update), stream)) => return Ok((Svid::read(&update)?, stream)),
            Ok((None, _)) => return Err(WorkloadError::Nothing),
            Err(status) if wait && not_yet(&status) && Instant::now() < deadline => {
                sleep(RETRY).await;
            }
            Err(status) => return Err(WorkloadError::Api(status)),
        }
    }
}

fn not_yet(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::Unavailable)
}

impl Svid {
    /// Reads the default identity, the first one, and verifies it.
    fn read(update: &X509svidResponse) -> Result<Self, WorkloadError> {
        let svid = update.svids.first().ok_or(WorkloadError::Nothing)?;
        let chain = Certificate::parse_concatenated_der(&svid.x509_svid)?;
        let authorities = Certificate::parse_concatenated_der(&svid.bundle)?;
        let key = Arc::new(PrivateKey::from_pkcs8_der(&svid.x509_svid_key)?);
        let trust_domain = SpiffeId::parse(&svid.spiffe_id)?.trust_domain();
        let roots = X509Roots { trust_domain, authorities };
        let id = verify::x509_svid(&chain, &roots, SystemTime::now())?;
        Ok(Self { id, chain, key, authorities: roots.authorities })
    }

    fn event(&self) -> Event {
        Event::X509 {
            spiffe_id: self.id.to_string(),
            chain_pem: self.chain.iter().map(Certificate::pem).collect(),
            pid: std::process::id(),
        }
    }

    fn identity(&self) -> Identity {
        let key = Arc::clone(&self.key);
        Identity::new(&self.chain, key)
    }
}

async fn watch(api: &mut Api) -> Result<(), WorkloadError> {
    let (first, mut stream) = updates(api, true).await?;
    tell(&first.event())?;
    while let Some(update) = stream.message().await.map_err(WorkloadError::Api)? {
        tell(&Svid::read(&update)?.event())?;
    }
    Ok(())
}

async fn jwt(api: &mut Api, audience: String) -> Result<(), WorkloadError> {
    let message = JwtsvidRequest { audience: vec![audience], ..Default::default() };
    match api.fetch_jwtsvid(request(message)).await {
        Ok(response) => {
            let svid = response.into_inner().svids.into_iter().next();
            let token = svid.ok_or(WorkloadError::Nothing)?.svid;
            tell(&Event::Jwt { token })
        }
        Err(status) => refusal(WorkloadError::Api(status)),
    }
}

async fn validate(api: &mut Api, audience: String) -> Result<(), WorkloadError> {
    let mut svid = String::new();
    io::stdin().take(LONGEST_TOKEN).read_to_string(&mut svid)?;
    let svid = svid.trim().to_owned();
    match api.validate_jwtsvid(request(ValidateJwtsvidRequest { audience, svid })).await {
        Ok(response) => {
            let response = response.into_inner();
            let claims = response.claims.unwrap_or_default().fields.into_iter();
            let claims: Map<_, _> = claims.map(|(name, it)| (name, json(it.kind))).collect();
            tell(&Event::Valid { spiffe_id: response.spiffe_id, claims })
        }
        Err(status) => refusal(WorkloadError::Api(status)),
    }
}

/// Serves one caller after the other until this process is ended.
async fn serve(svid: &Svid, allow: &SpiffeId) -> Result<(), WorkloadError> {
    let roots =
        X509Roots { trust_domain: svid.id.trust_domain(), authorities: svid.authorities.clone() };
    let tls = ServerTls::new(svid.identity().into());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut incoming = TlsIncoming::new(listener, &tls, TlsLimits::default(), Tasks::new());
    tell(&Event::Listening { port: incoming.local_addr()?.port() })?;
    loop {
        let stream = incoming.accept().await;
        let event = match authorise(&stream, &roots, allow) {
            Ok(caller) => answer(stream, caller).await,
            Err(why) => {
                close(stream).await;
                Event::Refused { why }
            }
        };
        tell(&event)?;
    }
}

/// The caller's SPIFFE ID, if its certificate is valid and it is the one that may call.
fn authorise(stream: &TlsStream, roots: &X509Roots, allow: &SpiffeId) -> Result<SpiffeId, String> {
    let peer = stream.connect_info();
    let chain = peer.chain().map_err(ToString::to_string)?;
    let caller =
        verify::x509_svid(chain, roots, SystemTime::now()).map_err(|error| error.to_string())?;
    if caller == *allow { Ok(caller) } else { Err(format!("unexpected ID \"{caller}\"")) }
}

async fn answer(mut stream: TlsStream, caller: SpiffeId) -> Event {
    let said = match read_line(&mut stream).await {
        Ok(said) => said,
        Err(error) => return Event::Refused { why: error.to_string() },
    };
    let answer = format!("you are {caller}, and I know it from your certificate alone\n");
    // If the caller is gone it tells so itself.
    let _ = stream.write_all(answer.as_bytes()).await;
    close(stream).await;
    Event::Accepted { caller: caller.to_string(), said }
}

async fn close(mut stream: TlsStream) {
    // If the caller was faster, it is closed as well.
    let _ = stream.shutdown().await;
}

async fn call(svid: &Svid, port: u16, expect: SpiffeId) -> Result<(), WorkloadError> {
    let roots = Roots::new(svid.authorities.clone());
    let tls = ClientTls::new(expect.clone(), roots, Some(svid.identity().into()));
    let mut stream = match tls::connect((Ipv4Addr::LOCALHOST, port).into(), &tls).await {
        Ok(stream) => stream,
        Err(error @ ConnectError::Peer(_)) => {
            return tell(&Event::Refused { why: error.to_string() });
        }
        Err(error) => return Err(error.into()),
    };
    let (version, key_exchange) = stream.negotiated();
    let asked = stream.write_all(b"who am I to you?\n").await;
    let answered = match asked {
        Ok(()) => read_line(&mut stream).await,
        Err(error) => Err(error),
    };
    match answered {
        Ok(said) if !said.is_empty() => {
            tell(&Event::Answered { by: expect.to_string(), said, version, key_exchange })
        }
        _ => tell(&Event::Refused { why: format!("{expect} closed the connection") }),
    }
}

async fn read_line(stream: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST_LINE)).read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

/// Being refused is told; anything else is a failure.
fn refusal(error: WorkloadError) -> Result<(), WorkloadError> {
    match error {
        WorkloadError::Api(status) if is_refusal(&status) => {
            tell(&Event::Refused { why: status.message().to_owned() })
        }
        error => Err(error),
    }
}

fn is_refusal(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::InvalidArgument)
}

fn tell(event: &Event) -> Result<(), WorkloadError> {
    let mut line = serde_json::to_string(event).map_err(io::Error::from)?;
    line.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    Ok(out.flush()?)
}

/// A claim as JSON. Protobuf's only numbers are floats; a whole one is a number of seconds.
fn json(kind: Option<Kind>) -> Value {
    match kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::StringValue(value)) => value.into(),
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
        Some(Kind::NumberValue(value)) if value.fract() == 0.0 && value.abs() < 2_f64.powi(53) => {
            (value as i64).into()
        }
        Some(Kind::NumberValue(value)) => value.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(|it| json(it.kind)).collect(),
        Some(Kind::StructValue(object)) => {
            object.fields.into_iter().map(|(name, it)| (name, json(it.kind))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use prost_types::{ListValue, Value as Wire};

    use super::*;

    #[test]
    fn claims_come_back_as_the_json_that_they_were() {
        let text = |it: &str| Wire { kind: Some(Kind::StringValue(it.into())) };
        let list = ListValue { values: vec![text("a"), text("b")] };
        assert_eq!(json(Some(Kind::ListValue(list))), serde_json::json!(["a", "b"]));
        assert_eq!(json(Some(Kind::NumberValue(1_795_000_000.0))), 1_795_000_000);
        assert_eq!(json(Some(Kind::NumberValue(0.5))), 0.5);
        assert_eq!(json(None), Value::Null);
    }

    #[test]
    fn being_refused_is_an_answer_and_a_broken_agent_is_not() {
        assert!(is_refusal(&Status::permission_denied("no")));
        assert!(is_refusal(&Status::invalid_argument("another audience")));
        assert!(!is_refusal(&Status::unavailable("gone")));
    }

    #[tokio::test]
    async fn a_line_is_cut_rather_than_waited_out() {
        let endless = tokio::io::repeat(b'x');
        let line = read_line(endless).await.unwrap();
        assert_eq!(line.len() as u64, LONGEST_LINE);
    }
}
