//! Credential composers: a hook that the plugin does not implement changes nothing.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Value};
use steeple_pki::PublicKey;
use steeple_plugin::{Code, CredentialComposer, PluginError, X509CaAttributes, X509SvidAttributes};
use steeple_plugin_sdk::wire;
use steeple_proto::spire::plugin::server::credentialcomposer::v1 as api;
use steeple_spiffe::SpiffeId;

use crate::plugin::{MAX_MESSAGE, Plugin};

const DEADLINE: Duration = Duration::from_secs(30);

pub(super) struct Composer(pub(super) Plugin);

impl Composer {
    fn client(
        &self,
    ) -> api::credential_composer_client::CredentialComposerClient<tonic::transport::Channel> {
        api::credential_composer_client::CredentialComposerClient::new(self.0.channel())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    /// What came back, or what was given where nothing did.
    fn composed<A, T>(
        &self,
        given: T,
        answer: Result<Option<A>, PluginError>,
        what: &str,
        read: impl FnOnce(A) -> Result<T, String>,
    ) -> Result<T, PluginError> {
        match answer {
            Ok(Some(composed)) => read(composed).map_err(|error| {
                let message = format!("plugin returned invalid {what} attributes: {error}");
                self.0.error(Code::Internal, message)
            }),
            Ok(None) => Ok(given),
            Err(error) if error.code == Code::Unimplemented => Ok(given),
            Err(error) => Err(error),
        }
    }
}

fn spki(key: &PublicKey) -> Bytes {
    Bytes::copy_from_slice(key.spki_der())
}

#[async_trait]
impl CredentialComposer for Composer {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn compose_server_x509_ca(
        &self,
        given: X509CaAttributes,
    ) -> Result<X509CaAttributes, PluginError> {
        let request = api::ComposeServerX509caRequest { attributes: Some(wire::ca_out(&given)) };
        let mut client = self.client();
        let call = client.compose_server_x509ca(request);
        let answer = self.0.call(DEADLINE, call).await.map(|it| it.attributes);
        self.composed(given, answer, "X509CA", wire::ca_in)
    }

    async fn compose_server_x509_svid(
        &self,
        given: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        let request =
            api::ComposeServerX509svidRequest { attributes: Some(wire::svid_out(&given)) };
        let mut client = self.client();
        let call = client.compose_server_x509svid(request);
        let answer = self.0.call(DEADLINE, call).await.map(|it| it.attributes);
        self.composed(given, answer, "X509SVID", wire::svid_in)
    }

    async fn compose_agent_x509_svid(
        &self,
        id: &SpiffeId,
        key: &PublicKey,
        given: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        let request = api::ComposeAgentX509svidRequest {
            attributes: Some(wire::svid_out(&given)),
            spiffe_id: id.as_str().to_owned(),
            public_key: spki(key),
        };
        let mut client = self.client();
        let call = client.compose_agent_x509svid(request);
        let answer = self.0.call(DEADLINE, call).await.map(|it| it.attributes);
        self.composed(given, answer, "X509SVID", wire::svid_in)
    }

    async fn compose_workload_x509_svid(
        &self,
        id: &SpiffeId,
        key: &PublicKey,
        given: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        let request = api::ComposeWorkloadX509svidRequest {
            attributes: Some(wire::svid_out(&given)),
            spiffe_id: id.as_str().to_owned(),
            public_key: spki(key),
        };
        let mut client = self.client();
        let call = client.compose_workload_x509svid(request);
        let answer = self.0.call(DEADLINE, call).await.map(|it| it.attributes);
        self.composed(given, answer, "X509SVID", wire::svid_in)
    }

    async fn compose_workload_jwt_svid(
        &self,
        id: &SpiffeId,
        given: Map<String, Value>,
    ) -> Result<Map<String, Value>, PluginError> {
        let attributes = api::JwtsvidAttributes { claims: Some(wire::claims_out(&given)) };
        let request = api::ComposeWorkloadJwtsvidRequest {
            attributes: Some(attributes),
            spiffe_id: id.as_str().to_owned(),
        };
        let mut client = self.client();
        let call = client.compose_workload_jwtsvid(request);
        let answer = self.0.call(DEADLINE, call).await.map(|it| it.attributes);
        self.composed(given, answer, "JWTSVID", |it| wire::claims_in(it.claims.unwrap_or_default()))
    }
}
