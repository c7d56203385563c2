//! A timed call: a counter and a distribution, with the outcome as a label.

use std::borrow::Cow;
use std::time::{Instant, SystemTime};

use crate::registry::{self, Kind};
use crate::trace::{self, Span, SpanContext};
use crate::{Label, is_enabled};

/// Most parts of a key, and most labels, that a call has room for.
const MAX_PARTS: usize = 12;

/// Starts to time a call of this name.
///
/// When it ends, `key` counts one and `key.elapsed_time` gets the milliseconds,
/// both with the label `status`: the name of a gRPC code, such as `OK` or
/// `NotFound`. A call that is dropped on the way is `Canceled`.
pub fn call(key: &'static [&'static str]) -> Call {
    if !is_enabled() && !trace::is_enabled() {
        return Call::none();
    }
    call_in(key, trace::begin_child(), false)
}

/// As [`call`], as this span with this parent.
pub(crate) fn call_in(
    key: &'static [&'static str],
    span: Option<(SpanContext, Option<[u8; 8]>)>,
    serves: bool,
) -> Call {
    let span =
        span.map(|(context, parent)| Open { context, parent, serves, start: SystemTime::now() });
    Call(Some(Started { key, at: Instant::now(), labels: Vec::new(), span }))
}

/// A call that is going on.
#[must_use = "a call that is dropped at once was cancelled"]
pub struct Call(Option<Started>);

struct Started {
    key: &'static [&'static str],
    at: Instant,
    labels: Vec<(&'static str, Cow<'static, str>)>,
    span: Option<Open>,
}

/// A span that is not over.
struct Open {
    context: SpanContext,
    parent: Option<[u8; 8]>,
    serves: bool,
    start: SystemTime,
}

impl Call {
    /// One that nobody is told of.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Whether anybody is told of it.
    pub(crate) const fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Adds a label.
    pub fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.label(name, value);
        self
    }

    /// Adds a label.
    pub fn label(&mut self, name: &'static str, value: impl Into<Cow<'static, str>>) {
        if let Some(started) = &mut self.0
            && started.labels.len() < MAX_PARTS - 1
        {
            started.labels.push((name, value.into()));
        }
    }

    /// Ends it well.
    pub fn ok(self) {
        self.status("OK");
    }

    /// Ends it with the name of a gRPC code.
    pub fn status(mut self, code: &str) {
        if let Some(started) = self.0.take() {
            started.end(code);
        }
    }

    /// Ends it by how a result turned out: `OK` or `Unknown`, which is how
    /// gRPC sees an error without a code.
    pub fn outcome<T, E>(self, result: &Result<T, E>) {
        self.status(if result.is_ok() { "OK" } else { "Unknown" });
    }

    /// Ends it without a trace.
    pub fn discard(mut self) {
        self.0 = None;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(started) = self.0.take() {
            started.end("Canceled");
        }
    }
}

impl Started {
    fn end(self, code: &str) {
        let elapsed = self.at.elapsed();
        let mut labels: [Label<'_>; MAX_PARTS] = [("", ""); MAX_PARTS];
        for (slot, (name, value)) in labels.iter_mut().zip(&self.labels) {
            *slot = (name, value);
        }
        labels[self.labels.len()] = ("status", code);
        let labels = &labels[..=self.labels.len()];
        registry::record(Kind::Counter, self.key, 1.0, labels);
        let mut key: [&str; MAX_PARTS] = [""; MAX_PARTS];
        let parts = self.key.len().min(MAX_PARTS - 1);
        key[..parts].copy_from_slice(&self.key[..parts]);
        key[parts] = "elapsed_time";
        registry::record(Kind::Timer, &key[..=parts], elapsed.as_secs_f64() * 1e3, labels);
        if let Some(Open { context, parent, serves, start }) = self.span {
            trace::end(Span {
                name: self.key.join("."),
                context,
                parent,
                serves,
                start,
                end: start + elapsed,
                status: code.to_owned(),
                labels: self.labels.into_iter().map(|(n, v)| (n, v.into_owned())).collect(),
            });
        }
    }
}
