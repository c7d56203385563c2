//! `bundle count|delete|list|set|show`.

use async_trait::async_trait;
use steeple_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use steeple_proto::spire::api::server::bundle::v1::{
    BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest, CountBundlesRequest,
    GetBundleRequest, GetFederatedBundleRequest, ListFederatedBundlesRequest,
    batch_delete_federated_bundle_request::Mode,
};

use super::bundle_text::{self, Format};
use super::{SOCKET, entry_text};
use crate::dispatch::{Failure, Verb};
use crate::gofmt::plural;
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) struct Count;
pub(super) struct Delete;
pub(super) struct List;
pub(super) struct Set;
pub(super) struct Show;

fn declare(flags: &mut FlagSet) {
    SOCKET.declare(flags);
    Output::declare(flags);
}

const FORMAT_USAGE: &str = "The format of the bundle (of pretty output): \"pem\" or \"spiffe\".";

#[async_trait]
impl Verb for Show {
    fn path(&self) -> &'static str {
        "bundle show"
    }

    fn synopsis(&self) -> &'static str {
        "Prints server CA bundle to stdout"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
        flags.text("format", "pem", FORMAT_USAGE);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let mut client = BundleClient::new(SOCKET.channel(flags, env)?);
        let bundle = client.get_bundle(GetBundleRequest { output_mask: None }).await?.into_inner();
        if Output::of(flags).is_json() {
            env.out(&proto_line(&Named("spire.api.types.Bundle", &bundle))?);
            return Ok(());
        }
        env.out(&bundle_text::print(&bundle, Format::parse(flags.str("format"))?, false)?);
        Ok(())
    }
}

#[async_trait]
impl Verb for List {
    fn path(&self) -> &'static str {
        "bundle list"
    }

    fn synopsis(&self) -> &'static str {
        "Lists federated bundle data"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
        flags.text("id", "", "SPIFFE ID of the trust domain");
        flags.text("format", "pem", FORMAT_USAGE);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let json = Output::of(flags).is_json();
        let mut client = BundleClient::new(SOCKET.channel(flags, env)?);
        if !flags.str("id").is_empty() {
            let trust_domain = flags.str("id").to_owned();
            let request = GetFederatedBundleRequest { trust_domain, output_mask: None };
            let bundle = client.get_federated_bundle(request).await?.into_inner();
            if json {
                env.out(&proto_line(&Named("spire.api.types.Bundle", &bundle))?);
            } else {
                let format = Format::parse(flags.str("format"))?;
                env.out(&bundle_text::print(&bundle, format, false)?);
            }
            return Ok(());
        }
        let response = client
            .list_federated_bundles(ListFederatedBundlesRequest::default())
            .await?
            .into_inner();
        if json {
            let name = "spire.api.server.bundle.v1.ListFederatedBundlesResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        for (index, bundle) in response.bundles.iter().enumerate() {
            if index > 0 {
                env.out("\n");
            }
            env.out(&bundle_text::print(bundle, Format::parse(flags.str("format"))?, true)?);
        }
        Ok(())
    }
}

#[async_trait]
impl Verb for Set {
    fn path(&self) -> &'static str {
        "bundle set"
    }

    fn synopsis(&self) -> &'static str {
        "Creates or updates federated bundle data"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
        flags.text("id", "", "SPIFFE ID of the trust domain");
        flags.text("path", "", "Path to the bundle data; standard input when not set");
        flags.text("format", "pem", "The format of the bundle data: \"pem\" or \"spiffe\".");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let id = flags.str("id");
        if id.is_empty() {
            return Err("id flag is required".into());
        }
        let format = Format::parse(flags.str("format"))?;
        let path = Some(flags.str("path")).filter(|path| !path.is_empty()).unwrap_or("-");
        let content = env
            .read(path)
            .map_err(|error| Failure(format!("unable to load bundle data: {error}")))?;
        let bundle = vec![bundle_text::parse(&content, format, id)?];
        let mut client = BundleClient::new(SOCKET.channel(flags, env)?);
        let request = BatchSetFederatedBundleRequest { bundle, output_mask: None };
        let response = client
            .batch_set_federated_bundle(request)
            .await
            .map_err(|status| Failure::from(status).context("failed to set federated bundle"))?
            .into_inner();
        if Output::of(flags).is_json() {
            let name = "spire.api.server.bundle.v1.BatchSetFederatedBundleResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        let status = response.results.first().and_then(|result| result.status.as_ref());
        if !entry_text::is_ok(status) {
            let message = entry_text::message(status);
            return Err(format!("failed to set federated bundle: {message}").into());
        }
        env.out("bundle set.\n");
        Ok(())
    }
}

#[async_trait]
impl Verb for Delete {
    fn path(&self) -> &'static str {
        "bundle delete"
    }

    fn synopsis(&self) -> &'static str {
        "Deletes federated bundle data"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
        flags.text("id", "", "SPIFFE ID of the trust domain");
        flags.text("mode", "restrict", "Deletion mode: one of restrict, delete, or dissociate");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        if flags.str("id").is_empty() {
            return Err("id is required".into());
        }
        let mode = match flags.str("mode") {
            "" | "restrict" => Mode::Restrict,
            "dissociate" => Mode::Dissociate,
            "delete" => Mode::Delete,
            other => return Err(format!("unsupported mode {other:?}").into()),
        };
        let mut client = BundleClient::new(SOCKET.channel(flags, env)?);
        let request = BatchDeleteFederatedBundleRequest {
            trust_domains: vec![flags.str("id").to_owned()],
            mode: mode.into(),
        };
        let response = client
            .batch_delete_federated_bundle(request)
            .await
            .map_err(|status| Failure::from(status).context("failed to delete federated bundle"))?
            .into_inner();
        if Output::of(flags).is_json() {
            let name = "spire.api.server.bundle.v1.BatchDeleteFederatedBundleResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        let result = response.results.first().cloned().unwrap_or_default();
        if !entry_text::is_ok(result.status.as_ref()) {
            return Err(format!(
                "failed to delete federated bundle {:?}: {}",
                result.trust_domain,
                entry_text::message(result.status.as_ref())
            )
            .into());
        }
        env.out("bundle deleted.\n");
        Ok(())
    }
}

#[async_trait]
impl Verb for Count {
    fn path(&self) -> &'static str {
        "bundle count"
    }

    fn synopsis(&self) -> &'static str {
        "Count bundles"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let mut client = BundleClient::new(SOCKET.channel(flags, env)?);
        let response = client.count_bundles(CountBundlesRequest {}).await?.into_inner();
        if Output::of(flags).is_json() {
            let name = "spire.api.server.bundle.v1.CountBundlesResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        let count = usize::try_from(response.count).unwrap_or(0);
        env.out(&format!("{}\n", plural(count, "bundle", "bundles")));
        Ok(())
    }
}
