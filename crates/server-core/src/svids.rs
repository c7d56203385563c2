//! X.509-SVIDs and JWT-SVIDs: for agents by entry, for operators by wish.
//!
//! A CSR gives a public key and the proof of holding it, and nothing else,
//! except in [`Svids::mint_x509`], whose API documents that it reads names.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use steeple_ca::{CaError, Credentials, JwtSvid, WorkloadJwtParams, WorkloadX509Params};
use steeple_pki::csr::{Csr, CsrError, UnprovenKey};
use steeple_pki::{Certificate, DerError, Effort, KeyError};
use steeple_spiffe::{SpiffeId, TrustDomain};
use steeple_store::model::Entry;
use steeple_store::{Store, StoreError};

use crate::access::{AgentCaller, DownstreamCaller, Operator};
use crate::dns_name::{self, DnsNameError};
use crate::ids::{self, IdRule, RawId};
use crate::index::AuthorizedIndex;
use crate::signing::SigningPool;
use crate::time::unix_seconds;

pub use wit::{WitKey, WitKeyRule, WitRequest};

mod wit;

/// Why no SVID was issued.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum SvidError {
    #[error("missing CSR")]
    MissingCsr,
    #[error("malformed CSR")]
    MalformedCsr(#[source] MalformedCsr),
    #[error("invalid CSR signature")]
    CsrSignature(#[source] UnprovenKey),
    #[error("failed to verify CSR signature")]
    MintCsrSignature(#[source] UnprovenKey),
    #[error("CSR URI SAN is required")]
    NoUri,
    #[error("only one URI SAN is expected")]
    ManyUris,
    #[error("CSR URI SAN is invalid")]
    BadUri(#[source] IdRule),
    #[error("CSR DNS name is invalid")]
    BadDnsName(#[source] DnsNameError),
    #[error("CSR DNS name contains a wildcard that covers another non-wildcard name")]
    DnsOverlap(#[source] DnsNameError),
    #[error("missing entry ID")]
    MissingEntryId,
    #[error("entry not found or not authorized")]
    NotAuthorized,
    #[error("invalid SPIFFE ID")]
    BadId(#[source] IdRule),
    #[error("at least one audience is required")]
    NoAudience,
    #[error("JWT functionality is disabled")]
    JwtDisabled,
    #[error("WIT functionality is disabled")]
    WitDisabled,
    #[error("missing public key")]
    MissingPublicKey,
    #[error("invalid public key")]
    BadPublicKey(#[source] KeyError),
    #[error("malformed public key")]
    MalformedPublicKey(#[source] KeyError),
    #[error("invalid signing algorithm or key type")]
    WitKey(#[source] WitKeyRule),
    #[error("failed to sign WIT-SVID")]
    SignWit(#[source] CaError),
    #[error("failed to sign X509-SVID")]
    SignX509(#[source] CaError),
    #[error("failed to sign JWT-SVID")]
    SignJwt(#[source] CaError),
    #[error("failed to sign downstream X.509 CA")]
    SignDownstream(#[source] CaError),
    #[error("failed to fetch bundle")]
    FetchBundle(#[source] StoreError),
    #[error("bundle not found")]
    NoBundle,
}

/// What is wrong with the form of a CSR.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum MalformedCsr {
    Encoding(#[from] DerError),
    Refused(CsrError),
}

/// An agent's wish: a certificate for the key of a CSR, by an entry.
#[derive(Clone, Debug)]
pub struct X509Request {
    /// The entry that names the SPIFFE ID.
    pub entry_id: String,
    /// A PKCS#10 request, DER.
    pub csr: Vec<u8>,
}

/// A certificate that was issued.
#[derive(Clone, Debug)]
pub struct IssuedX509 {
    /// Whose it is.
    pub id: SpiffeId,
    /// Leaf first, then intermediates; never empty.
    pub chain: Vec<Certificate>,
    /// The revision of the entry it was issued by; 0 without an entry.
    pub revision_number: i64,
}

/// A token that was issued.
#[derive(Clone)]
pub struct IssuedJwt {
    /// Whose it is.
    pub id: SpiffeId,
    /// The token with its times.
    pub svid: JwtSvid,
    /// The lifetime that was asked for, or that the entry names, in seconds; 0 for the default.
    pub entry_ttl: i32,
}

/// A downstream CA, and what to trust beside it.
#[derive(Clone, Debug)]
pub struct IssuedCa {
    /// The new CA first, then intermediates.
    pub chain: Vec<Certificate>,
    /// The roots of the trust domain.
    pub roots: Vec<Certificate>,
}

/// The use cases about SVIDs.
pub struct Svids {
    store: Arc<dyn Store>,
    index: AuthorizedIndex,
    credentials: Credentials,
    pool: SigningPool,
    trust_domain: TrustDomain,
    jwt_enabled: bool,
    wit_enabled: bool,
}

impl Svids {
    /// SVIDs of one trust domain.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        index: AuthorizedIndex,
        credentials: Credentials,
        pool: SigningPool,
        trust_domain: TrustDomain,
        jwt_enabled: bool,
    ) -> Self {
        Self { store, index, credentials, pool, trust_domain, jwt_enabled, wit_enabled: false }
    }

    /// Issues WIT-SVIDs, too.
    #[must_use]
    pub fn with_wit(self, wit_enabled: bool) -> Self {
        Self { wit_enabled, ..self }
    }

    /// Issues what an operator's CSR asks for: SPIFFE ID, DNS names and subject are its own.
    ///
    /// # Errors
    /// [`SvidError`].
    pub async fn mint_x509(
        &self,
        _operator: &Operator,
        csr: &[u8],
        ttl: i32,
        now: SystemTime,
    ) -> Result<IssuedX509, SvidError> {
        if csr.is_empty() {
            return Err(SvidError::MissingCsr);
        }
        let csr = csr.to_vec();
        let trust_domain = self.trust_domain.clone();
        let credentials = self.credentials.clone();
        self.pool
            .run(self.credentials.x509_effort(), async move {
                let csr = parse_csr(&csr, SvidError::MintCsrSignature)?;
                let params = wish_of(&csr, &trust_domain, lifetime(ttl))?;
                let id = params.spiffe_id.clone();
                let chain =
                    credentials.sign_x509_svid(params, now).await.map_err(SvidError::SignX509)?;
                Ok(IssuedX509 { id, chain, revision_number: 0 })
            })
            .await
    }

    /// Issues a JWT-SVID that an operator wishes for.
    ///
    /// # Errors
    /// [`SvidError`].
    pub async fn mint_jwt(
        &self,
        _operator: &Operator,
        id: Option<&RawId>,
        audience: Vec<String>,
        ttl: i32,
        now: SystemTime,
    ) -> Result<IssuedJwt, SvidError> {
        if !self.jwt_enabled {
            return Err(SvidError::JwtDisabled);
        }
        let id = ids::workload(&self.trust_domain, id).map_err(SvidError::BadId)?;
        self.sign_jwt(id, audience, ttl, false, now).await
    }

    /// Issues an X.509-SVID for each request whose entry the agent is authorised for.
    pub async fn batch_new_x509(
        &self,
        agent: &AgentCaller,
        requests: Vec<X509Request>,
        now: SystemTime,
    ) -> Vec<Result<IssuedX509, SvidError>> {
        let entries = {
            let ids: HashSet<&str> =
                requests.iter().map(|request| request.entry_id.as_str()).collect();
            Arc::new(self.index.snapshot().authorized_among(agent.id(), &ids, unix_seconds(now)))
        };
        let effort = self.credentials.x509_effort();
        let mut results = Vec::with_capacity(requests.len());
        let mut pieces = Vec::new();
        let mut rest = requests;
        while !rest.is_empty() {
            let later = rest.split_off(rest.len().min(SigningPool::piece(effort)));
            let some = std::mem::replace(&mut rest, later);
            let piece = self.sign_piece(agent.id(), effort, some, &entries, now);
            match effort {
                Effort::Brief => results.extend(piece.await),
                // Waiting for their turns, or for whoever signs, at the same time.
                Effort::Long | Effort::Elsewhere => pieces.push(piece),
            }
        }
        results.extend(join_all(pieces).await.into_iter().flatten());
        results
    }

    /// Issues a JWT-SVID by an entry that the agent is authorised for.
    ///
    /// # Errors
    /// [`SvidError`].
    pub async fn new_jwt(
        &self,
        agent: &AgentCaller,
        entry_id: &str,
        audience: Vec<String>,
        now: SystemTime,
    ) -> Result<IssuedJwt, SvidError> {
        if !self.jwt_enabled {
            return Err(SvidError::JwtDisabled);
        }
        let asked = HashSet::from([entry_id]);
        let entry = self
            .index
            .snapshot()
            .authorized_among(agent.id(), &asked, unix_seconds(now))
            .remove(entry_id)
            .ok_or(SvidError::NotAuthorized)?;
        let id = entry.spiffe_id.clone();
        ids::check_workload(&self.trust_domain, &id).map_err(SvidError::BadId)?;
        self.sign_jwt(id, audience, entry.jwt_svid_ttl, entry.jwt_svid_include_jti, now).await
    }

    /// Issues an intermediate CA for a downstream server.
    ///
    /// # Errors
    /// [`SvidError`].
    pub async fn new_downstream_ca(
        &self,
        _downstream: &DownstreamCaller,
        csr: &[u8],
        preferred_ttl: i32,
        now: SystemTime,
    ) -> Result<IssuedCa, SvidError> {
        let csr = csr.to_vec();
        let credentials = self.credentials.clone();
        let chain = self
            .pool
            .run(self.credentials.x509_effort(), async move {
                let csr = parse_csr(&csr, SvidError::CsrSignature)?;
                credentials
                    .sign_downstream_x509_ca(csr.public_key().clone(), lifetime(preferred_ttl), now)
                    .await
                    .map_err(SvidError::SignDownstream)
            })
            .await?;
        let bundle = self.store.fetch_bundle(&self.trust_domain).await;
        let bundle = bundle.map_err(SvidError::FetchBundle)?.ok_or(SvidError::NoBundle)?;
        let roots =
            bundle.x509_authorities.into_iter().map(|authority| authority.certificate).collect();
        Ok(IssuedCa { chain, roots })
    }

    async fn sign_piece(
        &self,
        agent: &SpiffeId,
        effort: Effort,
        requests: Vec<X509Request>,
        entries: &Arc<HashMap<String, Arc<Entry>>>,
        now: SystemTime,
    ) -> Vec<Result<IssuedX509, SvidError>> {
        let entries = Arc::clone(entries);
        let credentials = self.credentials.clone();
        self.pool
            .run_piece(agent, effort, async move {
                // One after the other for a key in memory, at once for a remote one.
                join_all(
                    requests
                        .iter()
                        .map(|request| sign_by_entry(&credentials, &entries, request, now)),
                )
                .await
            })
            .await
    }

    async fn sign_jwt(
        &self,
        id: SpiffeId,
        audience: Vec<String>,
        ttl: i32,
        include_jti: bool,
        now: SystemTime,
    ) -> Result<IssuedJwt, SvidError> {
        if audience.is_empty() {
            return Err(SvidError::NoAudience);
        }
        let credentials = self.credentials.clone();
        let params =
            WorkloadJwtParams { spiffe_id: id.clone(), audience, ttl: lifetime(ttl), include_jti };
        let svid = self
            .pool
            .run(self.credentials.jwt_effort(), async move {
                credentials.sign_jwt_svid(params, now).await
            })
            .await;
        Ok(IssuedJwt { id, svid: svid.map_err(SvidError::SignJwt)?, entry_ttl: ttl })
    }
}

async fn sign_by_entry(
    credentials: &Credentials,
    entries: &HashMap<String, Arc<Entry>>,
    request: &X509Request,
    now: SystemTime,
) -> Result<IssuedX509, SvidError> {
    if request.entry_id.is_empty() {
        return Err(SvidError::MissingEntryId);
    }
    if request.csr.is_empty() {
        return Err(SvidError::MissingCsr);
    }
    let entry = entries.get(&request.entry_id).ok_or(SvidError::NotAuthorized)?;
    let csr = parse_csr(&request.csr, SvidError::CsrSignature)?;
    let params = WorkloadX509Params {
        spiffe_id: entry.spiffe_id.clone(),
        public_key: csr.public_key().clone(),
        ttl: lifetime(entry.x509_svid_ttl),
        dns_names: entry.dns_names.clone(),
        subject: None,
    };
    let chain = credentials.sign_x509_svid(params, now).await.map_err(SvidError::SignX509)?;
    Ok(IssuedX509 { id: entry.spiffe_id.clone(), chain, revision_number: entry.revision_number })
}

/// The names that an operator's CSR asks for, checked.
fn wish_of(
    csr: &Csr,
    trust_domain: &TrustDomain,
    ttl: Option<Duration>,
) -> Result<WorkloadX509Params, SvidError> {
    let spiffe_id = match csr.uris() {
        [] => return Err(SvidError::NoUri),
        [uri] => SpiffeId::parse(uri).map_err(|error| SvidError::BadUri(error.into()))?,
        _ => return Err(SvidError::ManyUris),
    };
    ids::check_workload(trust_domain, &spiffe_id).map_err(SvidError::BadUri)?;
    for name in csr.dns_names() {
        dns_name::check(name).map_err(SvidError::BadDnsName)?;
    }
    dns_name::check_overlap(csr.dns_names()).map_err(SvidError::DnsOverlap)?;
    let subject = csr.subject().map_err(|error| SvidError::MalformedCsr(error.into()))?;
    Ok(WorkloadX509Params {
        spiffe_id,
        public_key: csr.public_key().clone(),
        ttl,
        dns_names: csr.dns_names().to_vec(),
        subject: Some(subject).filter(|subject| !subject.is_empty()),
    })
}

/// Parses a CSR, which verifies its signature, and sorts what can go wrong.
fn parse_csr(csr: &[u8], bad_signature: fn(UnprovenKey) -> SvidError) -> Result<Csr, SvidError> {
    Csr::parse(csr).map_err(|error| match error {
        CsrError::Signature(reason) => bad_signature(reason),
        CsrError::Der(error) => SvidError::MalformedCsr(error.into()),
        other => SvidError::MalformedCsr(MalformedCsr::Refused(other)),
    })
}

/// 0 (and, as in SPIRE, less) asks for the default.
fn lifetime(seconds: i32) -> Option<Duration> {
    u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}
