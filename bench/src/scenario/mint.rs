//! Minting over the server's Unix socket: signatures per second, and what one costs.

use std::sync::Arc;

use steeple_net::channel::Channel;
use steeple_pki::x509::DistinguishedName;
use steeple_pki::{KeyType, PrivateKey, PublicKey, csr};
use steeple_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use steeple_proto::spire::api::server::svid::v1::{MintJwtsvidRequest, MintX509svidRequest};
use steeple_proto::spire::api::types::Spiffeid;

use super::{Context, Scenario, fully};
use crate::check::{Answers, TRUST_DOMAIN};
use crate::deployment::Deployment;
use crate::error::{Error, Result};
use crate::figures::{SIGN, SIGN_VERIFY, cost, rate};
use crate::load::{Gate, answer, drive};

/// How many keys take turns.
const KEYS: usize = 64;
const JWT_PATH: &str = "/minted";
const AUDIENCE: &str = "bench";

/// A request whose making is not to count, and what its answer has to be about.
struct Prepared {
    path: String,
    key: PublicKey,
    request: MintX509svidRequest,
}

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::shared(
    "mint",
    "MintX509SVID and MintJWTSVID over the server's socket",
    &[
        rate("mint_x509.rate", "MintX509SVID"),
        cost("mint_x509.cpu", "MintX509SVID, server CPU per call").limit(SIGN_VERIFY),
        rate("mint_jwt.rate", "MintJWTSVID"),
        cost("mint_jwt.cpu", "MintJWTSVID, server CPU per call").limit(SIGN),
    ],
    |deployment, context| Box::pin(run(deployment, context)),
);

async fn run(deployment: &Deployment, context: &mut Context<'_>) -> Result<()> {
    x509(deployment, context).await?;
    jwt(deployment, context).await
}

async fn x509(deployment: &Deployment, context: &mut Context<'_>) -> Result<()> {
    let prepared: Arc<[Prepared]> = (0..KEYS).map(prepare).collect::<Result<_>>()?;
    let every = context.args.verify_every;
    let clients = clients(deployment, context.args.connections).await?;
    let gate = Gate::new(context.args.load, u64::MAX);
    let spent = drive(deployment, clients, gate, |mut client, gate| {
        let (prepared, answers) = (Arc::clone(&prepared), deployment.answers.clone());
        async move {
            let mut calls = 0;
            while let Some(number) = gate.next() {
                let Prepared { path, key, request } = &prepared[number as usize % KEYS];
                let pending = client.mint_x509svid(request.clone());
                let svid = answer("MintX509SVID", pending).await?.into_inner().svid;
                answers.minted_x509(svid, path, key, fully(number, every))?;
                calls += 1;
            }
            Ok(calls)
        }
    })
    .await?;
    context.samples.beside(spent);
    context.add("mint_x509.rate", spent.per_second());
    context.add("mint_x509.cpu", spent.per_call(spent.server));
    Ok(())
}

async fn jwt(deployment: &Deployment, context: &mut Context<'_>) -> Result<()> {
    let every = context.args.verify_every;
    let clients = clients(deployment, context.args.connections).await?;
    let gate = Gate::new(context.args.load, u64::MAX);
    let spent = drive(deployment, clients, gate, |mut client, gate| {
        let answers = deployment.answers.clone();
        async move {
            let mut calls = 0;
            while let Some(number) = gate.next() {
                let pending = client.mint_jwtsvid(jwt_request());
                let svid = answer("MintJWTSVID", pending).await?.into_inner().svid;
                answers.minted_jwt(svid, JWT_PATH, AUDIENCE, fully(number, every))?;
                calls += 1;
            }
            Ok(calls)
        }
    })
    .await?;
    context.samples.beside(spent);
    context.add("mint_jwt.rate", spent.per_second());
    context.add("mint_jwt.cpu", spent.per_call(spent.server));
    Ok(())
}

/// Clients that are connected, and have made a call.
async fn clients(deployment: &Deployment, count: usize) -> Result<Vec<SvidClient<Channel>>> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let mut client = SvidClient::new(deployment.server_channel());
        answer("MintJWTSVID", client.mint_jwtsvid(jwt_request())).await?;
        clients.push(client);
    }
    Ok(clients)
}

/// Mints one of each, and looks at both.
///
/// # Errors
/// When one is refused, or wrong.
pub async fn once(channel: Channel, answers: &Answers) -> Result<()> {
    let Prepared { path, key, request } = prepare(0)?;
    let mut client = SvidClient::new(channel);
    let svid = answer("MintX509SVID", client.mint_x509svid(request)).await?.into_inner().svid;
    answers.minted_x509(svid, &path, &key, true)?;
    let svid = answer("MintJWTSVID", client.mint_jwtsvid(jwt_request())).await?.into_inner().svid;
    answers.minted_jwt(svid, JWT_PATH, AUDIENCE, true)
}

fn jwt_request() -> MintJwtsvidRequest {
    let id = Spiffeid { trust_domain: TRUST_DOMAIN.into(), path: JWT_PATH.into() };
    MintJwtsvidRequest { id: Some(id), audience: vec![AUDIENCE.into()], ttl: 300 }
}

fn prepare(number: usize) -> Result<Prepared> {
    let failed = |what: String| Error::Wrong { call: "MintX509SVID", what };
    let path = format!("/minted/{number}");
    let uri = format!("spiffe://{TRUST_DOMAIN}{path}");
    let key = PrivateKey::generate(KeyType::EcP256).map_err(|error| failed(error.to_string()))?;
    let csr = csr::create(&key, &DistinguishedName::default(), &[&uri]);
    let csr = csr.map_err(|error| failed(error.to_string()))?.into();
    let request = MintX509svidRequest { csr, ttl: 600 };
    Ok(Prepared { path, key: key.public_key().clone(), request })
}
