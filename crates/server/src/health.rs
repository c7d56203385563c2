//! The server's health: four checks (facts SB-12..SB-15).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use steeple_ca::{CaManager, Credentials, MAX_ROTATION_FAILURES};
use steeple_ops::health::{Check, Health, Hint, State};
use steeple_proto::spire::api::server::bundle::v1::GetBundleRequest;
use steeple_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use steeple_runtime::Clock;
use steeple_server_core::index::AuthorizedIndex;
use steeple_store::Store;
use tokio::time::timeout;

/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// When the index has not followed the datastore for so long, the datastore is looked at.
const FEED_LAG: Duration = Duration::from_secs(3);

/// The name of the check of the datastore.
const DATASTORE: &str = "catalog.datastore";

/// What is checked.
#[derive(Clone)]
pub(crate) struct Checked {
    pub(crate) credentials: Credentials,
    pub(crate) manager: CaManager,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) socket: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The checks by their names.
pub(crate) fn checks(checked: Checked) -> Arc<Health> {
    let Checked { credentials, manager, store, socket, clock } = checked;
    let datastore: Check = Box::new(move || {
        let store = Arc::clone(&store);
        Box::pin(async move {
            let listed = async { store.list_bundles(None).await.map(drop).map_err(text) };
            state("list_bundle_err", in_time(listed).await)
        })
    });
    let server: Check = Box::new(move || {
        let socket = socket.clone();
        Box::pin(async move { state("get_bundle_err", in_time(get_bundle(socket)).await) })
    });
    let ca: Check = Box::new(move || {
        let (credentials, clock) = (credentials.clone(), Arc::clone(&clock));
        Box::pin(async move {
            let signed = async { credentials.check(clock.now()).await.map_err(text) };
            state("sign_x509_svid_err", in_time(signed).await)
        })
    });
    let rotator: Check = Box::new(move || {
        let failed = manager.rotation_failures() > MAX_ROTATION_FAILURES;
        let text = "rotations exceed the threshold number of failures";
        let found = if failed { Err(text.to_owned()) } else { Ok(()) };
        Box::pin(async move { state("rotation_err", found) })
    });
    Health::new([
        (DATASTORE, datastore),
        ("server", server),
        ("server.ca", ca),
        ("server.ca.rotator", rotator),
    ])
}

/// The index reads the datastore several times a second, and so knows first that it is away or
/// back.
pub(crate) fn feed_hint(index: AuthorizedIndex, clock: Arc<dyn Clock>) -> Hint {
    let fails = Box::new(move || index.staleness(clock.now()) > FEED_LAG);
    Hint { check: DATASTORE, fails }
}

fn state(detail: &'static str, found: Result<(), String>) -> State {
    match found {
        Ok(()) => State::good(),
        Err(reason) => State::failed(detail, reason),
    }
}

/// As any local caller would: over the socket.
async fn get_bundle(socket: PathBuf) -> Result<(), String> {
    let channel = steeple_net::channel::unix(&socket);
    let answer = BundleClient::new(channel).get_bundle(GetBundleRequest::default()).await;
    answer.map(drop).map_err(|status| {
        let code = steeple_plugin::Code::from_number(status.code() as i32).name();
        format!("unable to fetch bundle: rpc error: code = {code} desc = {}", status.message())
    })
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}

async fn in_time(check: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    timeout(CHECK_TIMEOUT, check)
        .await
        .unwrap_or_else(|_elapsed| Err("context deadline exceeded".to_owned()))
}
