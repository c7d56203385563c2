//! A key manager that is not taken at its word (ADR 3, point 7).

use std::sync::Arc;

use async_trait::async_trait;
use steeple_pki::{KeyType, PublicKey, SignError, SignatureAlgorithm, Signer};

use crate::{Code, KeyManager, Kind, PluginError};

/// Stands in front of a key manager that is somebody else's code or hardware: a key that it makes
/// must be of the kind asked for, and each signature must verify with the key's public half
/// before anybody uses it. A credential with a wrong signature would be an outage at whoever
/// verifies it, far from its cause.
pub struct CheckedKeys {
    name: String,
    inner: Arc<dyn KeyManager>,
}

impl CheckedKeys {
    /// Checks what `inner`, which configuration calls `name`, makes and signs.
    #[must_use]
    pub fn new(name: &str, inner: Arc<dyn KeyManager>) -> Self {
        Self { name: name.to_owned(), inner }
    }

    fn checked(&self, id: &str, key: Arc<dyn Signer>) -> Arc<dyn Signer> {
        let (manager, id) = (self.name.clone(), id.to_owned());
        Arc::new(CheckedKey { manager, id, inner: key })
    }
}

#[async_trait]
impl KeyManager for CheckedKeys {
    async fn generate_key(&self, id: &str, kind: KeyType) -> Result<Arc<dyn Signer>, PluginError> {
        let key = self.inner.generate_key(id, kind).await?;
        let made = key.public_key().kind();
        if key.public_key().key_type() != Some(kind) {
            let text = format!("asked for a key of type {kind} and got one of kind {made}");
            return Err(PluginError::new(Kind::KeyManager, &self.name, Code::Internal, text));
        }
        Ok(self.checked(id, key))
    }

    async fn key(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, PluginError> {
        Ok(self.inner.key(id).await?.map(|key| self.checked(id, key)))
    }

    async fn keys(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, PluginError> {
        let keys = self.inner.keys().await?;
        let check = |(id, key): (String, _)| {
            let key = self.checked(&id, key);
            (id, key)
        };
        Ok(keys.into_iter().map(check).collect())
    }
}

struct CheckedKey {
    manager: String,
    id: String,
    inner: Arc<dyn Signer>,
}

#[async_trait]
impl Signer for CheckedKey {
    fn public_key(&self) -> &PublicKey {
        self.inner.public_key()
    }

    fn holder(&self) -> Option<&dyn std::any::Any> {
        self.inner.holder()
    }

    async fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let signature = self.inner.sign(algorithm, message).await?;
        if self.public_key().verify(algorithm, message, &signature).is_ok() {
            return Ok(signature);
        }
        let shown: String = self.id.chars().take(MAX_ECHO).collect();
        Err(SignError::Failed(format!(
            "keymanager({}): the signature of key {shown:?} does not verify with its public key",
            self.manager
        )))
    }
}

/// How much of a key's id an error repeats.
const MAX_ECHO: usize = 64;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use steeple_pki::PrivateKey;

    use super::*;

    /// Signs with another key than it shows, once told to.
    struct Liar {
        shown: PrivateKey,
        used: PrivateKey,
        lies: Arc<AtomicBool>,
    }

    #[async_trait]
    impl Signer for Liar {
        fn public_key(&self) -> &PublicKey {
            self.shown.public_key()
        }

        async fn sign(
            &self,
            alg: SignatureAlgorithm,
            message: &[u8],
        ) -> Result<Vec<u8>, SignError> {
            let lies = self.lies.load(Ordering::Relaxed);
            if lies { &self.used } else { &self.shown }.sign(alg, message)
        }
    }

    /// Makes keys of P-256 whatever is asked for.
    #[derive(Default)]
    struct Lying(Arc<AtomicBool>);

    impl Lying {
        fn key(&self) -> Arc<dyn Signer> {
            let make = || PrivateKey::generate(KeyType::EcP256).unwrap();
            Arc::new(Liar { shown: make(), used: make(), lies: Arc::clone(&self.0) })
        }
    }

    #[async_trait]
    impl KeyManager for Lying {
        async fn generate_key(&self, _: &str, _: KeyType) -> Result<Arc<dyn Signer>, PluginError> {
            Ok(self.key())
        }

        async fn key(&self, _: &str) -> Result<Option<Arc<dyn Signer>>, PluginError> {
            Ok(Some(self.key()))
        }

        async fn keys(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, PluginError> {
            Ok(vec![("x509-CA-A".to_owned(), self.key())])
        }
    }

    #[tokio::test]
    async fn a_wrong_signature_is_an_error_that_names_plugin_and_key() {
        let manager = Lying::default();
        let lies = Arc::clone(&manager.0);
        let checked = CheckedKeys::new("evil", Arc::new(manager));
        let keys = [
            checked.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap(),
            checked.key("x509-CA-A").await.unwrap().unwrap(),
            checked.keys().await.unwrap().remove(0).1,
        ];
        for key in &keys {
            let signature = key.sign(SignatureAlgorithm::EcdsaSha256, b"m").await.unwrap();
            key.public_key().verify(SignatureAlgorithm::EcdsaSha256, b"m", &signature).unwrap();
        }
        lies.store(true, Ordering::Relaxed);
        for key in &keys {
            let refused = key.sign(SignatureAlgorithm::EcdsaSha256, b"m").await.unwrap_err();
            assert_eq!(
                refused.to_string(),
                "keymanager(evil): the signature of key \"x509-CA-A\" does not verify with its \
                 public key"
            );
        }
    }

    #[tokio::test]
    async fn a_key_of_another_kind_than_asked_for_is_refused() {
        let checked = CheckedKeys::new("evil", Arc::new(Lying::default()));
        let refused = checked.generate_key("id", KeyType::Rsa2048).await.err().unwrap();
        assert_eq!(
            refused.to_string(),
            "keymanager(evil): asked for a key of type rsa-2048 and got one of kind EC P-256"
        );
    }
}
