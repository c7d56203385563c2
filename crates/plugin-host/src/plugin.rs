//! A loaded plugin: initialised, with the service of its kind, and configured when asked.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use steeple_plugin::{Code, HostServices, Kind, PluginError};
use steeple_proto::plugin::Empty;
use steeple_proto::plugin::grpc_controller_client::GrpcControllerClient;
use steeple_proto::spire::service::common::config::v1::config_client::ConfigClient;
use steeple_proto::spire::service::common::config::v1::{
    ConfigureRequest, CoreConfiguration, ValidateRequest,
};
use steeple_proto::spire::service::private::init::v1::init_client::InitClient;
use steeple_proto::spire::service::private::init::v1::{DeinitRequest, InitRequest};
use steeple_runtime::Tasks;
use steeple_spiffe::TrustDomain;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::broker;
use crate::error::HostError;
use crate::host_services::{HostSocket, Offer};
use crate::image::{Checksum, Image};
use crate::output::Voice;
use crate::process::Process;
use crate::spec::Spec;

/// The largest message that is taken from a plugin.
pub(crate) const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// The most services that a plugin may name.
const MAX_SERVICES: usize = 64;

/// How much of a plugin's own text an error repeats.
const MAX_ECHO: usize = 1024;

const INIT: Duration = Duration::from_secs(60);
const CONFIGURE: Duration = Duration::from_secs(120);
const DEINIT: Duration = Duration::from_secs(10);
const SHUTDOWN: Duration = Duration::from_secs(2);
const EXIT: Duration = Duration::from_secs(2);

const CONFIG_SERVICE: &str = "spire.service.common.config.v1.Config";

/// What all plugins of a program share.
#[derive(Clone)]
pub struct Host {
    /// The trust domain that plugins are told of.
    pub trust_domain: TrustDomain,
    /// What plugins may ask back.
    pub services: HostServices,
}

/// A running plugin. Clones share it; when the last is gone, its process is killed.
#[derive(Clone)]
pub struct Plugin(Arc<Inner>);

struct Inner {
    spec: Spec,
    trust_domain: TrustDomain,
    has_config: bool,
    process: Process,
    host: HostSocket,
    _tasks: Tasks,
}

impl Plugin {
    /// Starts and initialises a plugin.
    ///
    /// # Errors
    /// [`HostError`]; no process is left behind.
    pub async fn load(spec: Spec, host: &Host) -> Result<Self, HostError> {
        let path = std::path::absolute(&spec.command).map_err(HostError::Path)?;
        let checksum = Checksum::parse(&spec.checksum)?;
        if checksum.is_none() {
            tracing::warn!(
                subsystem_name = "catalog",
                external = true,
                plugin_name = spec.name,
                plugin_type = spec.kind.name(),
                "Plugin checksum not configured"
            );
        }
        let image = tokio::task::spawn_blocking(move || Image::take(path, checksum)).await;
        let image = image.map_err(|error| HostError::Init(error.to_string()))??;
        let tasks = Tasks::new();
        let process = Process::start(&spec, &image, &tasks).await?;
        drop(image);
        let socket = HostSocket::open(&host.services, spec.side, &tasks)?;
        let brokering = broker::broker(process.channel.clone(), socket.path().to_owned());
        tasks.spawn_isolated("plugin_broker", brokering);
        let stdio = broker::stdio(process.channel.clone(), Voice::of(&spec));
        tasks.spawn_isolated("plugin_stdio", stdio);
        let services = init(&spec, &process).await?;
        let has_config = check_services(&spec, services)?;
        Ok(Self(Arc::new(Inner {
            spec,
            trust_domain: host.trust_domain.clone(),
            has_config,
            process,
            host: socket,
            _tasks: tasks,
        })))
    }

    /// What it was loaded as.
    pub fn spec(&self) -> &Spec {
        &self.0.spec
    }

    /// Its name in configuration.
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// Whether it was told that this agent has not attested, when it last asked.
    pub(crate) fn asked_whether_attested(&self, agent_id: &str) -> bool {
        self.0.host.asked().contains(agent_id)
    }

    /// Whether it takes a configuration.
    pub fn has_config(&self) -> bool {
        self.0.has_config
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.0.process.pid
    }

    /// Resolves when the plugin's process has ended.
    pub async fn exited(&self) {
        self.0.process.exited().await;
    }

    /// Hands over its configuration.
    ///
    /// # Errors
    /// The plugin's own, without its name in front, as SPIRE logs it.
    pub async fn configure(&self, text: &str) -> Result<(), PluginError> {
        let request = ConfigureRequest {
            core_configuration: Some(self.core()),
            hcl_configuration: text.to_owned(),
        };
        let mut client = ConfigClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE);
        self.plain(CONFIGURE, client.configure(request)).await.map(|_| ())
    }

    /// Has a configuration checked; answers what the plugin has to remark.
    ///
    /// # Errors
    /// As [`Plugin::configure`]; a plugin that cannot check answers no remarks.
    pub async fn validate(&self, text: &str) -> Result<Vec<String>, PluginError> {
        let request = ValidateRequest {
            core_configuration: Some(self.core()),
            hcl_configuration: text.to_owned(),
        };
        let mut client = ConfigClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE);
        match self.plain(CONFIGURE, client.validate(request)).await {
            Ok(answer) => Ok(answer.notes),
            Err(error) if error.code == Code::Unimplemented => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Ends the plugin: it is told, then asked to go, and killed when it does not.
    pub async fn close(&self) {
        macro_rules! line {
            ($level:ident, $($rest:tt)*) => {
                tracing::$level!(
                    subsystem_name = "catalog",
                    external = true,
                    plugin_name = self.name(),
                    plugin_type = self.0.spec.kind.name(),
                    $($rest)*
                )
            };
        }
        line!(debug, "Unloading plugin");
        let mut client = InitClient::new(self.channel());
        match self.plain(DEINIT, client.deinit(DeinitRequest {})).await {
            Ok(_) => line!(debug, "Plugin deinitialized"),
            Err(error) if error.code == Code::Unimplemented => {
                line!(debug, "Plugin deinitialized");
            }
            Err(error) => {
                line!(error, error = rpc_text(&error), "Failed to deinitialize plugin");
            }
        }
        if !self.0.process.has_exited() {
            let mut client = GrpcControllerClient::new(self.channel());
            // The plugin may be gone before it has answered, which is as good.
            let _ = tokio::time::timeout(SHUTDOWN, client.shutdown(Empty {})).await;
            match tokio::time::timeout(EXIT, self.exited()).await {
                Ok(()) => line!(debug, "plugin exited"),
                Err(_) => {
                    line!(warn, "plugin failed to exit gracefully");
                    self.0.process.kill();
                    self.exited().await;
                }
            }
        }
        line!(info, "Plugin unloaded");
    }

    pub(crate) fn channel(&self) -> Channel {
        self.0.process.channel.clone()
    }

    pub(crate) fn error(&self, code: Code, message: impl AsRef<str>) -> PluginError {
        self.0.spec.error(code, message)
    }

    /// A call that must end in time; its failure names the plugin.
    pub(crate) async fn call<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, PluginError> {
        self.plain(deadline, call).await.map_err(|error| self.named(error))
    }

    /// What `status` says, with the plugin's name in front.
    pub(crate) fn failed(&self, status: &Status) -> PluginError {
        self.named(read(&self.0.process, false, status))
    }

    pub(crate) fn too_late(&self) -> PluginError {
        self.error(Code::DeadlineExceeded, DEADLINE_EXCEEDED)
    }

    fn named(&self, error: PluginError) -> PluginError {
        self.error(error.code, error.message)
    }

    async fn plain<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, PluginError> {
        // Of a plugin that ends during the call, the call still had a connection.
        let gone = self.0.process.has_exited();
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(read(&self.0.process, gone, &status)),
            Err(_) => Err(PluginError {
                code: Code::DeadlineExceeded,
                message: DEADLINE_EXCEEDED.to_owned(),
            }),
        }
    }

    fn core(&self) -> CoreConfiguration {
        CoreConfiguration { trust_domain: self.0.trust_domain.as_str().to_owned() }
    }
}

const DEADLINE_EXCEEDED: &str = "context deadline exceeded";

/// A failed call in grpc-go's words: to a plugin that was gone before, no connection can be made.
fn read(process: &Process, gone: bool, status: &Status) -> PluginError {
    let broken = std::error::Error::source(status).is_some();
    if broken && gone {
        let address = &process.address;
        let message = format!(
            "connection error: desc = \"transport: error while dialing: dial {address}: connect: \
             connection refused\""
        );
        return PluginError { code: Code::Unavailable, message };
    }
    if broken {
        let message = "error reading from server: EOF".to_owned();
        return PluginError { code: Code::Unavailable, message };
    }
    let message = status.message().chars().take(MAX_ECHO).collect();
    PluginError { code: Code::from_number(status.code().into()), message }
}

/// An error as Go prints one that came over gRPC.
pub fn rpc_text(error: &PluginError) -> String {
    format!("rpc error: code = {} desc = {}", error.code, error.message)
}

async fn init(spec: &Spec, process: &Process) -> Result<Vec<String>, HostError> {
    let names = Offer::names(spec.side);
    let mut client =
        InitClient::new(process.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    let call = client.init(InitRequest { host_service_names: names });
    let error = match tokio::time::timeout(INIT, call).await {
        Ok(Ok(answer)) => return Ok(answer.into_inner().plugin_service_names),
        Ok(Err(status)) => read(process, false, &status),
        Err(_) => {
            PluginError { code: Code::DeadlineExceeded, message: DEADLINE_EXCEEDED.to_owned() }
        }
    };
    Err(HostError::Init(rpc_text(&error)))
}

/// Whether it takes a configuration; that it has the service of its kind is a must.
fn check_services(spec: &Spec, mut named: Vec<String>) -> Result<bool, HostError> {
    named.truncate(MAX_SERVICES);
    let mut services: BTreeSet<&str> = named.iter().map(String::as_str).collect();
    if !services.remove(spec.service().as_str()) {
        let shown = named.iter().map(|name| name.chars().take(100).collect()).collect();
        return Err(HostError::NoInterface(shown));
    }
    let has_config = services.remove(CONFIG_SERVICE);
    if spec.kind == Kind::Notifier {
        tracing::warn!(
            subsystem_name = "catalog",
            external = true,
            plugin_name = spec.name,
            plugin_type = spec.kind.name(),
            alert = true,
            alert_type = "deprecated_service",
            deprecated_service_name = spec.service(),
            "Service is deprecated and will be removed in a future release: use the \
             BundlePublisher plugin type instead"
        );
    }
    for service in services {
        tracing::warn!(
            subsystem_name = "catalog",
            external = true,
            plugin_name = spec.name,
            plugin_type = spec.kind.name(),
            plugin_service = %service.chars().take(100).collect::<String>(),
            "Unsupported plugin service found"
        );
    }
    Ok(has_config)
}
