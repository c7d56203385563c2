//! When a bundle is looked at again (FE-09).

use std::time::Duration;

use steeple_pki::Bundle;

/// Attempts within the time that a refresh hint names, so that some may fail.
const ATTEMPTS: u32 = 4;
/// The shortest refresh hint, and the wait while there is no bundle.
const MINIMUM: Duration = Duration::from_secs(60);
/// Without a hint, this fraction of the shortest life among the X.509 authorities is one.
const LIFETIME_FRACTION: u32 = 10;

/// How long to wait for the next look at the trust domain whose bundle this is, if it is known.
pub(crate) fn next_refresh(bundle: Option<&Bundle>) -> Duration {
    bundle.map_or(MINIMUM, |bundle| refresh_hint(bundle) / ATTEMPTS)
}

fn refresh_hint(bundle: &Bundle) -> Duration {
    if !bundle.refresh_hint.is_zero() {
        return bundle.refresh_hint.max(MINIMUM);
    }
    let lifetimes = bundle.certificates().map(|certificate| {
        certificate.not_after().duration_since(certificate.not_before()).unwrap_or_default()
    });
    lifetimes.min().map_or(MINIMUM, |shortest| (shortest / LIFETIME_FRACTION).max(MINIMUM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{authority, domain};

    fn hinted(seconds: u64) -> Bundle {
        Bundle { refresh_hint: Duration::from_secs(seconds), ..Bundle::new(domain("a")) }
    }

    #[test]
    fn a_quarter_of_the_hint_but_of_no_less_than_a_minute() {
        assert_eq!(next_refresh(Some(&hinted(300))), Duration::from_secs(75));
        assert_eq!(next_refresh(Some(&hinted(60))), Duration::from_secs(15));
        assert_eq!(next_refresh(Some(&hinted(1))), Duration::from_secs(15));
    }

    #[test]
    fn without_a_hint_by_the_shortest_life_of_an_authority() {
        let with = |days: &[u32]| {
            let authorities = days.iter().map(|days| authority(*days)).collect();
            next_refresh(Some(&Bundle::from_certificates(domain("a"), authorities)))
        };
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(with(&[10, 400]), day / 4);
        assert_eq!(with(&[400, 10]), day / 4);
        assert_eq!(with(&[]), Duration::from_secs(15));
    }

    #[test]
    fn a_minute_while_there_is_no_bundle() {
        assert_eq!(next_refresh(None), Duration::from_secs(60));
    }
}
