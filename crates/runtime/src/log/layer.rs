//! From `tracing` events to lines.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::format::Style;
use super::{Level, LogHandle, extra};

/// Capacity that a thread keeps between lines; a giant line is not kept for ever.
const KEEP: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

pub(super) struct LogrusLayer {
    handle: LogHandle,
    style: Style,
    source_location: bool,
}

impl LogrusLayer {
    pub(super) fn new(handle: LogHandle, style: Style, source_location: bool) -> Self {
        Self { handle, style, source_location }
    }

    fn allows(&self, metadata: &Metadata<'_>) -> bool {
        let level = self.handle.level();
        *metadata.level() <= level.filter()
            && (*metadata.level() <= loudest(metadata.target()) || level == Level::Trace)
    }

    fn write<S>(&self, scratch: &mut Scratch, event: &Event<'_>, context: &Context<'_, S>)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let Scratch { fields, line } = scratch;
        fields.clear();
        line.clear();
        if let Some(scope) = context.event_scope(event) {
            for span in scope.from_root() {
                if let Some(of_span) = span.extensions().get::<Fields>() {
                    fields.append(of_span);
                }
            }
        }
        event.record(fields);
        let metadata = event.metadata();
        if self.source_location {
            fields.push_location(metadata);
        }
        fields.sort();
        self.style.line(line, SystemTime::now(), *metadata.level(), fields);
        self.handle.0.output.write(line.as_bytes());
        scratch.trim();
    }
}

impl<S> Layer<S> for LogrusLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // The answer is kept until a change of the level asks again, so a line that is not
        // written costs one load.
        if self.allows(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        self.allows(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.handle.level().filter())
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut scratch) => self.write(&mut scratch, event, &context),
            // A value that logs while it is being printed.
            Err(_) => self.write(&mut Scratch::default(), event, &context),
        });
    }
}

/// The most talkative level at which a target is heard short of trace. Of h2 only errors: what it
/// warns of, any peer can cause as often as it likes.
fn loudest(target: &str) -> tracing::Level {
    if target.starts_with("steeple") || target.starts_with("spire") {
        tracing::Level::TRACE
    } else if target.starts_with("h2") {
        tracing::Level::ERROR
    } else {
        tracing::Level::WARN
    }
}

#[derive(Default)]
struct Scratch {
    fields: Fields,
    line: String,
}

impl Scratch {
    fn trim(&mut self) {
        self.line.clear();
        self.fields.clear();
        self.line.shrink_to(KEEP);
        self.fields.text.shrink_to(KEEP);
    }
}

/// What an event or a span carries. The printed values share one buffer.
#[derive(Default)]
pub(super) struct Fields {
    text: String,
    message: Option<(usize, usize)>,
    items: Vec<Item>,
}

#[derive(Clone, Copy)]
struct Item {
    name: Name,
    start: usize,
    end: usize,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Name {
    Fixed(&'static str),
    /// A place in the buffer.
    Text(usize, usize),
}

impl Name {
    fn of(self, text: &str) -> &str {
        match self {
            Self::Fixed(name) => name,
            Self::Text(start, end) => &text[start..end],
        }
    }
}

/// How JSON writes a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// A number or a boolean: as it is.
    Bare,
}

impl Fields {
    pub(super) fn message(&self) -> &str {
        self.message.map_or("", |(start, end)| &self.text[start..end])
    }

    /// Name, value and kind of each field, in the order of [`Fields::sort`].
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str, Kind)> {
        let text = &self.text;
        self.items.iter().map(|item| (item.name.of(text), &text[item.start..item.end], item.kind))
    }

    fn clear(&mut self) {
        self.text.clear();
        self.message = None;
        self.items.clear();
    }

    fn append(&mut self, other: &Self) {
        let shift = self.text.len();
        self.text.push_str(&other.text);
        let moved = |name| match name {
            Name::Text(start, end) => Name::Text(start + shift, end + shift),
            fixed => fixed,
        };
        self.items.extend(other.items.iter().map(|item| Item {
            name: moved(item.name),
            start: item.start + shift,
            end: item.end + shift,
            ..*item
        }));
    }

    /// Sorts by name; of several of a name, the last recorded stays.
    fn sort(&mut self) {
        let text = &self.text;
        self.items.sort_by(|a, b| a.name.of(text).cmp(b.name.of(text)));
        self.items.dedup_by(|later, kept| {
            let same = later.name.of(text) == kept.name.of(text);
            if same {
                *kept = *later;
            }
            same
        });
    }

    fn push(&mut self, field: &Field, kind: Kind, value: impl fmt::Display) {
        let name = field.name();
        let start = self.text.len();
        // Writing to a string fails only when the value's own printing does.
        if write!(self.text, "{value}").is_err() {
            self.text.truncate(start);
            self.text.push_str("<unprintable>");
        }
        let end = self.text.len();
        if name == "message" {
            self.message = Some((start, end));
        } else {
            let name = name.strip_prefix("r#").unwrap_or(name);
            self.items.push(Item { name: Name::Fixed(name), start, end, kind });
        }
    }

    /// Takes fields apart that came under one name.
    fn push_extra(&mut self, value: &dyn fmt::Debug) {
        let begin = self.text.len();
        if write!(self.text, "{value:?}").is_err() {
            self.text.truncate(begin);
        }
        let mut start = begin;
        for record in self.text[begin..].split_terminator(extra::END) {
            if let Some((name, rest)) = record.split_once(extra::PART) {
                let kind = if rest.starts_with('b') { Kind::Bare } else { Kind::Text };
                let name_end = start + name.len();
                let end = start + record.len();
                // After the name: the separator and the kind, a byte each.
                let value = (name_end + 2).min(end);
                let name = Name::Text(start, name_end);
                self.items.push(Item { name, start: value, end, kind });
            }
            start += record.len() + 1;
        }
    }

    fn push_location(&mut self, metadata: &Metadata<'_>) {
        let start = self.text.len();
        let path = metadata.file().unwrap_or_default();
        self.text.push_str(path.rsplit('/').next().unwrap_or(path));
        if let Some(line) = metadata.line() {
            self.text.push(':');
            self.text.push_str(&line.to_string());
        }
        let middle = self.text.len();
        self.text.push_str(metadata.module_path().unwrap_or_else(|| metadata.target()));
        let end = self.text.len();
        self.items.push(Item { name: Name::Fixed("file"), start, end: middle, kind: Kind::Text });
        self.items.push(Item { name: Name::Fixed("func"), start: middle, end, kind: Kind::Text });
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let kind = if value.is_finite() { Kind::Bare } else { Kind::Text };
        self.push(field, kind, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Kind::Bare, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Kind::Bare, value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.push(field, Kind::Bare, value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.push(field, Kind::Bare, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Kind::Bare, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Kind::Text, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, Kind::Text, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == extra::FIELD {
            return self.push_extra(value);
        }
        self.push(field, Kind::Text, format_args!("{value:?}"));
    }
}
