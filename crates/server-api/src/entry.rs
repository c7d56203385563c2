//! `spire.api.server.entry.v1.Entry`.

mod prepared;
mod sync;

use std::sync::Arc;

use futures_util::stream::Empty;
use steeple_proto::spire::api::server::entry::v1 as pb;
use steeple_proto::spire::api::types;
use steeple_server_core::entries::{Entries, EntryError, RawEntryFilter};
use tonic::{Request, Response, Status, Streaming};

use crate::call::{About, Call, misconfigured};
use crate::convert::{
    self, UnknownMatch, count, entry_draft, entry_fields, entry_message, id_text, match_behavior,
    raw_id, selector_match,
};
use crate::status::ok;

pub(crate) use prepared::PreparedService;

/// The Entry service.
pub(crate) struct EntryService {
    pub(crate) entries: Arc<Entries>,
}

/// A filter of either method that has one.
struct Filter {
    spiffe_id: Option<types::Spiffeid>,
    parent_id: Option<types::Spiffeid>,
    selectors: Option<types::SelectorMatch>,
    federates_with: Option<types::FederatesWithMatch>,
    hint: Option<String>,
    downstream: Option<bool>,
}

#[tonic::async_trait]
impl pb::entry_server::Entry for EntryService {
    async fn count_entries(
        &self,
        request: Request<pb::CountEntriesRequest>,
    ) -> Result<Response<pb::CountEntriesResponse>, Status> {
        let call = Call::of(&request)?;
        let filter = request.into_inner().filter.map(Filter::from);
        let filter = raw_filter(filter).map_err(|error| call.fail(&error))?;
        let counted = self.entries.count(call.operator()?, &filter).await;
        let counted = counted.map_err(|error| call.fail(&error))?;
        Ok(Response::new(pb::CountEntriesResponse { count: count(counted) }))
    }

    async fn list_entries(
        &self,
        request: Request<pb::ListEntriesRequest>,
    ) -> Result<Response<pb::ListEntriesResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let filter = raw_filter(request.filter.map(Filter::from));
        let filter = filter.map_err(|error| call.fail(&error))?;
        let page = convert::page(request.page_size, request.page_token);
        let listed = self.entries.list(call.operator()?, &filter, page).await;
        let (entries, next) = listed.map_err(|error| call.fail(&error))?;
        let mask = request.output_mask.as_ref();
        Ok(Response::new(pb::ListEntriesResponse {
            entries: entries.iter().map(|entry| entry_message(entry, mask)).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn get_entry(
        &self,
        request: Request<pb::GetEntryRequest>,
    ) -> Result<Response<types::Entry>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let entry = self.entries.get(call.operator()?, &request.id).await;
        let entry = entry.map_err(|error| call.fail_about(&error, about_entry(&request.id)))?;
        Ok(Response::new(entry_message(&entry, request.output_mask.as_ref())))
    }

    async fn batch_create_entry(
        &self,
        request: Request<pb::BatchCreateEntryRequest>,
    ) -> Result<Response<pb::BatchCreateEntryResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let mask = request.output_mask.as_ref();
        let ids: Vec<_> = request.entries.iter().map(|entry| id_text(&entry.spiffe_id)).collect();
        let drafts = request.entries.into_iter().map(entry_draft).collect();
        let results = self.entries.create(call.operator()?, drafts).await;
        let results = results
            .into_iter()
            .zip(&ids)
            .map(|(result, spiffe_id)| match result {
                Ok(created) => pb::batch_create_entry_response::Result {
                    status: Some(if created.existed { similar_exists() } else { ok() }),
                    entry: Some(entry_message(&created.entry, mask)),
                },
                Err(error) => {
                    // An ID that was not understood is in the error's own words.
                    let known = matches!(error, EntryError::Create(_)).then_some(spiffe_id);
                    let about = About { spiffe_id: known.map(String::as_str), ..About::default() };
                    let status = Some(call.fail_item(&error, about));
                    pb::batch_create_entry_response::Result { status, entry: None }
                }
            })
            .collect();
        Ok(Response::new(pb::BatchCreateEntryResponse { results }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<pb::BatchUpdateEntryRequest>,
    ) -> Result<Response<pb::BatchUpdateEntryResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let mask = request.output_mask.as_ref();
        let fields = entry_fields(request.input_mask.as_ref());
        let ids: Vec<_> = request.entries.iter().map(|entry| entry.id.clone()).collect();
        let drafts = request.entries.into_iter().map(entry_draft).collect();
        let results = self.entries.update(call.operator()?, drafts, &fields).await;
        let results = results
            .into_iter()
            .zip(&ids)
            .map(|(result, id)| match result {
                Ok(entry) => pb::batch_update_entry_response::Result {
                    status: Some(ok()),
                    entry: Some(entry_message(&entry, mask)),
                },
                Err(error) => pb::batch_update_entry_response::Result {
                    status: Some(call.fail_item(&error, about_entry(id))),
                    entry: None,
                },
            })
            .collect();
        Ok(Response::new(pb::BatchUpdateEntryResponse { results }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<pb::BatchDeleteEntryRequest>,
    ) -> Result<Response<pb::BatchDeleteEntryResponse>, Status> {
        let call = Call::of(&request)?;
        let ids = request.into_inner().ids;
        let results = self.entries.delete(call.operator()?, &ids).await;
        let results = ids
            .into_iter()
            .zip(results)
            .map(|(id, result)| pb::batch_delete_entry_response::Result {
                status: Some(
                    result.map_or_else(|error| call.fail_item(&error, about_entry(&id)), |()| ok()),
                ),
                id,
            })
            .collect();
        Ok(Response::new(pb::BatchDeleteEntryResponse { results }))
    }

    // Agents' calls never get here: see `prepared.rs`.
    async fn get_authorized_entries(
        &self,
        _: Request<pb::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<pb::GetAuthorizedEntriesResponse>, Status> {
        Err(misconfigured())
    }

    type SyncAuthorizedEntriesStream = Empty<Result<pb::SyncAuthorizedEntriesResponse, Status>>;

    async fn sync_authorized_entries(
        &self,
        _: Request<Streaming<pb::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        Err(misconfigured())
    }
}

fn about_entry(id: &str) -> About<'_> {
    About { entry_id: Some(id), ..About::default() }
}

fn similar_exists() -> types::Status {
    types::Status {
        code: tonic::Code::AlreadyExists as i32,
        message: "similar entry already exists".to_owned(),
    }
}

fn raw_filter(filter: Option<Filter>) -> Result<RawEntryFilter, UnknownMatch> {
    let Some(filter) = filter else { return Ok(RawEntryFilter::default()) };
    let federates_with = match filter.federates_with {
        Some(message) => Some((message.trust_domains, match_behavior(message.r#match)?)),
        None => None,
    };
    Ok(RawEntryFilter {
        parent_id: filter.parent_id.map(raw_id),
        spiffe_id: filter.spiffe_id.map(raw_id),
        selectors: filter.selectors.map(selector_match).transpose()?,
        federates_with,
        hint: filter.hint,
        downstream: filter.downstream,
    })
}

impl From<pb::list_entries_request::Filter> for Filter {
    fn from(filter: pb::list_entries_request::Filter) -> Self {
        Self {
            spiffe_id: filter.by_spiffe_id,
            parent_id: filter.by_parent_id,
            selectors: filter.by_selectors,
            federates_with: filter.by_federates_with,
            hint: filter.by_hint,
            downstream: filter.by_downstream,
        }
    }
}

impl From<pb::count_entries_request::Filter> for Filter {
    fn from(filter: pb::count_entries_request::Filter) -> Self {
        Self {
            spiffe_id: filter.by_spiffe_id,
            parent_id: filter.by_parent_id,
            selectors: filter.by_selectors,
            federates_with: filter.by_federates_with,
            hint: filter.by_hint,
            downstream: filter.by_downstream,
        }
    }
}
