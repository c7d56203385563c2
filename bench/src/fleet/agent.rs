//! A simulated agent: what it asks a server, and whether the answers are right.

use std::sync::Arc;
use std::time::Duration;

use steeple_net::channel::Channel;
use steeple_net::tls::Identity;
use steeple_pki::x509::DistinguishedName;
use steeple_pki::{Certificate, KeyType, PrivateKey, csr};
use steeple_proto::spire::api::server::agent::v1 as agent_api;
use steeple_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use steeple_proto::spire::api::server::agent::v1::attest_agent_request::{Params, Step};
use steeple_proto::spire::api::server::agent::v1::attest_agent_response::Step as Answer;
use steeple_proto::spire::api::server::bundle::v1::GetBundleRequest;
use steeple_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use steeple_proto::spire::api::server::entry::v1::{
    GetAuthorizedEntriesRequest, SyncAuthorizedEntriesRequest,
};
use steeple_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use steeple_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams, batch_new_x509svid_response,
};
use steeple_proto::spire::api::types::{AttestationData, Entry, EntryMask};
use steeple_proto::steeple::server::push::v1::push_client::PushClient;
use steeple_proto::steeple::server::push::v1::{Hint, WatchRequest};
use tonic::{Code, Status, Streaming};

use super::link::Link;
use super::overload::tally::{Outcome, attempt};
use super::site::Front;
use crate::check::Answers;
use crate::error::{Error, Result};
use crate::load::answer;

pub const ATTEST: &str = "AttestAgent";
pub const SYNC: &str = "SyncAuthorizedEntries";
pub const SIGN: &str = "BatchNewX509SVID";
const RENEW: &str = "RenewAgent";
const GET: &str = "GetAuthorizedEntries";
const AUDIENCE: &str = "bench";

/// Who may become an agent: a join token, and a key made beforehand.
pub struct Recruit {
    pub token: String,
    number: usize,
    key: Arc<PrivateKey>,
    csr: Vec<u8>,
}

/// An agent with its SVID and connection.
pub struct Agent {
    pub path: String,
    pub link: Link,
    answers: Answers,
    key: Arc<PrivateKey>,
    csr: Vec<u8>,
}

/// A key that stands for those of workloads, and a request for it.
pub struct Prepared {
    key: PrivateKey,
    csr: Vec<u8>,
}

impl Recruit {
    /// Number `number` of a fleet, which decides its address.
    ///
    /// # Errors
    /// When the server makes no join token.
    pub async fn enlist(local: Channel, number: usize) -> Result<Self> {
        let request = agent_api::CreateJoinTokenRequest { ttl: 3600, ..Default::default() };
        let mut client = AgentClient::new(local);
        let token = answer("CreateJoinToken", client.create_join_token(request)).await?;
        let token = token.into_inner().value;
        let Prepared { key, csr } = Prepared::new("")?;
        Ok(Self { token, number, key: Arc::new(key), csr })
    }

    /// Its place in the fleet.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The ID that it will have.
    pub fn path(&self) -> String {
        format!("/spire/agent/join_token/{}", self.token)
    }

    /// Attests over a connection of its own, which ends with that, as agents do.
    ///
    /// # Errors
    /// When the server refuses, or its answer is wrong.
    pub async fn attest(self, front: &Front, fully: bool) -> Result<Agent> {
        let data =
            AttestationData { r#type: "join_token".into(), payload: self.token.clone().into() };
        let params = agent_api::AgentX509svidParams { csr: self.csr.clone().into() };
        let step = Step::Params(Params { data: Some(data), params: Some(params) });
        let requests = tokio_stream::once(agent_api::AttestAgentRequest { step: Some(step) });
        let anonymous = front.link(self.number, None);
        let mut client = AgentClient::new(anonymous);
        let mut stream = answer(ATTEST, client.attest_agent(requests)).await?.into_inner();
        let result = answer(ATTEST, stream.message()).await?.and_then(|it| it.step);
        let Some(Answer::Result(result)) = result else {
            return Err(Error::Wrong { call: ATTEST, what: "no result".into() });
        };
        let svid = result.svid.unwrap_or_default();
        let chain = svid.cert_chain.iter().map(|it| Certificate::from_der(it.clone()));
        let chain: std::result::Result<Vec<_>, _> = chain.collect();
        let chain =
            chain.map_err(|error| Error::Wrong { call: ATTEST, what: error.to_string() })?;
        let path = self.path();
        front.answers.x509(ATTEST, Some(svid), &path, self.key.public_key(), fully)?;
        let identity = Identity::new(&chain, Arc::clone(&self.key) as Arc<_>);
        let link = front.link(self.number, Some(&identity));
        Ok(Agent { path, link, answers: front.answers.clone(), key: self.key, csr: self.csr })
    }
}

impl Agent {
    /// Asks for its entries as agents do by default, by difference.
    ///
    /// # Errors
    /// When it does not get exactly `expected`.
    pub async fn sync(&self, expected: usize) -> Result<Vec<Entry>> {
        let request =
            SyncAuthorizedEntriesRequest { output_mask: Some(output_mask()), ids: Vec::new() };
        let mut client = EntryClient::new(self.link.clone());
        let call = client.sync_authorized_entries(tokio_stream::once(request));
        let mut pages = answer(SYNC, call).await?.into_inner();
        let mut entries = Vec::new();
        while let Some(page) = answer(SYNC, pages.message()).await? {
            entries.extend(page.entries);
            if !page.more {
                break;
            }
        }
        counted(SYNC, &entries, expected)?;
        Ok(entries)
    }

    /// As [`Self::sync`], with a deadline and without insisting.
    ///
    /// # Errors
    /// When it gets something else than `expected`.
    pub async fn try_sync(&self, expected: usize, patience: Duration) -> Result<Outcome<()>> {
        let request =
            SyncAuthorizedEntriesRequest { output_mask: Some(output_mask()), ids: Vec::new() };
        let mut request = tonic::Request::new(tokio_stream::once(request));
        request.set_timeout(patience);
        let mut client = EntryClient::new(self.link.clone());
        let pages = async {
            let mut pages = client.sync_authorized_entries(request).await?.into_inner();
            let mut entries = Vec::new();
            while let Some(page) = pages.message().await? {
                entries.extend(page.entries);
                if !page.more {
                    break;
                }
            }
            Ok::<_, Status>(entries)
        };
        match attempt(SYNC, patience, pages).await? {
            Outcome::Answered(entries) => {
                counted(SYNC, &entries, expected)?;
                Ok(Outcome::Answered(()))
            }
            other => Ok(other.without_answer()),
        }
    }

    /// Asks for all its entries at once, as agents did before there was [`Self::sync`].
    ///
    /// # Errors
    /// When it does not get exactly `expected`.
    pub async fn entries(&self, expected: usize) -> Result<Vec<Entry>> {
        let request = GetAuthorizedEntriesRequest { output_mask: Some(output_mask()) };
        let mut client = EntryClient::new(self.link.clone());
        let entries = answer(GET, client.get_authorized_entries(request)).await?;
        let entries = entries.into_inner().entries;
        counted(GET, &entries, expected)?;
        Ok(entries)
    }

    /// Asks for the trust domain's bundle, as agents do with each sync.
    ///
    /// # Errors
    /// When there is none.
    pub async fn bundle(&self) -> Result<()> {
        let mut client = BundleClient::new(self.link.clone());
        let bundle = answer("GetBundle", client.get_bundle(GetBundleRequest::default())).await?;
        match bundle.into_inner().x509_authorities.is_empty() {
            false => Ok(()),
            true => Err(Error::Wrong { call: "GetBundle", what: "no authority".into() }),
        }
    }

    /// Opens its stream of hints; `None` where the server has no such thing.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn watch(&self) -> Result<Option<Streaming<Hint>>> {
        match PushClient::new(self.link.clone()).watch(WatchRequest {}).await {
            Ok(stream) => Ok(Some(stream.into_inner())),
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            Err(status) => Err(Error::call("Watch")(status)),
        }
    }

    /// Has its own SVID renewed; it goes on with the old one, which stays good.
    ///
    /// # Errors
    /// When the server refuses, or its answer is wrong.
    pub async fn renew(&self, fully: bool) -> Result<()> {
        let params = agent_api::AgentX509svidParams { csr: self.csr.clone().into() };
        let request = agent_api::RenewAgentRequest { params: Some(params) };
        let mut client = AgentClient::new(self.link.clone());
        let svid = answer(RENEW, client.renew_agent(request)).await?.into_inner().svid;
        self.answers.x509(RENEW, svid, &self.path, self.key.public_key(), fully)
    }

    /// Has SVIDs signed for entries, each with the key of the same place in `keys`, in one call.
    ///
    /// # Errors
    /// When one is refused or wrong.
    pub async fn sign(&self, entries: &[Entry], keys: &[Prepared], fully: bool) -> Result<()> {
        let mut client = SvidClient::new(self.link.clone());
        let response = answer(SIGN, client.batch_new_x509svid(requested(entries, keys))).await?;
        self.signed(entries, keys, response.into_inner().results, fully)
    }

    /// As [`Self::sign`], with a deadline and without insisting.
    ///
    /// # Errors
    /// When one is refused by itself, or wrong.
    pub async fn try_sign(
        &self,
        entries: &[Entry],
        keys: &[Prepared],
        fully: bool,
        patience: Duration,
    ) -> Result<Outcome<()>> {
        let mut request = tonic::Request::new(requested(entries, keys));
        request.set_timeout(patience);
        let mut client = SvidClient::new(self.link.clone());
        match attempt(SIGN, patience, client.batch_new_x509svid(request)).await? {
            Outcome::Answered(response) => {
                self.signed(entries, keys, response.into_inner().results, fully)?;
                Ok(Outcome::Answered(()))
            }
            other => Ok(other.without_answer()),
        }
    }

    fn signed(
        &self,
        entries: &[Entry],
        keys: &[Prepared],
        results: Vec<batch_new_x509svid_response::Result>,
        fully: bool,
    ) -> Result<()> {
        let pairs = entries.iter().zip(keys);
        if results.len() != pairs.len() {
            let what = format!("{} results instead of {}", results.len(), pairs.len());
            return Err(Error::Wrong { call: SIGN, what });
        }
        for ((entry, prepared), result) in pairs.zip(results) {
            let status = result.status.unwrap_or_default();
            if status.code != 0 {
                return Err(Error::Call { call: SIGN, status: status.message });
            }
            let path = &entry.spiffe_id.as_ref().map_or("", |id| &id.path);
            self.answers.x509(SIGN, result.svid, path, prepared.key.public_key(), fully)?;
        }
        Ok(())
    }

    /// Has a token signed for an entry.
    ///
    /// # Errors
    /// When it is refused or wrong.
    pub async fn sign_token(&self, entry: &Entry, fully: bool) -> Result<()> {
        let request =
            NewJwtsvidRequest { entry_id: entry.id.clone(), audience: vec![AUDIENCE.into()] };
        let mut client = SvidClient::new(self.link.clone());
        let svid = answer("NewJWTSVID", client.new_jwtsvid(request)).await?.into_inner().svid;
        let path = entry.spiffe_id.as_ref().map_or("", |id| &id.path);
        self.answers.minted_jwt(svid, path, AUDIENCE, fully)
    }
}

impl Prepared {
    /// A new key, and a request that names `uri`, if it is not empty.
    ///
    /// # Errors
    /// Never, as far as is known.
    pub fn new(uri: &str) -> Result<Self> {
        let wrong = |what: String| Error::Wrong { call: "CSR", what };
        let key = PrivateKey::generate(KeyType::EcP256).map_err(|it| wrong(it.to_string()))?;
        let uris: &[&str] = if uri.is_empty() { &[] } else { &[uri] };
        let csr = csr::create(&key, &DistinguishedName::default(), uris);
        Ok(Self { csr: csr.map_err(|it| wrong(it.to_string()))?, key })
    }
}

/// The request for each entry, with the key of the same place.
fn requested(entries: &[Entry], keys: &[Prepared]) -> BatchNewX509svidRequest {
    let params = entries.iter().zip(keys).map(|(entry, prepared)| NewX509svidParams {
        entry_id: entry.id.clone(),
        csr: prepared.csr.clone().into(),
    });
    BatchNewX509svidRequest { params: params.collect() }
}

fn counted(call: &'static str, entries: &[Entry], expected: usize) -> Result<()> {
    match entries.len() {
        count if count == expected => Ok(()),
        count => Err(Error::Wrong { call, what: format!("{count} entries instead of {expected}") }),
    }
}

/// What agents want to know of an entry.
fn output_mask() -> EntryMask {
    EntryMask {
        spiffe_id: true,
        selectors: true,
        federates_with: true,
        admin: true,
        downstream: true,
        revision_number: true,
        store_svid: true,
        hint: true,
        additional_attributes: true,
        created_at: true,
        ..EntryMask::default()
    }
}
