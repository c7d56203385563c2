//! The statement about a machine that Azure signs: verified, and only then read.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use steeple_pki::Certificate;
use steeple_pki::cms::{self, CmsError, Signed};
use steeple_pki::verify::{self, PathError, PathRules};
use steeple_pki::x509::ExtKeyUsage;
use url::Url;

use super::payload::AttestedDocument;
use crate::metadata::nullable;
use crate::web::{self, CloudError, cut, quoted};

/// The only host that intermediate certificates are fetched from.
const ISSUER_HOST: &str = "www.microsoft.com";
/// The longest URL of an intermediate certificate that is asked, in bytes.
const MAX_URL_LEN: usize = 1024;

/// Why a document was not taken. The texts are SPIRE's where it has one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DocumentError {
    /// There is none.
    #[error("missing signature in attested document")]
    Missing,
    /// It is not base64; says why.
    #[error("failed to decode signature: {0}")]
    Base64(base64::DecodeError),
    /// It is no signed message.
    #[error("failed to parse PKCS7 signature: {0}")]
    Message(CmsError),
    /// It is not clear who signed it.
    #[error("expected exactly one signer certificate in PKCS7 signature")]
    Signer,
    /// The signature does not hold.
    #[error("signature verification failed: {0}")]
    Signature(CmsError),
    /// The certificate of the signer's issuer cannot be had; says why.
    #[error("failed to get intermediate certificate: {0}")]
    Intermediate(String),
    /// Whoever signed is not Azure's metadata service; says what was found.
    #[error("signing certificate validation failed: {0}")]
    Name(String),
    /// No path leads from the signer to a root; says why.
    #[error("certificate chain validation failed: {0}")]
    Chain(String),
    /// What was signed is not the JSON that it should be; says why.
    #[error("failed to unmarshal attested document payload: {0}")]
    Content(String),
}

/// What Azure says of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Content {
    /// The subscription that it is in.
    #[serde(default, deserialize_with = "nullable")]
    pub subscription_id: String,
    /// The machine's ID.
    #[serde(default, deserialize_with = "nullable")]
    pub vm_id: String,
    /// What was asked for to be in it.
    #[serde(default, deserialize_with = "nullable")]
    pub nonce: String,
}

/// A document whose signature holds, by somebody with a certificate of the right name. That the
/// certificate is genuine is not known before [`Named::trusted`], and nothing of the content can
/// be had before.
pub struct Named {
    signed: Signed,
    issuer: Url,
}

impl Named {
    /// Verifies what can be without any other certificate: that the message holds, who its signer
    /// is, and that his certificate names one of `domains` or a name below one.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn open(document: &AttestedDocument, domains: &[String]) -> Result<Self, DocumentError> {
        if document.signature.is_empty() {
            return Err(DocumentError::Missing);
        }
        // Line ends are no part of base64.
        let mut text = document.signature.clone();
        text.retain(|c| !matches!(c, '\r' | '\n'));
        let message = STANDARD.decode(text).map_err(DocumentError::Base64)?;
        let signed = cms::signed(&message).map_err(|error| match error {
            CmsError::NoSigner | CmsError::SeveralSigners | CmsError::UnknownSigner => {
                DocumentError::Signer
            }
            error if error.is_verification() => DocumentError::Signature(error),
            error => DocumentError::Message(error),
        })?;
        let issuer = issuer_url(&signed.signer).map_err(DocumentError::Intermediate)?;
        check_name(&signed.signer, domains).map_err(DocumentError::Name)?;
        Ok(Self { signed, issuer })
    }

    /// Where the certificate of the signer's issuer can be had: an `http` or `https` URL of
    /// Microsoft's.
    pub fn issuer(&self) -> &Url {
        &self.issuer
    }

    /// Whether a path leads from the signer, over `intermediate` if there is one, to one of
    /// `roots`; certificates that came with the document have no say.
    ///
    /// # Errors
    /// When none does.
    pub fn check_path(
        &self,
        intermediate: Option<&Certificate>,
        roots: &[Certificate],
        now: SystemTime,
    ) -> Result<(), PathError> {
        let rules = PathRules { usage: Some(ExtKeyUsage::ServerAuth), ..PathRules::at(now) };
        let between = intermediate.map(std::slice::from_ref).unwrap_or_default();
        verify::paths(&self.signed.signer, between, roots, &rules).map(drop)
    }

    /// What the document says, if [`Named::check_path`] holds.
    ///
    /// # Errors
    /// When no path leads to a root, or what was signed is not a statement about a machine.
    pub fn trusted(
        self,
        intermediate: Option<&Certificate>,
        roots: &[Certificate],
        now: SystemTime,
    ) -> Result<Content, DocumentError> {
        if let Some(intermediate) = intermediate {
            let signer = &self.signed.signer;
            if signer.verify_signed_by(intermediate.public_key()).is_err() {
                let text = "signing certificate was not issued by intermediate certificate";
                return Err(DocumentError::Chain(text.to_owned()));
            }
        }
        self.check_path(intermediate, roots, now).map_err(|why| {
            let text = "unable to verify signing certificate against root CAs";
            DocumentError::Chain(format!("{text}: {why}"))
        })?;
        web::decode(&self.signed.content).map_err(|why| {
            DocumentError::Content(match why {
                CloudError::Decode(why) => why,
                other => other.to_string(),
            })
        })
    }
}

/// The first URL that `signer` gives for its issuer, which must be Microsoft's.
fn issuer_url(signer: &Certificate) -> Result<Url, String> {
    let extract = |why: &str| format!("failed to extract CA Issuers URL: {why}");
    let urls = signer.issuer_urls().map_err(|why| extract(&why.to_string()))?;
    let url = urls.into_iter().find(|url| !url.is_empty());
    let url = url.ok_or_else(|| extract("no CA Issuers URL found in certificate"))?;
    if url.len() > MAX_URL_LEN {
        return Err(extract("the URL is too long"));
    }
    let url = Url::parse(&url)
        .map_err(|why| extract(&format!("failed to parse CA Issuers URL: {why}")))?;
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    if host != ISSUER_HOST {
        return Err(format!(
            "CA Issuers URL host {} does not match expected value {ISSUER_HOST:?}",
            quoted(host)
        ));
    }
    let plain = url.username().is_empty() && url.password().is_none();
    if !plain || !matches!(url.scheme(), "http" | "https") {
        return Err("CA Issuers URL is not a plain http or https URL".to_owned());
    }
    Ok(url)
}

fn check_name(signer: &Certificate, domains: &[String]) -> Result<(), String> {
    let below = |name: &str, domain: &str| {
        let rest = name.strip_suffix(domain);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let names = signer.dns_sans();
    if names.iter().any(|name| domains.iter().any(|domain| below(name, domain))) {
        return Ok(());
    }
    let shown: Vec<_> = names.iter().take(4).map(|name| cut(name, 100)).collect();
    let (shown, domains) = (shown.join(" "), domains.join(" "));
    Err(format!(
        "certificate does not have any valid domain in SAN (found SANs=[{shown}], allowed \
         domains=[{domains}])"
    ))
}
