//! `entry delete`.

use async_trait::async_trait;
use steeple_proto::spire::api::server::entry::v1::BatchDeleteEntryRequest;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;

use super::{SOCKET, entry_file, entry_text};
use crate::dispatch::{Failure, Verb};
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) struct Delete;

#[async_trait]
impl Verb for Delete {
    fn path(&self) -> &'static str {
        "entry delete"
    }

    fn synopsis(&self) -> &'static str {
        "Deletes registration entries"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        flags.text("entryID", "", "The ID of the entry to delete");
        flags.text("file", "", "Path of a JSON file with the IDs ('-' reads standard input)");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let ids = match (flags.str("file"), flags.str("entryID")) {
            ("", "") => return Err("an entry ID is required".into()),
            ("", id) => vec![id.to_owned()],
            (path, _) => entry_file::ids(env, path)?,
        };
        let mut client = EntryClient::new(SOCKET.channel(flags, env)?);
        let response =
            client.batch_delete_entry(BatchDeleteEntryRequest { ids }).await?.into_inner();
        if Output::of(flags).is_json() {
            let name = "spire.api.server.entry.v1.BatchDeleteEntryResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        let (done, failed): (Vec<_>, Vec<_>) =
            response.results.iter().partition(|result| entry_text::is_ok(result.status.as_ref()));
        for result in &done {
            env.out(&format!("Deleted entry with ID: {}\n", result.id));
        }
        if !done.is_empty() {
            env.out("\n\n");
        }
        for result in &failed {
            env.err(&format!(
                "Failed to delete entry with ID {} (code: {}, msg: {:?})\n",
                result.id,
                entry_text::code(result.status.as_ref()),
                entry_text::message(result.status.as_ref())
            ));
        }
        let (done, failed) = (done.len(), failed.len());
        if failed == 0 {
            env.out(&format!("Deleted {done} entries successfully"));
            return Ok(());
        }
        env.out("\n\n");
        env.out(&match done {
            0 => format!("Failed to delete {failed} entries"),
            _ => format!(
                "Deleted {done} entries successfully, but failed to delete {failed} entries"
            ),
        });
        Err("failed to delete one or more entries".into())
    }
}
