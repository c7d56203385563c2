//! `wit mint`, where the feature flag says so.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use steeple_pki::bundle::private_jwk;
use steeple_pki::{KeyType, PrivateKey};
use steeple_proto::spire::api::server::svid::v1::MintWitsvidRequest;
use steeple_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use steeple_proto::spire::api::types;

use super::SOCKET;
use super::entry_text::wire_id;
use super::mint_jwt::{seconds, warn_if_capped};
use super::written;
use crate::dispatch::{Failure, Verb};
use crate::output::{Output, line};
use crate::{Env, FlagSet};

/// Whether `SPIRE_SERVER_FFLAGS` has the flag for WIT-SVIDs.
pub(super) fn is_enabled(env: &Env) -> bool {
    let flags = env.var("SPIRE_SERVER_FFLAGS").unwrap_or_default();
    flags.split(' ').any(|flag| flag == "wit-svid")
}

pub(super) struct Mint;

#[async_trait]
impl Verb for Mint {
    fn path(&self) -> &'static str {
        "wit mint"
    }

    fn synopsis(&self) -> &'static str {
        "Mints a WIT-SVID"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        flags.text("spiffeID", "", "SPIFFE ID of the WIT-SVID");
        flags.text("keyType", "ec-p256", "Key type of the WIT-SVID");
        flags.text("signingAlgorithm", "ES256", "Signing algorithm for the workload signing key");
        flags.duration("ttl", Duration::ZERO, "TTL of the WIT-SVID");
        flags.text("write", "", "Directory to write output to instead of stdout");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        if flags.str("spiffeID").is_empty() {
            return Err("spiffeID must be specified".into());
        }
        let id = wire_id(flags.str("spiffeID"))?;
        let ttl = seconds(flags.dur("ttl"))?;
        let algorithm = flags.str("signingAlgorithm");
        let key_type = key_type(flags.str("keyType"), algorithm)?;
        let key = PrivateKey::generate(key_type).map_err(|error| {
            Failure(format!("could not generate public/private key pair: {error}"))
        })?;
        let request = MintWitsvidRequest {
            id: Some(id),
            public_key: key.public_key().spki_der().to_vec().into(),
            signing_algorithm: algorithm.to_owned(),
            ttl,
        };
        let mut client = SvidClient::new(SOCKET.channel(flags, env)?);
        let response = client
            .mint_witsvid(request)
            .await
            .map_err(|status| Failure::from(status).context("unable to mint SVID"))?;
        let svid = response.into_inner().svid.unwrap_or_default();
        if svid.token.is_empty() {
            return Err("server response missing token".into());
        }
        warn_if_capped(env, "WIT-SVID", svid.expires_at, flags.dur("ttl"));
        let key = private_jwk(&key)
            .map_err(|error| Failure(format!("could not marshal private key: {error}")))?;
        match flags.str("write") {
            "" if Output::of(flags).is_json() => env.out(&printed(&key, &svid)),
            "" => env.out(&format!("{}\n{}\n", svid.token, key.as_str())),
            directory => {
                let directory = Path::new(directory);
                write(env, &directory.join("token"), "token", "WIT-SVID", &svid.token)?;
                write(env, &directory.join("key"), "key", "Private key", &key)?;
            }
        }
        Ok(())
    }
}

fn write(env: &mut Env, path: &Path, what: &str, title: &str, text: &str) -> Result<(), Failure> {
    let path = written::write(path, text.as_bytes(), 0o600, what)?;
    env.out(&format!("{title} written to {}\n", path.display()));
    Ok(())
}

/// As Go's encoder prints it: fields that are not set are left out.
fn printed(key: &str, svid: &types::Witsvid) -> String {
    let mut fields = Map::new();
    let mut add = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    add("token", svid.token.as_str().into());
    if let Some(id) = &svid.id {
        add("id", json!({ "trust_domain": id.trust_domain, "path": id.path }));
    }
    for (name, number) in [("expires_at", svid.expires_at), ("issued_at", svid.issued_at)] {
        if number != 0 {
            add(name, number.into());
        }
    }
    if !svid.hint.is_empty() {
        add("hint", svid.hint.as_str().into());
    }
    line(&json!({ "private_key": key, "svid": fields }))
}

fn key_type(key_type: &str, algorithm: &str) -> Result<KeyType, Failure> {
    let (known, order) = match algorithm {
        "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512" => {
            (&[("rsa-2048", KeyType::Rsa2048), ("rsa-4096", KeyType::Rsa4096)][..], true)
        }
        "ES256" => (&[("ec-p256", KeyType::EcP256)][..], false),
        "ES384" => (&[("ec-p384", KeyType::EcP384)][..], false),
        _ => return Err(format!("unsupported signing algorithm: {algorithm}").into()),
    };
    let found = known.iter().find(|(name, _)| *name == key_type);
    found.map(|(_, kind)| *kind).ok_or_else(|| {
        Failure(match order {
            true => {
                format!("unsupported key type '{key_type}' for signing algorithm '{algorithm}'")
            }
            false => {
                format!("unsupported key type '{key_type}' for '{algorithm}' signing algorithm")
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_type_has_its_algorithms() {
        assert_eq!(key_type("ec-p384", "ES384").unwrap(), KeyType::EcP384);
        assert_eq!(key_type("rsa-2048", "PS256").unwrap(), KeyType::Rsa2048);
        for (kind, algorithm, text) in [
            ("ec-p384", "ES256", "unsupported key type 'ec-p384' for 'ES256' signing algorithm"),
            ("ec-p256", "RS256", "unsupported key type 'ec-p256' for signing algorithm 'RS256'"),
            ("ec-p256", "none", "unsupported signing algorithm: none"),
        ] {
            assert_eq!(key_type(kind, algorithm).unwrap_err().0, text);
        }
    }
}
