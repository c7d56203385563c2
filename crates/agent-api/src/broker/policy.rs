//! Which references which broker may use, and over which transport.

use std::collections::HashMap;

use steeple_spiffe::SpiffeId;
use tonic::Status;

/// What one broker may ask about.
#[derive(Clone, Debug, Default)]
pub struct ReferencePolicy {
    /// Every type there is; says whether over TCP too.
    pub any: Option<bool>,
    /// Types by URL; says for each whether over TCP too.
    pub types: HashMap<String, bool>,
}

/// What each broker may ask about.
#[derive(Clone, Debug, Default)]
pub struct BrokerPolicies(pub HashMap<SpiffeId, ReferencePolicy>);

impl BrokerPolicies {
    /// Whether a broker may use this type of reference now.
    pub(super) fn allow(
        &self,
        broker: &SpiffeId,
        type_url: &str,
        over_tcp: bool,
    ) -> Result<(), Status> {
        if type_url.is_empty() {
            return Err(Status::invalid_argument("workload reference must be provided"));
        }
        let shown = shown(type_url);
        let policy = self.0.get(broker);
        let allowed = policy.and_then(|it| it.any.or_else(|| it.types.get(type_url).copied()));
        match allowed {
            None => Err(Status::permission_denied(format!(
                "broker {:?} is not allowed to use reference type {shown}",
                broker.as_str()
            ))),
            Some(false) if over_tcp => Err(Status::permission_denied(format!(
                "reference type {shown} is not allowed over TCP for broker {:?}",
                broker.as_str()
            ))),
            Some(_) => Ok(()),
        }
    }
}

/// A type as an error repeats it: not at length.
fn shown(type_url: &str) -> String {
    format!("{:?}", type_url.chars().take(MAX_ECHO).collect::<String>())
}

const MAX_ECHO: usize = 200;

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn policies() -> BrokerPolicies {
        let id = |path: &str| SpiffeId::parse(&format!("spiffe://example.org/{path}")).unwrap();
        let types = HashMap::from([("here".to_owned(), false), ("there".to_owned(), true)]);
        BrokerPolicies(HashMap::from([
            (id("some"), ReferencePolicy { any: None, types }),
            (id("local"), ReferencePolicy { any: Some(false), types: HashMap::new() }),
            (id("any"), ReferencePolicy { any: Some(true), types: HashMap::new() }),
        ]))
    }

    #[test]
    fn each_broker_has_its_types_and_each_type_its_transports() {
        let asked = |broker: &str, type_url: &str, over_tcp: bool| {
            let broker = SpiffeId::parse(&format!("spiffe://example.org/{broker}")).unwrap();
            policies().allow(&broker, type_url, over_tcp).map_err(|it| it.message().to_owned())
        };
        assert!(asked("some", "here", false).is_ok());
        assert!(asked("some", "there", true).is_ok());
        assert!(asked("any", "whatever", true).is_ok());
        assert!(asked("local", "whatever", false).is_ok());
        let refused = |text: &str| Err(text.to_owned());
        assert_eq!(
            asked("some", "here", true),
            refused(
                "reference type \"here\" is not allowed over TCP for broker \"spiffe://example.org/some\""
            )
        );
        assert_eq!(
            asked("local", "x", true),
            refused(
                "reference type \"x\" is not allowed over TCP for broker \"spiffe://example.org/local\""
            )
        );
        assert_eq!(
            asked("some", "x", false),
            refused(
                "broker \"spiffe://example.org/some\" is not allowed to use reference type \"x\""
            )
        );
        assert!(asked("nobody", "here", false).is_err(), "not even on the socket");
    }

    #[test]
    fn a_missing_reference_is_told_before_what_is_not_allowed() {
        let nobody = SpiffeId::parse("spiffe://example.org/nobody").unwrap();
        let status = policies().allow(&nobody, "", true).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "workload reference must be provided");
    }

    #[test]
    fn a_type_is_not_repeated_at_length() {
        let nobody = SpiffeId::parse("spiffe://example.org/nobody").unwrap();
        let status = policies().allow(&nobody, &"x".repeat(1_000_000), false).unwrap_err();
        assert!(status.message().len() < 400);
    }
}
