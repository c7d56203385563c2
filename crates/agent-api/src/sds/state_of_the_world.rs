//! StreamSecrets: every answer has all that was asked for.

use std::collections::HashSet;
use std::sync::Arc;

use steeple_agent_core::cache::Update;
use steeple_proto::envoy::service::discovery::v3::DiscoveryRequest;
use tonic::Status;
use tracing::{debug, error, warn};

use super::message::Message;
use super::secrets::NodeFacts;
use super::session::Protocol;
use super::text::{Cut, Names};
use super::{API, Scribe, SdsApi, checked, type_url};
use crate::caller::SUBSYSTEM;

/// The books of one such stream.
pub(super) struct StateOfTheWorld {
    api: Arc<SdsApi>,
    scribe: Scribe,
    /// Counts the updates of the identities, sent or not.
    version: u64,
    /// Of the answer sent last.
    nonce: Option<String>,
    /// What the caller said of itself, which it need not repeat.
    node: Option<NodeFacts>,
    asked: Option<Asked>,
}

/// What was asked for last.
struct Asked {
    names: Vec<Box<str>>,
    type_url: Box<str>,
    node: Option<NodeFacts>,
}

impl StateOfTheWorld {
    pub(super) fn new(api: Arc<SdsApi>, scribe: Scribe) -> Self {
        Self { api, scribe, version: 0, nonce: None, node: None, asked: None }
    }

    fn answer(&mut self, update: &Update) -> Result<Option<Message>, Status> {
        let Some(asked) = &self.asked else { return Ok(None) };
        let form = self.api.names.form(asked.node);
        let resources = self.api.names.resources(&asked.names, form, update).inspect_err(|it| {
            self.scribe.error("Error building stream secrets response", it);
        })?;
        let nonce = format!("{:08x}", fastrand::u32(..));
        let version_info = self.version.to_string();
        let (method, pid, count) = (self.scribe.method, self.scribe.pid, resources.len());
        debug!(
            subsystem_name = SUBSYSTEM,
            service = API.logged,
            method,
            pid,
            version_info,
            nonce,
            count,
            "Sending StreamSecrets response"
        );
        let message = answer(&version_info, &asked.type_url, &nonce, resources);
        self.nonce = Some(nonce);
        self.node = asked.node.or(self.node);
        Ok(Some(message))
    }
}

impl Protocol for StateOfTheWorld {
    type Request = DiscoveryRequest;

    fn request(
        &mut self,
        request: DiscoveryRequest,
        update: Option<&Update>,
    ) -> Result<Option<Message>, Status> {
        let (method, pid) = (self.scribe.method, self.scribe.pid);
        let names = checked(request.resource_names)?;
        let (nonce, version_info) = (&request.response_nonce, &request.version_info);
        debug!(subsystem_name = SUBSYSTEM, service = API.logged, method, pid,
            resource_names = %Names(&names), version_info = %Cut(version_info),
            nonce = %Cut(nonce), "Received StreamSecrets request");
        if let Some(detail) = &request.error_detail {
            error!(subsystem_name = SUBSYSTEM, service = API.logged, method, pid,
                resource_names = %Names(&names), error = %Cut(&detail.message),
                "Envoy reported errors applying secrets");
        }
        let mut node = request.node.as_ref().map(NodeFacts::of);
        if let Some(expect) = &self.nonce {
            if nonce != expect {
                warn!(subsystem_name = SUBSYSTEM, service = API.logged, method, pid,
                    nonce = %Cut(nonce), expect, "Received unexpected nonce; ignoring request");
                return Ok(None);
            }
            let expect = self.version.to_string();
            if *version_info != expect {
                error!(subsystem_name = SUBSYSTEM, service = API.logged, method, pid,
                    version_info = %Cut(version_info), expect,
                    "Client rejected expected version and rolled back");
            }
            node = node.or(self.node);
        }
        let changed = self.asked.as_ref().is_none_or(|it| differ(&it.names, &names));
        self.asked = Some(Asked { names, type_url: type_url(request.type_url)?, node });
        match update {
            Some(update) if changed => self.answer(update),
            _ => Ok(None),
        }
    }

    fn update(&mut self, update: &Update) -> Result<Option<Message>, Status> {
        self.version += 1;
        self.answer(update)
    }
}

fn differ(before: &[Box<str>], now: &[Box<str>]) -> bool {
    let known: HashSet<&str> = before.iter().map(AsRef::as_ref).collect();
    before.len() != now.len() || !now.iter().all(|name| known.contains(name.as_ref()))
}

/// A `DiscoveryResponse`.
pub(super) fn answer(
    version: &str,
    type_url: &str,
    nonce: &str,
    resources: Vec<Message>,
) -> Message {
    resources
        .into_iter()
        .fold(Message::default().text(1, version), |message, resource| message.nested(2, resource))
        .text(4, type_url)
        .text(5, nonce)
}
