//! A key manager that is counted and timed.

use std::sync::Arc;

use async_trait::async_trait;
use steeple_pki::{Effort, KeyType, PublicKey, SignError, SignatureAlgorithm, Signer};
use steeple_plugin::{KeyManager, PluginError};
use steeple_telemetry::call;

type Key = &'static [&'static str];

/// What is counted under which name.
struct Names {
    generate: Key,
    get: Key,
    list: Key,
    sign: Option<Key>,
}

static SERVER: Names = Names {
    generate: &["server_key_manager", "generate_key"],
    get: &["server_key_manager", "get_public_key"],
    list: &["server_key_manager", "get_public_keys"],
    sign: Some(&["server_key_manager", "sign_data"]),
};

static AGENT: Names = Names {
    generate: &["agent_key_manager", "generate_key"],
    get: &["agent_key_manager", "get_key"],
    list: &["agent_key_manager", "get_keys"],
    sign: None,
};

/// The server's key manager, measured.
pub fn of_server(inner: Arc<dyn KeyManager>) -> Arc<dyn KeyManager> {
    Arc::new(Measured { inner, names: &SERVER })
}

/// The agent's key manager, measured.
pub fn of_agent(inner: Arc<dyn KeyManager>) -> Arc<dyn KeyManager> {
    Arc::new(Measured { inner, names: &AGENT })
}

struct Measured {
    inner: Arc<dyn KeyManager>,
    names: &'static Names,
}

impl Measured {
    fn key(&self, inner: Arc<dyn Signer>) -> Arc<dyn Signer> {
        match self.names.sign {
            Some(name) => Arc::new(MeasuredKey { inner, name }),
            None => inner,
        }
    }
}

fn code<T>(answer: &Result<T, PluginError>) -> &'static str {
    answer.as_ref().map_or_else(|error| error.code.name(), |_| "OK")
}

#[async_trait]
impl KeyManager for Measured {
    async fn generate_key(&self, id: &str, kind: KeyType) -> Result<Arc<dyn Signer>, PluginError> {
        let call = call(self.names.generate);
        let answer = self.inner.generate_key(id, kind).await;
        call.status(code(&answer));
        answer.map(|key| self.key(key))
    }

    async fn key(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, PluginError> {
        let call = call(self.names.get);
        let answer = self.inner.key(id).await;
        call.status(code(&answer));
        Ok(answer?.map(|key| self.key(key)))
    }

    async fn keys(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, PluginError> {
        let call = call(self.names.list);
        let answer = self.inner.keys().await;
        call.status(code(&answer));
        Ok(answer?.into_iter().map(|(id, key)| (id, self.key(key))).collect())
    }
}

struct MeasuredKey {
    inner: Arc<dyn Signer>,
    name: Key,
}

#[async_trait]
impl Signer for MeasuredKey {
    fn public_key(&self) -> &PublicKey {
        self.inner.public_key()
    }

    fn effort(&self) -> Effort {
        self.inner.effort()
    }

    fn holder(&self) -> Option<&dyn std::any::Any> {
        self.inner.holder()
    }

    async fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let call = call(self.name);
        let answer = self.inner.sign(algorithm, message).await;
        call.outcome(&answer);
        answer
    }
}
