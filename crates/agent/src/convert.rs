//! From the server's messages to the core's types.

use std::time::{Duration, SystemTime};

use steeple_agent_core::entry::Entry;
use steeple_agent_core::sync::{EntryRevision, SyncPage};
use steeple_pki::{Bundle, Certificate, JwtAuthority, PublicKey, X509Authority};
use steeple_proto::spire::api::server::entry::v1 as entry_api;
use steeple_proto::spire::api::types;
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use tracing::warn;

/// A page of entries; what cannot be understood is logged and left out.
pub(crate) fn sync_page(response: entry_api::SyncAuthorizedEntriesResponse) -> SyncPage {
    let revisions = response.entry_revisions.into_iter().filter_map(revision).collect();
    SyncPage { entries: entries(response.entries), revisions, more: response.more }
}

fn revision(revision: entry_api::EntryRevision) -> Option<EntryRevision> {
    let (id, number) = (revision.id, revision.revision_number);
    if id.is_empty() || number < 0 {
        warn!(subsystem_name = "manager", entry_id = %id, revision_number = number,
            "Received malformed entry revision from SPIRE server; are the server and agent versions compatible?");
        return None;
    }
    Some(EntryRevision { id, revision: number, created_at: revision.created_at })
}

/// The entries that can be understood; the others are logged.
pub(crate) fn entries(entries: Vec<types::Entry>) -> Vec<Entry> {
    let understood = |message: types::Entry| {
        let (id, revision) = (message.id.clone(), message.revision_number);
        entry(message)
            .inspect_err(|error| {
                warn!(subsystem_name = "manager", entry_id = %id, revision_number = revision, error,
                    "Received malformed entry from SPIRE server; are the server and agent versions compatible?");
            })
            .ok()
    };
    entries.into_iter().filter_map(understood).collect()
}

fn entry(message: types::Entry) -> Result<Entry, String> {
    if message.id.is_empty() {
        return Err("missing entry ID".into());
    }
    let spiffe_id = spiffe_id(message.spiffe_id.as_ref())
        .map_err(|error| format!("invalid SPIFFE ID: {error}"))?;
    let federates_with = message.federates_with.iter().map(|name| {
        TrustDomain::from_name_or_id(name)
            .map_err(|error| format!("invalid federated trust domain: {error}"))
    });
    let federates_with = federates_with.collect::<Result<_, _>>()?;
    if message.selectors.is_empty() {
        return Err("selector list is empty".into());
    }
    let selectors = message.selectors.iter().map(selector).collect::<Result<_, _>>()?;
    let attributes = message.additional_attributes.unwrap_or_default();
    Ok(Entry {
        id: message.id.into(),
        spiffe_id,
        selectors,
        federates_with,
        hint: message.hint,
        revision: message.revision_number,
        created_at: message.created_at,
        admin: message.admin,
        downstream: message.downstream,
        store_svid: message.store_svid,
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
    })
}

fn selector(message: &types::Selector) -> Result<Selector, String> {
    match (message.r#type.as_str(), message.value.as_str()) {
        ("", _) => Err("missing selector type".into()),
        (kind, _) if kind.contains(':') => Err("selector type contains ':'".into()),
        (_, "") => Err("missing selector value".into()),
        (kind, value) => Ok(Selector::new(kind, value)),
    }
}

/// A SPIFFE ID in the API's form.
pub(crate) fn spiffe_id(message: Option<&types::Spiffeid>) -> Result<SpiffeId, String> {
    let message = message.ok_or("response missing SPIFFE ID")?;
    TrustDomain::from_name_or_id(&message.trust_domain)
        .and_then(|trust_domain| SpiffeId::from_path(&trust_domain, &message.path))
        .map_err(|error| error.to_string())
}

/// A bundle in the API's form.
pub(crate) fn bundle(message: types::Bundle) -> Result<Bundle, String> {
    let trust_domain = TrustDomain::from_name_or_id(&message.trust_domain)
        .map_err(|error| format!("bundle has an invalid trust domain: {error}"))?;
    let mut bundle = Bundle::new(trust_domain);
    for authority in message.x509_authorities {
        let certificate = Certificate::from_der(authority.asn1)
            .map_err(|error| format!("unable to parse root CA: {error}"))?;
        bundle.add_x509_authority(X509Authority { certificate, tainted: authority.tainted });
    }
    for key in message.jwt_authorities {
        if key.key_id.is_empty() {
            return Err("missing key ID".into());
        }
        let public_key = PublicKey::from_spki_der(&key.public_key)
            .map_err(|error| format!("unable to parse JWT signing key: {error}"))?;
        let expires_at = (key.expires_at > 0).then(|| seconds(key.expires_at));
        bundle.set_jwt_authority(JwtAuthority {
            key_id: key.key_id,
            public_key,
            expires_at,
            tainted: key.tainted,
        });
    }
    // Few need them, so that a bad one is nobody else's trouble.
    for key in message.wit_authorities {
        if let Ok(public_key) = PublicKey::from_spki_der(&key.public_key)
            && !key.key_id.is_empty()
        {
            let expires_at = (key.expires_at > 0).then(|| seconds(key.expires_at));
            let (key_id, tainted) = (key.key_id, key.tainted);
            bundle.set_wit_authority(JwtAuthority { key_id, public_key, expires_at, tainted });
        }
    }
    bundle.refresh_hint = Duration::from_secs(message.refresh_hint.try_into().unwrap_or(0));
    bundle.sequence_number = message.sequence_number;
    Ok(bundle)
}

/// A chain of DER certificates, leaf first, with a leaf.
pub(crate) fn chain(svid: types::X509svid) -> Result<Vec<Certificate>, String> {
    let chain: Vec<Certificate> = svid
        .cert_chain
        .into_iter()
        .map(|der| {
            Certificate::from_der(der).map_err(|error| format!("invalid SVID cert chain: {error}"))
        })
        .collect::<Result<_, _>>()?;
    if chain.is_empty() { Err("empty SVID cert chain".into()) } else { Ok(chain) }
}

/// A moment in the API's form.
pub(crate) fn seconds(since_epoch: i64) -> SystemTime {
    let since_epoch = Duration::from_secs(since_epoch.try_into().unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since_epoch).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> types::Entry {
        types::Entry {
            id: "e1".into(),
            spiffe_id: Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: "/w".into(),
            }),
            selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:1".into() }],
            federates_with: vec!["other.org".into(), "spiffe://third.org".into()],
            ..Default::default()
        }
    }

    #[test]
    fn an_entry_keeps_what_the_agent_needs() {
        let entry = entry(message()).unwrap();
        assert_eq!(entry.spiffe_id.as_str(), "spiffe://example.org/w");
        assert_eq!(
            entry.federates_with.iter().map(TrustDomain::as_str).collect::<Vec<_>>(),
            ["other.org", "third.org"]
        );
        assert_eq!(entry.selectors.to_string(), "unix:uid:1");
    }

    #[test]
    fn a_malformed_entry_is_left_out_and_the_rest_stays() {
        type Damage = fn(&mut types::Entry);
        let breaks: [(&str, Damage); 6] = [
            ("missing entry ID", |entry| entry.id.clear()),
            ("invalid SPIFFE ID: response missing SPIFFE ID", |entry| entry.spiffe_id = None),
            ("selector list is empty", |entry| entry.selectors.clear()),
            ("missing selector type", |entry| entry.selectors[0].r#type.clear()),
            ("selector type contains ':'", |entry| entry.selectors[0].r#type = "a:b".into()),
            ("missing selector value", |entry| entry.selectors[0].value.clear()),
        ];
        for (expected, damage) in breaks {
            let mut broken = message();
            damage(&mut broken);
            assert_eq!(entry(broken.clone()).unwrap_err(), expected);
            assert_eq!(entries(vec![broken, message()]).len(), 1);
        }
    }
}
