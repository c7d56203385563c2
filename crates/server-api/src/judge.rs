//! Rules by a user's own policy, instead of by the table (facts SA-18..SA-21).
//!
//! Evaluations take CPU time for seconds if a policy makes them, so they are few at once, on
//! threads that nobody else waits for, and what cannot be judged in time is refused.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use prost_reflect::{DescriptorPool, DynamicMessage, MapKey, MessageDescriptor, ReflectMessage};
use serde_json::{Map, Number, Value, json};
use steeple_policy::{BUDGET, Engine, EvalError, Input};
use steeple_server_core::access::Rule;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::Status;

use crate::limit::retry_later;
use crate::table::Row;

/// How long a call waits for others' evaluations.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks a policy.
#[derive(Clone, Debug)]
pub(crate) struct Judge {
    engine: Engine,
    turns: Arc<Semaphore>,
}

/// A call that is judged.
pub(crate) struct Case {
    pub(crate) row: &'static Row,
    /// A SPIFFE ID, or empty.
    pub(crate) caller: String,
    /// The program of a local caller, if it is known.
    pub(crate) caller_file_path: String,
    /// The message; none of a stream.
    pub(crate) message: Option<bytes::Bytes>,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JudgeError {
    #[error(transparent)]
    Eval(#[from] EvalError),
    #[error("policy: too many evaluations are under way")]
    Busy,
    #[error("policy: evaluation failed")]
    Panicked,
}

impl JudgeError {
    /// As SPIRE answers: an error that is no status is of an unknown kind.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Busy => retry_later(self.to_string(), PATIENCE),
            Self::Eval(EvalError::Engine(_)) => Status::unknown("policy: evaluation failed"),
            Self::Eval(_) | Self::Panicked => Status::unknown(self.to_string()),
        }
    }
}

impl Judge {
    pub(crate) fn new(engine: Engine) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self { engine, turns: Arc::new(Semaphore::new(cores)) }
    }

    /// To whom the policy opens the call.
    pub(crate) async fn rule(&self, case: Case) -> Result<Rule, JudgeError> {
        let turn = timeout(PATIENCE, Arc::clone(&self.turns).acquire_owned());
        let turn = turn.await.map_err(|_late| JudgeError::Busy)?;
        let turn = turn.expect("nobody closes the semaphore");
        let engine = self.engine.clone();
        let judged = tokio::task::spawn_blocking(move || {
            // An evaluation that does not end keeps its turn.
            let _turn = turn;
            engine.evaluate(Input {
                caller: &case.caller,
                caller_file_path: &case.caller_file_path,
                full_method: case.row.path,
                req: request(case.row, case.message.as_deref()),
            })
        });
        // The budget is looked at between builtins, of which one may take long by itself.
        let judged = timeout(PATIENCE + BUDGET, judged).await.map_err(|_late| EvalError::Budget)?;
        let verdict = judged.map_err(|_panicked| JudgeError::Panicked)??;
        Ok(Rule {
            any: verdict.allow,
            local: verdict.allow_if_local,
            admin: verdict.allow_if_admin,
            downstream: verdict.allow_if_downstream,
            agent: verdict.allow_if_agent,
        })
    }
}

/// A request as Go prints it; null for a stream and for what is no message.
fn request(row: &Row, message: Option<&[u8]>) -> Value {
    let Some(bytes) = message else { return Value::Null };
    if row.path.starts_with("/grpc.health.v1.") {
        let message: tonic_health::pb::HealthCheckRequest =
            prost::Message::decode(bytes).unwrap_or_default();
        return match message.service {
            service if service.is_empty() => json!({}),
            service => json!({ "service": service }),
        };
    }
    let Some(descriptor) = input_of(row) else { return Value::Null };
    DynamicMessage::decode(descriptor, bytes).map_or(Value::Null, |message| object(&message))
}

fn input_of(row: &Row) -> Option<MessageDescriptor> {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(steeple_proto::DESCRIPTORS).expect("the descriptors are built in")
    });
    let (service, method) = row.path.strip_prefix('/')?.rsplit_once('/')?;
    let service = POOL.get_service_by_name(service)?;
    service.methods().find(|found| found.name() == method).map(|method| method.input())
}

/// A message as Go's `encoding/json` prints the generated struct: proto names, nothing that is
/// empty; a choice of fields under its own name, in Go's spelling, and null when none is chosen.
fn object(message: &DynamicMessage) -> Value {
    let mut out = Map::new();
    for choice in message.descriptor().oneofs().filter(|choice| !choice.is_synthetic()) {
        let chosen = choice.fields().find(|field| message.has_field(field)).map(|field| {
            let value = value_of(&message.get_field(&field));
            json!({ go_name(field.name()): value })
        });
        out.insert(go_name(choice.name()), chosen.unwrap_or_default());
    }
    for field in message.descriptor().fields() {
        let chosen = field.containing_oneof().is_some_and(|choice| !choice.is_synthetic());
        if !chosen && message.has_field(&field) {
            out.insert(field.name().to_owned(), value_of(&message.get_field(&field)));
        }
    }
    Value::Object(out)
}

/// `https_web` is `HttpsWeb` in Go.
fn go_name(name: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
    };
    name.split('_').filter_map(capital).collect()
}

fn value_of(value: &prost_reflect::Value) -> Value {
    use prost_reflect::Value as V;
    match value {
        V::Bool(value) => Value::Bool(*value),
        V::I32(value) | V::EnumNumber(value) => json!(value),
        V::I64(value) => json!(value),
        V::U32(value) => json!(value),
        V::U64(value) => json!(value),
        V::F32(value) => float(f64::from(*value)),
        V::F64(value) => float(*value),
        V::String(value) => json!(value),
        V::Bytes(value) => json!(base64(value)),
        V::Message(message) => object(message),
        V::List(list) => list.iter().map(value_of).collect(),
        V::Map(map) => {
            let entries = map.iter().map(|(key, value)| (key_text(key), value_of(value)));
            Value::Object(entries.collect())
        }
    }
}

fn float(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests;
