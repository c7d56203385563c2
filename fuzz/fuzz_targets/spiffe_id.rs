//! An accepted SPIFFE ID is its own text, keeps the limits, and can be taken apart and rebuilt.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_spiffe::{MAX_ID_LEN, MAX_TRUST_DOMAIN_LEN, SpiffeId, TrustDomain};

fuzz_target!(|text: &str| {
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.as_str(), text);
        assert!(text.len() <= MAX_ID_LEN && id.trust_domain_name().len() <= MAX_TRUST_DOMAIN_LEN);
        assert_eq!(SpiffeId::from_path(&id.trust_domain(), id.path()), Ok(id.clone()));
        assert_eq!(TrustDomain::from_name_or_id(text), Ok(id.trust_domain()));
        let segments: Vec<&str> = id.path().split('/').skip(1).collect();
        assert_eq!(SpiffeId::from_segments(&id.trust_domain(), &segments), Ok(id));
    }
    if let Ok(trust_domain) = TrustDomain::parse(text) {
        assert_eq!(trust_domain.as_str(), text);
        assert_eq!(SpiffeId::parse(&trust_domain.id_string()), Ok(trust_domain.id()));
    }
});
