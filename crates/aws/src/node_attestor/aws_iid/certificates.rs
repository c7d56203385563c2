//! The certificates with which AWS signs documents, by region.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use steeple_pki::Certificate;

/// What AWS publishes; see the README for where it is from.
const PUBLISHED: &str = include_str!("certificates.pem");

static TABLE: LazyLock<HashMap<&'static str, Certificate>> = LazyLock::new(|| {
    let mut sections = PUBLISHED.split("Region: ");
    sections.next();
    sections
        .map(|section| {
            let (region, pem) = section.split_once('\n').expect("a region has a certificate");
            (region, Certificate::from_pem(pem).expect("a published certificate can be read"))
        })
        .collect()
});

/// Those that AWS publishes, and those that an operator added for regions that are newer than this
/// program.
#[derive(Clone, Default)]
pub(super) struct Certificates {
    added: BTreeMap<String, Certificate>,
}

impl Certificates {
    pub(super) fn published() -> Self {
        Self::default()
    }

    /// Adds one for a region that is not among the published; says whether it is not.
    pub(super) fn add(&mut self, region: String, certificate: Certificate) -> bool {
        if TABLE.contains_key(&*region) {
            return false;
        }
        self.added.insert(region, certificate);
        true
    }

    pub(super) fn of(&self, region: &str) -> Option<&Certificate> {
        TABLE.get(region).or_else(|| self.added.get(region))
    }

    /// The regions of those that were added.
    pub(super) fn added(&self) -> impl Iterator<Item = &str> {
        self.added.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use steeple_pki::KeyKind;

    use super::*;

    #[test]
    fn every_published_certificate_is_one_that_signed_itself_and_lasts() {
        assert_eq!(TABLE.len(), 39);
        let century = SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800);
        for (region, certificate) in &*TABLE {
            assert!(crate::session::is_region(region), "{region}");
            assert_eq!(certificate.public_key().kind(), KeyKind::Rsa(2048), "{region}");
            assert_eq!(certificate.subject_der(), certificate.issuer_der(), "{region}");
            assert!(certificate.is_valid_at(century), "{region}");
        }
    }

    #[test]
    fn no_two_regions_sign_with_one_key() {
        let keys: std::collections::HashSet<_> =
            TABLE.values().map(|it| it.public_key().spki_der().to_vec()).collect();
        assert_eq!(keys.len(), TABLE.len());
    }

    #[test]
    fn a_published_certificate_cannot_be_replaced() {
        let mut certificates = Certificates::published();
        let other = TABLE["us-east-1"].clone();
        assert!(!certificates.add("us-east-2".into(), other.clone()));
        assert_ne!(certificates.of("us-east-2"), Some(&other));
        assert!(certificates.add("xx-new-1".into(), other.clone()));
        assert_eq!(certificates.of("xx-new-1"), Some(&other));
        assert_eq!(certificates.of("xx-new-2"), None);
    }
}
