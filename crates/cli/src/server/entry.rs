//! `entry create` and `entry update`.

use async_trait::async_trait;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use steeple_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchUpdateEntryRequest, GetEntryRequest,
};
use steeple_proto::spire::api::types::entry::AdditionalAttributes;
use steeple_proto::spire::api::types::{Entry, Spiffeid, Status};

use super::entry_text::{self, wire_id};
use super::{SOCKET, entry_file};
use crate::dispatch::{Failure, Verb};
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) struct Create;
pub(super) struct Update;

fn declare(flags: &mut FlagSet) {
    SOCKET.declare(flags);
    Output::declare(flags);
    flags.text("parentID", "", "The SPIFFE ID of the parent of this entry");
    flags.text("spiffeID", "", "The SPIFFE ID that this entry stands for");
    flags.integer("x509SVIDTTL", 0, "The lifetime of X509-SVIDs of this entry, in seconds");
    flags.integer("jwtSVIDTTL", 0, "The lifetime of JWT-SVIDs of this entry, in seconds");
    flags.text("data", "", "Path of a JSON file with the entries ('-' reads standard input)");
    flags.repeated("selector", "A type:value selector. Can be used more than once");
    flags.repeated(
        "federatesWith",
        "SPIFFE ID of a trust domain to federate with. Can be used more than once",
    );
    flags.switch(
        "admin",
        "If set, the SPIFFE ID of this entry may use the server's management APIs",
    );
    flags.switch("storeSVID", "If set, SVIDs of this entry are stored through an SVIDStore plugin");
    flags.switch("downstream", "If set, this entry stands for a downstream SPIRE server");
    flags.integer(
        "entryExpiry",
        0,
        "When this entry expires and is pruned, in seconds since the epoch",
    );
    flags.repeated(
        "dns",
        "A DNS name that goes into X509-SVIDs of this entry. Can be used more than once",
    );
    flags.text("hint", "", "A hint that tells apart entries of one workload");
}

const PREFETCH_USAGE: &str = "If set, agents do not fetch X509-SVIDs of this entry ahead of use";
const JTI_USAGE: &str =
    "If set, JWT-SVIDs of this entry carry a unique 'jti' claim and are not cached by agents";

#[async_trait]
impl Verb for Create {
    fn path(&self) -> &'static str {
        "entry create"
    }

    fn synopsis(&self) -> &'static str {
        "Creates registration entries"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
        flags.text("entryID", "", "A custom ID of this entry; generated when not set");
        flags.switch("node", "If set, this entry is for matching nodes rather than workloads");
        flags.switch("disableX509SVIDPrefetch", PREFETCH_USAGE);
        flags.switch("jwtSVIDIncludeJTI", JTI_USAGE);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let entries = match flags.str("data") {
            "" => vec![described(flags, true)?],
            path => entry_file::entries(env, path)?,
        };
        let mut client = EntryClient::new(SOCKET.channel(flags, env)?);
        let request = BatchCreateEntryRequest { entries: entries.clone(), output_mask: None };
        let mut response = client.batch_create_entry(request).await?.into_inner();
        // The API leaves out the entries that it refused: show what was asked.
        for (result, asked) in response.results.iter_mut().zip(entries) {
            if !entry_text::is_ok(result.status.as_ref()) {
                result.entry = Some(asked);
            }
        }
        if Output::of(flags).is_json() {
            let name = "spire.api.server.entry.v1.BatchCreateEntryResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        let results = response.results.iter().map(|result| (&result.status, &result.entry));
        print(env, "create", results)
    }
}

#[async_trait]
impl Verb for Update {
    fn path(&self) -> &'static str {
        "entry update"
    }

    fn synopsis(&self) -> &'static str {
        "Updates registration entries"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
        flags.text("entryID", "", "The ID of the entry to update");
        flags.mention("disableX509SVIDPrefetch", PREFETCH_USAGE);
        flags.mention("jwtSVIDIncludeJTI", JTI_USAGE);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let mut entries = match flags.str("data") {
            "" => vec![described(flags, false)?],
            path => entry_file::entries(env, path)?,
        };
        let mut client = EntryClient::new(SOCKET.channel(flags, env)?);
        let prefetch = flags.is_set("disableX509SVIDPrefetch");
        let jti = flags.is_set("jwtSVIDIncludeJTI");
        if flags.str("data").is_empty() && (prefetch || jti) {
            // The attributes are one message without a mask of their own: keep
            // those that were not mentioned.
            let request =
                GetEntryRequest { id: flags.str("entryID").to_owned(), output_mask: None };
            let existing = client.get_entry(request).await.map_err(|status| {
                Failure::from(status)
                    .context("failed to fetch existing entry to merge additional attributes")
            })?;
            let kept = existing.into_inner().additional_attributes.unwrap_or_default();
            entries[0].additional_attributes = Some(AdditionalAttributes {
                disable_x509_svid_prefetch: prefetch || kept.disable_x509_svid_prefetch,
                jwt_svid_include_jti: jti || kept.jwt_svid_include_jti,
            });
        }
        let request = BatchUpdateEntryRequest {
            entries: entries.clone(),
            input_mask: None,
            output_mask: None,
        };
        let mut response = client.batch_update_entry(request).await?.into_inner();
        for (result, asked) in response.results.iter_mut().zip(entries) {
            if !entry_text::is_ok(result.status.as_ref()) {
                result.entry = Some(asked);
            }
        }
        if Output::of(flags).is_json() {
            let name = "spire.api.server.entry.v1.BatchUpdateEntryResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        let results = response.results.iter().map(|result| (&result.status, &result.entry));
        print(env, "update", results)
    }
}

/// The entry that the flags describe.
fn described(flags: &FlagSet, create: bool) -> Result<Entry, Failure> {
    let node = create && flags.is_set("node");
    check(flags, create, node)?;
    let spiffe_id = wire_id(flags.str("spiffeID"))?;
    let parent_id = if node {
        Spiffeid { trust_domain: spiffe_id.trust_domain.clone(), path: "/spire/server".into() }
    } else {
        wire_id(flags.str("parentID"))?
    };
    let seconds = |flag: &str, what: &str| {
        let ttl = flags.int(flag);
        i32::try_from(ttl).map_err(|_| {
            Failure(format!(
                "invalid value for {what} SVID TTL: overflow converting int({ttl}) to int32"
            ))
        })
    };
    let attributes = AdditionalAttributes {
        disable_x509_svid_prefetch: flags.is_set("disableX509SVIDPrefetch"),
        jwt_svid_include_jti: flags.is_set("jwtSVIDIncludeJTI"),
    };
    Ok(Entry {
        id: flags.str("entryID").to_owned(),
        x509_svid_ttl: seconds("x509SVIDTTL", "X509")?,
        jwt_svid_ttl: seconds("jwtSVIDTTL", "JWT")?,
        spiffe_id: Some(spiffe_id),
        parent_id: Some(parent_id),
        selectors: entry_text::selectors(&flags.list("selector"))?,
        federates_with: flags.list("federatesWith"),
        admin: flags.is_set("admin"),
        downstream: flags.is_set("downstream"),
        expires_at: flags.int("entryExpiry"),
        dns_names: flags.list("dns"),
        store_svid: flags.is_set("storeSVID"),
        hint: flags.str("hint").to_owned(),
        additional_attributes: (attributes != AdditionalAttributes::default())
            .then_some(attributes),
        ..Default::default()
    })
}

fn check(flags: &FlagSet, create: bool, node: bool) -> Result<(), Failure> {
    let problem = if !create && flags.str("entryID").is_empty() {
        "entry ID is required"
    } else if flags.list("selector").is_empty() {
        "at least one selector is required"
    } else if node && !flags.list("federatesWith").is_empty() {
        "node entries can not federate"
    } else if create && flags.str("parentID").is_empty() && !node {
        "a parent ID is required if the node flag is not set"
    } else if !create && flags.str("parentID").is_empty() {
        "a parent ID is required"
    } else if flags.str("spiffeID").is_empty() {
        "a SPIFFE ID is required"
    } else if flags.int("x509SVIDTTL") < 0 {
        "a positive x509-SVID TTL is required"
    } else if flags.int("jwtSVIDTTL") < 0 {
        "a positive JWT-SVID TTL is required"
    } else {
        return Ok(());
    };
    Err(problem.into())
}

/// First what worked, then what did not; a failure of one is a failure.
fn print<'a>(
    env: &mut Env,
    verb: &str,
    results: impl Iterator<Item = (&'a Option<Status>, &'a Option<Entry>)>,
) -> Result<(), Failure> {
    let (done, failed): (Vec<_>, Vec<_>) = results
        .map(|(status, entry)| (status.as_ref(), entry.clone().unwrap_or_default()))
        .partition(|(status, _)| entry_text::is_ok(*status));
    for (_, entry) in &done {
        env.out(&entry_text::entry(entry));
    }
    for (status, entry) in &failed {
        env.err(&format!(
            "Failed to {verb} the following entry (code: {}, msg: {:?}):\n{}",
            entry_text::code(*status),
            entry_text::message(*status),
            entry_text::entry(entry)
        ));
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("failed to {verb} one or more entries").into())
}
