//! `uniqueid`: gives each workload's X509-SVID a subject that no other SPIFFE ID has (RFC 5280
//! §4.1.2.6), by an x500UniqueIdentifier made of a digest of the ID.

use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use steeple_hcl::Block;
use steeple_pki::PublicKey;
use steeple_pki::digest::Sha256;
use steeple_plugin::{CredentialComposer, HostContext, Kind, PluginError, X509SvidAttributes};
use steeple_spiffe::SpiffeId;

use steeple_plugin::settings::refuse_any;

/// The plugin's name in configuration.
pub const NAME: &str = "uniqueid";

/// x500UniqueIdentifier.
const OID: &str = "2.5.4.45";

/// How much of the digest is taken, in bytes.
const LENGTH: usize = 16;

/// The composer.
///
/// # Errors
/// When it is given settings, since it has none.
pub fn from_config(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn CredentialComposer>, PluginError> {
    check(data)?;
    Ok(Arc::new(UniqueId))
}

pub(crate) fn check(data: Option<&Block>) -> Result<(), PluginError> {
    refuse_any(Kind::CredentialComposer, NAME, data)
}

struct UniqueId;

#[async_trait]
impl CredentialComposer for UniqueId {
    fn name(&self) -> &str {
        NAME
    }

    async fn compose_workload_x509_svid(
        &self,
        id: &SpiffeId,
        _key: &PublicKey,
        mut attributes: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        let extra = &mut attributes.subject.extra;
        let value = unique_id(id);
        match extra.iter_mut().find(|(oid, _)| oid == OID) {
            Some((_, earlier)) => *earlier = value,
            None => extra.push((OID.to_owned(), value)),
        }
        Ok(attributes)
    }
}

/// The first half of the digest of the ID, in lower-case hexadecimal.
fn unique_id(id: &SpiffeId) -> String {
    let digest = Sha256::of(id.as_str().as_bytes());
    digest[..LENGTH].iter().fold(String::with_capacity(2 * LENGTH), |mut out, byte| {
        write!(out, "{byte:02x}").expect("a String takes every write");
        out
    })
}

#[cfg(test)]
mod tests {
    use steeple_pki::{KeyType, PrivateKey};
    use steeple_plugin::contract;

    use super::*;

    async fn composed(attributes: X509SvidAttributes) -> Vec<(String, String)> {
        let id = SpiffeId::parse("spiffe://example.org/workload").unwrap();
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let made = UniqueId.compose_workload_x509_svid(&id, key.public_key(), attributes).await;
        made.unwrap().subject.extra
    }

    fn pair(oid: &str, value: &str) -> (String, String) {
        (oid.to_owned(), value.to_owned())
    }

    /// `printf %s spiffe://example.org/workload | sha256sum | head -c 32`
    const EXPECTED: &str = "9329e28c9448787df0fcb3c655605e51";

    #[tokio::test]
    async fn the_subject_gets_the_id_that_spire_gives_it() {
        assert_eq!(composed(X509SvidAttributes::default()).await, [pair(OID, EXPECTED)]);
    }

    #[tokio::test]
    async fn an_earlier_one_is_replaced_and_others_are_kept() {
        let mut attributes = X509SvidAttributes::default();
        attributes.subject.extra = vec![pair(OID, "old"), pair("1.2.3", "kept")];
        let expected = [pair(OID, EXPECTED), pair("1.2.3", "kept")];
        assert_eq!(composed(attributes).await, expected);
    }

    #[tokio::test]
    async fn keeps_the_contract_of_credential_composers() {
        contract::credential_composer(&UniqueId).await;
    }

    #[test]
    fn settings_are_refused() {
        let data = Block::parse("a = 1").unwrap();
        let error = check(Some(&data)).unwrap_err().to_string();
        assert_eq!(
            error,
            "credentialcomposer(uniqueid): no supported configuration interface found"
        );
        assert!(check(None).is_ok());
    }
}
