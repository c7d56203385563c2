//! What a name stands for, and how it is written.

use std::collections::BTreeSet;

use steeple_agent_core::bundle::CachedBundle;
use steeple_agent_core::cache::{Identity, Update};
use steeple_proto::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use tonic::Status;

use super::message::{Message, any, inline};
use super::text::list;

/// The names for what has none of its own, and the form of bundles.
pub struct SdsNames {
    /// The first identity.
    pub svid: String,
    /// The own trust domain's bundle.
    pub bundle: String,
    /// The own trust domain's bundle and the federated ones.
    pub all_bundles: String,
    /// Plain roots instead of a configuration of Envoy's SPIFFE validator,
    /// unless the Envoy that asks says otherwise.
    pub disable_spiffe_cert_validation: bool,
}

/// How a bundle is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// For Envoy's SPIFFE validator.
    Spiffe,
    /// A list of roots.
    Roots,
}

/// What a node said about itself, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct NodeFacts {
    disable_spiffe_cert_validation: Option<bool>,
    is_old: bool,
}

impl NodeFacts {
    pub(super) fn of(node: &Node) -> Self {
        use prost_types::value::Kind;
        let said = node.metadata.as_ref().and_then(|it| it.fields.get(DISABLE_KEY));
        let disable = match said.and_then(|value| value.kind.as_ref()) {
            Some(Kind::BoolValue(disable)) => Some(*disable),
            Some(Kind::StringValue(text)) => parse_bool(text),
            _ => None,
        };
        let version = match &node.user_agent_version_type {
            Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build.version.as_ref(),
            _ => None,
        };
        let is_old =
            version.is_some_and(|it| (it.major_number, it.minor_number) <= LAST_WITHOUT_VALIDATOR);
        Self { disable_spiffe_cert_validation: disable, is_old }
    }
}

/// What Go's `strconv.ParseBool` takes.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl SdsNames {
    pub(super) fn form(&self, node: Option<NodeFacts>) -> Form {
        let node = node.unwrap_or_default();
        let disabled =
            node.disable_spiffe_cert_validation.unwrap_or(self.disable_spiffe_cert_validation);
        if disabled || node.is_old { Form::Roots } else { Form::Spiffe }
    }

    /// The resources for a list of names, each an `Any`, with SPIRE's rules: of
    /// the names for bundles that include the own trust domain's only one is
    /// answered, the first identity has the default name only if its own is not
    /// asked for, and any name that is left is an error.
    pub(super) fn resources(
        &self,
        asked: &[Box<str>],
        form: Form,
        update: &Update,
    ) -> Result<Vec<Message>, Status> {
        let mut names: BTreeSet<&str> =
            asked.iter().map(AsRef::as_ref).filter(|name| !name.is_empty()).collect();
        let everything = names.is_empty();
        let mut resources = Vec::new();

        let own = update.bundle().trust_domain().id_string();
        if names.remove(own.as_str()) || everything {
            resources.push(bundle(&own, form, update.bundle()));
        } else if names.remove(self.bundle.as_str()) {
            resources.push(bundle(&self.bundle, form, update.bundle()));
        } else if names.contains(self.all_bundles.as_str()) {
            resources.push(all_bundles(&self.all_bundles, form, update)?);
            names.remove(self.all_bundles.as_str());
        }
        for federated in update.federated() {
            let name = federated.trust_domain().id_string();
            if names.remove(name.as_str()) || everything {
                resources.push(bundle(&name, form, federated));
            }
        }
        for (position, identity) in update.all_identities().enumerate() {
            let name = identity.entry().spiffe_id.as_str();
            if names.remove(name) || everything {
                resources.push(certificate(name, identity));
            } else if position == 0 && names.remove(self.svid.as_str()) {
                resources.push(certificate(&self.svid, identity));
            }
        }
        if names.is_empty() { Ok(resources) } else { Err(unauthorized(names.into_iter())) }
    }

    /// The resource of one name, an `Any`, if the caller may have it.
    pub(super) fn resource(
        &self,
        name: &str,
        form: Form,
        update: &Update,
    ) -> Result<Option<Message>, Status> {
        let identity = || update.all_identities().find(|it| it.entry().spiffe_id.as_str() == name);
        let named = || update.visible_bundles().find(|it| it.trust_domain().id_string() == name);
        if name.is_empty() {
            return Ok(None);
        }
        if let Some(found) = named() {
            return Ok(Some(bundle(name, form, found)));
        }
        if let Some(found) = identity() {
            return Ok(Some(certificate(name, found)));
        }
        if name == self.bundle {
            return Ok(Some(bundle(name, form, update.bundle())));
        }
        if name == self.all_bundles {
            return all_bundles(name, form, update).map(Some);
        }
        let first = update.all_identities().next().filter(|_| name == self.svid);
        Ok(first.map(|identity| certificate(name, identity)))
    }

    /// The names of all that a caller may have by a name of its own.
    pub(super) fn own_names(update: &Update) -> BTreeSet<String> {
        let bundles = update.visible_bundles().map(|it| it.trust_domain().id_string());
        let identities = update.all_identities().map(|it| it.entry().spiffe_id.to_string());
        bundles.chain(identities).collect()
    }
}

/// The error for names that a caller may not have.
pub(super) fn unauthorized<'n>(names: impl Iterator<Item = &'n str>) -> Status {
    let names = list(names);
    Status::invalid_argument(format!(
        "workload is not authorized for the requested identities {names}"
    ))
}

/// A `Secret` with a certificate and its key.
fn certificate(name: &str, identity: &Identity) -> Message {
    let pem = identity.pem();
    let pair = Message::default().nested(1, inline(&pem.chain)).nested(2, inline(&pem.key));
    any(SECRET, Message::default().text(1, name).nested(2, pair))
}

/// A `Secret` to validate the members of one trust domain by.
fn bundle(name: &str, form: Form, bundle: &CachedBundle) -> Message {
    match form {
        Form::Spiffe => validator(name, std::iter::once(bundle)),
        Form::Roots => {
            let roots = Message::default().nested(1, inline(bundle.x509_pem()));
            any(SECRET, Message::default().text(1, name).nested(4, roots))
        }
    }
}

/// A `Secret` to validate the members of every trust domain by that is known.
fn all_bundles(name: &str, form: Form, update: &Update) -> Result<Message, Status> {
    if form == Form::Roots {
        return Err(Status::internal("unable to use \"SPIFFE validator\" on Envoy below 1.17"));
    }
    let mut bundles: Vec<&CachedBundle> = update.visible_bundles().collect();
    bundles.sort_by(|a, b| a.trust_domain().as_str().cmp(b.trust_domain().as_str()));
    Ok(validator(name, bundles.into_iter()))
}

/// A `Secret` with a configuration of the SPIFFE validator.
fn validator<'b>(name: &str, bundles: impl Iterator<Item = &'b CachedBundle>) -> Message {
    let config = bundles.fold(Message::default(), |config, bundle| {
        let domain = Message::default()
            .text(1, bundle.trust_domain().as_str())
            .nested(2, inline(bundle.x509_pem()));
        config.nested(1, domain)
    });
    let extension = Message::default().text(1, VALIDATOR).nested(2, any(VALIDATOR_CONFIG, config));
    let context = Message::default().nested(12, extension);
    any(SECRET, Message::default().text(1, name).nested(4, context))
}

/// The type of everything that SDS hands out.
pub(super) const SECRET: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const VALIDATOR_CONFIG: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
const DISABLE_KEY: &str = "disable_spiffe_cert_validation";
/// Envoy learnt to validate SPIFFE IDs in 1.18.
const LAST_WITHOUT_VALIDATOR: (u32, u32) = (1, 17);
