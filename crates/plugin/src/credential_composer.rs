//! A last word on what goes into certificates and tokens.

use async_trait::async_trait;
use serde_json::{Map, Value};
use steeple_pki::PublicKey;
use steeple_pki::x509::DistinguishedName;
use steeple_spiffe::SpiffeId;

use crate::PluginError;

/// Changes what is about to be signed. Composers run in the order of configuration, each on what
/// the one before it made. Each hook answers what it was given unless it is overridden.
///
/// What comes out is checked against the rules of the credential before it is signed: a composer
/// has no say over SPIFFE ID, key, lifetime or key usage.
#[async_trait]
pub trait CredentialComposer: Send + Sync {
    /// The plugin's name in configuration.
    fn name(&self) -> &str;

    /// For an X.509 CA of this server (self-signed, or requested upstream).
    ///
    /// # Errors
    /// When the credential is not to be signed.
    async fn compose_server_x509_ca(
        &self,
        attributes: X509CaAttributes,
    ) -> Result<X509CaAttributes, PluginError> {
        Ok(attributes)
    }

    /// For the server's own X509-SVID.
    ///
    /// # Errors
    /// When the credential is not to be signed.
    async fn compose_server_x509_svid(
        &self,
        attributes: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        Ok(attributes)
    }

    /// For an agent's X509-SVID.
    ///
    /// # Errors
    /// When the credential is not to be signed.
    async fn compose_agent_x509_svid(
        &self,
        _id: &SpiffeId,
        _key: &PublicKey,
        attributes: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        Ok(attributes)
    }

    /// For a workload's X509-SVID.
    ///
    /// # Errors
    /// When the credential is not to be signed.
    async fn compose_workload_x509_svid(
        &self,
        _id: &SpiffeId,
        _key: &PublicKey,
        attributes: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        Ok(attributes)
    }

    /// For a workload's JWT-SVID: all claims, as they will be signed.
    ///
    /// # Errors
    /// When the credential is not to be signed.
    async fn compose_workload_jwt_svid(
        &self,
        _id: &SpiffeId,
        claims: Map<String, Value>,
    ) -> Result<Map<String, Value>, PluginError> {
        Ok(claims)
    }
}

/// What may be changed of a CA certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct X509CaAttributes {
    /// The subject.
    pub subject: Name,
    /// Certificate policies, dotted.
    pub policy_identifiers: Vec<String>,
    /// Further extensions.
    pub extra_extensions: Vec<ExtraExtension>,
}

/// What may be changed of an X509-SVID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct X509SvidAttributes {
    /// The subject.
    pub subject: Name,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Further extensions.
    pub extra_extensions: Vec<ExtraExtension>,
}

/// A subject: what Go's `pkix.Name` knows, and attributes beside those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// The usual attributes.
    pub name: DistinguishedName,
    /// Others, in their order: dotted object identifier and text.
    pub extra: Vec<(String, String)>,
}

/// An extension of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraExtension {
    /// Its object identifier, dotted.
    pub oid: String,
    /// Its value, DER.
    pub value: Vec<u8>,
    /// Who does not know it must refuse the certificate.
    pub critical: bool,
}
