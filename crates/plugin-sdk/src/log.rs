//! `tracing` events as hclog's JSON lines on standard error, which hosts put into their log.

use std::fmt;
use std::io::Write;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Takes over the process's events. Of other crates, warnings and errors only.
pub(crate) fn init() {
    // A plugin that has a subscriber of its own keeps it.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Hclog));
}

struct Hclog;

impl<S: Subscriber> Layer<S> for Hclog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::DEBUG || (level > Level::INFO && is_library(event.metadata().target())) {
            return;
        }
        let mut line = Line(Map::new());
        event.record(&mut line);
        line.0.insert("@level".to_owned(), name(level).into());
        line.0.insert("@timestamp".to_owned(), now().into());
        let text = Value::Object(line.0).to_string();
        // Where standard error is gone, there is nobody to tell.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}

fn is_library(target: &str) -> bool {
    ["h2", "hyper", "tonic", "tower"].iter().any(|library| target.starts_with(library))
}

fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn now() -> String {
    let now = time::OffsetDateTime::from(std::time::SystemTime::now());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second(),
        now.microsecond()
    )
}

struct Line(Map<String, Value>);

impl Line {
    fn put(&mut self, field: &Field, value: Value) {
        let name = match field.name() {
            "message" => "@message",
            name => name.strip_prefix("r#").unwrap_or(name),
        };
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Line {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}
