//! Key managers: the two sides differ in nothing but the package of their messages.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use steeple_pki::digest;
use steeple_pki::{KeyType, PublicKey, SignError, SignatureAlgorithm, Signer};
use steeple_plugin::{Code, KeyManager, PluginError};
use steeple_plugin_sdk::wire;

use crate::plugin::{MAX_MESSAGE, Plugin};

/// For each call, as SPIRE has it.
const DEADLINE: Duration = Duration::from_secs(30);

/// The most keys that a plugin may hold for us.
const MAX_KEYS: usize = 1_000;

/// How much of a plugin's own text an error repeats.
const MAX_ECHO: usize = 100;

/// A key as the protocol describes it.
struct Described {
    id: String,
    pkix: Bytes,
    fingerprint: String,
}

/// Checks what a plugin says of the key `id`.
fn check(
    plugin: &Plugin,
    id: &str,
    key: Option<Described>,
) -> Result<(PublicKey, String), PluginError> {
    let fail = |message: String| Err(plugin.error(Code::Internal, message));
    let Some(key) = key else { return fail(format!("plugin response empty for key {id:?}")) };
    if key.id != id {
        let other = shorten(&key.id);
        return fail(format!("plugin response has unexpected key id {other:?} for key {id:?}"));
    }
    if key.pkix.is_empty() {
        return fail(format!("plugin response missing public key PKIX data for key {id:?}"));
    }
    match PublicKey::from_spki_der(&key.pkix) {
        Ok(public) => Ok((public, key.fingerprint)),
        Err(error) => fail(format!("unable to parse public key PKIX data for key {id:?}: {error}")),
    }
}

/// Checks a signature; one that the key did not make is a fault of the plugin.
fn check_signature(
    plugin: &Plugin,
    id: &str,
    expected: &str,
    (signature, fingerprint): (&Bytes, &str),
    verified: impl FnOnce() -> bool,
) -> Result<(), PluginError> {
    let fail = |message: String| Err(plugin.error(Code::Internal, message));
    if signature.is_empty() {
        return fail("plugin returned empty signature data".to_owned());
    }
    if fingerprint != expected {
        let (expected, other) = (shorten(expected), shorten(fingerprint));
        return fail(format!("fingerprint {expected:?} on key {id:?} does not match {other:?}"));
    }
    if !verified() {
        return fail(format!("plugin returned a signature that key {id:?} did not make"));
    }
    Ok(())
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_ECHO).collect()
}

/// The length of an ECDSA or RSA signature is bounded by the key's; this is far above both.
const MAX_SIGNATURE: usize = 4 * 1024;

macro_rules! side {
    ($side:ident, $key:ident, $package:path) => {
        mod $key {
            use steeple_proto::spire::plugin::server::keymanager::v1::sign_data_request as common;

            pub(super) use $package::*;

            /// The options in this side's package.
            pub(super) fn opts(opts: common::SignerOpts) -> sign_data_request::SignerOpts {
                use sign_data_request::{PssOptions, SignerOpts};
                match opts {
                    common::SignerOpts::HashAlgorithm(hash) => SignerOpts::HashAlgorithm(hash),
                    common::SignerOpts::PssOptions(pss) => SignerOpts::PssOptions(PssOptions {
                        salt_length: pss.salt_length,
                        hash_algorithm: pss.hash_algorithm,
                    }),
                }
            }
        }

        /// The keys of a plugin.
        #[derive(Clone)]
        pub(super) struct $side(Plugin);

        impl $side {
            pub(super) fn new(plugin: Plugin) -> Self {
                Self(plugin)
            }

            fn client(
                &self,
            ) -> $key::key_manager_client::KeyManagerClient<tonic::transport::Channel> {
                $key::key_manager_client::KeyManagerClient::new(self.0.channel())
                    .max_decoding_message_size(MAX_MESSAGE)
            }

            fn key(
                &self,
                id: &str,
                key: Option<$key::PublicKey>,
            ) -> Result<Arc<External<Self>>, PluginError> {
                let described = key.map(|key| Described {
                    id: key.id,
                    pkix: key.pkix_data,
                    fingerprint: key.fingerprint,
                });
                let (public, fingerprint) = check(&self.0, id, described)?;
                Ok(Arc::new(External {
                    side: self.clone(),
                    id: id.to_owned(),
                    public,
                    fingerprint,
                }))
            }
        }

        #[async_trait]
        impl KeyManager for $side {
            async fn generate_key(
                &self,
                id: &str,
                kind: KeyType,
            ) -> Result<Arc<dyn Signer>, PluginError> {
                check_id(&self.0, id)?;
                let request = $key::GenerateKeyRequest {
                    key_id: id.to_owned(),
                    key_type: wire::key_type_out(kind).into(),
                };
                let answer = self.0.call(DEADLINE, self.client().generate_key(request)).await?;
                let key = self.key(id, answer.public_key)?;
                if key.public.key_type() != Some(kind) {
                    let other = key.public.kind();
                    let message =
                        format!("plugin made a key of kind {other} for {id:?}, not {kind}");
                    return Err(self.0.error(Code::Internal, message));
                }
                Ok(key)
            }

            async fn key(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, PluginError> {
                check_id(&self.0, id)?;
                let request = $key::GetPublicKeyRequest { key_id: id.to_owned() };
                match self.0.call(DEADLINE, self.client().get_public_key(request)).await {
                    Ok(answer) if answer.public_key.is_none() => Ok(None),
                    Ok(answer) => Ok(Some(self.key(id, answer.public_key)?)),
                    Err(error) if error.code == Code::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            }

            async fn keys(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, PluginError> {
                let request = $key::GetPublicKeysRequest {};
                let answer = self.0.call(DEADLINE, self.client().get_public_keys(request)).await?;
                check_count(&self.0, answer.public_keys.len())?;
                let mut keys = Vec::with_capacity(answer.public_keys.len());
                for public in answer.public_keys {
                    let id = public.id.clone();
                    keys.push((id.clone(), self.key(&id, Some(public))? as Arc<dyn Signer>));
                }
                keys.sort_by(|left, right| left.0.cmp(&right.0));
                Ok(keys)
            }
        }

        #[async_trait]
        impl Signer for External<$side> {
            fn public_key(&self) -> &PublicKey {
                &self.public
            }

            async fn sign(
                &self,
                algorithm: SignatureAlgorithm,
                message: &[u8],
            ) -> Result<Vec<u8>, SignError> {
                let unsupported = || SignError::Unsupported { kind: self.public.kind(), algorithm };
                let digest = digest::under(algorithm, message).ok_or_else(unsupported)?;
                let (opts, _) = wire::signer_opts_out(algorithm).ok_or_else(unsupported)?;
                let request = $key::SignDataRequest {
                    key_id: self.id.clone(),
                    data: digest.into(),
                    signer_opts: Some($key::opts(opts)),
                };
                let plugin = &self.side.0;
                let failed = |error: PluginError| SignError::Failed(crate::rpc_text(&error));
                let answer = plugin.call(DEADLINE, self.side.client().sign_data(request)).await;
                let answer = answer.map_err(failed)?;
                let (signature, fingerprint) = (answer.signature, answer.key_fingerprint);
                let verified = || {
                    signature.len() <= MAX_SIGNATURE
                        && self.public.verify(algorithm, message, &signature).is_ok()
                };
                let made = (&signature, fingerprint.as_str());
                check_signature(plugin, &self.id, &self.fingerprint, made, verified)
                    .map_err(failed)?;
                Ok(signature.into())
            }
        }
    };
}

/// A key that a plugin keeps.
struct External<S> {
    side: S,
    id: String,
    public: PublicKey,
    fingerprint: String,
}

fn check_id(plugin: &Plugin, id: &str) -> Result<(), PluginError> {
    match id {
        "" => Err(plugin.error(Code::InvalidArgument, "key id is required")),
        _ => Ok(()),
    }
}

fn check_count(plugin: &Plugin, count: usize) -> Result<(), PluginError> {
    match count {
        0..=MAX_KEYS => Ok(()),
        _ => {
            Err(plugin.error(Code::Internal, format!("plugin has {count} keys, which is too many")))
        }
    }
}

side!(Server, server, steeple_proto::spire::plugin::server::keymanager::v1);
side!(Agent, agent, steeple_proto::spire::plugin::agent::keymanager::v1);
