//! Which authority a CA certificate stands under.

use std::time::SystemTime;

use super::{MAX_CHAIN_LEN, may_sign};
use crate::x509::Certificate;

/// Whether a path of names and signatures leads from the CA `ca` over `intermediates`, in any
/// order, to one of `authorities`, or `ca` is itself one.
///
/// With a time, every certificate of the path must be valid at it. Constraints are not looked at:
/// they have their say over leaves ([`super::verify_path`]).
#[must_use]
pub fn is_ca_under(
    ca: &Certificate,
    intermediates: &[Certificate],
    authorities: &[Certificate],
    at: Option<SystemTime>,
) -> bool {
    let in_time = |it: &Certificate| at.is_none_or(|at| it.is_valid_at(at));
    let mut unused: Vec<&Certificate> = intermediates.iter().take(MAX_CHAIN_LEN).collect();
    let mut current = ca;
    loop {
        if !in_time(current) {
            return false;
        }
        let above = |it: &Certificate| {
            it == current
                || (it.subject_der() == current.issuer_der()
                    && may_sign(it)
                    && in_time(it)
                    && current.verify_signed_by(it.public_key()).is_ok())
        };
        if authorities.iter().any(above) {
            return true;
        }
        let next = unused.iter().position(|it| *it != current && above(it));
        let Some(next) = next else { return false };
        current = unused.swap_remove(next);
    }
}
