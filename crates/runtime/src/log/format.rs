//! logrus' three styles of a line: text, text on a terminal, and JSON.

use std::fmt::{self, Write as _};
use std::time::{Instant, SystemTime};

use time::{OffsetDateTime, UtcOffset};
use tracing::Level;

use super::Format;
use super::layer::{Fields, Kind};

/// The names that every line has for itself; a field of such a name gets a prefix.
const OWN_KEYS: [&str; 4] = ["level", "logrus_error", "msg", "time"];
/// The width that a message is padded to on a terminal.
const MESSAGE_WIDTH: usize = 44;

pub(super) struct Style {
    shape: Shape,
    offset: UtcOffset,
    nanos: bool,
}

enum Shape {
    Text,
    Terminal { start: Instant },
    Json,
}

impl Style {
    pub(super) fn new(format: Format, terminal: bool) -> Self {
        let shape = match format {
            Format::Json => Shape::Json,
            _ if terminal => Shape::Terminal { start: Instant::now() },
            _ => Shape::Text,
        };
        // Go prints local time; with threads already running only UTC is safe to tell.
        let offset = UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC);
        Self { shape, offset, nanos: format != Format::Default }
    }

    #[cfg(test)]
    pub(super) fn fixed(format: Format, offset: UtcOffset) -> Self {
        Self { offset, ..Self::new(format, false) }
    }

    #[cfg(test)]
    pub(super) fn terminal() -> Self {
        Self::new(Format::Text, true)
    }

    /// Appends the line of an event, newline included.
    pub(super) fn line(&self, out: &mut String, now: SystemTime, level: Level, fields: &Fields) {
        match &self.shape {
            Shape::Text => self.text(out, now, level, fields),
            Shape::Terminal { start } => terminal(out, start, level, fields),
            Shape::Json => self.json(out, now, level, fields),
        }
        out.push('\n');
    }

    fn text(&self, out: &mut String, now: SystemTime, level: Level, fields: &Fields) {
        out.push_str("time=\"");
        self.timestamp(out, now);
        out.push_str("\" level=");
        out.push_str(name(level));
        if !fields.message().is_empty() {
            out.push_str(" msg=");
            text_value(out, fields.message());
        }
        for_each_sorted(fields, |key, value, _| {
            out.push(' ');
            out.push_str(key.0);
            out.push_str(key.1);
            out.push('=');
            text_value(out, value);
        });
    }

    fn json(&self, out: &mut String, now: SystemTime, level: Level, fields: &Fields) {
        let mut own = ["level", "msg", "time"].into_iter().peekable();
        let mut separator = '{';
        let mut put_own = |out: &mut String, separator: &mut char, before: Option<&str>| {
            while let Some(key) = own.next_if(|key| before.is_none_or(|before| *key < before)) {
                json_key(out, separator, ("", key));
                match key {
                    "level" => json_string(out, name(level)),
                    "msg" => json_string(out, fields.message()),
                    _ => {
                        out.push('"');
                        self.timestamp(out, now);
                        out.push('"');
                    }
                }
            }
        };
        for_each_sorted(fields, |key, value, kind| {
            let sort_key = if key.0.is_empty() { key.1 } else { key.0 };
            put_own(out, &mut separator, Some(sort_key));
            json_key(out, &mut separator, key);
            match kind {
                Kind::Bare => out.push_str(value),
                Kind::Text => json_string(out, value),
            }
        });
        put_own(out, &mut separator, None);
        out.push('}');
    }

    /// RFC 3339; with nanoseconds, the zeros at the end are left out.
    fn timestamp(&self, out: &mut String, now: SystemTime) {
        let at = OffsetDateTime::from(now).to_offset(self.offset);
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        let (hour, minute, second) = at.to_hms();
        put(out, format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"));
        if self.nanos && at.nanosecond() > 0 {
            let (mut fraction, mut width) = (at.nanosecond(), 9);
            while fraction % 10 == 0 {
                (fraction, width) = (fraction / 10, width - 1);
            }
            put(out, format_args!(".{fraction:0width$}"));
        }
        if self.offset.is_utc() {
            put(out, format_args!("Z"));
        } else {
            let (hours, minutes, _) = self.offset.as_hms();
            let sign = if self.offset.is_negative() { '-' } else { '+' };
            put(out, format_args!("{sign}{:02}:{:02}", hours.abs(), minutes.abs()));
        }
    }
}

/// `INFO[0000] message                 key=value`, in colour.
fn terminal(out: &mut String, start: &Instant, level: Level, fields: &Fields) {
    let (label, colour) = match level {
        Level::ERROR => ("ERRO", 31),
        Level::WARN => ("WARN", 33),
        Level::INFO => ("INFO", 36),
        Level::DEBUG => ("DEBU", 37),
        Level::TRACE => ("TRAC", 37),
    };
    let seconds = start.elapsed().as_secs();
    let message = fields.message();
    let message = message.strip_suffix('\n').unwrap_or(message);
    put(out, format_args!("\x1b[{colour}m{label}\x1b[0m[{seconds:04}] "));
    for c in message.chars() {
        // A terminal obeys control characters; a log has no orders to give.
        if c.is_control() && c != '\t' && c != '\n' {
            go_escape(out, c);
        } else {
            out.push(c);
        }
    }
    let padding = MESSAGE_WIDTH.saturating_sub(message.chars().count()) + 1;
    out.extend(std::iter::repeat_n(' ', padding));
    for_each_sorted(fields, |key, value, _| {
        put(out, format_args!(" \x1b[{colour}m{}{}\x1b[0m=", key.0, key.1));
        text_value(out, value);
    });
}

/// Gives the fields in the order of their keys as printed: a key that a line has for itself is
/// printed as `fields.<key>`, and sorts by that.
fn for_each_sorted<'a>(
    fields: &'a Fields,
    mut each: impl FnMut((&'static str, &'a str), &'a str, Kind),
) {
    const PREFIX: &str = "fields.";
    let clashes = |name: &str| OWN_KEYS.contains(&name);
    let mut pending = fields.iter().any(|(name, ..)| clashes(name));
    for (name, value, kind) in fields.iter() {
        if pending && name > PREFIX {
            put_clashing(fields, &mut each);
            pending = false;
        }
        if !clashes(name) {
            each(("", name), value, kind);
        }
    }
    if pending {
        put_clashing(fields, &mut each);
    }

    fn put_clashing<'a>(
        fields: &'a Fields,
        each: &mut impl FnMut((&'static str, &'a str), &'a str, Kind),
    ) {
        for (name, value, kind) in fields.iter().filter(|(name, ..)| OWN_KEYS.contains(name)) {
            each((PREFIX, name), value, kind);
        }
    }
}

fn text_value(out: &mut String, value: &str) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/@^+".contains(&byte);
    if value.bytes().all(plain) {
        out.push_str(value);
        return;
    }
    out.push('"');
    let mut rest = value;
    // Runs without anything to escape, which is nearly always all of it, are copied whole.
    while let Some(at) = rest.find(|c: char| !(' '..='~').contains(&c) || c == '"' || c == '\\') {
        out.push_str(&rest[..at]);
        let c = rest[at..].chars().next().expect("found just there");
        go_escape(out, c);
        rest = &rest[at + c.len_utf8()..];
    }
    out.push_str(rest);
    out.push('"');
}

/// One character as Go's `strconv.Quote` writes it.
fn go_escape(out: &mut String, c: char) {
    let code = u32::from(c);
    let escape = match c {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\x07' => "\\a",
        '\x08' => "\\b",
        '\x0c' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\x0b' => "\\v",
        _ => "",
    };
    if !escape.is_empty() {
        out.push_str(escape);
    } else if is_printable(c) {
        out.push(c);
    } else if code < 0x80 {
        put(out, format_args!("\\x{code:02x}"));
    } else if code < 0x1_0000 {
        put(out, format_args!("\\u{code:04x}"));
    } else {
        put(out, format_args!("\\U{code:08x}"));
    }
}

/// Go's `unicode.IsPrint`, by the table of Rust's own escaping. A letter goes first, since
/// that escapes marks that stand alone, which Go prints.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    let mut buffer = [0; 5];
    buffer[0] = b'a';
    let end = 1 + c.encode_utf8(&mut buffer[1..]).len();
    let text = std::str::from_utf8(&buffer[..end]).expect("a letter and a character");
    text.escape_debug().count() == 2
}

fn json_key(out: &mut String, separator: &mut char, key: (&str, &str)) {
    out.push(*separator);
    *separator = ',';
    out.push('"');
    json_escape(out, key.0);
    json_escape(out, key.1);
    out.push_str("\":");
}

fn json_string(out: &mut String, value: &str) {
    out.push('"');
    json_escape(out, value);
    out.push('"');
}

/// Escapes as Go's `encoding/json` does, HTML's characters included.
fn json_escape(out: &mut String, value: &str) {
    let special =
        |c: char| c < ' ' || matches!(c, '"' | '\\' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
    let mut rest = value;
    while let Some(at) = rest.find(special) {
        out.push_str(&rest[..at]);
        let c = rest[at..].chars().next().expect("found just there");
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            c => put(out, format_args!("\\u{:04x}", u32::from(c))),
        }
        rest = &rest[at + c.len_utf8()..];
    }
    out.push_str(rest);
}

fn put(out: &mut String, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes any text");
}

const fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}
