//! Key managers: hosts hand over digests, so the trait is not that of our own built-in ones.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use steeple_pki::digest::Sha256;
use steeple_pki::{KeyType, PublicKey, SignatureAlgorithm};
use steeple_plugin::PluginError;
use steeple_proto::spire::plugin::agent::keymanager::v1 as agent;
use steeple_proto::spire::plugin::server::keymanager::v1 as server;
use tonic::{Request, Response, Status};

use crate::wire;

/// Makes and keeps private keys, and signs digests with them.
#[async_trait]
pub trait DigestKeyManager: Send + Sync {
    /// Makes a key under `id`, in place of one that is there.
    ///
    /// # Errors
    /// When it cannot be made or kept; an earlier key is then still there.
    async fn generate_key(&self, id: &str, kind: KeyType) -> Result<PublicKey, PluginError>;

    /// The key under `id`, if there is one.
    ///
    /// # Errors
    /// When it cannot be looked for.
    async fn key(&self, id: &str) -> Result<Option<PublicKey>, PluginError>;

    /// All keys.
    ///
    /// # Errors
    /// When they cannot be listed.
    async fn keys(&self) -> Result<Vec<(String, PublicKey)>, PluginError>;

    /// Signs a message by its digest; ECDSA signatures are in ASN.1 form.
    ///
    /// # Errors
    /// When there is no such key, or it cannot make such a signature.
    async fn sign_digest(
        &self,
        id: &str,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
    ) -> Result<Vec<u8>, PluginError>;
}

/// By what a host recognises that a key was replaced.
fn fingerprint(key: &PublicKey) -> String {
    Sha256::of(key.spki_der()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn invalid(message: &str) -> Status {
    Status::invalid_argument(message)
}

/// The scheme that a host means: its options say the digest, the key says the rest.
fn algorithm(key: &PublicKey, hash: i32, pss: bool) -> Option<SignatureAlgorithm> {
    use SignatureAlgorithm as Alg;
    use server::HashAlgorithm as Hash;
    let rsa = !matches!(key.key_type(), Some(KeyType::EcP256 | KeyType::EcP384));
    match (Hash::try_from(hash).ok()?, rsa, pss) {
        (Hash::Sha256, false, false) => Some(Alg::EcdsaSha256),
        (Hash::Sha384, false, false) => Some(Alg::EcdsaSha384),
        (Hash::Sha512, false, false) => Some(Alg::EcdsaSha512),
        (Hash::Sha256, true, false) => Some(Alg::RsaPkcs1Sha256),
        (Hash::Sha384, true, false) => Some(Alg::RsaPkcs1Sha384),
        (Hash::Sha512, true, false) => Some(Alg::RsaPkcs1Sha512),
        (Hash::Sha256, true, true) => Some(Alg::RsaPssSha256),
        (Hash::Sha384, true, true) => Some(Alg::RsaPssSha384),
        (Hash::Sha512, true, true) => Some(Alg::RsaPssSha512),
        _ => None,
    }
}

async fn sign(
    keys: &dyn DigestKeyManager,
    id: &str,
    (hash, pss): (i32, bool),
    digest: &[u8],
) -> Result<(Vec<u8>, String), Status> {
    if id.is_empty() {
        return Err(invalid("key id is required"));
    }
    let key = keys.key(id).await.map_err(|error| wire::status(&error))?;
    let key = key.ok_or_else(|| Status::not_found("no such key"))?;
    let algorithm = algorithm(&key, hash, pss)
        .ok_or_else(|| invalid("signature options are not supported for this key"))?;
    let signature = keys.sign_digest(id, algorithm, digest).await;
    Ok((signature.map_err(|error| wire::status(&error))?, fingerprint(&key)))
}

macro_rules! side {
    ($side:ident, $package:ident) => {
        pub(crate) struct $side(pub(crate) Arc<dyn DigestKeyManager>);

        impl $side {
            fn describe(id: &str, key: &PublicKey) -> $package::PublicKey {
                let kind = key.key_type().map(wire::key_type_out).unwrap_or_default();
                $package::PublicKey {
                    id: id.to_owned(),
                    r#type: kind.into(),
                    pkix_data: Bytes::copy_from_slice(key.spki_der()),
                    fingerprint: fingerprint(key),
                }
            }
        }

        #[tonic::async_trait]
        impl $package::key_manager_server::KeyManager for $side {
            async fn generate_key(
                &self,
                request: Request<$package::GenerateKeyRequest>,
            ) -> Result<Response<$package::GenerateKeyResponse>, Status> {
                let request = request.into_inner();
                if request.key_id.is_empty() {
                    return Err(invalid("key id is required"));
                }
                let kind = wire::key_type_in(request.key_type)
                    .ok_or_else(|| invalid("key type is required"))?;
                let key = self.0.generate_key(&request.key_id, kind).await;
                let key = key.map_err(|error| wire::status(&error))?;
                let public_key = Some(Self::describe(&request.key_id, &key));
                Ok(Response::new($package::GenerateKeyResponse { public_key }))
            }

            async fn get_public_key(
                &self,
                request: Request<$package::GetPublicKeyRequest>,
            ) -> Result<Response<$package::GetPublicKeyResponse>, Status> {
                let id = request.into_inner().key_id;
                if id.is_empty() {
                    return Err(invalid("key id is required"));
                }
                let key = self.0.key(&id).await.map_err(|error| wire::status(&error))?;
                let public_key = key.map(|key| Self::describe(&id, &key));
                Ok(Response::new($package::GetPublicKeyResponse { public_key }))
            }

            async fn get_public_keys(
                &self,
                _: Request<$package::GetPublicKeysRequest>,
            ) -> Result<Response<$package::GetPublicKeysResponse>, Status> {
                let keys = self.0.keys().await.map_err(|error| wire::status(&error))?;
                let public_keys = keys.iter().map(|(id, key)| Self::describe(id, key)).collect();
                Ok(Response::new($package::GetPublicKeysResponse { public_keys }))
            }

            async fn sign_data(
                &self,
                request: Request<$package::SignDataRequest>,
            ) -> Result<Response<$package::SignDataResponse>, Status> {
                use $package::sign_data_request::SignerOpts;
                let request = request.into_inner();
                let opts = match request.signer_opts {
                    Some(SignerOpts::HashAlgorithm(hash)) => (hash, false),
                    Some(SignerOpts::PssOptions(pss)) => (pss.hash_algorithm, true),
                    None => return Err(invalid("signer opts is required")),
                };
                let (signature, key_fingerprint) =
                    sign(&*self.0, &request.key_id, opts, &request.data).await?;
                let signature = signature.into();
                Ok(Response::new($package::SignDataResponse { signature, key_fingerprint }))
            }
        }
    };
}

side!(Server, server);
side!(Agent, agent);
