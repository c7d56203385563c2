//! Bundles as PEM and as SPIFFE bundle documents, in and out.

use std::time::Duration;

use serde_json::Value;
use steeple_pki::bundle::BundleError;
use steeple_pki::x509::Certificate;
use steeple_pki::{Bundle, JwtAuthority, PublicKey, X509Authority, bundle, pem};
use steeple_proto::spire::api::types::{self, JwtKey, X509Certificate};
use steeple_spiffe::TrustDomain;

use crate::dispatch::Failure;
use crate::gofmt;
use crate::json;

/// `-format`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Pem,
    Spiffe,
}

impl Format {
    pub(super) fn parse(word: &str) -> Result<Self, Failure> {
        let word = word.to_lowercase();
        match word.as_str() {
            "" | "pem" => Ok(Self::Pem),
            "spiffe" => Ok(Self::Spiffe),
            _ => Err(format!("invalid format: {word:?}").into()),
        }
    }
}

/// A bundle of the API as text.
pub(super) fn print(wire: &types::Bundle, format: Format, header: bool) -> Result<String, Failure> {
    let mut text = String::new();
    if header {
        let rule = "*".repeat(40);
        text = format!("{rule}\n* {}\n{rule}\n", wire.trust_domain);
    }
    if format == Format::Pem {
        for authority in &wire.x509_authorities {
            text.push_str(&pem::encode("CERTIFICATE", &authority.asn1));
        }
        return Ok(text);
    }
    let document = bundle::spiffe(&model(wire)?, bundle::Indent::FourSpaces);
    // SPIRE's own printer knows no empty list.
    let document = document.replacen("\"keys\": []", "\"keys\": null", 1);
    text.push_str(&document);
    text.push('\n');
    Ok(text)
}

/// The API's bundle as the model.
fn model(wire: &types::Bundle) -> Result<Bundle, Failure> {
    let mut x509_authorities = Vec::new();
    for (index, authority) in wire.x509_authorities.iter().enumerate() {
        let certificate = Certificate::from_der(authority.asn1.clone())
            .map_err(|error| Failure(format!("unable to parse root CA {index}: {error}")))?;
        x509_authorities.push(X509Authority { certificate, tainted: authority.tainted });
    }
    let mut jwt_authorities = Vec::new();
    for key in &wire.jwt_authorities {
        let public_key = PublicKey::from_spki_der(&key.public_key).map_err(|error| {
            Failure(format!("error parsing JWT authority {:?}: {error}", key.key_id))
        })?;
        jwt_authorities.push(JwtAuthority {
            key_id: key.key_id.clone(),
            public_key,
            expires_at: (key.expires_at != 0).then(|| gofmt::from_seconds(key.expires_at)),
            tainted: key.tainted,
        });
    }
    Ok(Bundle {
        trust_domain: TrustDomain::from_name_or_id(&wire.trust_domain)?,
        x509_authorities,
        jwt_authorities,
        wit_authorities: Vec::new(),
        refresh_hint: Duration::from_secs(u64::try_from(wire.refresh_hint).unwrap_or(0)),
        sequence_number: wire.sequence_number,
    })
}

/// The file of `bundle set` as the API's bundle.
pub(super) fn parse(content: &[u8], format: Format, id: &str) -> Result<types::Bundle, Failure> {
    let text = std::str::from_utf8(content)
        .map_err(|_| Failure::from("unable to parse bundle data: it is not text"))?;
    if format == Format::Pem {
        let roots = Certificate::parse_pem_bundle(text).map_err(|error| {
            let error = malformed_block(text).unwrap_or_else(|| error.to_string());
            Failure(format!("unable to parse bundle data: {error}"))
        })?;
        return Ok(types::Bundle {
            trust_domain: id.to_owned(),
            x509_authorities: roots.iter().map(wire_certificate).collect(),
            ..Default::default()
        });
    }
    let domain = TrustDomain::from_name_or_id(id)?;
    let (bundle, sequence_number) = parse_document(domain.clone(), content).map_err(|error| {
        Failure(format!("unable to parse to spiffe bundle: spiffebundle: {error}"))
    })?;
    Ok(types::Bundle {
        trust_domain: domain.as_str().to_owned(),
        x509_authorities: bundle
            .x509_authorities
            .iter()
            .map(|authority| wire_certificate(&authority.certificate))
            .collect(),
        jwt_authorities: bundle
            .jwt_authorities
            .iter()
            .map(|authority| JwtKey {
                public_key: authority.public_key.spki_der().to_vec().into(),
                key_id: authority.key_id.clone(),
                ..Default::default()
            })
            .collect(),
        refresh_hint: i64::try_from(bundle.refresh_hint.as_secs()).unwrap_or(0),
        sequence_number,
        ..Default::default()
    })
}

/// Which block of a PEM text is no certificate, in SPIRE's words.
fn malformed_block(text: &str) -> Option<String> {
    let malformed = |block: &pem::Block<'_>| {
        block.label == "CERTIFICATE" && Certificate::from_der(block.contents.clone()).is_err()
    };
    let at = pem::blocks(text).position(|block| block.as_ref().is_ok_and(malformed))?;
    Some(format!(
        "unable to parse \"CERTIFICATE\" PEM block {}: x509: malformed certificate",
        at + 1
    ))
}

/// A document as the tools of SPIFFE read one: keys of unknown use are left out, and the sequence
/// number counts.
fn parse_document(domain: TrustDomain, content: &[u8]) -> Result<(Bundle, u64), String> {
    let unreadable = |error: String| format!("unable to parse JWKS: {error}");
    let mut document = json::value(content).map_err(unreadable)?;
    if !document.is_object() && !document.is_null() {
        return Err(unreadable(format!(
            "json: cannot unmarshal {} into Go value of type spiffebundle.bundleDoc",
            json::kind(&document)
        )));
    }
    let sequence_number = document.get("spiffe_sequence").and_then(Value::as_u64).unwrap_or(0);
    let keys = match document.get_mut("keys") {
        None | Some(Value::Null) => return Err("no authorities found".to_owned()),
        Some(keys) => keys,
    };
    if let Some(keys) = keys.as_array_mut() {
        let uses = ["x509-svid", "jwt-svid", "wit-svid"];
        keys.retain(|key| key["use"].as_str().is_some_and(|it| uses.contains(&it)));
    }
    let document = document.to_string();
    let bundle = bundle::parse(domain, document.as_bytes()).map_err(|error| match error {
        BundleError::MissingKeyId(_, entry) => {
            format!("error adding authority {entry} of JWKS: keyID cannot be empty")
        }
        BundleError::CertificateCount { .. } => error.to_string(),
        error => unreadable(error.to_string()),
    })?;
    Ok((bundle, sequence_number))
}

fn wire_certificate(certificate: &Certificate) -> X509Certificate {
    X509Certificate { asn1: certificate.der().to_vec().into(), ..Default::default() }
}
