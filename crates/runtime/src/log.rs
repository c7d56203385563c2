//! Logs as SPIRE's users know them: logrus' text and JSON lines, on standard output or in a file.
//!
//! Everything logs through `tracing`; an event's message becomes `msg`, its fields and those of
//! the spans around it become keys, sorted. Libraries below us are heard from WARN upwards, and
//! from TRACE on when the level is `trace`.

mod extra;
mod format;
mod layer;
mod output;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;

pub use extra::Extra;
use format::Style;
use layer::LogrusLayer;
use output::Output;

/// How much of a wrong setting an error repeats.
const MAX_ECHO: usize = 64;

/// The form of a line, `log_format` in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Nothing configured: text, with the time to the second.
    #[default]
    Default,
    /// `text`: `key=value` pairs, with the time to the nanosecond.
    Text,
    /// `json`: an object a line.
    Json,
}

impl FromStr for Format {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text.to_ascii_lowercase().as_str() {
            "" => Ok(Self::Default),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogError::UnknownFormat(shorten(text))),
        }
    }
}

/// A level by logrus' names, the gravest first; a logger at a level writes it and all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Nothing of ours is this grave: in effect, silence.
    Panic,
    /// Nothing of ours is this grave: in effect, silence.
    Fatal,
    /// Something failed that an operator should know of.
    Error,
    /// Something is off, and the process went on.
    Warn,
    /// What the process does.
    Info,
    /// How it does it.
    Debug,
    /// That, and what the libraries below do.
    Trace,
}

impl Level {
    const ALL: [Self; 7] =
        [Self::Panic, Self::Fatal, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// logrus' name; it prints `warning` where it reads `warn` too.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Fatal => "fatal",
            Self::Error => "error",
            Self::Warn => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    const fn filter(self) -> LevelFilter {
        match self {
            Self::Panic | Self::Fatal => LevelFilter::OFF,
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Level {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        let name = text.to_ascii_lowercase();
        let found = Self::ALL.into_iter().find(|level| level.as_str() == name);
        match found {
            Some(level) => Ok(level),
            None if name == "warn" => Ok(Self::Warn),
            None => Err(LogError::UnknownLevel(shorten(text))),
        }
    }
}

/// What to log, how, and where to.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The level to start with.
    pub level: Level,
    /// The form of a line.
    pub format: Format,
    /// A file to append to, made with mode 0640; standard output without one.
    pub file: Option<PathBuf>,
    /// Whether each line says where in the source it comes from, in `file` and `func`.
    pub source_location: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: Level::Info, format: Format::Default, file: None, source_location: false }
    }
}

/// Why logging could not be set up; the texts are logrus' and SPIRE's.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No level has this name.
    #[error("not a valid logrus Level: {0:?}")]
    UnknownLevel(String),
    /// No format has this name.
    #[error("unknown logger format: {0:?}")]
    UnknownFormat(String),
    /// The log file could not be opened.
    #[error("open {}: {}", path.display(), crate::gotext::system(source))]
    Open {
        /// The path of the log file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process logs already.
    #[error("the logger is already set up")]
    AlreadySetUp,
}

/// Makes `config` the logging of the whole process, and has panics logged too.
///
/// Call it before threads are started: the local time zone cannot be found out later, and UTC is
/// used then.
///
/// # Errors
/// When the file cannot be opened, or the process logs already.
pub fn init(config: &LogConfig) -> Result<LogHandle, LogError> {
    let (subscriber, handle) = subscriber(config)?;
    set_global(subscriber)?;
    Ok(handle)
}

/// As [`init`], for a program whose standard output belongs to another: what has
/// no file goes to standard error.
///
/// # Errors
/// When the file cannot be opened, or the process logs already.
pub fn init_on_stderr(config: &LogConfig) -> Result<LogHandle, LogError> {
    let (subscriber, handle) = writing_to(config, Output::stderr())?;
    set_global(subscriber)?;
    Ok(handle)
}

fn set_global(subscriber: impl tracing::Subscriber + Send + Sync) -> Result<(), LogError> {
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySetUp)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// What [`init`] makes global, for those who want it for a scope only.
///
/// # Errors
/// When the file cannot be opened.
pub fn subscriber(
    config: &LogConfig,
) -> Result<(impl tracing::Subscriber + Send + Sync + 'static, LogHandle), LogError> {
    writing_to(config, Output::stdout())
}

fn writing_to(
    config: &LogConfig,
    unless_file: Output,
) -> Result<(impl tracing::Subscriber + Send + Sync + 'static, LogHandle), LogError> {
    let output = match &config.file {
        None => unless_file,
        Some(path) => {
            Output::file(path).map_err(|source| LogError::Open { path: path.clone(), source })?
        }
    };
    let handle = LogHandle(Arc::new(Shared {
        level: AtomicU8::new(config.level as u8),
        launch_level: config.level,
        output,
    }));
    let style = Style::new(config.format, handle.0.output.is_terminal());
    let layer = LogrusLayer::new(handle.clone(), style, config.source_location);
    Ok((tracing_subscriber::registry().with(layer), handle))
}

/// The logging of the process, while it runs; clones are the same one.
#[derive(Clone, Debug)]
pub struct LogHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    level: AtomicU8,
    launch_level: Level,
    output: Output,
}

impl LogHandle {
    /// The level in force.
    pub fn level(&self) -> Level {
        Level::ALL[usize::from(self.0.level.load(Ordering::Relaxed))]
    }

    /// The level that the process was started with.
    pub fn launch_level(&self) -> Level {
        self.0.launch_level
    }

    /// Changes the level from now on.
    pub fn set_level(&self, level: Level) {
        self.0.level.store(level as u8, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Opens the log file anew, after it was moved away; nothing happens without a file.
    ///
    /// # Errors
    /// When it cannot be opened; lines go on to the old file then.
    pub fn reopen(&self) -> io::Result<()> {
        self.0.output.reopen()
    }
}

fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string);
    let error = info.payload_as_str().unwrap_or("panic without a message");
    let thread = std::thread::current();
    tracing::error!(error, location, thread = thread.name(), "Panic");
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_ECHO).collect()
}
