//! Whether SVIDs may outlive the CA that signs them.

use std::time::Duration;

use steeple_hcl::Located;
use steeple_runtime::duration::format_go;

use super::ServerConfig;
use crate::{checks::Checker, problem::NoticeKind};

/// A CA is replaced when this part of its lifetime is left …
const ACTIVATION_DIVISOR: u32 = 6;
/// … or this much, if that is less.
const ACTIVATION_CAP: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Warns of every lifetime that a scheduled rotation of the CA may cut short.
pub(super) fn check(
    checker: &mut Checker,
    config: &ServerConfig,
    agent_ttl: &Located<String>,
    x509_ttl: &Located<String>,
    jwt_ttl: &Located<String>,
) {
    let checks = [
        ("default_x509_svid_ttl", Some(config.default_x509_svid_ttl), x509_ttl),
        ("default_jwt_svid_ttl", Some(config.default_jwt_svid_ttl), jwt_ttl),
        ("agent_ttl", config.agent_ttl, agent_ttl),
    ];
    for (name, ttl, key) in checks {
        let Some(text) = ttl.and_then(|ttl| warning(name, ttl, config.ca_ttl)) else { continue };
        checker.note(NoticeKind::Warning, key.line(), &format!("server.{name}"), text);
    }
}

fn warning(name: &str, ttl: Duration, ca_ttl: Duration) -> Option<String> {
    let longest = (ca_ttl / ACTIVATION_DIVISOR).min(ACTIVATION_CAP);
    if ttl <= longest {
        return None;
    }
    let needed = |ttl: Duration| shown(ttl.saturating_mul(ACTIVATION_DIVISOR));
    Some(if ttl < ACTIVATION_CAP {
        format!(
            "{name} is too high for the configured ca_ttl value. SVIDs with shorter lifetimes may \
             be issued. Please set {name} to {} or less, or the ca_ttl to {} or more, to guarantee \
             the full {name} lifetime when CA rotations are scheduled.",
            shown(longest),
            needed(ttl)
        )
    } else if ca_ttl < ACTIVATION_CAP * ACTIVATION_DIVISOR {
        format!(
            "{name} is too high and the ca_ttl is too low. SVIDs with shorter lifetimes may be \
             issued. Please set {name} to {} or less, and the ca_ttl to {} or more, to guarantee \
             the full {name} lifetime when CA rotations are scheduled.",
            shown(ACTIVATION_CAP),
            needed(ACTIVATION_CAP)
        )
    } else {
        format!(
            "{name} is too high. SVIDs with shorter lifetimes may be issued. Please set {name} to \
             {} or less to guarantee the full {name} lifetime when CA rotations are scheduled.",
            shown(longest)
        )
    })
}

/// Whole seconds, without minutes and seconds that are zero.
fn shown(duration: Duration) -> String {
    let mut text = format_go(Duration::from_secs(duration.as_secs()));
    for zero in ["m0s", "h0m"] {
        if text.ends_with(zero) {
            text.truncate(text.len() - 2);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn is_silent_while_a_sixth_of_the_ca_is_enough() {
        assert_eq!(warning("agent_ttl", 4 * HOUR, 24 * HOUR), None);
        assert!(warning("agent_ttl", 4 * HOUR + Duration::from_secs(1), 24 * HOUR).is_some());
    }

    #[test]
    fn says_what_to_change() {
        let low_ca = warning("agent_ttl", 5 * HOUR, 24 * HOUR).unwrap();
        assert!(
            low_ca.contains("Please set agent_ttl to 4h or less, or the ca_ttl to 30h or more")
        );
        let both = warning("agent_ttl", 200 * HOUR, 24 * HOUR).unwrap();
        assert!(both.contains("to 168h or less, and the ca_ttl to 1008h or more"));
        let cap = warning("agent_ttl", 200 * HOUR, 2000 * HOUR).unwrap();
        assert!(cap.contains("is too high. ") && cap.contains("to 168h or less to guarantee"));
    }
}
