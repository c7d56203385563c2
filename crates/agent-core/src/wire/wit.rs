//! The messages of the WIT-SVID profile.

use std::sync::Arc;

use super::{Frame, field_len, frame, put_field, put_message};
use crate::wit::WitSvid;

/// A `WITSVIDResponse`.
pub fn wit_svids(svids: &[Arc<WitSvid>]) -> Frame {
    let fields = |svid: &WitSvid| {
        let entry = svid.entry();
        [entry.spiffe_id.as_str().len(), svid.token().len(), svid.key().len(), entry.hint.len()]
            .into_iter()
            .map(field_len)
            .sum::<usize>()
    };
    let size = svids.iter().map(|svid| field_len(fields(svid))).sum();
    frame(size, |out| {
        for svid in svids {
            super::put_key(out, 1, fields(svid));
            put_field(out, 1, svid.entry().spiffe_id.as_str().as_bytes());
            put_field(out, 2, svid.token().as_bytes());
            put_field(out, 3, svid.key().as_bytes());
            put_field(out, 4, svid.entry().hint.as_bytes());
        }
    })
}

/// A `WITBundlesResponse` of trust domain IDs and their JWK sets.
pub fn wit_bundles(bundles: &[(String, String)]) -> Frame {
    let length = |(id, jwks): &(String, String)| field_len(id.len()) + field_len(jwks.len());
    let size = bundles.iter().map(|bundle| field_len(length(bundle))).sum();
    frame(size, |out| {
        for (id, jwks) in bundles {
            let mut entry = Vec::with_capacity(field_len(id.len()) + field_len(jwks.len()));
            put_field(&mut entry, 1, id.as_bytes());
            put_field(&mut entry, 2, jwks.as_bytes());
            put_message(out, 1, &entry);
        }
    })
}
