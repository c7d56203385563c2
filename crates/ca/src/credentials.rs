//! Issues credentials with whatever authority is active, without a lock.
//!
//! Each call takes the active authority once and does not let go of it: a rotation in between
//! concerns the next call. What was made is checked against the rules for such a credential
//! before it is handed out (CR-27), and no expired authority signs anything.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use steeple_pki::x509::{Certificate, DistinguishedName, Issuer};
use steeple_pki::{Effort, PublicKey, Signer, jwt};
use steeple_plugin::CredentialComposer;
use steeple_spiffe::{SpiffeId, TrustDomain};

pub use tokens::JwtSvid;
pub(crate) use upstream::probe_svid;
pub(crate) use validate::x509_ca as validate_x509_ca;
pub use wit::WorkloadWitParams;

use crate::config::CaConfig;
use crate::error::CaError;
use crate::kind::{JwtKey, WitKey, X509Ca};
use crate::rotation::{Authority, FUTURE_TOLERANCE};

mod compose;
mod tokens;
mod upstream;
mod validate;
mod wit;
mod x509;

/// Issues what the active authorities sign. Cheap to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    trust_domain: TrustDomain,
    server_id: SpiffeId,
    ca_ttl: Duration,
    x509_svid_ttl: Duration,
    agent_ttl: Duration,
    jwt_svid_ttl: Duration,
    jwt_issuer: Option<String>,
    composers: compose::Composers,
    /// Subject of an X509-SVID for which nothing else is said (CR-13).
    svid_subject: DistinguishedName,
    x509: ArcSwapOption<ActiveX509>,
    jwt: ArcSwapOption<ActiveJwt>,
    wit_issuer: Option<String>,
    wit: ArcSwapOption<WitKey>,
}

/// The active X.509 CA with all that does not change from one certificate to the next.
struct ActiveX509 {
    certificate: Certificate,
    issuer: Issuer,
    upstream_chain: Vec<Certificate>,
}

/// The active JWT key with all that does not change from one token to the next.
struct ActiveJwt {
    key: JwtKey,
    /// None for a key that signs no tokens.
    header: Option<jwt::Header>,
}

/// What a workload's X509-SVID is to be.
#[derive(Clone, Debug)]
pub struct WorkloadX509Params {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// The workload's key.
    pub public_key: PublicKey,
    /// How long it lives; `None` or zero for the default. Never longer than the CA.
    pub ttl: Option<Duration>,
    /// DNS names; the first one becomes the common name (CR-13).
    pub dns_names: Vec<String>,
    /// A subject in place of the default one.
    pub subject: Option<DistinguishedName>,
}

/// What a workload's JWT-SVID is to be.
#[derive(Clone, Debug)]
pub struct WorkloadJwtParams {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// Whom it is for; empty strings are left out (CR-22).
    pub audience: Vec<String>,
    /// How long it lives; `None` or zero for the default. Never longer than the key.
    pub ttl: Option<Duration>,
    /// Give it an id of its own (`jti`, CR-20).
    pub include_jti: bool,
}

/// How long what is issued lives where nothing else is said, and when who signs it ends.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// X509-SVIDs.
    pub x509_svid: Duration,
    /// JWT-SVIDs.
    pub jwt_svid: Duration,
    /// When the active CA ends; none when there is none.
    pub x509_ca_ends: Option<SystemTime>,
    /// When the active JWT key ends; none when there is none.
    pub jwt_key_ends: Option<SystemTime>,
}

impl Credentials {
    /// Credentials without an authority yet: every call fails until one is active.
    #[must_use]
    pub fn new(config: &CaConfig) -> Self {
        Self::with_composers(config, Vec::new())
    }

    /// As [`Credentials::new`]; these composers, in this order, have a say in what is issued.
    #[must_use]
    pub fn with_composers(config: &CaConfig, composers: Vec<Arc<dyn CredentialComposer>>) -> Self {
        let agent_ttl = nonzero(Some(config.agent_ttl)).unwrap_or(config.x509_svid_ttl);
        Self(Arc::new(Inner {
            server_id: SpiffeId::server(&config.trust_domain),
            trust_domain: config.trust_domain.clone(),
            ca_ttl: config.ca_ttl,
            x509_svid_ttl: config.x509_svid_ttl,
            agent_ttl,
            jwt_svid_ttl: config.jwt_svid_ttl,
            jwt_issuer: config.jwt_issuer.clone().filter(|issuer| !issuer.is_empty()),
            composers: composers.into_boxed_slice(),
            svid_subject: country_and_organization("SPIRE"),
            x509: ArcSwapOption::empty(),
            jwt: ArcSwapOption::empty(),
            wit_issuer: config.wit_issuer.clone().filter(|issuer| !issuer.is_empty()),
            wit: ArcSwapOption::empty(),
        }))
    }

    /// Has this CA sign from now on.
    pub fn set_x509_ca(&self, ca: &X509Ca) {
        self.0.x509.store(Some(Arc::new(ActiveX509 {
            certificate: ca.certificate().clone(),
            issuer: Issuer::new(ca.certificate(), ca.signer().clone()),
            upstream_chain: ca.upstream_chain().to_vec(),
        })));
    }

    /// Has this key sign from now on.
    pub fn set_jwt_key(&self, key: &JwtKey) {
        let kind = key.signer().public_key().kind();
        let header = jwt::Header::new("JWT", key.id(), kind).ok();
        self.0.jwt.store(Some(Arc::new(ActiveJwt { key: key.clone(), header })));
    }

    /// Has this key sign WIT-SVIDs from now on.
    pub fn set_wit_key(&self, key: &WitKey) {
        self.0.wit.store(Some(Arc::new(key.clone())));
    }

    /// The certificate of the CA that signs at present.
    #[must_use]
    pub fn x509_ca(&self) -> Option<Certificate> {
        self.0.x509.load().as_ref().map(|active| active.certificate.clone())
    }

    /// The key id of the JWT key that signs at present.
    #[must_use]
    pub fn jwt_key_id(&self) -> Option<String> {
        self.0.jwt.load().as_ref().map(|active| active.key.id().to_owned())
    }

    /// What it takes to issue an X.509 certificate with the active CA.
    #[must_use]
    pub fn x509_effort(&self) -> Effort {
        let active = self.0.x509.load();
        self.effort(active.as_ref().map(|active| active.issuer.signer()))
    }

    /// What it takes to issue a token with the active JWT key.
    #[must_use]
    pub fn jwt_effort(&self) -> Effort {
        let active = self.0.jwt.load();
        self.effort(active.as_ref().map(|active| active.key.signer()))
    }

    fn effort(&self, signer: Option<&Arc<dyn Signer>>) -> Effort {
        match signer {
            // It fails at once.
            None => Effort::Brief,
            Some(signer) if self.0.composers.is_empty() => signer.effort(),
            // What composers do is somebody else's code.
            Some(_) => Effort::Elsewhere,
        }
    }

    /// How long what is issued lives, and what it does not outlive.
    #[must_use]
    pub fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            x509_svid: self.0.x509_svid_ttl,
            jwt_svid: self.0.jwt_svid_ttl,
            x509_ca_ends: self.0.x509.load().as_ref().map(|it| it.certificate.not_after()),
            jwt_key_ends: self.0.jwt.load().as_ref().map(|active| active.key.not_after()),
        }
    }

    /// Issues an X509-SVID that nobody gets: can this server issue at all? (health check
    /// `server.ca`)
    ///
    /// # Errors
    /// Whatever issuing gives.
    pub async fn check(&self, now: SystemTime) -> Result<(), CaError> {
        let active = self.active_x509(now)?;
        let spiffe_id = SpiffeId::from_path(&self.0.trust_domain, "/for/health/check/only")
            .expect("the path is a valid one");
        let params = WorkloadX509Params {
            spiffe_id,
            public_key: active.certificate.public_key().clone(),
            ttl: None,
            dns_names: Vec::new(),
            subject: None,
        };
        self.sign_x509_svid(params, now).await.map(drop)
    }

    fn active_x509(&self, now: SystemTime) -> Result<Arc<ActiveX509>, CaError> {
        let active = self.0.x509.load_full().ok_or(CaError::NoX509Ca)?;
        // After a clock was set back the rotation replaces it at its next look. An upstream's
        // clock is its own, and for who verifies to judge.
        let not_before = active.certificate.not_before();
        if active.upstream_chain.is_empty() && now + FUTURE_TOLERANCE < not_before {
            return Err(CaError::X509CaNotYetValid(not_before));
        }
        match active.certificate.not_after() {
            not_after if now < not_after => Ok(active),
            not_after => Err(CaError::X509CaExpired(not_after)),
        }
    }

    fn active_jwt(&self, now: SystemTime) -> Result<Arc<ActiveJwt>, CaError> {
        let active = self.0.jwt.load_full().ok_or(CaError::NoJwtKey)?;
        match active.key.not_after() {
            not_after if now < not_after => Ok(active),
            not_after => Err(CaError::JwtKeyExpired(not_after)),
        }
    }

    /// Only members of the trust domain get credentials, and not the trust domain itself.
    fn check_member(&self, kind: &'static str, id: &SpiffeId) -> Result<(), CaError> {
        let trust_domain = &self.0.trust_domain;
        let (is_member, empty_path) = (id.is_member_of(trust_domain), id.path().is_empty());
        if is_member && !empty_path {
            return Ok(());
        }
        Err(CaError::ForeignId {
            kind,
            id: id.to_string(),
            trust_domain: trust_domain.to_string(),
            empty_path: is_member,
        })
    }
}

/// A life of `ttl` from `now` on, but not beyond `cap` (CR-03). Zero and nothing mean `default`.
fn capped(
    now: SystemTime,
    ttl: Option<Duration>,
    default: Duration,
    cap: SystemTime,
) -> SystemTime {
    now.checked_add(nonzero(ttl).unwrap_or(default)).map_or(cap, |end| end.min(cap))
}

fn nonzero(ttl: Option<Duration>) -> Option<Duration> {
    ttl.filter(|ttl| !ttl.is_zero())
}

fn country_and_organization(organization: &str) -> DistinguishedName {
    DistinguishedName {
        country: vec!["US".to_owned()],
        organization: vec![organization.to_owned()],
        ..DistinguishedName::default()
    }
}

/// For clocks that are a little behind ours (CR-02).
const BACKDATE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
