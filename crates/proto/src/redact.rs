//! `Debug` for messages that carry a secret: the type's name, and no field.

use std::fmt;

macro_rules! redacted {
    ($($name:ty),* $(,)?) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), " { .. }"))
            }
        })*
    };
}

mod workload {
    use super::fmt;
    use crate::workload::{Jwtsvid, ValidateJwtsvidRequest, Witsvid, X509svid};

    redacted!(X509svid, Jwtsvid, Witsvid, ValidateJwtsvidRequest);
}

mod envoy {
    use super::fmt;
    use crate::envoy::config::core::v3::{DataSource, data_source};
    use crate::envoy::extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret};
    use crate::envoy::service::discovery::v3::{
        DeltaDiscoveryResponse, DiscoveryResponse, Resource,
    };

    redacted!(
        DataSource,
        data_source::Specifier,
        Secret,
        secret::Type,
        TlsCertificate,
        DeltaDiscoveryResponse,
        DiscoveryResponse,
        Resource,
    );
}

mod broker {
    use super::fmt;
    use crate::spiffe::broker::{Jwtsvid, X509svid};

    redacted!(X509svid, Jwtsvid);
}

mod delegation {
    use super::fmt;
    use crate::steeple::agent::delegation::v1::SvidWithKey;

    redacted!(SvidWithKey);
}

mod types {
    use super::fmt;
    use crate::spire::api::types::{AttestationData, JoinToken, Jwtsvid, Witsvid};

    redacted!(AttestationData, JoinToken, Jwtsvid, Witsvid);
}

mod agent {
    use super::fmt;
    use crate::spire::api::agent::delegatedidentity::v1::X509svidWithKey;
    use crate::spire::api::server::agent::v1::{AttestAgentRequest, CreateJoinTokenRequest};

    redacted!(AttestAgentRequest, CreateJoinTokenRequest, X509svidWithKey);
}

mod jointoken {
    use super::fmt;
    use crate::steeple::server::jointoken::v1::CreateJoinTokenResponse;

    redacted!(CreateJoinTokenResponse);
}

mod common {
    use super::fmt;
    use crate::spire::common::AttestationData;

    redacted!(AttestationData);
}

mod plugin {
    use super::fmt;
    use crate::spire::hostservice::server::identityprovider::v1::X509Identity;
    use crate::spire::plugin::agent::nodeattestor::v1::PayloadOrChallengeResponse;
    use crate::spire::plugin::agent::svidstore::v1::X509svid;
    use crate::spire::plugin::server::nodeattestor::v1::AttestRequest;

    redacted!(X509Identity, PayloadOrChallengeResponse, X509svid, AttestRequest);
}

#[cfg(test)]
mod tests {
    use crate::spire::api::types::JoinToken;
    use crate::workload::{X509svid, X509svidResponse};

    #[test]
    fn a_response_with_a_private_key_prints_none_of_it() {
        let svid = X509svid { x509_svid_key: "private".into(), ..Default::default() };
        let response = X509svidResponse { svids: vec![svid], ..Default::default() };
        let text = format!("{response:?}");
        assert!(text.contains("X509svid { .. }"), "{text}");
        assert!(!text.contains("112, 114") && !text.contains("private"), "{text}");
    }

    #[test]
    fn a_join_token_prints_without_its_value() {
        let token = JoinToken { value: "bearer".into(), expires_at: 1 };
        assert_eq!(format!("{token:?}"), "JoinToken { .. }");
    }
}
