//! Reports to an OpenTelemetry collector.

use std::sync::Arc;

use steeple_config::OtlpConfig;
use steeple_runtime::{Tasks, Watcher};
use steeple_telemetry::Sink;

use crate::Program;
use crate::telemetry::TelemetryError;

pub(crate) fn start(
    _config: &OtlpConfig,
    _program: &Program,
    _tasks: &Tasks,
    _drain: &Watcher,
) -> Result<Arc<dyn Sink>, TelemetryError> {
    Err(TelemetryError::Otlp("not wired".into()))
}
