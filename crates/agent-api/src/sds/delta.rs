//! DeltaSecrets: every answer has what is new since the last one.
//!
//! SPIRE's agent has no such thing, so that the rules are xDS's: a name that is
//! subscribed to and not there is told to be removed, and comes when it is; a
//! resource's version is a hash of its content, so that what a caller brings
//! along from another stream, or another agent, is not sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use steeple_agent_core::cache::Update;
use steeple_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use tonic::Status;
use tracing::{debug, error, warn};

use super::message::Message;
use super::secrets::{NodeFacts, SECRET, SdsNames, unauthorized};
use super::session::Protocol;
use super::text::{Cut, Names};
use super::{API, MAX_NAME_BYTES, MAX_NAMES, Scribe, SdsApi, checked, too_many, type_url};
use crate::caller::SUBSYSTEM;

/// The books of one such stream.
pub(super) struct Delta {
    api: Arc<SdsApi>,
    scribe: Scribe,
    node: NodeFacts,
    opened: bool,
    /// Counts the answers.
    version: u64,
    nonce: Option<String>,
    /// Everything that the caller may have by a name of its own.
    wildcard: bool,
    /// What was asked for by name.
    named: BTreeSet<Box<str>>,
    /// What the caller has of each name.
    has: BTreeMap<Box<str>, Has>,
}

/// What the caller has under a name.
#[derive(PartialEq)]
enum Has {
    Version(Box<str>),
    /// It knows that there is nothing.
    Nothing,
}

impl Delta {
    pub(super) fn new(api: Arc<SdsApi>, scribe: Scribe) -> Self {
        Self {
            api,
            scribe,
            node: NodeFacts::default(),
            opened: false,
            version: 0,
            nonce: None,
            wildcard: false,
            named: BTreeSet::new(),
            has: BTreeMap::new(),
        }
    }

    fn subscribe(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        let subscribed = checked(request.resource_names_subscribe)?;
        let first = !std::mem::replace(&mut self.opened, true);
        let mut brought = if first { request.initial_resource_versions } else { BTreeMap::new() };
        // Before there was a name for it, everything was asked for by naming nothing.
        self.wildcard |= first && subscribed.is_empty();
        for name in subscribed {
            if &*name == WILDCARD {
                self.wildcard = true;
                continue;
            }
            self.has.remove(&name);
            self.named.insert(name);
        }
        for name in request.resource_names_unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
                self.has.retain(|name, _| self.named.contains(name));
                continue;
            }
            self.named.remove(name.as_str());
            self.has.remove(name.as_str());
        }
        if brought.len() > MAX_NAMES || brought.values().any(|it| it.len() > MAX_VERSION) {
            return Err(too_many());
        }
        brought.retain(|name, _| self.wildcard || self.named.contains(name.as_str()));
        for (name, version) in brought {
            self.has.insert(name.into(), Has::Version(version.into()));
        }
        let bytes: usize = self.named.iter().chain(self.has.keys()).map(|name| name.len()).sum();
        if self.named.len() > MAX_NAMES || bytes > 2 * MAX_NAME_BYTES {
            return Err(too_many());
        }
        Ok(())
    }

    fn answer(&mut self, update: &Update) -> Result<Option<Message>, Status> {
        let mut wanted: BTreeSet<Box<str>> = self.named.clone();
        if self.wildcard {
            wanted.extend(SdsNames::own_names(update).into_iter().map(String::into_boxed_str));
        }
        // What a wildcard gave and gives no more.
        wanted.extend(self.has.keys().cloned());
        let form = self.api.names.form(Some(self.node));
        let (mut resources, mut removed) = (Vec::new(), Vec::new());
        for name in wanted {
            let resource = self.api.names.resource(&name, form, update).inspect_err(|status| {
                self.scribe.error("Error building delta secrets response", status);
            })?;
            match resource {
                Some(resource) => {
                    let version = resource.fingerprint();
                    let now = Has::Version(version.as_str().into());
                    if self.has.get(&name) != Some(&now) {
                        let message = Message::default().text(1, &version);
                        resources.push(message.nested(2, resource).text(3, &name));
                        self.has.insert(name, now);
                    }
                }
                None if !self.named.contains(&name) => {
                    self.has.remove(&name);
                    removed.push(name);
                }
                None if self.has.get(&name) != Some(&Has::Nothing) => {
                    self.has.insert(name.clone(), Has::Nothing);
                    removed.push(name);
                }
                None => {}
            }
        }
        if resources.is_empty() && removed.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.write(resources, &removed)))
    }

    fn write(&mut self, resources: Vec<Message>, removed: &[Box<str>]) -> Message {
        let (method, pid, count) = (self.scribe.method, self.scribe.pid, resources.len());
        self.version += 1;
        let version_info = self.version.to_string();
        let nonce = format!("{:08x}", fastrand::u32(..));
        if !removed.is_empty() {
            let error = unauthorized(removed.iter().map(AsRef::as_ref));
            warn!(
                subsystem_name = SUBSYSTEM,
                service = API.logged,
                method,
                pid,
                error = error.message(),
                "Removing secrets"
            );
        }
        debug!(
            subsystem_name = SUBSYSTEM,
            service = API.logged,
            method,
            pid,
            version_info,
            nonce,
            count,
            "Sending DeltaSecrets response"
        );
        let message = resources
            .into_iter()
            .fold(Message::default().text(1, &version_info), |message, resource| {
                message.nested(2, resource)
            });
        let message = message.text(4, SECRET).text(5, &nonce);
        self.nonce = Some(nonce);
        removed.iter().fold(message, |message, name| message.text(6, name))
    }
}

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;

    fn request(
        &mut self,
        request: DeltaDiscoveryRequest,
        update: Option<&Update>,
    ) -> Result<Option<Message>, Status> {
        let (method, pid) = (self.scribe.method, self.scribe.pid);
        let nonce = &request.response_nonce;
        if let Some(detail) = &request.error_detail {
            let named: Vec<Box<str>> = self.named.iter().cloned().collect();
            error!(subsystem_name = SUBSYSTEM, service = API.logged, method, pid,
                resource_names = %Names(&named), nonce = %Cut(nonce),
                error = %Cut(&detail.message), "Envoy reported errors applying secrets");
        }
        // What a caller subscribes to counts, whichever answer it saw last.
        if !nonce.is_empty() && self.nonce.as_ref() != Some(nonce) {
            debug!(subsystem_name = SUBSYSTEM, service = API.logged, method, pid,
                nonce = %Cut(nonce), "Received an older nonce");
        }
        let asked = type_url(request.type_url.clone())?;
        if !matches!(&*asked, "" | SECRET) {
            return Err(Status::invalid_argument("only secrets can be asked for here"));
        }
        if let Some(node) = &request.node {
            self.node = NodeFacts::of(node);
        }
        let subscribed = request.resource_names_subscribe.len();
        let unsubscribed = request.resource_names_unsubscribe.len();
        debug!(subsystem_name = SUBSYSTEM, service = API.logged, method, pid, subscribed,
            unsubscribed, nonce = %Cut(nonce), "Received DeltaSecrets request");
        self.subscribe(request)?;
        update.map_or(Ok(None), |update| self.answer(update))
    }

    fn update(&mut self, update: &Update) -> Result<Option<Message>, Status> {
        if self.opened { self.answer(update) } else { Ok(None) }
    }
}

/// The name of everything.
const WILDCARD: &str = "*";
/// How long a version may be that a caller brings along; ours have 32 digits.
const MAX_VERSION: usize = 128;
