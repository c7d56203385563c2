//! The plugins that a configuration asks for, built in or external: loaded in its order, each
//! configured before the next is looked at, and configured again when asked.

use std::path::PathBuf;

use steeple_config::{PluginConfig, PluginData};
use steeple_hcl::Block;
use steeple_plugin::{HostContext, HostServices, Kind, PluginError};
use steeple_plugins::catalog::{self as builtin, Made};
use steeple_plugins::node_attestor::composite;

use crate::config::{Source, hash};
use crate::error::HostError;
use crate::plugin::{Host, Plugin, rpc_text};
use crate::spec::{Side, Spec};
use crate::swap;

mod rules;

pub use rules::check_counts;

/// Why the plugins are not loaded: SPIRE's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CatalogError(String);

/// A plugin that was loaded.
pub struct Loaded {
    /// Its name in configuration.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// The plugin.
    pub made: Made,
}

/// What goes on while plugins are used.
#[derive(Default)]
pub struct Running {
    externals: Vec<Plugin>,
    builtins: Vec<Voice>,
    dynamic: Vec<Dynamic>,
}

/// A plugin whose configuration is a file.
struct Dynamic {
    voice: Voice,
    source: Source,
    hash: String,
    target: Target,
}

enum Target {
    External(Plugin),
    Builtin { side: Side, kind: Kind, context: HostContext, slot: swap::Slot },
}

/// Of which plugin a line tells.
#[derive(Clone)]
struct Voice {
    name: String,
    kind: String,
    external: bool,
}

macro_rules! line {
    ($voice:expr, $level:ident, $($rest:tt)*) => {
        tracing::$level!(
            subsystem_name = "catalog",
            external = $voice.external,
            plugin_name = $voice.name,
            plugin_type = $voice.kind,
            $($rest)*
        )
    };
}

/// Loads `plugins` in their order; the first that cannot be loaded is the failure, and those
/// before it are ended.
///
/// # Errors
/// [`CatalogError`].
pub async fn load(
    side: Side,
    plugins: &[PluginConfig],
    context: &HostContext,
    services: &HostServices,
) -> Result<(Vec<Loaded>, Running), CatalogError> {
    let mut running = Running::default();
    let mut loaded = Vec::new();
    for plugin in plugins {
        match one(side, plugin, context, services, &mut running).await {
            Ok(Some(it)) => loaded.push(it),
            Ok(None) => {}
            Err(error) => {
                running.close().await;
                return Err(error);
            }
        }
    }
    let kinds = rules::counted(loaded.iter().map(|it| (it.kind, it.name.as_str())));
    if let Some((kind, reason)) = check_counts(side, kinds.into_iter()).into_iter().next() {
        running.close().await;
        let text = format!("plugin type {:?} constraint not satisfied: {reason}", kind.name());
        return Err(CatalogError(text));
    }
    Ok((loaded, running))
}

async fn one(
    side: Side,
    plugin: &PluginConfig,
    context: &HostContext,
    services: &HostServices,
    running: &mut Running,
) -> Result<Option<Loaded>, CatalogError> {
    let voice = Voice::of(plugin);
    let kind =
        kind_of(side, plugin).inspect_err(|_| line!(voice, error, "Unsupported plugin type"))?;
    if !plugin.enabled {
        line!(voice, debug, "Not loading plugin; disabled");
        return Ok(None);
    }
    let source = source_of(plugin);
    let made = if plugin.external.is_some() {
        let external = start(side, kind, plugin, context, services, &voice).await?;
        // Whatever fails from here on, the plugin is ended in an orderly way.
        running.externals.push(external.clone());
        let hash = configure(&external, &source)
            .await
            .map_err(|error| refused(&voice, "configure", &plugin.name, &error))?;
        if let Some(hash) = hash {
            tell_configured(&voice, &source, &hash);
            running.remember(&voice, &source, hash, || Target::External(external.clone()));
        }
        adapt(&external, kind)
    } else {
        let made = make(side, kind, plugin, &source, context).await;
        // One that is there and refuses its configuration is ended as the others are.
        if !matches!(made, Err(Failure::Load(_))) {
            running.builtins.push(voice.clone());
        }
        let slot = made.map_err(|failure| failure.say(&voice, &plugin.name))?;
        if let Some(hash) = slot.1 {
            tell_configured(&voice, &source, &hash);
            let context = context.clone();
            let target = slot.0.clone();
            running.remember(&voice, &source, hash, || Target::Builtin {
                side,
                kind,
                context,
                slot: target,
            });
        }
        match source.is_dynamic() {
            true => slot.0.swappable(&plugin.name),
            false => slot.0.made(),
        }
    };
    line!(voice, info, "Plugin loaded");
    Ok(Some(Loaded { name: plugin.name.clone(), kind, made }))
}

fn tell_configured(voice: &Voice, source: &Source, hash: &str) {
    match source.is_dynamic() {
        true => line!(voice, info, reconfigurable = true, hash, "Configured plugin"),
        false => line!(voice, info, reconfigurable = false, "Configured plugin"),
    }
}

async fn start(
    side: Side,
    kind: Kind,
    plugin: &PluginConfig,
    context: &HostContext,
    services: &HostServices,
    voice: &Voice,
) -> Result<Plugin, CatalogError> {
    let host = Host { trust_domain: context.trust_domain.clone(), services: services.clone() };
    Plugin::load(spec_of(side, kind, plugin), &host).await.map_err(|error| {
        let step = if matches!(error, HostError::NoInterface(_)) { "bind" } else { "load" };
        refused(voice, step, &plugin.name, &error.to_string())
    })
}

/// Hands over the configuration; answers its hash where the plugin takes one.
async fn configure(plugin: &Plugin, source: &Source) -> Result<Option<String>, String> {
    if !plugin.has_config() {
        return match source {
            Source::None => Ok(None),
            _ => Err(HostError::NoConfig.to_string()),
        };
    }
    let text = source.load().await.map_err(|error| HostError::Data(error).to_string())?;
    plugin.configure(&text).await.map_err(|error| rpc_text(&error))?;
    Ok(Some(hash(&text)))
}

/// Why a built-in plugin cannot be had.
enum Failure {
    Load(String),
    Configure(String),
}

impl Failure {
    fn say(&self, voice: &Voice, name: &str) -> CatalogError {
        match self {
            Self::Load(error) => refused(voice, "load", name, error),
            Self::Configure(error) => refused(voice, "configure", name, error),
        }
    }
}

/// Makes a built-in plugin; with the hash of its configuration where it takes one.
async fn make(
    side: Side,
    kind: Kind,
    plugin: &PluginConfig,
    source: &Source,
    context: &HostContext,
) -> Result<(swap::Slot, Option<String>), Failure> {
    let on = builtin_side(side);
    if builtin::find(on, kind, &plugin.name).is_none() {
        let error = builtin::make(on, kind, &plugin.name, None, context).err();
        return Err(Failure::Load(error.map(|error| error.message).unwrap_or_default()));
    }
    let configurable = !TAKES_NO_SETTINGS.contains(&(side, kind, plugin.name.as_str()));
    if !configurable && !matches!(source, Source::None) {
        return Err(Failure::Configure(HostError::NoConfig.to_string()));
    }
    let text = source
        .load()
        .await
        .map_err(|error| Failure::Configure(HostError::Data(error).to_string()))?;
    let made = remake(side, kind, &plugin.name, &plugin.data, &text, context)
        .map_err(Failure::Configure)?;
    Ok((swap::Slot::new(made), configurable.then(|| hash(&text))))
}

/// `data` where it was written in place, so that positions in errors are the file's own.
fn remake(
    side: Side,
    kind: Kind,
    name: &str,
    data: &PluginData,
    text: &str,
    context: &HostContext,
) -> Result<Made, String> {
    let block = match data {
        PluginData::None => None,
        PluginData::Inline(block) => Some(block.clone()),
        PluginData::File(_) => Some(parse(text).map_err(|error| rpc_text(&error))?),
    };
    builtin::make(builtin_side(side), kind, name, block.as_ref(), context)
        .map_err(|error| rpc_text(&bare(kind, name, error)))
}

fn parse(text: &str) -> Result<Block, PluginError> {
    steeple_hcl::parse(text.as_bytes()).map_err(|error| {
        let message = format!("unable to decode configuration: {error}");
        PluginError { code: steeple_plugin::Code::InvalidArgument, message }
    })
}

/// SPIRE's plugins do not name themselves when they refuse a configuration.
fn bare(kind: Kind, name: &str, mut error: PluginError) -> PluginError {
    let prefix = format!("{}({name}): ", kind.prefix());
    if let Some(rest) = error.message.strip_prefix(&prefix) {
        error.message = rest.to_owned();
    }
    error
}

fn refused(voice: &Voice, step: &str, name: &str, error: &str) -> CatalogError {
    line!(voice, error, error, "Failed to {step} plugin");
    CatalogError(format!("failed to {step} plugin {name:?}: {error}"))
}

fn adapt(plugin: &Plugin, kind: Kind) -> Made {
    match (kind, plugin.spec().side) {
        (Kind::BundlePublisher, _) => Made::BundlePublisher(plugin.bundle_publisher()),
        (Kind::CredentialComposer, _) => Made::CredentialComposer(plugin.credential_composer()),
        (Kind::KeyManager, _) => Made::KeyManager(plugin.key_manager()),
        (Kind::NodeAttestor, Side::Server) => Made::NodeAttestor(plugin.node_attestor()),
        (Kind::NodeAttestor, Side::Agent) => Made::NodeEvidence(plugin.node_evidence()),
        (Kind::Notifier, _) => Made::Notifier(plugin.notifier()),
        (Kind::SvidStore, _) => Made::SvidStore(plugin.svid_store()),
        (Kind::UpstreamAuthority, _) => Made::UpstreamAuthority(plugin.upstream_authority()),
        (Kind::WorkloadAttestor, _) => Made::WorkloadAttestor(plugin.workload_attestor()),
    }
}

/// Looks at the plugins' configuration as loading them would, and answers what there is to say of
/// it, by plugin. External plugins are started for that, and ended again.
///
/// # Errors
/// When a plugin cannot be loaded at all.
pub async fn validate(
    side: Side,
    plugins: &[PluginConfig],
    context: &HostContext,
) -> Result<Vec<(String, Vec<String>)>, CatalogError> {
    let mut running = Running::default();
    let outcome = validate_all(side, plugins, context, &mut running).await;
    running.close().await;
    outcome
}

async fn validate_all(
    side: Side,
    plugins: &[PluginConfig],
    context: &HostContext,
    running: &mut Running,
) -> Result<Vec<(String, Vec<String>)>, CatalogError> {
    let services = HostServices::new();
    let mut notes = Vec::new();
    let mut kinds = Vec::new();
    for plugin in plugins {
        let kind = kind_of(side, plugin)?;
        if !plugin.enabled {
            continue;
        }
        kinds.push((kind, plugin.name.as_str()));
        let source = source_of(plugin);
        let found = if plugin.external.is_some() {
            let voice = Voice::of(plugin);
            let external = start(side, kind, plugin, context, &services, &voice).await?;
            running.externals.push(external.clone());
            match source.load().await {
                Err(error) => vec![format!("failed to read plugin configuration: {error}")],
                Ok(_) if !external.has_config() => Vec::new(),
                Ok(text) => match external.validate(&text).await {
                    Ok(notes) => notes,
                    Err(error) => vec![rpc_text(&error)],
                },
            }
        } else {
            validate_builtin(side, kind, plugin, &source).await?
        };
        if !found.is_empty() {
            notes.push((format!("{} {:?}", plugin.kind, plugin.name), found));
        }
    }
    notes.extend(composite_notes(side, plugins));
    for (kind, reason) in check_counts(side, rules::counted(kinds.into_iter()).into_iter()) {
        notes.push((kind.name().to_owned(), vec![format!("constraint not satisfied: {reason}")]));
    }
    Ok(notes)
}

/// What is wrong with what stands beside a composite, where its own settings are right.
fn composite_notes(side: Side, plugins: &[PluginConfig]) -> Option<(String, Vec<String>)> {
    let enabled = || plugins.iter().filter(|it| it.enabled && it.kind == "NodeAttestor");
    let plugin = enabled().find(|it| it.name == composite::NAME)?;
    let PluginData::Inline(block) = &plugin.data else { return None };
    let settings = match side {
        Side::Agent => composite::agent(Some(block)),
        Side::Server => composite::server(Some(block)),
    };
    let beside: Vec<&str> =
        enabled().map(|it| it.name.as_str()).filter(|name| *name != composite::NAME).collect();
    let complaints = settings.ok()?.complaints(&beside, side == Side::Agent);
    let title = format!("{} {:?}", plugin.kind, plugin.name);
    (!complaints.is_empty()).then_some((title, complaints))
}

async fn validate_builtin(
    side: Side,
    kind: Kind,
    plugin: &PluginConfig,
    source: &Source,
) -> Result<Vec<String>, CatalogError> {
    let on = builtin_side(side);
    let text = match source.load().await {
        Ok(text) => text,
        Err(error) => return Ok(vec![format!("failed to read plugin configuration: {error}")]),
    };
    let block = match &plugin.data {
        PluginData::None => None,
        PluginData::Inline(block) => Some(block.clone()),
        PluginData::File(_) => match parse(&text) {
            Ok(block) => Some(block),
            Err(error) => return Ok(vec![error.message]),
        },
    };
    // Without a configuration service, there is nobody to ask.
    if TAKES_NO_SETTINGS.contains(&(side, kind, plugin.name.as_str())) {
        return Ok(Vec::new());
    }
    match builtin::validate(on, kind, &plugin.name, block.as_ref()) {
        Ok(notes) => Ok(notes),
        Err(error) if builtin::find(on, kind, &plugin.name).is_none() => {
            let text = format!("failed to load plugin {:?}: {}", plugin.name, error.message);
            Err(CatalogError(text))
        }
        // Notes are said without the status that a call would end with.
        Err(error) => Ok(vec![bare(kind, &plugin.name, error).message]),
    }
}

impl Running {
    fn remember(
        &mut self,
        voice: &Voice,
        source: &Source,
        hash: String,
        target: impl FnOnce() -> Target,
    ) {
        if source.is_dynamic() {
            let (voice, source) = (voice.clone(), source.clone());
            self.dynamic.push(Dynamic { voice, source, hash, target: target() });
        }
    }

    /// Reads the configuration files again; plugins whose file says something else get it. One
    /// that refuses it goes on with what it had.
    pub async fn reconfigure(&mut self) {
        for dynamic in &mut self.dynamic {
            dynamic.reconfigure().await;
        }
    }

    /// Ends the external plugins, the last loaded first.
    pub async fn close(&mut self) {
        self.dynamic.clear();
        let closing = self.externals.drain(..).rev();
        // Side by side: one that hangs must not use up the time of the others.
        let closing: Vec<_> = closing.map(|plugin| async move { plugin.close().await }).collect();
        futures_util::future::join_all(closing).await;
        for voice in self.builtins.drain(..).rev() {
            line!(voice, debug, "Unloading plugin");
            line!(voice, debug, "Plugin deinitialized");
            line!(voice, info, "Plugin unloaded");
        }
    }
}

impl Dynamic {
    async fn reconfigure(&mut self) {
        match self.apply().await {
            Err(error) => line!(self.voice, error, error, "Failed to reconfigure plugin"),
            Ok(hash) if hash == self.hash => line!(
                self.voice,
                info,
                hash,
                "Plugin not reconfigured since the config is unchanged"
            ),
            Ok(hash) => {
                line!(
                    self.voice,
                    info,
                    old_hash = self.hash,
                    new_hash = hash,
                    "Plugin reconfigured"
                );
                self.hash = hash;
            }
        }
    }

    async fn apply(&self) -> Result<String, String> {
        let text = self.source.load().await.map_err(|error| HostError::Data(error).to_string())?;
        let hash = hash(&text);
        if hash == self.hash {
            return Ok(hash);
        }
        match &self.target {
            Target::External(plugin) => {
                plugin.configure(&text).await.map_err(|error| rpc_text(&error))?;
            }
            Target::Builtin { side, kind, context, slot } => {
                let data = PluginData::File(PathBuf::new());
                slot.put(remake(*side, *kind, &self.voice.name, &data, &text, context)?);
            }
        }
        Ok(hash)
    }
}

impl Voice {
    fn of(plugin: &PluginConfig) -> Self {
        Self {
            name: plugin.name.clone(),
            kind: plugin.kind.clone(),
            external: plugin.external.is_some(),
        }
    }
}

fn kind_of(side: Side, plugin: &PluginConfig) -> Result<Kind, CatalogError> {
    let kind = plugin.kind.parse::<Kind>().ok();
    let kind = kind.filter(|kind| rules::is_loaded_by(side, *kind));
    kind.ok_or_else(|| CatalogError(format!("unsupported plugin type {:?}", plugin.kind)))
}

fn source_of(plugin: &PluginConfig) -> Source {
    match &plugin.data {
        PluginData::None => Source::None,
        PluginData::Inline(block) => Source::Fixed(block.to_hcl()),
        PluginData::File(path) => Source::File(path.clone()),
    }
}

fn spec_of(side: Side, kind: Kind, plugin: &PluginConfig) -> Spec {
    let external = plugin.external.as_ref();
    Spec {
        side,
        kind,
        name: plugin.name.clone(),
        command: external.map(|it| it.command.clone()).unwrap_or_default(),
        args: external.map(|it| it.args.clone()).unwrap_or_default(),
        checksum: external.map(|it| it.checksum.clone()).unwrap_or_default(),
    }
}

const fn builtin_side(side: Side) -> builtin::Side {
    match side {
        Side::Agent => builtin::Side::Agent,
        Side::Server => builtin::Side::Server,
    }
}

/// Of these there is nothing to configure.
const TAKES_NO_SETTINGS: [(Side, Kind, &str); 5] = [
    (Side::Agent, Kind::KeyManager, "memory"),
    (Side::Agent, Kind::NodeAttestor, "join_token"),
    (Side::Agent, Kind::WorkloadAttestor, "slurm"),
    (Side::Agent, Kind::WorkloadAttestor, "systemd"),
    (Side::Server, Kind::KeyManager, "memory"),
];
