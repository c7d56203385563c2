//! What a plugin prints: lines of bounded length, put into our log with the level they ask for.

use serde_json::{Map, Value};
use steeple_runtime::log::{Extra, Level};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::spec::Spec;

/// The longest line that is logged as one.
const MAX_LINE: usize = 64 * 1024;

/// Lines from a child's stream, in pieces of at most [`MAX_LINE`].
pub(crate) struct Lines<R> {
    stream: R,
    buffer: Vec<u8>,
    scanned: usize,
    ended: bool,
    /// The piece before had no end.
    continued: bool,
}

/// A line, or a piece of one that is too long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) whole: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self { stream, buffer: Vec::new(), scanned: 0, ended: false, continued: false }
    }

    /// The next; `None` at the end, and when the stream fails.
    pub(crate) async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(at) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
                let end = self.scanned + at;
                return Some(self.take(end, end + 1, false));
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() >= MAX_LINE {
                return Some(self.take(MAX_LINE, MAX_LINE, true));
            }
            if self.ended {
                if self.buffer.is_empty() {
                    return None;
                }
                let end = self.buffer.len();
                return Some(self.take(end, end, false));
            }
            let mut piece = [0; 8 * 1024];
            // Never past the limit, however much there is to read.
            let room = piece.len().min(MAX_LINE - self.buffer.len());
            match self.stream.read(&mut piece[..room]).await {
                Ok(0) | Err(_) => self.ended = true,
                Ok(read) => self.buffer.extend_from_slice(&piece[..read]),
            }
        }
    }

    fn take(&mut self, end: usize, next: usize, cut: bool) -> Line {
        let text = String::from_utf8_lossy(&self.buffer[..end]);
        let text = text.strip_suffix('\r').unwrap_or(&text).to_owned();
        self.buffer.drain(..next);
        self.scanned = 0;
        let whole = !cut && !self.continued;
        self.continued = cut;
        Line { text, whole }
    }
}

/// What the lines of one plugin have in common.
#[derive(Clone)]
pub(crate) struct Voice {
    name: String,
    kind: &'static str,
    subsystem: String,
}

impl Voice {
    pub(crate) fn of(spec: &Spec) -> Self {
        let subsystem = format!("{}.{}", spec.name, spec.base());
        Self { name: spec.name.clone(), kind: spec.kind.name(), subsystem }
    }

    /// The voice of one of the plugin's own streams.
    pub(crate) fn named(&self, name: &str) -> Self {
        Self { subsystem: format!("{}.{name}", self.subsystem), ..self.clone() }
    }

    pub(crate) fn say(&self, level: Level, message: &str, extra: &Extra) {
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    external = true,
                    plugin_name = self.name,
                    plugin_type = self.kind,
                    subsystem_name = self.subsystem,
                    log.extra = ?extra,
                    "{message}"
                )
            };
        }
        match level {
            Level::Error => line!(error),
            Level::Warn => line!(warn),
            Level::Info => line!(info),
            _ => line!(debug),
        }
    }
}

/// Logs all that comes from the plugin's standard error.
pub(crate) async fn log_stderr<R: AsyncRead + Unpin>(stream: R, voice: Voice) {
    let mut lines = Lines::new(stream);
    let mut panicking = false;
    while let Some(line) = lines.next().await {
        let entry = match line.whole {
            true => read(&line.text, &mut panicking),
            false => Some(Entry::plain(Level::Debug, line.text)),
        };
        if let Some(entry) = entry {
            voice.say(entry.level, &entry.message, &entry.extra);
        }
    }
}

#[derive(Debug, PartialEq)]
struct Entry {
    level: Level,
    message: String,
    extra: Extra,
}

impl Entry {
    fn plain(level: Level, message: impl Into<String>) -> Self {
        Self { level, message: message.into(), extra: Extra::new() }
    }
}

/// What a line says, or nothing where it is below what is ever logged.
fn read(line: &str, panicking: &mut bool) -> Option<Entry> {
    match serde_json::from_str::<Map<String, Value>>(line) {
        Ok(object) => structured(line, object),
        Err(_) => plain(line, panicking),
    }
}

fn plain(line: &str, panicking: &mut bool) -> Option<Entry> {
    let level = if line.starts_with("[TRACE]") {
        return None;
    } else if line.starts_with("[DEBUG]") {
        Level::Debug
    } else if line.starts_with("[INFO]") {
        Level::Info
    } else if line.starts_with("[WARN]") {
        Level::Warn
    } else if line.starts_with("[ERROR]") {
        Level::Error
    } else {
        *panicking |= line.starts_with("panic: ") || line.starts_with("fatal error: ");
        if *panicking { Level::Error } else { Level::Debug }
    };
    Some(Entry::plain(level, line))
}

/// A line of hclog's JSON form.
fn structured(line: &str, mut object: Map<String, Value>) -> Option<Entry> {
    let mut own = |key: &str| match object.remove(key) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (message, level) = (own("@message"), own("@level"));
    let timestamp = own("@timestamp");
    let level = match level.as_str() {
        "trace" => return None,
        "debug" => Level::Debug,
        "info" => Level::Info,
        "warn" => Level::Warn,
        "error" => Level::Error,
        // JSON of another origin.
        _ => return Some(Entry::plain(Level::Debug, line)),
    };
    let mut extra = Extra::new();
    for (key, value) in &object {
        // Who speaks is ours to say.
        let own = ["external", "plugin_name", "plugin_type", "subsystem_name"].contains(&&**key);
        let key = &if own { format!("fields.{key}") } else { key.clone() };
        match value {
            Value::String(text) => extra.text(key, text),
            Value::Number(_) | Value::Bool(_) => extra.bare(key, value),
            _ => extra.text(key, value),
        }
    }
    extra.text("timestamp", go_time(&timestamp));
    Some(Entry { level, message, extra })
}

/// hclog writes microseconds; what is logged has milliseconds and a zone with a colon or `Z`.
fn go_time(timestamp: &str) -> String {
    let Some(dot) = timestamp.find('.') else { return timestamp.to_owned() };
    let digits = timestamp[dot + 1..].bytes().take_while(u8::is_ascii_digit).count();
    if digits < 3 {
        return timestamp.to_owned();
    }
    let zone = &timestamp[dot + 1 + digits..];
    let zone = if zone == "Z" { "Z".to_owned() } else { zone.replace(':', "") };
    format!("{}{zone}", &timestamp[..dot + 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8]) -> Vec<Line> {
        let mut lines = Lines::new(text);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn lines_end_at_newlines_and_at_the_end() {
        let texts: Vec<_> = lines(b"a\r\n\nb").await.into_iter().map(|line| line.text).collect();
        assert_eq!(texts, ["a", "", "b"]);
        assert!(lines(b"").await.is_empty());
    }

    #[tokio::test]
    async fn a_line_without_end_comes_in_pieces() {
        let mut text = vec![b'x'; MAX_LINE * 2 + 5];
        text.extend_from_slice(b"\nnext\n");
        let found = lines(&text).await;
        let shape: Vec<_> = found.iter().map(|line| (line.text.len(), line.whole)).collect();
        assert_eq!(shape, [(MAX_LINE, false), (MAX_LINE, false), (5, false), (4, true)]);
    }

    #[test]
    fn lines_of_hclog_keep_their_level_and_fields() {
        let line = r#"{"@level":"warn","@message":"hot","@timestamp":"2026-11-22T09:00:00.123456Z","a":"b","n":7}"#;
        let entry = read(line, &mut false).unwrap();
        assert_eq!((entry.level, entry.message.as_str()), (Level::Warn, "hot"));
        let mut expected = Extra::new();
        expected.text("a", "b");
        expected.bare("n", 7);
        expected.text("timestamp", "2026-11-22T09:00:00.123Z");
        assert_eq!(entry.extra, expected);
    }

    #[test]
    fn a_plugin_cannot_speak_in_the_name_of_others() {
        let line = r#"{"@level":"info","@message":"API accessed","plugin_name":"x","subsystem_name":"api"}"#;
        let mut expected = Extra::new();
        expected.text("fields.plugin_name", "x");
        expected.text("fields.subsystem_name", "api");
        expected.text("timestamp", "");
        assert_eq!(read(line, &mut false).unwrap().extra, expected);
    }

    #[test]
    fn plain_lines_have_the_level_of_their_prefix() {
        let level = |line| read(line, &mut false).map(|entry| entry.level);
        assert_eq!(level("[WARN] x"), Some(Level::Warn));
        assert_eq!(level("[TRACE] x"), None);
        assert_eq!(level("x"), Some(Level::Debug));
        assert_eq!(level("[1, 2]"), Some(Level::Debug));
        assert_eq!(level(r#"{"a": 1}"#), Some(Level::Debug));
        assert_eq!(level(r#"{"@level": 3, "@message": {}}"#), Some(Level::Debug));
        let mut panicking = false;
        assert_eq!(read("panic: oh", &mut panicking).unwrap().level, Level::Error);
        assert_eq!(read("goroutine 1", &mut panicking).unwrap().level, Level::Error);
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_plugin_prints_becomes_a_line_or_nothing(
            text in "\\PC{0,80}",
            stamp in "[0-9TZ:.+é-]{0,40}",
            level in "trace|debug|info|warn|error|\\PC{0,5}",
        ) {
            let object = serde_json::json!({"@level": level, "@message": text, "@timestamp": stamp, "a": [text]});
            let known = ["debug", "info", "warn", "error"].contains(&level.as_str());
            match read(&object.to_string(), &mut false) {
                None => proptest::prop_assert_eq!(level, "trace"),
                Some(entry) => proptest::prop_assert_eq!(entry.message == text, known),
            }
            let plain = read(&text, &mut false);
            proptest::prop_assert!(plain.is_none_or(|entry| entry.message == text));
        }
    }
}
