//! What credential composers may change, and the bounds of that (UP-06, CR-27).
//!
//! A composer is somebody else's code: each call has a deadline, and what it answers is converted
//! into a form that cannot say more than the rules allow. SPIFFE ID, key, lifetime and key usage
//! are not among it; an extension that would say something of those is refused.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use steeple_pki::PublicKey;
use steeple_pki::x509::{DistinguishedName, Extension, Oid};
use steeple_plugin::{
    Code, CredentialComposer, ExtraExtension, Kind, Name, PluginError, X509CaAttributes,
    X509SvidAttributes,
};
use steeple_spiffe::SpiffeId;

pub(super) use claims::{Composed, workload_claims};

mod claims;

/// The composers, in the order of configuration.
pub(super) type Composers = Box<[Arc<dyn CredentialComposer>]>;

/// Whose X509-SVID it is.
#[derive(Clone, Copy)]
pub(super) enum Holder {
    Server,
    Agent,
    Workload,
}

/// What composers made of a CA certificate.
pub(super) struct ComposedCa {
    pub(super) subject: DistinguishedName,
    pub(super) policies: Vec<Oid>,
    pub(super) extra_extensions: Vec<Extension>,
}

/// What composers made of an X509-SVID.
pub(super) struct ComposedSvid {
    pub(super) subject: DistinguishedName,
    pub(super) dns_names: Vec<String>,
    pub(super) extra_extensions: Vec<Extension>,
}

/// Has every composer look at a CA certificate to be.
///
/// # Errors
/// The first that refuses, is too slow, or answers what cannot be.
pub(super) async fn x509_ca(
    composers: &[Arc<dyn CredentialComposer>],
    subject: DistinguishedName,
) -> Result<ComposedCa, PluginError> {
    let mut attributes =
        X509CaAttributes { subject: name_of(&subject), ..X509CaAttributes::default() };
    let mut composed = ComposedCa { subject, policies: Vec::new(), extra_extensions: Vec::new() };
    for composer in composers {
        let before = attributes.clone();
        let hook = composer.compose_server_x509_ca(attributes);
        attributes = unless_unimplemented(composer.as_ref(), before, hook).await?;
        composed = checked_ca(&attributes)
            .map_err(|reason| refused(composer.as_ref(), "X509CA", &reason))?;
    }
    Ok(composed)
}

/// Has every composer look at an X509-SVID to be.
///
/// # Errors
/// As [`x509_ca`].
pub(super) async fn x509_svid(
    composers: &[Arc<dyn CredentialComposer>],
    (holder, id, key): (Holder, &SpiffeId, &PublicKey),
    subject: DistinguishedName,
    dns_names: Vec<String>,
) -> Result<ComposedSvid, PluginError> {
    let mut attributes = X509SvidAttributes {
        subject: name_of(&subject),
        dns_names: dns_names.clone(),
        extra_extensions: Vec::new(),
    };
    let mut composed = ComposedSvid { subject, dns_names, extra_extensions: Vec::new() };
    for composer in composers {
        let before = attributes.clone();
        let hook = match holder {
            Holder::Server => composer.compose_server_x509_svid(attributes),
            Holder::Agent => composer.compose_agent_x509_svid(id, key, attributes),
            Holder::Workload => composer.compose_workload_x509_svid(id, key, attributes),
        };
        attributes = unless_unimplemented(composer.as_ref(), before, hook).await?;
        composed = checked_svid(&attributes)
            .map_err(|reason| refused(composer.as_ref(), "X509SVID", &reason))?;
    }
    Ok(composed)
}

/// A composer's answer; `before` when it does not have this hook.
async fn unless_unimplemented<T>(
    composer: &dyn CredentialComposer,
    before: T,
    hook: impl Future<Output = Result<T, PluginError>>,
) -> Result<T, PluginError> {
    match tokio::time::timeout(DEADLINE, hook).await {
        Ok(Err(error)) if error.code == Code::Unimplemented => Ok(before),
        Ok(Err(error)) => Err(failed(composer, error.code, &error.message)),
        Ok(answer) => answer,
        Err(_) => {
            let text = format!("no answer within {} seconds", DEADLINE.as_secs());
            Err(failed(composer, Code::DeadlineExceeded, &text))
        }
    }
}

fn failed(composer: &dyn CredentialComposer, code: Code, message: &str) -> PluginError {
    PluginError::new(Kind::CredentialComposer, composer.name(), code, message)
}

fn refused(composer: &dyn CredentialComposer, what: &str, reason: &str) -> PluginError {
    let text = format!("plugin returned invalid {what} attributes: {reason}");
    failed(composer, Code::Internal, &text)
}

fn name_of(subject: &DistinguishedName) -> Name {
    let mut name = subject.clone();
    let extra = std::mem::take(&mut name.extra_names);
    Name { name, extra: extra.into_iter().map(|(id, value)| (id.to_string(), value)).collect() }
}

fn checked_ca(attributes: &X509CaAttributes) -> Result<ComposedCa, String> {
    let subject = checked_subject(&attributes.subject)?;
    // An issuer without a name is none (RFC 5280 §4.1.2.4).
    if subject.is_empty() {
        return Err("subject: cannot be empty".to_owned());
    }
    if attributes.policy_identifiers.len() > MAX_POLICIES {
        return Err(format!("policy identifiers: more than {MAX_POLICIES}"));
    }
    let parse = |id: &String| oid(id).map_err(|reason| format!("policy identifiers: {reason}"));
    let policies = attributes.policy_identifiers.iter().map(parse).collect::<Result<_, _>>()?;
    let extra_extensions = checked_extensions(&attributes.extra_extensions)?;
    Ok(ComposedCa { subject, policies, extra_extensions })
}

fn checked_svid(attributes: &X509SvidAttributes) -> Result<ComposedSvid, String> {
    let subject = checked_subject(&attributes.subject)?;
    let dns_names = &attributes.dns_names;
    if dns_names.len() > MAX_DNS_NAMES {
        return Err(format!("DNS names: more than {MAX_DNS_NAMES}"));
    }
    // What an IA5String can hold and is no trap for who prints or splits it.
    let plain = |name: &String| {
        (1..=MAX_DNS_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if let Some(bad) = dns_names.iter().find(|name| !plain(name)) {
        return Err(format!("DNS name {:?} is not one", shorten(bad)));
    }
    let extra_extensions = checked_extensions(&attributes.extra_extensions)?;
    Ok(ComposedSvid { subject, dns_names: dns_names.clone(), extra_extensions })
}

fn checked_subject(name: &Name) -> Result<DistinguishedName, String> {
    let known = &name.name;
    let lists = [
        &known.country,
        &known.organization,
        &known.organizational_unit,
        &known.locality,
        &known.province,
        &known.street_address,
        &known.postal_code,
    ];
    let singles = [&known.common_name, &known.serial_number];
    let extra = name.extra.iter().map(|(_, value)| value);
    let kept = known.extra_names.iter().map(|(_, value)| value);
    let texts = lists.into_iter().flatten().chain(singles).chain(extra).chain(kept);
    // Each text brings its tags, lengths and type along.
    let size: usize = texts.map(|text| text.len() + 32).sum();
    if size > MAX_SUBJECT {
        return Err(format!("subject: larger than {MAX_SUBJECT} bytes"));
    }
    let mut subject = known.clone();
    for (id, value) in &name.extra {
        let id = oid(id).map_err(|reason| format!("subject: extra names: {reason}"))?;
        subject.extra_names.push((id, value.clone()));
    }
    Ok(subject)
}

fn checked_extensions(extensions: &[ExtraExtension]) -> Result<Vec<Extension>, String> {
    if extensions.len() > MAX_EXTENSIONS {
        return Err(format!("extra extensions: more than {MAX_EXTENSIONS}"));
    }
    let size: usize = extensions.iter().map(|extension| extension.value.len()).sum();
    if size > MAX_EXTENSIONS_SIZE {
        return Err(format!("extra extensions: larger than {MAX_EXTENSIONS_SIZE} bytes"));
    }
    let mut checked: Vec<Extension> = Vec::with_capacity(extensions.len());
    for ExtraExtension { oid: id, value, critical } in extensions {
        let id = oid(id).map_err(|reason| format!("extra extensions: {reason}"))?;
        checked.push(Extension { id, critical: *critical, value: value.clone() });
    }
    steeple_pki::x509::check_extensions(&checked)
        .map_err(|error| format!("extra extensions: {error}"))?;
    Ok(checked)
}

fn oid(dotted: &str) -> Result<Oid, String> {
    dotted.parse().map_err(|error| format!("{error}: {:?}", shorten(dotted)))
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

/// How long a composer may take. Whoever waits for the credential waits for it too.
const DEADLINE: Duration = Duration::from_secs(10);
const MAX_SUBJECT: usize = 8 * 1024;
/// As many as our parser reads.
const MAX_DNS_NAMES: usize = 1024;
const MAX_DNS_NAME: usize = 255;
const MAX_POLICIES: usize = 64;
const MAX_EXTENSIONS: usize = 32;
const MAX_EXTENSIONS_SIZE: usize = 16 * 1024;

#[cfg(test)]
mod tests;
