//! The settings of both halves.

use serde::Deserialize;
use steeple_hcl::Block;
use steeple_plugin::settings::decode_strictly;
use steeple_plugin::{Code, Kind, PluginError};

use super::{NAME, error};
use crate::node_attestor::join_token;

/// The most parts.
pub(super) const MAX_PARTS: usize = 4;

/// What a composite consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The parts, in the order in which they are asked; the agent's ID is the first one's.
    pub attestors: Vec<String>,
    /// Those of them that agents may also use by themselves.
    pub allow_alone: Vec<String>,
}

impl Settings {
    /// The parts that agents may not use by themselves.
    pub fn only_as_part(&self) -> impl Iterator<Item = &String> {
        self.attestors.iter().filter(|name| !self.allow_alone.contains(name))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Agent {
    attestors: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Server {
    attestors: Vec<String>,
    allow_alone: Vec<String>,
}

pub(super) fn agent(data: Option<&Block>) -> Result<Settings, PluginError> {
    let raw: Agent = decode_strictly(Kind::NodeAttestor, NAME, data)?;
    checked(Settings { attestors: raw.attestors, allow_alone: Vec::new() })
}

pub(super) fn server(data: Option<&Block>) -> Result<Settings, PluginError> {
    let raw: Server = decode_strictly(Kind::NodeAttestor, NAME, data)?;
    checked(Settings { attestors: raw.attestors, allow_alone: raw.allow_alone })
}

fn checked(settings: Settings) -> Result<Settings, PluginError> {
    let refused = |text: &str| Err(error(Code::InvalidArgument, text));
    let names = &settings.attestors;
    if !(2..=MAX_PARTS).contains(&names.len()) {
        return refused(&format!("attestors must name 2 to {MAX_PARTS} node attestors"));
    }
    for (position, name) in names.iter().enumerate() {
        if names[..position].contains(name) {
            return refused(&format!("attestors names {name:?} twice"));
        }
        if name == join_token::NAME {
            return refused("join_token cannot be a part: the server spends the token itself");
        }
        if name == NAME || name.is_empty() || name.contains(':') || name.len() > 64 {
            return refused(&format!("{name:?} cannot be a part"));
        }
    }
    if let Some(other) = settings.allow_alone.iter().find(|name| !names.contains(name)) {
        return refused(&format!("allow_alone names {other:?}, which is not among attestors"));
    }
    Ok(settings)
}
