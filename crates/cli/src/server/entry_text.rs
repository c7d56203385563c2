//! An entry as text, and the small conversions that entry verbs share.

use std::fmt::Write as _;

use steeple_proto::spire::api::types::{self, Entry, Selector, Spiffeid};
use steeple_spiffe::SpiffeId;

use crate::dispatch::Failure;
use crate::gofmt;

/// A SPIFFE ID from the command line as the API's message.
pub(crate) fn wire_id(text: &str) -> Result<Spiffeid, Failure> {
    let id = SpiffeId::parse(text)?;
    Ok(Spiffeid { trust_domain: id.trust_domain_name().to_owned(), path: id.path().to_owned() })
}

/// The API's message as a SPIFFE ID; empty when absent.
pub(crate) fn text_id(id: Option<&Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path)).unwrap_or_default()
}

/// `type:value`; the first colon splits.
pub(crate) fn selector(text: &str) -> Result<Selector, Failure> {
    match text.split_once(':') {
        Some((kind, value)) => Ok(Selector { r#type: kind.to_owned(), value: value.to_owned() }),
        None => Err(format!("selector \"{text}\" must be formatted as type:value").into()),
    }
}

/// All of `-selector`.
pub(crate) fn selectors(texts: &[String]) -> Result<Vec<Selector>, Failure> {
    texts.iter().map(|text| selector(text)).collect()
}

/// A status code of a batch result, as Go prints it.
pub(crate) fn code(status: Option<&types::Status>) -> &'static str {
    crate::client::code_name(tonic::Code::from(status.map_or(0, |status| status.code)))
}

/// Whether a batch result is a success.
pub(crate) fn is_ok(status: Option<&types::Status>) -> bool {
    status.is_none_or(|status| status.code == 0)
}

/// The message of a batch result.
pub(crate) fn message(status: Option<&types::Status>) -> &str {
    status.map_or("", |status| status.message.as_str())
}

/// The lines of one entry, with the empty line that ends it.
pub(crate) fn entry(entry: &Entry) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{label:24}: {value}");
    };
    let ttl = |seconds: i32| match seconds {
        0 => "default".to_owned(),
        seconds => seconds.to_string(),
    };
    line("Entry ID", &if entry.id.is_empty() { "(none)" } else { &entry.id });
    line("SPIFFE ID", &text_id(entry.spiffe_id.as_ref()));
    line("Parent ID", &text_id(entry.parent_id.as_ref()));
    line("Revision", &entry.revision_number);
    if entry.downstream {
        line("Downstream", &true);
    }
    line("X509-SVID TTL", &ttl(entry.x509_svid_ttl));
    line("JWT-SVID TTL", &ttl(entry.jwt_svid_ttl));
    if entry.expires_at != 0 {
        line("Expiration time", &gofmt::utc_seconds(entry.expires_at));
    }
    for selector in &entry.selectors {
        line("Selector", &format_args!("{}:{}", selector.r#type, selector.value));
    }
    for id in &entry.federates_with {
        line("FederatesWith", id);
    }
    for name in &entry.dns_names {
        line("DNS name", name);
    }
    if entry.admin {
        line("Admin", &true);
    }
    if entry.store_svid {
        line("StoreSvid", &true);
    }
    if !entry.hint.is_empty() {
        line("Hint", &entry.hint);
    }
    if let Some(attributes) = &entry.additional_attributes {
        if attributes.disable_x509_svid_prefetch {
            line("DisableX509SvidPrefetch", &true);
        }
        if attributes.jwt_svid_include_jti {
            line("JwtSvidIncludeJti", &true);
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_in_labelled_lines() {
        let text = entry(&Entry {
            id: "e1".into(),
            spiffe_id: Some(wire_id("spiffe://td/w").unwrap()),
            parent_id: Some(wire_id("spiffe://td/p").unwrap()),
            selectors: selectors(&["unix:uid:1000".into()]).unwrap(),
            x509_svid_ttl: 60,
            ..Default::default()
        });
        assert_eq!(
            text,
            "Entry ID                : e1\nSPIFFE ID               : spiffe://td/w\n\
             Parent ID               : spiffe://td/p\nRevision                : 0\n\
             X509-SVID TTL           : 60\nJWT-SVID TTL            : default\n\
             Selector                : unix:uid:1000\n\n"
        );
    }

    #[test]
    fn a_selector_needs_a_colon_and_keeps_the_later_ones() {
        assert_eq!(selector("a:b:c").unwrap().value, "b:c");
        assert_eq!(
            selector("abc").unwrap_err().0,
            "selector \"abc\" must be formatted as type:value"
        );
    }
}
