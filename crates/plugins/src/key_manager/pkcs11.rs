//! `pkcs11`: keys that are made in a hardware security module and never leave it. Ours; SPIRE has
//! no such plugin.
//!
//! A token holds the keys of any number of servers, told apart by their labels. A new key takes
//! the place of the one before by the destruction of that one, after the new one has proved that
//! it signs: whatever moment the process dies at, the key that was acknowledged last is found
//! again ([`objects`]). No call into the module is made on a thread that serves ([`token`]).

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use steeple_hcl::Block;
use steeple_pki::{KeyType, Signer};
use steeple_plugin::{CheckedKeys, Code, HostContext, KeyManager, Kind, PluginError};

use self::config::Config;
use self::key::TokenKey;
use self::objects::Names;
use self::token::{Failure, Token};

mod config;
mod key;
mod objects;
mod token;

/// The plugin's name in configuration.
pub const NAME: &str = "pkcs11";

/// The manager on the token that the settings name. Waits until the token has answered.
///
/// # Errors
/// When the settings are wrong, or the token cannot be used.
pub fn from_config(
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn KeyManager>, PluginError> {
    let config = config::read(data)?;
    let names = Names::new(host.trust_domain.as_str(), &config.key_identifier()?);
    let keys = within(CONNECT_DEADLINE, move || Keys::open(config, names))?;
    Ok(Arc::new(CheckedKeys::new(NAME, Arc::new(keys))))
}

pub(crate) fn check(data: Option<&Block>) -> Result<(), PluginError> {
    config::read(data).map(drop)
}

struct Keys(Arc<Inner>);

struct Inner {
    token: Arc<Token>,
    names: Names,
    /// Held while a key is made, so that two do not get one version.
    making: Arc<tokio::sync::Mutex<()>>,
    keys: RwLock<BTreeMap<String, Arc<TokenKey>>>,
}

impl Keys {
    fn open(config: Config, names: Names) -> Result<Self, PluginError> {
        let token = Arc::new(Token::open(config).map_err(|error| failed("", &error))?);
        let found = token
            .with_session(|open| names.load(&open.session))
            .map_err(|error| failed("failed to load keys: ", &error))?;
        let adopt = |(id, found)| (id, Arc::new(TokenKey::new(Arc::clone(&token), found)));
        let keys: BTreeMap<_, _> = found.into_iter().map(adopt).collect();
        tracing::debug!(
            plugin_type = Kind::KeyManager.name(),
            plugin_name = NAME,
            token = %token.name(),
            keys = keys.len(),
            "Opened token"
        );
        let (making, keys) = (Arc::default(), RwLock::new(keys));
        Ok(Self(Arc::new(Inner { token, names, making, keys })))
    }
}

#[async_trait]
impl KeyManager for Keys {
    async fn generate_key(&self, id: &str, kind: KeyType) -> Result<Arc<dyn Signer>, PluginError> {
        const FAILED: &str = "failed to generate key: ";
        if id.is_empty() {
            return Err(error(Code::InvalidArgument, format!("{FAILED}key id is required")));
        }
        if id.len() > MAX_ID {
            return Err(error(Code::InvalidArgument, format!("{FAILED}key id is too long")));
        }
        let (inner, id) = (Arc::clone(&self.0), id.to_owned());
        let making = tokio::time::timeout(MAKE_DEADLINE, Arc::clone(&self.0.making).lock_owned());
        let making = making.await.map_err(|_| {
            let text = "the one before is still being made: does the token hang?";
            error(Code::DeadlineExceeded, format!("{FAILED}{text}"))
        })?;
        // Runs to its end even when whoever asked goes away: what is on the token is what is
        // known of it here.
        let make = move |token: &Arc<Token>| {
            let _making = making;
            // Finds out first whether the session still stands: making a key is not tried twice.
            token.with_session(|open| objects::probe(&open.session))?;
            let made = token.once(|open| inner.names.replace(&open.session, &id, kind))?;
            let key = Arc::new(TokenKey::new(Arc::clone(token), made));
            let mut keys = inner.keys.write().unwrap_or_else(PoisonError::into_inner);
            keys.insert(id, Arc::clone(&key));
            Ok(key)
        };
        match self.0.token.run(MAKE_DEADLINE, make).await {
            Ok(key) => Ok(key),
            Err(error) => Err(failed(FAILED, &error)),
        }
    }

    async fn key(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, PluginError> {
        if id.is_empty() {
            return Err(error(Code::InvalidArgument, "key id is required"));
        }
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.get(id).map(|key| Arc::clone(key) as Arc<dyn Signer>))
    }

    async fn keys(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, PluginError> {
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.iter().map(|(id, key)| (id.clone(), Arc::clone(key) as Arc<dyn Signer>)).collect())
    }
}

/// Runs `work` on a thread of its own and gives up on it after a while: a module that hangs
/// stops a start with a message, not in silence.
fn within<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> Result<T, PluginError> + Send + 'static,
) -> Result<T, PluginError> {
    let (done, outcome) = mpsc::sync_channel(1);
    let started = std::thread::Builder::new().name(NAME.to_owned()).spawn(move || {
        // Whoever waited may have given up.
        let _ = done.send(work());
    });
    started
        .map_err(|reason| error(Code::Internal, format!("failed to start a thread: {reason}")))?;
    match outcome.recv_timeout(deadline) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => {
            let text = format!("the module has not answered within {} seconds", deadline.as_secs());
            Err(error(Code::DeadlineExceeded, text))
        }
        Err(RecvTimeoutError::Disconnected) => {
            Err(error(Code::Internal, "the thread that calls the module panicked"))
        }
    }
}

fn failed(what: &str, failure: &Failure) -> PluginError {
    error(failure.code(), format!("{what}{failure}"))
}

fn error(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::KeyManager, NAME, code, message)
}

/// Until the module is loaded, the token found, the user logged in and the keys listed.
const CONNECT_DEADLINE: Duration = Duration::from_secs(60);
/// Until a key is made; RSA-4096 takes a small device a while.
const MAKE_DEADLINE: Duration = Duration::from_secs(120);
/// The longest id of a key.
const MAX_ID: usize = 128;

#[cfg(test)]
mod tests;
