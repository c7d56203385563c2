//! The `plugins` block.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::PathBuf,
};

use steeple_hcl::{Block, Located};

use crate::{
    checks::{Checker, quote, set, shorten},
    problem::NoticeKind,
    raw,
};

/// A plugin as the file configures it.
#[derive(Clone, Debug)]
pub struct PluginConfig {
    /// The type: `KeyManager`, `NodeAttestor` …
    pub kind: String,
    /// The name: `disk`, `join_token` …
    pub name: String,
    /// Whether it is to be loaded.
    pub enabled: bool,
    /// The program that it is; none when it is built in.
    pub external: Option<ExternalPlugin>,
    /// Its own configuration.
    pub data: PluginData,
    /// Line of its block.
    pub line: Option<usize>,
}

/// A plugin that is a program of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalPlugin {
    /// The program (`plugin_cmd`).
    pub command: PathBuf,
    /// Its arguments (`plugin_args`).
    pub args: Vec<String>,
    /// The SHA-256 that it must have, in hexadecimal (`plugin_checksum`); empty for any.
    pub checksum: String,
}

/// A plugin's own configuration.
#[derive(Clone)]
pub enum PluginData {
    /// None, or an empty block, which SPIRE does not tell apart.
    None,
    /// `plugin_data`.
    Inline(Block),
    /// `plugin_data_file`; read again when the server is told to reload.
    File(PathBuf),
}

impl PluginData {
    /// The text as SPIRE hands it to a plugin: HCL in canonical layout, or the
    /// file's content.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn text(&self) -> io::Result<String> {
        match self {
            Self::None => Ok(String::new()),
            Self::Inline(block) => Ok(block.to_hcl()),
            Self::File(path) => fs::read_to_string(path),
        }
    }
}

impl fmt::Debug for PluginData {
    /// Shape only: plugins are configured with secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Inline(block) => block.fmt(f),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// The node attestor that consists of others.
pub(crate) const COMPOSITE: &str = "composite";

/// The plugin types of a program, with what is built in and what SPIRE has.
pub(crate) struct Catalog {
    pub(crate) types: &'static [PluginType],
}

/// A plugin type and its plugins.
#[derive(Debug)]
pub struct PluginType {
    /// The name that the file has for it.
    pub kind: &'static str,
    /// Fewest that must be configured.
    pub(crate) at_least: usize,
    /// Most that may be configured; no limit when zero.
    pub(crate) at_most: usize,
    /// Plugins that can be loaded.
    pub built: &'static [&'static str],
    /// Plugins of SPIRE's that do not exist here yet.
    pub(crate) missing: &'static [&'static str],
}

/// The `plugins` block in the order written; `None` when it cannot be read.
pub(crate) fn build(
    checker: &mut Checker,
    block: &Located<Block>,
    catalog: &Catalog,
) -> Option<Vec<PluginConfig>> {
    let Some(plugins) = block.as_ref() else {
        checker.problem(None, "plugins", "plugins section must be configured");
        return None;
    };
    if !plugins.is_body() {
        let text = "expected plugins node type *ast.ObjectList";
        checker.problem(block.line(), "plugins", text);
        return None;
    }
    let labels = plugins.labelled();
    let mut seen = BTreeSet::new();
    let mut twice = false;
    for label in &labels {
        if !seen.insert((&label.kind, &label.name)) {
            let (kind, name) = (quote(&label.kind), quote(&label.name));
            let text = format!("plugin {kind}/{name} declared more than once");
            checker.problem(Some(label.position.line), &key_of(&label.kind, &label.name), text);
            twice = true;
        }
    }
    if twice {
        return None;
    }

    type Maps = Vec<BTreeMap<String, BTreeMap<String, Located<raw::Plugin>>>>;
    let mut maps = match plugins.decode::<Maps>() {
        Ok(decoded) => decoded.value,
        Err(errors) => {
            for error in &errors {
                let line = error.position().map(|position| position.line).or(block.line());
                let text = format!("failed to decode plugins config: {error}");
                checker.problem(line, "plugins", text);
            }
            return None;
        }
    };
    let mut configs = Vec::with_capacity(labels.len());
    for label in labels {
        let found = maps.iter_mut().find_map(|map| map.get_mut(&label.kind)?.remove(&label.name));
        let Some(plugin) = found.and_then(|plugin| plugin.value) else {
            let (kind, name) = (quote(&label.kind), quote(&label.name));
            let text = format!("plugin config for {kind}/{name} not located");
            checker.problem(Some(label.position.line), &key_of(&label.kind, &label.name), text);
            continue;
        };
        configs.extend(one(checker, label.kind, label.name, label.position.line, &plugin, catalog));
    }
    check_counts(checker, &configs, catalog, block.line());
    Some(configs)
}

fn key_of(kind: &str, name: &str) -> String {
    format!("plugins.{}.{}", shorten(kind), shorten(name))
}

fn one(
    checker: &mut Checker,
    kind: String,
    name: String,
    line: usize,
    raw: &raw::Plugin,
    catalog: &Catalog,
) -> Option<PluginConfig> {
    let line = Some(line).filter(|line| *line > 0);
    let key = key_of(&kind, &name);
    let data = match (raw.plugin_data.as_ref(), raw.plugin_data_file.value.as_ref()) {
        (Some(_), Some(_)) => {
            let text = format!(
                "failed to create plugin config for {}/{}: only one of [plugin_data, \
                 plugin_data_file] can be used",
                quote(&kind),
                quote(&name)
            );
            checker.problem(line, &key, text);
            PluginData::None
        }
        (Some(block), None) if block.is_empty() => PluginData::None,
        (Some(block), None) => PluginData::Inline(block.clone()),
        (None, Some(path)) => PluginData::File(PathBuf::from(path)),
        (None, None) => PluginData::None,
    };
    let enabled = raw.enabled.value.unwrap_or(true);
    let Some(kind_known) = catalog.types.iter().find(|known| known.kind == kind) else {
        checker.problem(line, &key, format!("unsupported plugin type {}", quote(&kind)));
        return None;
    };
    if enabled {
        check_loadable(checker, kind_known, &name, line, raw);
    }
    let external = set(&raw.plugin_cmd).map(|command| ExternalPlugin {
        command: PathBuf::from(command),
        args: raw.plugin_args.value.clone().unwrap_or_default(),
        checksum: raw.plugin_checksum.value.clone().unwrap_or_default(),
    });
    Some(PluginConfig { kind, name, enabled, external, data, line })
}

/// Whether the plugin can be loaded: silently doing without it would make
/// another service than the one described.
fn check_loadable(
    checker: &mut Checker,
    kind: &PluginType,
    name: &str,
    line: Option<usize>,
    raw: &raw::Plugin,
) {
    let key = key_of(kind.kind, name);
    if set(&raw.plugin_cmd).is_some() {
        let key = format!("{key}.plugin_cmd");
        let line = raw.plugin_cmd.line().or(line);
        match (kind.kind, name) {
            ("DataStore", _) => {
                let text = "pluggability for the DataStore is deprecated; only the built-in \
                            \"sql\" plugin is supported";
                checker.problem(line, &key, text);
            }
            ("NodeAttestor", "join_token") => {
                let text = "the built-in join_token node attestor cannot be overridden by an \
                            external plugin";
                checker.problem(line, &key, text);
            }
            _ => {}
        }
        return;
    }
    for (key_name, present, at) in [
        ("plugin_args", raw.plugin_args.is_present(), raw.plugin_args.line()),
        ("plugin_checksum", raw.plugin_checksum.is_present(), raw.plugin_checksum.line()),
    ] {
        if present {
            let key = format!("{key}.{key_name}");
            let text = format!("{key} has no effect: the plugin is built in");
            checker.note(NoticeKind::NoEffect, at.or(line), &key, text);
        }
    }
    if kind.built.contains(&name) {
        return;
    }
    if kind.missing.contains(&name) {
        checker.refuse(line, &key, &format!("plugin {} of type {}", quote(name), quote(kind.kind)));
    } else if kind.kind == "DataStore" {
        let text = "pluggability for the DataStore is deprecated; only the built-in \"sql\" plugin \
                    is supported";
        checker.problem(line, &key, text);
    } else {
        let (name, kind) = (quote(name), quote(kind.kind));
        let text =
            format!("failed to load plugin {name}: no built-in plugin {name} for type {kind}");
        checker.problem(line, &key, text);
    }
}

fn check_counts(
    checker: &mut Checker,
    configs: &[PluginConfig],
    catalog: &Catalog,
    line: Option<usize>,
) {
    for kind in catalog.types {
        let of_kind = configs.iter().filter(|config| config.kind == kind.kind);
        let key = format!("plugins.{}", kind.kind);
        if kind.kind == "DataStore" {
            // The datastore is no plugin any more; `enabled` says nothing.
            match of_kind.count() {
                1 => {}
                0 => checker.problem(line, &key, "expecting a DataStore plugin"),
                _ => checker.problem(line, &key, "only one DataStore plugin is allowed"),
            }
            continue;
        }
        let enabled: Vec<_> = of_kind.filter(|config| config.enabled).collect();
        // What a composite consists of is configured beside it, and counts as part of it.
        let is_composite = |config: &&&PluginConfig| config.name == COMPOSITE;
        let count = match kind.kind == "NodeAttestor" {
            true if enabled.iter().any(|config| config.name == COMPOSITE) => {
                enabled.iter().filter(is_composite).count()
            }
            _ => enabled.len(),
        };
        let (least, most) = (kind.at_least, kind.at_most);
        let expected = match count {
            _ if least == most && most > 0 && count != least => format!("exactly {least}"),
            _ if count < least => format!("at least {least}"),
            _ if most > 0 && count > most => format!("at most {most}"),
            _ => continue,
        };
        let text = format!(
            "plugin type \"{}\" constraint not satisfied: expected {expected} but got {count}",
            kind.kind
        );
        checker.plugin_count(line, &key, text);
    }
}
