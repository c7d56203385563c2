//! From an answer of the Workload API to the contents of files.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use steeple_pki::{Certificate, PrivateKey, pem};
use steeple_proto::workload as proto;
use zeroize::Zeroizing;

use crate::config::{Config, X509Files};
use crate::files::NewFile;

/// What is wrong with an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MaterialError {
    #[error("failed to find the hinted {0} SVID")]
    NoSuchHint(&'static str),
    #[error("the agent gave no {0} SVID")]
    Empty(&'static str),
    #[error("cannot parse {what}: {reason}")]
    Malformed { what: &'static str, reason: String },
    #[error("the key is not that of the certificate")]
    KeyMismatch,
}

/// The files of an X.509-SVID: roots first, since whoever sees the new
/// certificate should know its issuer; then the key, then the certificate.
pub(crate) fn x509_files(
    config: &Config,
    names: &X509Files,
    response: &proto::X509svidResponse,
    now: SystemTime,
) -> Result<Vec<NewFile>, MaterialError> {
    let svid = hinted(&response.svids, &config.hint, |it| &it.hint, "x509")?;
    let mut chain = certificates("the X.509-SVID", &svid.x509_svid)?;
    let mut roots = certificates("the bundle", &svid.bundle)?;
    let leaf = chain.first().ok_or(MaterialError::Empty("x509"))?;
    let key = PrivateKey::from_pkcs8_der(&svid.x509_svid_key).map_err(|error| {
        MaterialError::Malformed { what: "the private key", reason: error.to_string() }
    })?;
    if key.public_key() != leaf.public_key() {
        return Err(MaterialError::KeyMismatch);
    }
    if config.add_intermediates_to_bundle {
        roots.extend(chain.split_off(1));
    }
    if config.include_federated_domains {
        for federated in response.federated_bundles.values() {
            roots.extend(certificates("a federated bundle", federated)?);
        }
    }
    let write = |certificates: &[Certificate]| -> Zeroizing<Vec<u8>> {
        let kept = certificates.iter().filter(|it| !config.omit_expired || now <= it.not_after());
        Zeroizing::new(kept.map(Certificate::pem).collect::<String>().into_bytes())
    };
    let file =
        |name: &str, mode, contents| NewFile { path: config.cert_dir.join(name), mode, contents };
    let key = Zeroizing::new(pem::encode("PRIVATE KEY", &svid.x509_svid_key).into_bytes());
    let bundle = file(&names.bundle, config.cert_mode, write(&roots));
    if names.svid == names.key {
        // One file, so that certificate and key can never be two that do not match.
        let chain = write(&chain);
        let mut both = Zeroizing::new(Vec::with_capacity(key.len() + chain.len()));
        both.extend_from_slice(&key);
        both.extend_from_slice(&chain);
        return Ok(vec![bundle, file(&names.key, config.key_mode, both)]);
    }
    Ok(vec![
        bundle,
        file(&names.key, config.key_mode, key),
        file(&names.svid, config.cert_mode, write(&chain)),
    ])
}

/// The file of a token, and when the token is to be replaced.
pub(crate) fn jwt_file(
    config: &Config,
    name: &str,
    response: &proto::JwtsvidResponse,
    now: SystemTime,
) -> Result<(NewFile, SystemTime), MaterialError> {
    let svid = hinted(&response.svids, &config.hint, |it| &it.hint, "JWT")?;
    let expiry = expiry(&svid.svid)?;
    let left = expiry.duration_since(now).unwrap_or_default();
    let file = NewFile {
        path: config.cert_dir.join(name),
        mode: config.jwt_svid_mode,
        contents: Zeroizing::new(svid.svid.clone().into_bytes()),
    };
    Ok((file, now + left / 2 + Duration::from_secs(1)))
}

/// The file of the JWT bundles: an object from trust domains to JWK sets in base64.
pub(crate) fn jwt_bundle_file(
    config: &Config,
    name: &str,
    response: &proto::JwtBundlesResponse,
) -> Result<NewFile, MaterialError> {
    let mut bundles = BTreeMap::new();
    for (domain, jwks) in &response.bundles {
        let malformed = |error: serde_json::Error| MaterialError::Malformed {
            what: "a JWT bundle",
            reason: error.to_string(),
        };
        let parsed: serde_json::Value = serde_json::from_slice(jwks).map_err(malformed)?;
        let name = domain.strip_prefix("spiffe://").unwrap_or(domain).to_owned();
        bundles.insert(name, STANDARD.encode(parsed.to_string()));
    }
    let contents = serde_json::json!(bundles).to_string().into_bytes();
    Ok(NewFile {
        path: config.cert_dir.join(name),
        mode: config.jwt_bundle_mode,
        contents: Zeroizing::new(contents),
    })
}

/// The first of the SVIDs, or the one with the hint that is wanted.
fn hinted<'s, T>(
    svids: &'s [T],
    hint: &str,
    of: impl Fn(&T) -> &str,
    kind: &'static str,
) -> Result<&'s T, MaterialError> {
    let first = svids.first().ok_or(MaterialError::Empty(kind))?;
    if hint.is_empty() {
        return Ok(first);
    }
    svids.iter().find(|svid| of(svid) == hint).ok_or(MaterialError::NoSuchHint(kind))
}

fn certificates(what: &'static str, der: &Bytes) -> Result<Vec<Certificate>, MaterialError> {
    Certificate::parse_concatenated_der(der)
        .map_err(|error| MaterialError::Malformed { what, reason: error.to_string() })
}

/// When a token ends. Whether it is genuine is for those to check who are shown it.
fn expiry(token: &str) -> Result<SystemTime, MaterialError> {
    let malformed =
        |reason: &str| MaterialError::Malformed { what: "the JWT-SVID", reason: reason.to_owned() };
    let claims = token.split('.').nth(1).ok_or_else(|| malformed("it has no claims"))?;
    let claims =
        URL_SAFE_NO_PAD.decode(claims).map_err(|_| malformed("its claims are no base64"))?;
    let claims: serde_json::Value =
        serde_json::from_slice(&claims).map_err(|_| malformed("its claims are no JSON"))?;
    let seconds = claims["exp"].as_u64().filter(|it| *it < 1 << 40);
    let seconds = seconds.ok_or_else(|| malformed("it has no expiry"))?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use steeple_pki::x509::{
        DistinguishedName, Issuer, KeyUsage, SerialNumber, Template, issue, self_sign,
    };
    use steeple_pki::{KeyType, Signer};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn template(key: &PrivateKey, uri: &str, ca: bool, not_after: SystemTime) -> Template {
        Template {
            subject: DistinguishedName::default(),
            public_key: key.public_key().clone(),
            serial: SerialNumber::random(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after,
            ca,
            key_usage: if ca { KeyUsage::CA } else { KeyUsage::SVID },
            ext_key_usage: Vec::new(),
            uri_sans: vec![uri.into()],
            dns_names: Vec::new(),
            policies: vec![],
            extra_extensions: vec![],
        }
    }

    /// A leaf, an intermediate that ends at `ends`, and a root.
    async fn svid(now: SystemTime, ends: SystemTime) -> proto::X509svid {
        let key = || Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
        let (root_key, middle_key, leaf_key) = (key(), key(), key());
        let signer: Arc<dyn Signer> = root_key.clone();
        let domain = "spiffe://example.org";
        let root = self_sign(&template(&root_key, domain, true, now + HOUR), signer).await.unwrap();
        let middle = template(&middle_key, domain, true, ends);
        let middle = issue(&middle, &Issuer::new(&root, root_key)).await.unwrap();
        let leaf = template(&leaf_key, "spiffe://example.org/a", false, now + HOUR);
        let leaf = issue(&leaf, &Issuer::new(&middle, middle_key)).await.unwrap();
        proto::X509svid {
            spiffe_id: "spiffe://example.org/a".into(),
            x509_svid: Certificate::concatenate_der(&[leaf, middle]),
            x509_svid_key: leaf_key.to_pkcs8_der().to_vec().into(),
            bundle: Certificate::concatenate_der(&[root]),
            hint: "a".into(),
        }
    }

    fn config(more: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("helper.conf");
        let files = "svid_file_name = \"c\" svid_key_file_name = \"k\"
            svid_bundle_file_name = \"b\"";
        std::fs::write(&path, format!("{files}\n{more}")).unwrap();
        Config::load(&path, None, None).unwrap()
    }

    fn written(config: &Config, svid: proto::X509svid, now: SystemTime) -> Vec<(String, usize)> {
        let response = proto::X509svidResponse { svids: vec![svid], ..Default::default() };
        let names = config.x509.as_ref().unwrap();
        let files = x509_files(config, names, &response, now).unwrap();
        let count =
            |file: &NewFile| std::str::from_utf8(&file.contents).unwrap().matches("BEGIN").count();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        files.iter().map(|file| (name(&file.path), count(file))).collect()
    }

    #[tokio::test]
    async fn intermediates_are_where_they_are_wanted() {
        let now = SystemTime::now();
        let counts = |more: &str, svid| {
            let files = written(&config(more), svid, now);
            files.into_iter().map(|(name, count)| format!("{name}{count}")).collect::<Vec<_>>()
        };
        let svid = svid(now, now + HOUR).await;
        assert_eq!(counts("", svid.clone()), ["b1", "k1", "c2"]);
        assert_eq!(counts("add_intermediates_to_bundle = true", svid), ["b2", "k1", "c1"]);
    }

    #[tokio::test]
    async fn what_has_ended_is_left_out_when_asked_for() {
        let now = SystemTime::now();
        let svid = svid(now, now - HOUR).await;
        assert_eq!(written(&config("omit_expired = true"), svid.clone(), now)[2].1, 1);
        assert_eq!(written(&config(""), svid, now)[2].1, 2);
    }

    #[tokio::test]
    async fn what_an_agent_should_not_say_is_refused() {
        let now = SystemTime::now();
        let config = config("");
        let names = config.x509.as_ref().unwrap();
        let good = svid(now, now + HOUR).await;
        let other = svid(now, now + HOUR).await;
        let refused = |svids: Vec<proto::X509svid>| {
            let response = proto::X509svidResponse { svids, ..Default::default() };
            x509_files(&config, names, &response, now).err().map(|error| error.to_string())
        };
        let mixed = proto::X509svid { x509_svid_key: other.x509_svid_key, ..good.clone() };
        assert_eq!(refused(vec![mixed]).unwrap(), "the key is not that of the certificate");
        assert_eq!(refused(vec![]).unwrap(), "the agent gave no x509 SVID");
        let torn = proto::X509svid { x509_svid: good.x509_svid.slice(1..), ..good.clone() };
        assert!(refused(vec![torn]).unwrap().starts_with("cannot parse the X.509-SVID"));
        assert_eq!(refused(vec![good]), None);
        for token in ["", "a.b", "a.!.c", "a.e30.c", "a.eyJleHAiOi0xfQ.c"] {
            assert!(expiry(token).is_err(), "{token}");
        }
    }
}
