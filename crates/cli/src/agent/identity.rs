//! Calls of the Workload API, and an X.509 context as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use steeple_pki::verify::X509Roots;
use steeple_pki::{Certificate, PrivateKey, verify};
use steeple_proto::workload::X509svidResponse;
use steeple_runtime::duration;
use steeple_spiffe::SpiffeId;
use tonic::{Request, Status};

use crate::dispatch::Failure;
use crate::gofmt;

/// One X509-SVID as the agent gave it, parsed and verified.
pub(super) struct Identity {
    pub(super) spiffe_id: String,
    pub(super) hint: String,
    pub(super) chain: Vec<Certificate>,
    pub(super) key: PrivateKey,
    pub(super) bundle: Vec<Certificate>,
    pub(super) federated: BTreeMap<String, Vec<Certificate>>,
}

/// A request with the header that the Workload API demands.
pub(super) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = tonic::metadata::MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}

/// Waits for a call no longer than `-timeout`; zero waits for ever.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    if limit.is_zero() {
        return call.await;
    }
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
    }
}

/// Parses a response and verifies each SVID against its own bundle.
pub(super) fn parse(response: &X509svidResponse) -> Result<Vec<Identity>, Failure> {
    if response.svids.is_empty() {
        return Err("workload response contains no svids".into());
    }
    let mut federated = BTreeMap::new();
    for (domain, der) in &response.federated_bundles {
        let bundle = Certificate::parse_concatenated_der(der)
            .map_err(|error| Failure(format!("failed to parse bundle for {domain}: {error}")))?;
        federated.insert(domain.clone(), bundle);
    }
    let mut identities = Vec::new();
    for svid in &response.svids {
        let certificates = |der: &Bytes, what: &str| {
            Certificate::parse_concatenated_der(der)
                .map_err(|error| Failure(format!("failed to parse {what}: {error}")))
        };
        let identity = Identity {
            spiffe_id: svid.spiffe_id.clone(),
            hint: svid.hint.clone(),
            chain: certificates(&svid.x509_svid, "svid certificate chain")?,
            key: PrivateKey::from_pkcs8_der(&svid.x509_svid_key)
                .map_err(|error| Failure(format!("failed to parse private key: {error}")))?,
            bundle: certificates(&svid.bundle, "trust bundle")?,
            federated: federated.clone(),
        };
        if identity.chain.is_empty() {
            return Err("no certificates in SVID".into());
        }
        if identity.bundle.is_empty() {
            return Err("no certificates in trust bundle".into());
        }
        let roots = X509Roots {
            trust_domain: SpiffeId::parse(&identity.spiffe_id)?.trust_domain(),
            authorities: identity.bundle.clone(),
        };
        verify::x509_svid(&identity.chain, &roots, SystemTime::now()).map_err(|error| {
            let id = &identity.spiffe_id;
            Failure(format!("{id:?} SVID failed verification against bundle: {error}"))
        })?;
        identities.push(identity);
    }
    Ok(identities)
}

/// What `api fetch` and `api watch` print.
pub(super) fn text(identities: &[Identity], after: Duration) -> String {
    let plural = if identities.len() == 1 { "" } else { "s" };
    let mut text = format!(
        "Received {} svid{plural} after {}\n",
        identities.len(),
        duration::format_go(after)
    );
    for identity in identities {
        text.push('\n');
        describe(&mut text, identity);
    }
    text.push('\n');
    text
}

fn describe(text: &mut String, identity: &Identity) {
    let _ = writeln!(text, "SPIFFE ID:\t\t{}", identity.spiffe_id);
    if !identity.hint.is_empty() {
        let _ = writeln!(text, "Hint:\t\t\t{}", identity.hint);
    }
    for (index, certificate) in identity.chain.iter().enumerate() {
        let title = match index {
            0 => "SVID".to_owned(),
            number => format!("Intermediate #{number}"),
        };
        validity(text, &title, certificate);
    }
    for (index, root) in identity.bundle.iter().enumerate() {
        validity(text, &format!("CA #{}", index + 1), root);
    }
    for (domain, roots) in &identity.federated {
        for (index, root) in roots.iter().enumerate() {
            validity(text, &format!("[{domain}] CA #{}", index + 1), root);
        }
    }
}

fn validity(text: &mut String, title: &str, certificate: &Certificate) {
    let _ = writeln!(text, "{title} Valid After:\t{}", gofmt::utc(certificate.not_before()));
    let _ = writeln!(text, "{title} Valid Until:\t{}", gofmt::utc(certificate.not_after()));
}
