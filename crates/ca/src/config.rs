//! What the operator decides about authorities and credentials.

use std::time::Duration;

use steeple_pki::KeyType;
use steeple_pki::x509::DistinguishedName;
use steeple_spiffe::TrustDomain;

/// Settings of the CA, already checked by the configuration's owner.
#[derive(Clone, Debug)]
pub struct CaConfig {
    /// The trust domain that is issued for.
    pub trust_domain: TrustDomain,
    /// Lifetime of X.509 and JWT authorities (`ca_ttl`).
    pub ca_ttl: Duration,
    /// Lifetime of an X509-SVID whose entry names none (`default_x509_svid_ttl`).
    pub x509_svid_ttl: Duration,
    /// Lifetime of a JWT-SVID whose entry names none (`default_jwt_svid_ttl`).
    pub jwt_svid_ttl: Duration,
    /// Lifetime of an agent's X509-SVID (`agent_ttl`).
    pub agent_ttl: Duration,
    /// Key type of the next X.509 authority (`ca_key_type`, CA-22).
    pub ca_key_type: KeyType,
    /// Key type of the next JWT authority (`jwt_key_type`, CA-22).
    pub jwt_key_type: KeyType,
    /// Key type of the next WIT authority (`experimental.wit_key_type`).
    pub wit_key_type: KeyType,
    /// Subject of self-signed CA certificates; `None` for C=US, O=SPIFFE (CR-05).
    pub ca_subject: Option<DistinguishedName>,
    /// The `iss` claim of JWT-SVIDs.
    pub jwt_issuer: Option<String>,
    /// The `iss` claim of WIT-SVIDs (`experimental.wit_issuer`).
    pub wit_issuer: Option<String>,
    /// WIT authorities and WIT-SVIDs (feature flag `wit-svid`).
    pub enable_wit: bool,
    /// No JWT authorities and no JWT-SVIDs (CA-21).
    pub disable_jwt: bool,
}

impl CaConfig {
    /// The configuration of a server that sets nothing but its trust domain.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            ca_ttl: Duration::from_secs(24 * 60 * 60),
            x509_svid_ttl: HOUR,
            jwt_svid_ttl: Duration::from_secs(5 * 60),
            agent_ttl: HOUR,
            ca_key_type: KeyType::EcP256,
            jwt_key_type: KeyType::EcP256,
            wit_key_type: KeyType::EcP256,
            ca_subject: None,
            jwt_issuer: None,
            wit_issuer: None,
            enable_wit: false,
            disable_jwt: false,
        }
    }
}

const HOUR: Duration = Duration::from_secs(60 * 60);
