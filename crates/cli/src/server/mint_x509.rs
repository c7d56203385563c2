//! `x509 mint`: the key is made here and never leaves this process but to where
//! the user sends it.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use steeple_pki::x509::DistinguishedName;
use steeple_pki::{KeyType, PrivateKey, csr, pem};
use steeple_proto::spire::api::server::bundle::v1::GetBundleRequest;
use steeple_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use steeple_proto::spire::api::server::svid::v1::MintX509svidRequest;
use steeple_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use steeple_spiffe::SpiffeId;
use zeroize::Zeroizing;

use super::SOCKET;
use super::mint_jwt::{seconds, warn_if_capped};
use super::written;
use crate::dispatch::{Failure, Verb};
use crate::output::{Output, line};
use crate::{Env, FlagSet};

pub(super) struct Mint;

struct Minted {
    chain: Vec<Vec<u8>>,
    key: PrivateKey,
    roots: Vec<Vec<u8>>,
}

#[async_trait]
impl Verb for Mint {
    fn path(&self) -> &'static str {
        "x509 mint"
    }

    fn synopsis(&self) -> &'static str {
        "Mints an X509-SVID"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        flags.text("spiffeID", "", "SPIFFE ID of the X509-SVID");
        flags.duration("ttl", Duration::ZERO, "TTL of the X509-SVID");
        flags.repeated("dns", "DNS name of the X509-SVID. Can be used more than once");
        flags.text("write", "", "Directory to write to instead of standard output");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let minted = mint(flags, env).await?;
        match flags.str("write") {
            "" if Output::of(flags).is_json() => {
                let text = |der: &[u8]| serde_json::Value::from(STANDARD.encode(der));
                let list = |ders: &[Vec<u8>]| -> serde_json::Value {
                    ders.iter().map(|der| text(der)).collect()
                };
                env.out(&line(&serde_json::json!({
                    "x509_svid": list(&minted.chain),
                    "private_key": text(&minted.key.to_pkcs8_der()),
                    "root_cas": list(&minted.roots),
                })));
                Ok(())
            }
            "" => {
                let (chain, key, roots) = minted.pem();
                env.out(&format!("X509-SVID:\n{chain}\n"));
                env.out(&format!("Private key:\n{}\n", *key));
                env.out(&format!("Root CAs:\n{roots}\n"));
                Ok(())
            }
            directory => write(env, Path::new(directory), &minted),
        }
    }
}

async fn mint(flags: &FlagSet, env: &mut Env) -> Result<Minted, Failure> {
    if flags.str("spiffeID").is_empty() {
        return Err("spiffeID must be specified".into());
    }
    let id = SpiffeId::parse(flags.str("spiffeID"))?;
    let ttl = seconds(flags.dur("ttl"))?;
    let key = PrivateKey::generate(KeyType::EcP256)
        .map_err(|error| Failure(format!("unable to generate key: {error}")))?;
    let names = flags.list("dns");
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let csr = csr::create_with_dns(&key, &DistinguishedName::default(), &[id.as_str()], &names)
        .map_err(|error| Failure(format!("unable to generate CSR: {error}")))?;
    let channel = SOCKET.channel(flags, env)?;
    let svid = SvidClient::new(channel.clone())
        .mint_x509svid(MintX509svidRequest { csr: csr.into(), ttl })
        .await
        .map_err(|status| Failure::from(status).context("unable to mint SVID"))?
        .into_inner()
        .svid
        .unwrap_or_default();
    if svid.cert_chain.is_empty() {
        return Err("server response missing SVID chain".into());
    }
    let bundle = BundleClient::new(channel)
        .get_bundle(GetBundleRequest { output_mask: None })
        .await
        .map_err(|status| Failure::from(status).context("unable to get bundle"))?
        .into_inner();
    if bundle.x509_authorities.is_empty() {
        return Err("server response missing X509 Authorities".into());
    }
    warn_if_capped(env, "X509-SVID", svid.expires_at, flags.dur("ttl"));
    Ok(Minted {
        chain: svid.cert_chain.iter().map(|der| der.to_vec()).collect(),
        key,
        roots: bundle.x509_authorities.iter().map(|root| root.asn1.to_vec()).collect(),
    })
}

impl Minted {
    fn pem(&self) -> (String, Zeroizing<String>, String) {
        let certificates = |ders: &[Vec<u8>]| -> String {
            ders.iter().map(|der| pem::encode("CERTIFICATE", der)).collect()
        };
        (certificates(&self.chain), self.key.to_pkcs8_pem(), certificates(&self.roots))
    }
}

fn write(env: &mut Env, directory: &Path, minted: &Minted) -> Result<(), Failure> {
    let (chain, key, roots) = minted.pem();
    let files = [
        ("svid.pem", chain.as_bytes(), 0o644, "SVID", "X509-SVID"),
        ("key.pem", key.as_bytes(), 0o600, "key", "Private key"),
        ("bundle.pem", roots.as_bytes(), 0o644, "bundle", "Root CAs"),
    ];
    for (name, content, mode, what, title) in files {
        let path = written::write(&directory.join(name), content, mode, what)?;
        env.out(&format!("{title} written to {}\n", path.display()));
    }
    Ok(())
}
