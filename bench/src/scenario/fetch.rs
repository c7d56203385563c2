//! Fetching over the Workload API: what workloads do when they start, and ever after.

use std::time::{Duration, Instant};

use prost::Message;
use steeple_net::channel::Channel;
use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use steeple_proto::workload::{JwtsvidRequest, X509svidRequest, X509svidResponse};
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

use super::{Context, Scenario, fully};
use crate::deployment::Deployment;
use crate::error::{Error, Result};
use crate::figures::{CONNECTION, EXCHANGE, SIGN, Size, cost, rate};
use crate::load::{Gate, Spent, answer, drive};

/// The identity that whoever runs this has.
const PATH: &str = "/bench";
const X509: &str = "FetchX509SVID";
const JWT: &str = "FetchJWTSVID";

/// The longest that a caller's identities may take to be as many as they should.
const LIMIT: Duration = Duration::from_secs(300);
/// What an update with thousands of SVIDs may take.
const MOST: usize = 256 << 20;

pub type Client = SpiffeWorkloadApiClient<Channel>;

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::shared(
    "fetch",
    "FetchX509SVID and FetchJWTSVID",
    &[
        rate("fetch_new.rate", "FetchX509SVID, connection each"),
        cost("fetch_new.cpu", "FetchX509SVID, connection each, agent CPU").limit(CONNECTION),
        rate("fetch_reused.rate", "FetchX509SVID, one connection"),
        cost("fetch_reused.cpu", "FetchX509SVID, one connection, agent CPU").limit(EXCHANGE),
        rate("fetch_jwt.rate", "FetchJWTSVID, cached"),
        cost("fetch_jwt.cpu", "FetchJWTSVID, cached, agent CPU").limit(EXCHANGE),
        rate("fetch_jwt_new.rate", "FetchJWTSVID, new audience"),
        cost("fetch_jwt_new.cpu", "FetchJWTSVID, new audience, agent CPU"),
        cost("fetch_jwt_new.server", "FetchJWTSVID, new audience, server CPU").limit(SIGN),
    ],
    |deployment, context| Box::pin(run(deployment, context)),
);

async fn run(deployment: &Deployment, context: &mut Context<'_>) -> Result<()> {
    let update = first_update(deployment.agent_channel()).await.map_err(Error::call(X509))?;
    if let [svid] = &update.svids[..] {
        context.samples.size(Size::Svid, svid.x509_svid.len() + svid.x509_svid_key.len());
        context.samples.size(Size::Update, update.encoded_len());
    }
    let new = x509(deployment, context, true).await?;
    context.add("fetch_new.rate", new.per_second());
    context.add("fetch_new.cpu", new.per_call(new.agent));
    let reused = x509(deployment, context, false).await?;
    context.add("fetch_reused.rate", reused.per_second());
    context.add("fetch_reused.cpu", reused.per_call(reused.agent));
    let cached = jwt(deployment, context, |_| "bench".into()).await?;
    context.add("fetch_jwt.rate", cached.per_second());
    context.add("fetch_jwt.cpu", cached.per_call(cached.agent));
    let new = jwt(deployment, context, |number| format!("bench-{number}")).await?;
    context.add("fetch_jwt_new.rate", new.per_second());
    context.add("fetch_jwt_new.cpu", new.per_call(new.agent));
    context.add("fetch_jwt_new.server", new.per_call(new.server));
    Ok(())
}

/// A stream is opened, its first update read, and the stream left; on a new connection each time
/// or on the caller's own.
async fn x509(
    deployment: &Deployment,
    context: &mut Context<'_>,
    connection_each: bool,
) -> Result<Spent> {
    let every = context.args.verify_every;
    let callers = clients(deployment, context.args.connections).await?;
    let gate = Gate::new(context.args.load, u64::MAX);
    let spent = drive(deployment, callers, gate, |mut client, gate| {
        let (socket, answers) = (deployment.agent_socket().to_owned(), deployment.answers.clone());
        async move {
            let mut calls = 0;
            while let Some(number) = gate.next() {
                if connection_each {
                    client = self::client(steeple_net::channel::unix(&socket));
                }
                let mut stream = answer(X509, client.fetch_x509svid(request())).await?.into_inner();
                let update = answer(X509, next(&mut stream)).await?;
                answers.update(&update, PATH, fully(number, every))?;
                calls += 1;
            }
            Ok(calls)
        }
    })
    .await?;
    context.samples.beside(spent);
    Ok(spent)
}

async fn jwt(
    deployment: &Deployment,
    context: &mut Context<'_>,
    audience: impl Fn(u64) -> String + Copy + Send + 'static,
) -> Result<Spent> {
    let every = context.args.verify_every;
    let callers = clients(deployment, context.args.connections).await?;
    let gate = Gate::new(context.args.load, u64::MAX);
    let spent = drive(deployment, callers, gate, |mut client, gate| {
        let answers = deployment.answers.clone();
        async move {
            let mut calls = 0;
            while let Some(number) = gate.next() {
                let audience = audience(number);
                let response = answer(JWT, client.fetch_jwtsvid(jwt_request(&audience))).await?;
                let response = response.into_inner();
                answers.tokens(&response, PATH, &audience, fully(number, every))?;
                calls += 1;
            }
            Ok(calls)
        }
    })
    .await?;
    context.samples.beside(spent);
    Ok(spent)
}

/// Clients that are connected, and have made a call.
///
/// # Errors
/// When a call fails.
pub async fn clients(deployment: &Deployment, count: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let mut client = client(deployment.agent_channel());
        answer(JWT, client.fetch_jwtsvid(jwt_request("bench"))).await?;
        clients.push(client);
    }
    Ok(clients)
}

/// A token for `audience`.
///
/// # Errors
/// When there is none.
pub async fn token(channel: Channel, audience: &str) -> Result<String> {
    let mut client = client(channel);
    let response = answer(JWT, client.fetch_jwtsvid(jwt_request(audience))).await?.into_inner();
    let token = response.svids.into_iter().next().map(|it| it.svid);
    token.ok_or_else(|| Error::Wrong { call: JWT, what: "no token".into() })
}

/// A client of the Workload API.
pub fn client(channel: Channel) -> Client {
    SpiffeWorkloadApiClient::new(channel)
}

/// A request for the stream of X.509 updates.
pub fn request() -> Request<X509svidRequest> {
    secured(X509svidRequest {})
}

fn jwt_request(audience: &str) -> Request<JwtsvidRequest> {
    secured(JwtsvidRequest { audience: vec![audience.into()], spiffe_id: String::new() })
}

/// With the header without which the Workload API refuses every call.
fn secured<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let header = MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", header);
    request
}

/// The next update of a stream.
///
/// # Errors
/// The status that the stream ended with.
pub async fn next(
    stream: &mut Streaming<X509svidResponse>,
) -> std::result::Result<X509svidResponse, Status> {
    stream.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))
}

/// The first update on a new connection.
///
/// # Errors
/// The status that came instead.
pub async fn first_update(channel: Channel) -> std::result::Result<X509svidResponse, Status> {
    next(&mut client(channel).fetch_x509svid(request()).await?.into_inner()).await
}

/// Waits until the caller has `count` identities, asking anew while it has none at all.
///
/// # Errors
/// When that takes too long.
pub async fn until(channel: Channel, count: usize) -> Result<()> {
    let end = Instant::now() + LIMIT;
    let mut last = "no answer".to_owned();
    while Instant::now() < end {
        let mut client = client(channel.clone()).max_decoding_message_size(MOST);
        match client.fetch_x509svid(request()).await {
            Err(status) => last = status.message().to_owned(),
            Ok(stream) => {
                let mut stream = stream.into_inner();
                while let Ok(next) = tokio::time::timeout(LIMIT, next(&mut stream)).await {
                    match next {
                        Ok(update) if update.svids.len() == count => return Ok(()),
                        Ok(update) => last = format!("{} SVIDs", update.svids.len()),
                        Err(status) => {
                            last = status.message().to_owned();
                            break;
                        }
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(Error::Wrong { call: X509, what: format!("{last} instead of {count} SVIDs") })
}
