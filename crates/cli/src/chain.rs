//! The SVID chain in `debug getinfo` of both programs.

use std::fmt::Write as _;

use steeple_proto::spire::api::types::Spiffeid;

use crate::gofmt;

/// One certificate of the chain.
pub(crate) struct Link<'a> {
    pub(crate) id: Option<&'a Spiffeid>,
    pub(crate) subject: &'a str,
    pub(crate) expires_at: i64,
}

/// The lines of the chain; none when it is empty.
pub(crate) fn text<'a>(links: impl Iterator<Item = Link<'a>>) -> String {
    let mut text = String::new();
    for (index, link) in links.enumerate() {
        if index == 0 {
            text.push_str("  SVID Chain:\n");
        }
        let id = match link.id {
            Some(id) => format!("spiffe://{}{}", id.trust_domain, id.path),
            None => "(none)".to_owned(),
        };
        let _ = write!(
            text,
            "    [{index}] SPIFFE ID:  {id}\n        Subject:    {}\n        Expires At: {}\n",
            link.subject,
            gofmt::rfc3339(link.expires_at)
        );
    }
    text
}
