//! A workload attestor that tells how a process was started: the values of chosen variables of
//! its environment, as selectors `environment:NAME=value`.
//!
//! ```hcl
//! WorkloadAttestor "environment" {
//!     plugin_cmd = "/path/to/workload_attestor"
//!     plugin_data { variables = ["SERVICE", "STAGE"] }
//! }
//! ```

use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use serde::Deserialize;
use steeple_plugin::{Code, PluginError, WorkloadAttestor};
use steeple_plugin_sdk::{Configure, Service, serve};
use steeple_spiffe::Selector;

const NAME: &str = "environment";

fn main() -> ExitCode {
    let plugin = Arc::new(Environment::default());
    serve(Service::workload_attestor(plugin.clone()).with_config(plugin))
}

#[derive(Default)]
struct Environment {
    settings: RwLock<Settings>,
}

#[derive(Clone, Default, Deserialize)]
struct Settings {
    #[serde(default)]
    variables: Vec<String>,
}

#[async_trait]
impl Configure for Environment {
    async fn configure(&self, _trust_domain: &str, hcl: &str) -> Result<(), PluginError> {
        let settings = read(hcl)?.0;
        tracing::info!(variables = settings.variables.len(), "Variables are attested");
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
        Ok(())
    }

    async fn validate(&self, _trust_domain: &str, hcl: &str) -> Result<Vec<String>, PluginError> {
        let (settings, unknown) = read(hcl)?;
        let mut notes: Vec<_> =
            unknown.iter().map(|key| format!("unknown setting {key:?}")).collect();
        if settings.variables.is_empty() {
            notes.push("no variables are configured, so nothing is attested".to_owned());
        }
        Ok(notes)
    }
}

/// The settings, and the keys that are none.
fn read(hcl: &str) -> Result<(Settings, Vec<String>), PluginError> {
    let invalid = |error: String| PluginError {
        code: Code::InvalidArgument,
        message: format!("unable to decode configuration: {error}"),
    };
    let block = steeple_hcl::parse(hcl.as_bytes()).map_err(|error| invalid(error.to_string()))?;
    let decoded = block.decode::<Settings>().map_err(|errors| invalid(errors.to_string()))?;
    Ok((decoded.value, decoded.unknown.into_iter().map(|unknown| unknown.key).collect()))
}

#[async_trait]
impl WorkloadAttestor for Environment {
    fn name(&self) -> &str {
        NAME
    }

    async fn attest(&self, pid: i32) -> Result<Vec<Selector>, PluginError> {
        let variables =
            self.settings.read().unwrap_or_else(PoisonError::into_inner).variables.clone();
        let environment = tokio::fs::read(format!("/proc/{pid}/environ")).await;
        let environment = environment.map_err(|error| PluginError {
            code: Code::Internal,
            message: format!("cannot read the environment of process {pid}: {error}"),
        })?;
        let selectors = environment.split(|byte| *byte == 0).filter_map(|line| {
            let line = std::str::from_utf8(line).ok()?;
            let (name, _) = line.split_once('=')?;
            variables.iter().any(|it| it == name).then(|| Selector::new(NAME, line))
        });
        Ok(selectors.collect())
    }
}
