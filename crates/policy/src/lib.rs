//! A user's own authorisation policy, in rego.
//!
//! Not here: the default rules, which are a table of the server's APIs and need no engine; who a
//! caller is; what follows from a verdict.
//!
//! Invariant: an [`Engine`] has answered SPIRE's sample inputs with all five fields before anybody
//! holds it, and no evaluation runs longer than [`BUDGET`].
//!
//! Start at [`Engine::load`] and [`Engine::evaluate`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod samples;
#[cfg(test)]
mod tests;

use std::fs;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use serde_json::{Value, json};

/// How long one evaluation may take, in wall time: much longer than any policy takes, so that a
/// busy machine denies nobody.
pub const BUDGET: Duration = Duration::from_secs(1);

/// The most bytes of policy data; a policy itself may have one MiB.
const MAX_DATA: u64 = 64 * 1024 * 1024;

/// The longest reason of an engine's that is repeated.
const MAX_REASON: usize = 512;

const QUERY: &str = "data.spire.result";

/// A policy, ready to be asked. A clone costs little and shares the policy and its data.
#[derive(Clone, Debug)]
pub struct Engine {
    engine: regorus::Engine,
}

/// What a policy gets to know of a call.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// The caller's SPIFFE ID; empty when it showed none.
    pub caller: &'a str,
    /// The caller's program, where it is known; else empty.
    pub caller_file_path: &'a str,
    /// `/package.Service/Method`.
    pub full_method: &'a str,
    /// The request's message; null for a stream.
    pub req: Value,
}

/// To whom a policy opens the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// Everyone.
    pub allow: bool,
    /// Admins.
    pub allow_if_admin: bool,
    /// Callers on the server's own socket.
    pub allow_if_local: bool,
    /// Downstream servers.
    pub allow_if_downstream: bool,
    /// Agents in good standing.
    pub allow_if_agent: bool,
}

/// Why a policy cannot be used. The texts are SPIRE's where SPIRE has them.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("open {path}: {reason}")]
    Read {
        /// The file, as it was named.
        path: String,
        /// In the system's words.
        reason: String,
    },
    /// The data is no JSON object.
    #[error("error decoding JSON databindings: {0}")]
    Data(String),
    /// The module is no rego, or contradicts the data.
    #[error("{0}")]
    Module(String),
    /// It does not answer a sample.
    #[error(
        "authpolicy engine failed to validate on sample test inputs: policy is misconfigured: {0}"
    )]
    Samples(#[source] EvalError),
}

/// Why a policy gave no verdict.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EvalError {
    /// `result` is undefined for this input.
    #[error("policy: no matching policies found")]
    Undefined,
    /// `result` is no object.
    #[error("unexpected type in evaluating policy result expression")]
    NoObject,
    /// A field is missing or no boolean.
    #[error("policy: result did not contain {0:?} bool value")]
    Field(&'static str),
    /// It was stopped: see [`BUDGET`].
    #[error("policy: evaluation took longer than {} ms", BUDGET.as_millis())]
    Budget,
    /// Two values for one rule.
    #[error("eval_conflict_error: complete rules must not produce multiple outputs")]
    Conflict,
    /// The engine's own failure; quotes the policy, so it is for the log and not for callers.
    #[error("{0}")]
    Engine(String),
}

impl From<Input<'_>> for Value {
    fn from(input: Input<'_>) -> Self {
        let mut value = json!({
            "caller": input.caller,
            "caller_file_path": input.caller_file_path,
            "full_method": input.full_method,
        });
        // Not within the macro, which would copy it.
        value["req"] = input.req;
        value
    }
}

impl Engine {
    /// Reads a module and, unless `data` is none, a JSON object of data.
    ///
    /// # Errors
    /// When either cannot be used, or the samples are not answered.
    pub fn load(module: &Path, data: Option<&Path>) -> Result<Self, LoadError> {
        let text = read(module)?;
        let data = data.map(read).transpose()?;
        Self::new(&text, data.as_deref())
    }

    /// As [`Self::load`], from texts.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn new(module: &str, data: Option<&str>) -> Result<Self, LoadError> {
        let mut engine = regorus::Engine::new();
        let data: Value = match data {
            Some(text) => first_value(text)?,
            None => json!({}),
        };
        if !data.is_object() {
            return Err(LoadError::Data("the data is no JSON object".to_owned()));
        }
        engine.add_data(data.into()).map_err(|error| LoadError::Data(shorten(&error)))?;
        engine
            .add_policy("spire.rego".to_owned(), module.to_owned())
            .map_err(|error| LoadError::Module(shorten(&error)))?;
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: BUDGET,
            check_interval: NonZeroU32::new(64).expect("64 is not zero"),
        });
        let mut this = Self { engine };
        for sample in samples::inputs() {
            this.ask(sample).map_err(LoadError::Samples)?;
        }
        Ok(this)
    }

    /// Asks the policy about one call. Takes CPU time up to [`BUDGET`]: not for a thread that
    /// others wait for.
    ///
    /// # Errors
    /// When it gives no verdict; then nobody is let in.
    pub fn evaluate(&self, input: Input<'_>) -> Result<Verdict, EvalError> {
        self.clone().ask(input.into())
    }

    fn ask(&mut self, input: Value) -> Result<Verdict, EvalError> {
        self.engine.set_input(input.into());
        let result = self.engine.eval_rule(QUERY.to_owned()).map_err(|error| {
            let text = shorten(&error);
            if error.downcast_ref::<regorus::LimitError>().is_some() || text.contains("time limit")
            {
                return EvalError::Budget;
            }
            // There is no such rule, which OPA finds out by finding no value.
            if text.contains("not a valid rule path") {
                return EvalError::Undefined;
            }
            if text.contains("rule conflicts with the following rule") {
                return EvalError::Conflict;
            }
            EvalError::Engine(text)
        })?;
        verdict(&result)
    }
}

fn verdict(result: &regorus::Value) -> Result<Verdict, EvalError> {
    if matches!(result, regorus::Value::Undefined) {
        return Err(EvalError::Undefined);
    }
    if result.as_object().is_err() {
        return Err(EvalError::NoObject);
    }
    let field = |name: &'static str| match &result[name] {
        regorus::Value::Bool(value) => Ok(*value),
        _ => Err(EvalError::Field(name)),
    };
    Ok(Verdict {
        allow: field("allow")?,
        allow_if_admin: field("allow_if_admin")?,
        allow_if_local: field("allow_if_local")?,
        allow_if_downstream: field("allow_if_downstream")?,
        allow_if_agent: field("allow_if_agent")?,
    })
}

fn read(path: &Path) -> Result<String, LoadError> {
    let failed = |reason: String| LoadError::Read { path: path.display().to_string(), reason };
    let size = fs::metadata(path).map_err(|error| failed(words(&error)))?.len();
    if size > MAX_DATA {
        return Err(failed(format!("larger than {MAX_DATA} bytes")));
    }
    fs::read_to_string(path).map_err(|error| failed(words(&error)))
}

/// The system's words, as Go has them.
fn words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::InvalidData => "the text is not UTF-8".to_owned(),
        _ => error.to_string(),
    }
}

/// The first JSON value of a text, as Go's decoder reads it: what follows is not looked at.
fn first_value(text: &str) -> Result<Value, LoadError> {
    match serde_json::Deserializer::from_str(text).into_iter::<Value>().next() {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(LoadError::Data(error.to_string())),
        None => Err(LoadError::Data("EOF".to_owned())),
    }
}

fn shorten(error: &impl ToString) -> String {
    let mut text = error.to_string().trim().to_owned();
    if text.len() > MAX_REASON {
        text.truncate(text.floor_char_boundary(MAX_REASON));
        text.push('…');
    }
    text
}
