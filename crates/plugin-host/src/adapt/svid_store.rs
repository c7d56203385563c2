//! SVID stores.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use steeple_pki::x509::Certificate;
use steeple_plugin::{PluginError, StoredX509Svid, SvidStore};
use steeple_proto::spire::plugin::agent::svidstore::v1 as api;

use crate::plugin::Plugin;

const DEADLINE: Duration = Duration::from_secs(60);

pub(super) struct External(pub(super) Plugin);

impl External {
    fn client(&self) -> api::svid_store_client::SvidStoreClient<tonic::transport::Channel> {
        api::svid_store_client::SvidStoreClient::new(self.0.channel())
    }
}

#[async_trait]
impl SvidStore for External {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn put_x509_svid(&self, svid: &StoredX509Svid) -> Result<(), PluginError> {
        let key = svid.private_key.to_pkcs8_der();
        let expires_at = svid.expires_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let federated: BTreeMap<String, Bytes> = svid
            .federated_bundles
            .iter()
            .map(|bundle| (bundle.trust_domain.id_string(), bundle.x509_ders()))
            .collect();
        let request = api::PutX509svidRequest {
            svid: Some(api::X509svid {
                spiffe_id: svid.spiffe_id.as_str().to_owned(),
                cert_chain: svid.chain.iter().map(Certificate::der_bytes).collect(),
                private_key: Bytes::copy_from_slice(&key),
                bundle: svid.bundle.certificates().map(Certificate::der_bytes).collect(),
                expires_at: i64::try_from(expires_at).unwrap_or(i64::MAX),
            }),
            metadata: svid.metadata.clone(),
            federated_bundles: federated,
        };
        self.0.call(DEADLINE, self.client().put_x509svid(request)).await.map(|_| ())
    }

    async fn delete_x509_svid(&self, metadata: &[String]) -> Result<(), PluginError> {
        let request = api::DeleteX509svidRequest { metadata: metadata.to_vec() };
        self.0.call(DEADLINE, self.client().delete_x509svid(request)).await.map(|_| ())
    }
}
