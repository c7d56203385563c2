//! `federation create|delete|list|refresh|show|update`.

use async_trait::async_trait;
use steeple_proto::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use steeple_proto::spire::api::server::trustdomain::v1::{
    BatchCreateFederationRelationshipRequest, BatchDeleteFederationRelationshipRequest,
    BatchUpdateFederationRelationshipRequest, GetFederationRelationshipRequest,
    ListFederationRelationshipsRequest, RefreshBundleRequest,
};
use steeple_proto::spire::api::types::{FederationRelationship, Status};

use super::federation_file::{self, text};
use super::{SOCKET, entry_text};
use crate::dispatch::{Failure, Verb};
use crate::gofmt::plural;
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) fn verbs() -> Vec<Box<dyn Verb>> {
    vec![
        Box::new(Create),
        Box::new(Delete),
        Box::new(List),
        Box::new(Refresh),
        Box::new(Show),
        Box::new(Update),
    ]
}

struct Create;
struct Delete;
struct List;
struct Refresh;
struct Show;
struct Update;

const ID_USAGE: &str = "SPIFFE ID of the trust domain";

fn declare(flags: &mut FlagSet) {
    SOCKET.declare(flags);
    Output::declare(flags);
}

#[async_trait]
impl Verb for Create {
    fn path(&self) -> &'static str {
        "federation create"
    }

    fn synopsis(&self) -> &'static str {
        "Creates a dynamic federation relationship with a foreign trust domain"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
        federation_file::declare(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let asked = federation_file::relationships(flags, env)?;
        let request = BatchCreateFederationRelationshipRequest {
            federation_relationships: asked.clone(),
            output_mask: None,
        };
        let mut client = TrustDomainClient::new(SOCKET.channel(flags, env)?);
        let response = client
            .batch_create_federation_relationship(request)
            .await
            .map_err(|status| Failure::from(status).context("request failed"))?
            .into_inner();
        if Output::of(flags).is_json() {
            let name = "spire.api.server.trustdomain.v1.BatchCreateFederationRelationshipResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        let results =
            response.results.into_iter().map(|it| (it.status, it.federation_relationship));
        print(env, "create", results.collect(), &asked)
    }
}

#[async_trait]
impl Verb for Update {
    fn path(&self) -> &'static str {
        "federation update"
    }

    fn synopsis(&self) -> &'static str {
        "Updates a dynamic federation relationship with a foreign trust domain"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
        federation_file::declare(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let asked = federation_file::relationships(flags, env)?;
        let request = BatchUpdateFederationRelationshipRequest {
            federation_relationships: asked.clone(),
            input_mask: None,
            output_mask: None,
        };
        let mut client = TrustDomainClient::new(SOCKET.channel(flags, env)?);
        let response = client
            .batch_update_federation_relationship(request)
            .await
            .map_err(|status| Failure::from(status).context("request failed"))?
            .into_inner();
        if Output::of(flags).is_json() {
            let name = "spire.api.server.trustdomain.v1.BatchUpdateFederationRelationshipResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        let results =
            response.results.into_iter().map(|it| (it.status, it.federation_relationship));
        print(env, "update", results.collect(), &asked)
    }
}

/// The relationships that were kept, then, on standard error, those that were not.
fn print(
    env: &mut Env,
    verb: &str,
    results: Vec<(Option<Status>, Option<FederationRelationship>)>,
    asked: &[FederationRelationship],
) -> Result<(), Failure> {
    let mut failed = Vec::new();
    for ((status, relationship), asked) in results.into_iter().zip(asked) {
        if entry_text::is_ok(status.as_ref()) {
            env.out(&format!("\n{}", text(&relationship.unwrap_or_default())));
        } else {
            failed.push((status, asked));
        }
    }
    for (status, asked) in &failed {
        env.out("\n");
        env.err(&format!(
            "Failed to {verb} the following federation relationship (code: {}, msg: {:?}):\n{}",
            entry_text::code(status.as_ref()),
            entry_text::message(status.as_ref()),
            text(asked)
        ));
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("failed to {verb} one or more federation relationships").into()),
    }
}

#[async_trait]
impl Verb for Show {
    fn path(&self) -> &'static str {
        "federation show"
    }

    fn synopsis(&self) -> &'static str {
        "Shows a dynamic federation relationship"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
        let usage = "The trust domain name of the federation relationship to show";
        flags.text("trustDomain", "", usage);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let trust_domain = flags.str("trustDomain").to_owned();
        if trust_domain.is_empty() {
            return Err("a trust domain name is required".into());
        }
        let mut client = TrustDomainClient::new(SOCKET.channel(flags, env)?);
        let request = GetFederationRelationshipRequest {
            trust_domain: trust_domain.clone(),
            output_mask: None,
        };
        let found = client.get_federation_relationship(request).await;
        let found = found.map_err(|status| {
            Failure::from(status).context("error showing federation relationship")
        })?;
        let found = found.into_inner();
        if Output::of(flags).is_json() {
            env.out(&proto_line(&Named("spire.api.types.FederationRelationship", &found))?);
            return Ok(());
        }
        env.out(&format!(
            "Found a federation relationship with trust domain {trust_domain}:\n\n{}",
            text(&found)
        ));
        Ok(())
    }
}

#[async_trait]
impl Verb for List {
    fn path(&self) -> &'static str {
        "federation list"
    }

    fn synopsis(&self) -> &'static str {
        "Lists all dynamic federation relationships"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let mut client = TrustDomainClient::new(SOCKET.channel(flags, env)?);
        let listed = client
            .list_federation_relationships(ListFederationRelationshipsRequest::default())
            .await
            .map_err(|status| {
                Failure::from(status).context("error listing federation relationship")
            })?
            .into_inner();
        if Output::of(flags).is_json() {
            let name = "spire.api.server.trustdomain.v1.ListFederationRelationshipsResponse";
            env.out(&proto_line(&Named(name, &listed))?);
            return Ok(());
        }
        let listed = listed.federation_relationships;
        let count = plural(listed.len(), "federation relationship", "federation relationships");
        env.out(&format!("Found {count}\n"));
        for relationship in &listed {
            env.out(&format!("\n{}", text(relationship)));
        }
        Ok(())
    }
}

#[async_trait]
impl Verb for Delete {
    fn path(&self) -> &'static str {
        "federation delete"
    }

    fn synopsis(&self) -> &'static str {
        "Deletes a dynamic federation relationship"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
        flags.text("id", "", ID_USAGE);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        if flags.str("id").is_empty() {
            return Err("id is required".into());
        }
        let mut client = TrustDomainClient::new(SOCKET.channel(flags, env)?);
        let trust_domains = vec![flags.str("id").to_owned()];
        let response = client
            .batch_delete_federation_relationship(BatchDeleteFederationRelationshipRequest {
                trust_domains,
            })
            .await
            .map_err(|status| {
                Failure::from(status).context("failed to delete federation relationship")
            })?
            .into_inner();
        if Output::of(flags).is_json() {
            let name = "spire.api.server.trustdomain.v1.BatchDeleteFederationRelationshipResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        let result = response.results.first().cloned().unwrap_or_default();
        if !entry_text::is_ok(result.status.as_ref()) {
            let message = entry_text::message(result.status.as_ref());
            return Err(format!(
                "failed to delete federation relationship {:?}: {message}",
                result.trust_domain
            )
            .into());
        }
        env.out("federation relationship deleted.\n");
        Ok(())
    }
}

#[async_trait]
impl Verb for Refresh {
    fn path(&self) -> &'static str {
        "federation refresh"
    }

    fn synopsis(&self) -> &'static str {
        "Refreshes the bundle from the specified federated trust domain"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
        flags.text("id", "", ID_USAGE);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let id = flags.str("id");
        if id.is_empty() {
            return Err("id is required".into());
        }
        let mut client = TrustDomainClient::new(SOCKET.channel(flags, env)?);
        let request = RefreshBundleRequest { trust_domain: id.to_owned() };
        match client.refresh_bundle(request).await {
            Ok(_) => {}
            Err(status) if status.code() == tonic::Code::NotFound => {
                return Err(format!(
                    "there is no federation relationship with trust domain {id:?}"
                )
                .into());
            }
            Err(status) => {
                return Err(Failure::from(status).context("failed to refresh bundle"));
            }
        }
        if Output::of(flags).is_json() {
            let status = Status { code: 0, message: "OK".to_owned() };
            env.out(&proto_line(&Named("spire.api.types.Status", &status))?);
            return Ok(());
        }
        env.out("Bundle refreshed\n");
        Ok(())
    }
}
