//! `entry show` and `entry count`.

use async_trait::async_trait;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use steeple_proto::spire::api::server::entry::v1::{
    CountEntriesRequest, GetEntryRequest, ListEntriesRequest, ListEntriesResponse,
    count_entries_request, list_entries_request,
};
use steeple_proto::spire::api::types::federates_with_match;
use steeple_proto::spire::api::types::{
    Entry, FederatesWithMatch, Selector, SelectorMatch, Spiffeid, selector_match,
};
use tonic::transport::Channel;

use super::SOCKET;
use super::entry_text::{self, wire_id};
use crate::dispatch::{Failure, Verb};
use crate::gofmt::plural;
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) struct Show;
pub(super) struct Count;

const PAGE_SIZE: i32 = 500;

fn declare(flags: &mut FlagSet) {
    SOCKET.declare(flags);
    Output::declare(flags);
    flags.text("parentID", "", "Only entries with this Parent ID");
    flags.text("spiffeID", "", "Only entries with this SPIFFE ID");
    flags.switch("downstream", "Only entries of downstream SPIRE servers");
    flags.repeated("selector", "A type:value selector. Can be used more than once");
    flags.repeated(
        "federatesWith",
        "SPIFFE ID of a trust domain that entries federate with. Can be used more than once",
    );
    flags.text(
        "matchFederatesWithOn",
        "superset",
        "How -federatesWith matches. Options: exact, any, superset and subset",
    );
    flags.text(
        "matchSelectorsOn",
        "superset",
        "How -selector matches. Options: exact, any, superset and subset",
    );
    flags.text("hint", "", "Only entries with this hint (optional)");
}

#[async_trait]
impl Verb for Show {
    fn path(&self) -> &'static str {
        "entry show"
    }

    fn synopsis(&self) -> &'static str {
        "Displays configured registration entries"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
        flags.text("entryID", "", "Only the entry with this ID");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let id = flags.str("entryID");
        let filtered = !flags.str("parentID").is_empty()
            || !flags.str("spiffeID").is_empty()
            || !flags.list("selector").is_empty();
        if !id.is_empty() && filtered {
            return Err("the -entryID flag can't be combined with others".into());
        }
        let mut client = EntryClient::new(SOCKET.channel(flags, env)?);
        let mut entries = if id.is_empty() {
            list(&mut client, Filter::of(flags)?).await?
        } else {
            let request = GetEntryRequest { id: id.to_owned(), output_mask: None };
            let entry = client.get_entry(request).await.map_err(|status| {
                Failure::from(status).context(&format!("error fetching entry ID {id}"))
            })?;
            vec![entry.into_inner()]
        };
        sort(&mut entries);
        if Output::of(flags).is_json() {
            let response = ListEntriesResponse { entries, next_page_token: String::new() };
            let name = "spire.api.server.entry.v1.ListEntriesResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        env.out(&format!("Found {}\n", plural(entries.len(), "entry", "entries")));
        for entry in &entries {
            env.out(&entry_text::entry(entry));
        }
        Ok(())
    }
}

#[async_trait]
impl Verb for Count {
    fn path(&self) -> &'static str {
        "entry count"
    }

    fn synopsis(&self) -> &'static str {
        "Count registration entries"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let filter = Filter::of(flags)?;
        let filter = count_entries_request::Filter {
            by_spiffe_id: filter.spiffe_id,
            by_parent_id: filter.parent_id,
            by_selectors: filter.selectors,
            by_federates_with: filter.federates_with,
            by_hint: filter.hint,
            by_downstream: Some(filter.downstream),
        };
        let mut client = EntryClient::new(SOCKET.channel(flags, env)?);
        let response =
            client.count_entries(CountEntriesRequest { filter: Some(filter) }).await?.into_inner();
        if Output::of(flags).is_json() {
            let name = "spire.api.server.entry.v1.CountEntriesResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        let count = usize::try_from(response.count).unwrap_or(0);
        let word = if count == 1 { "entry" } else { "entries" };
        env.out(&format!("{count} registration {word}\n"));
        Ok(())
    }
}

struct Filter {
    spiffe_id: Option<Spiffeid>,
    parent_id: Option<Spiffeid>,
    selectors: Option<SelectorMatch>,
    federates_with: Option<FederatesWithMatch>,
    hint: Option<String>,
    downstream: bool,
}

impl Filter {
    fn of(flags: &FlagSet) -> Result<Self, Failure> {
        let id = |flag: &str, what: &str| match flags.str(flag) {
            "" => Ok(None),
            text => wire_id(text)
                .map(Some)
                .map_err(|error| error.context(&format!("error parsing {what} {text:?}"))),
        };
        let selectors = flags.list("selector");
        let trust_domains = flags.list("federatesWith");
        Ok(Self {
            parent_id: id("parentID", "parent ID")?,
            spiffe_id: id("spiffeID", "SPIFFE ID")?,
            selectors: if selectors.is_empty() {
                None
            } else {
                let r#match = selector_behavior(flags.str("matchSelectorsOn"))?.into();
                let selectors = entry_text::selectors(&selectors)
                    .map_err(|error| error.context("error parsing selectors"))?;
                Some(SelectorMatch { selectors, r#match })
            },
            federates_with: if trust_domains.is_empty() {
                None
            } else {
                let r#match = federation_behavior(flags.str("matchFederatesWithOn"))?.into();
                Some(FederatesWithMatch { trust_domains, r#match })
            },
            hint: Some(flags.str("hint").to_owned()).filter(|hint| !hint.is_empty()),
            downstream: flags.is_set("downstream"),
        })
    }
}

fn selector_behavior(word: &str) -> Result<selector_match::MatchBehavior, Failure> {
    use selector_match::MatchBehavior as Match;
    match word {
        "exact" => Ok(Match::MatchExact),
        "any" => Ok(Match::MatchAny),
        "superset" => Ok(Match::MatchSuperset),
        "subset" => Ok(Match::MatchSubset),
        _ => Err(format!("match behavior {word:?} unknown").into()),
    }
}

fn federation_behavior(word: &str) -> Result<federates_with_match::MatchBehavior, Failure> {
    use federates_with_match::MatchBehavior as Match;
    match word {
        "exact" => Ok(Match::MatchExact),
        "any" => Ok(Match::MatchAny),
        "superset" => Ok(Match::MatchSuperset),
        "subset" => Ok(Match::MatchSubset),
        _ => Err(format!("match behavior {word:?} unknown").into()),
    }
}

/// All pages.
async fn list(client: &mut EntryClient<Channel>, filter: Filter) -> Result<Vec<Entry>, Failure> {
    let filter = list_entries_request::Filter {
        by_spiffe_id: filter.spiffe_id,
        by_parent_id: filter.parent_id,
        by_selectors: filter.selectors,
        by_federates_with: filter.federates_with,
        by_hint: filter.hint,
        by_downstream: Some(filter.downstream),
    };
    let mut entries = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListEntriesRequest {
            filter: Some(filter.clone()),
            output_mask: None,
            page_size: PAGE_SIZE,
            page_token,
        };
        let page = client
            .list_entries(request)
            .await
            .map_err(|status| Failure::from(status).context("error fetching entries"))?
            .into_inner();
        entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(entries);
        }
    }
}

/// By SPIFFE ID, parent, TTLs, number of selectors, selectors.
fn sort(entries: &mut [Entry]) {
    fn id(id: Option<&Spiffeid>) -> (&str, &str) {
        id.map_or(("", ""), |id| (&id.trust_domain, &id.path))
    }
    fn pair(selector: &Selector) -> (&str, &str) {
        (&selector.r#type, &selector.value)
    }
    for entry in entries.iter_mut() {
        entry.selectors.sort_by(|a, b| pair(a).cmp(&pair(b)));
    }
    entries.sort_by(|a, b| {
        id(a.spiffe_id.as_ref())
            .cmp(&id(b.spiffe_id.as_ref()))
            .then_with(|| id(a.parent_id.as_ref()).cmp(&id(b.parent_id.as_ref())))
            .then_with(|| a.x509_svid_ttl.cmp(&b.x509_svid_ttl))
            .then_with(|| a.jwt_svid_ttl.cmp(&b.jwt_svid_ttl))
            .then_with(|| a.selectors.len().cmp(&b.selectors.len()))
            .then_with(|| a.selectors.iter().map(pair).cmp(b.selectors.iter().map(pair)))
    });
}
