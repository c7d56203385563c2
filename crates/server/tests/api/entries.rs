//! Entries: created, changed, listed, deleted, and synchronised to agents.

use futures_util::stream;
use steeple_proto::spire::api::server::entry::v1 as pb;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use steeple_proto::spire::api::types;
use tonic::Code;

use crate::support::{Running, directory, entry, id, start};

async fn list(server: &Running, request: pb::ListEntriesRequest) -> pb::ListEntriesResponse {
    server.entries().list_entries(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_created_once_changed_by_mask_and_deleted_once() {
    let directory = directory();
    let server = start(&directory, "").await;
    let parent = id("/node");
    let first = server.create(entry(&parent, "/web")).await;

    let again = pb::BatchCreateEntryRequest {
        entries: vec![entry(&parent, "/web"), entry(&parent, "/spire/server")],
        output_mask: Some(types::EntryMask::default()),
    };
    let results = server.entries().batch_create_entry(again).await.unwrap().into_inner().results;
    let similar = results[0].status.as_ref().unwrap();
    assert_eq!((similar.code, similar.message.as_str()), (6, "similar entry already exists"));
    assert_eq!(results[0].entry.as_ref().unwrap().id, first);
    assert_eq!(results[0].entry.as_ref().unwrap().spiffe_id, None, "was masked out");
    let reserved = results[1].status.as_ref().unwrap();
    assert_eq!(reserved.code, Code::InvalidArgument as i32);
    assert!(reserved.message.ends_with("path is in the reserved namespace"));

    let change = pb::BatchUpdateEntryRequest {
        entries: vec![
            types::Entry {
                id: first.clone(),
                hint: "h".to_owned(),
                admin: true,
                ..Default::default()
            },
            types::Entry { id: "nope".to_owned(), ..Default::default() },
        ],
        input_mask: Some(types::EntryMask { hint: true, ..Default::default() }),
        output_mask: None,
    };
    let results = server.entries().batch_update_entry(change).await.unwrap().into_inner().results;
    let changed = results[0].entry.as_ref().unwrap();
    assert_eq!((changed.hint.as_str(), changed.admin, changed.revision_number), ("h", false, 1));
    let missing = results[1].status.as_ref().unwrap();
    assert_eq!((missing.code, missing.message.as_str()), (5, "failed to update entry"));

    let ids = vec![first.clone(), first, String::new()];
    let delete = pb::BatchDeleteEntryRequest { ids };
    let results = server.entries().batch_delete_entry(delete).await.unwrap().into_inner().results;
    let told: Vec<_> =
        results.iter().map(|it| it.status.as_ref().unwrap().message.as_str()).collect();
    assert_eq!(told, ["OK", "entry not found", "missing entry ID"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_filtered_and_refuse_what_makes_no_sense() {
    let directory = directory();
    let server = start(&directory, "").await;
    for number in 0..5 {
        server.create(entry(&id("/node"), &format!("/w{number}"))).await;
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListEntriesRequest { page_size: 2, page_token, ..Default::default() };
        let page = list(&server, request).await;
        seen.extend(page.entries.into_iter().map(|entry| entry.spiffe_id.unwrap().path));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["/w0", "/w1", "/w2", "/w3", "/w4"]);

    let filter =
        pb::list_entries_request::Filter { by_spiffe_id: Some(id("/w3")), ..Default::default() };
    let request = pb::ListEntriesRequest { filter: Some(filter), ..Default::default() };
    assert_eq!(list(&server, request).await.entries.len(), 1);

    let bad_token =
        pb::ListEntriesRequest { page_size: 1, page_token: "x".to_owned(), ..Default::default() };
    let bad_match = pb::ListEntriesRequest {
        filter: Some(pb::list_entries_request::Filter {
            by_selectors: Some(types::SelectorMatch { selectors: Vec::new(), r#match: 77 }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let empty_set = pb::ListEntriesRequest {
        filter: Some(pb::list_entries_request::Filter {
            by_selectors: Some(types::SelectorMatch::default()),
            ..Default::default()
        }),
        ..Default::default()
    };
    for (request, text) in [
        (bad_token, "could not parse token 'x'"),
        (bad_match, "unknown match behavior 77"),
        (empty_set, "malformed selectors filter: empty selector set"),
    ] {
        let refused = server.entries().list_entries(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().ends_with(text), "{}", refused.message());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_created_or_deleted_shows_to_the_agent_at_its_next_call() {
    let directory = directory();
    let server = start(&directory, "").await;
    let agent = server.new_agent().await;
    let mut remote = EntryClient::new(server.remote(Some(&agent)).await);
    for number in 0..20 {
        let created = server.create(entry(&agent.id, &format!("/w{number}"))).await;
        let request = pb::GetAuthorizedEntriesRequest { output_mask: None };
        let seen = remote.get_authorized_entries(request).await.unwrap().into_inner().entries;
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].id, created);

        let delete = pb::BatchDeleteEntryRequest { ids: vec![created] };
        server.entries().batch_delete_entry(delete).await.unwrap();
        let seen = remote.get_authorized_entries(request).await.unwrap().into_inner().entries;
        assert!(seen.is_empty());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_of_a_join_token_brings_its_entries_to_the_agent() {
    let directory = directory();
    let server = start(&directory, "").await;
    server.create(entry(&id("/cluster"), "/web")).await;
    let token = steeple_proto::spire::api::server::agent::v1::CreateJoinTokenRequest {
        ttl: 60,
        token: "tok".to_owned(),
        agent_id: Some(id("/cluster")),
    };
    server.agents().create_join_token(token).await.unwrap();
    let agent = crate::support::attest(server.remote(None).await, "tok").await.unwrap();
    let mut remote = EntryClient::new(server.remote(Some(&agent)).await);
    let request = pb::GetAuthorizedEntriesRequest { output_mask: None };
    let seen = remote.get_authorized_entries(request).await.unwrap().into_inner().entries;
    let mut paths: Vec<_> = seen.into_iter().map(|it| it.spiffe_id.unwrap().path).collect();
    paths.sort();
    assert_eq!(paths, ["/cluster", "/web"]);
    server.stop().await;
}

async fn create_many(server: &Running, parent: &types::Spiffeid, count: usize) {
    let entries = (0..count).map(|number| entry(parent, &format!("/w{number}"))).collect();
    let request = pb::BatchCreateEntryRequest { entries, output_mask: None };
    let response = server.entries().batch_create_entry(request).await.unwrap().into_inner();
    assert!(response.results.iter().all(|it| it.status.as_ref().unwrap().code == 0));
}

fn mask_without_revision() -> pb::SyncAuthorizedEntriesRequest {
    pb::SyncAuthorizedEntriesRequest {
        output_mask: Some(types::EntryMask { spiffe_id: true, ..Default::default() }),
        ids: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn few_entries_are_synchronised_at_once_and_odd_first_requests_refused() {
    let directory = directory();
    let server = start(&directory, "").await;
    let agent = server.new_agent().await;
    create_many(&server, &agent.id, 3).await;
    let mut remote = EntryClient::new(server.remote(Some(&agent)).await);

    let first = pb::SyncAuthorizedEntriesRequest::default();
    let answers = remote.sync_authorized_entries(stream::iter([first])).await.unwrap();
    let mut answers = answers.into_inner();
    let whole = answers.message().await.unwrap().unwrap();
    assert_eq!((whole.entries.len(), whole.entry_revisions.len(), whole.more), (3, 0, false));
    assert!(answers.message().await.unwrap().is_none());

    let with_ids =
        pb::SyncAuthorizedEntriesRequest { output_mask: None, ids: vec!["x".to_owned()] };
    for (first, text) in [
        (with_ids, "specifying IDs on initial request is not supported"),
        (mask_without_revision(), "revision number cannot be masked"),
    ] {
        let answers = remote.sync_authorized_entries(stream::iter([first])).await.unwrap();
        let refused = answers.into_inner().message().await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, text));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_entries_are_synchronised_by_revisions_and_what_is_asked_for() {
    let directory = directory();
    let server = start(&directory, "").await;
    let agent = server.new_agent().await;
    create_many(&server, &agent.id, 1201).await;
    let mut remote = EntryClient::new(server.remote(Some(&agent)).await);
    let (requests, stream) = futures_util_channel();
    let mask = types::EntryMask { revision_number: true, spiffe_id: true, ..Default::default() };
    requests
        .send(pb::SyncAuthorizedEntriesRequest { output_mask: Some(mask), ids: Vec::new() })
        .await
        .unwrap();
    let mut answers = remote.sync_authorized_entries(stream).await.unwrap().into_inner();
    let mut ids = Vec::new();
    let mut pages = Vec::new();
    loop {
        let page = answers.message().await.unwrap().unwrap();
        assert!(page.entries.is_empty());
        pages.push(page.entry_revisions.len());
        ids.extend(page.entry_revisions.into_iter().map(|revision| revision.id));
        if !page.more {
            break;
        }
    }
    assert_eq!(pages, [500, 500, 201]);

    let mut asked: Vec<String> = ids.iter().take(700).cloned().collect();
    asked.push("nobody's".to_owned());
    let request = pb::SyncAuthorizedEntriesRequest { output_mask: None, ids: asked };
    requests.send(request).await.unwrap();
    let first = answers.message().await.unwrap().unwrap();
    let second = answers.message().await.unwrap().unwrap();
    assert_eq!((first.entries.len(), first.more), (500, true));
    assert_eq!((second.entries.len(), second.more), (200, false));
    assert!(second.entries.iter().all(|it| it.spiffe_id.is_some() && it.parent_id.is_none()));

    requests.send(pb::SyncAuthorizedEntriesRequest::default()).await.unwrap();
    let nothing = answers.message().await.unwrap().unwrap();
    assert_eq!((nothing.entries.len(), nothing.more), (0, false));
    drop(requests);
    assert!(answers.message().await.unwrap().is_none());
    server.stop().await;
}

/// A request stream that the test writes to.
fn futures_util_channel() -> (
    tokio::sync::mpsc::Sender<pb::SyncAuthorizedEntriesRequest>,
    impl futures_util::Stream<Item = pb::SyncAuthorizedEntriesRequest> + Send + 'static,
) {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let stream = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|message| (message, receiver))
    });
    (sender, stream)
}

/// SPIRE made room for as many as were asked for, whoever asked (1.9.3).
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_two_billion_costs_what_is_there() {
    let directory = directory();
    let server = start(&directory, "").await;
    let agent = server.new_agent().await;
    server.create(entry(&agent.id, "/w")).await;
    let request = pb::ListEntriesRequest { page_size: i32::MAX, ..Default::default() };
    let listed = server.entries().list_entries(request).await.unwrap().into_inner();
    assert_eq!(listed.entries.len(), 1);
    let request = steeple_proto::spire::api::server::agent::v1::ListAgentsRequest {
        page_size: i32::MAX,
        ..Default::default()
    };
    let listed = server.agents().list_agents(request).await.unwrap().into_inner();
    assert_eq!(listed.agents.len(), 1);
    server.stop().await;
}
