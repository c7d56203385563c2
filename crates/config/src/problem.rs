//! What is wrong with a configuration, and what its author should know.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// What sort of problem it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The file cannot be read at all.
    Unreadable,
    /// The text is not HCL, or a value has the wrong type.
    Malformed,
    /// A value is missing, wrong, or contradicts another.
    Invalid,
    /// A key that SPIRE does not know either.
    Unknown,
    /// Valid for SPIRE, but asks for something that does not exist here yet and
    /// that cannot be left out without changing what the service does.
    NotAvailable,
    /// Too few or too many plugins of a type, which SPIRE notices only when it
    /// starts.
    PluginCount,
}

/// One thing wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line, from one, when the problem has a place.
    pub line: Option<usize>,
    /// The key, as `server.agent_ttl`; empty when it concerns no single one.
    pub key: String,
    /// What is wrong; SPIRE's text where SPIRE has one.
    pub text: String,
    /// What sort it is.
    pub kind: ProblemKind,
}

impl fmt::Display for Problem {
    /// The text first, so that it reads on after SPIRE's own prefixes; then the
    /// place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.kind == ProblemKind::Unreadable {
            return Ok(());
        }
        write_place(f, &self.file, self.line, &self.key)
    }
}

fn write_place(
    f: &mut fmt::Formatter<'_>,
    file: &Path,
    line: Option<usize>,
    key: &str,
) -> fmt::Result {
    write!(f, " ({}", file.display())?;
    if let Some(line) = line {
        write!(f, ":{line}")?;
    }
    if !key.is_empty() {
        write!(f, ": {key}")?;
    }
    f.write_str(")")
}

/// The unknown keys of one block, as SPIRE logs them: `Unknown configuration
/// detected` with `section` and `keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSection {
    /// SPIRE's name for the block: `top-level`, `server`, `health check` …
    pub section: String,
    /// The keys, sorted.
    pub keys: Vec<String>,
}

/// Everything wrong with a configuration, in the order of the file where a
/// problem has a place; never empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    unknown: Vec<UnknownSection>,
    notices: Vec<Notice>,
}

impl Problems {
    /// The problems one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// The blocks with unknown keys, for the log.
    pub fn unknown_sections(&self) -> &[UnknownSection] {
        &self.unknown
    }

    /// What was noticed besides the problems.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Whether the file is fine for SPIRE and only asks for what does not exist
    /// here yet.
    pub fn only_not_available(&self) -> bool {
        self.list.iter().all(|problem| problem.kind == ProblemKind::NotAvailable)
    }

    /// Whether SPIRE's `validate`, which does not look at an agent's plugins,
    /// would call the file valid: what is listed concerns `run` alone.
    pub fn only_at_start(&self) -> bool {
        let at_start = [ProblemKind::NotAvailable, ProblemKind::PluginCount];
        self.list.iter().all(|problem| at_start.contains(&problem.kind))
    }

    pub(crate) fn one(problem: Problem) -> Self {
        Self { list: vec![problem], ..Self::default() }
    }

    pub(crate) fn new(
        mut list: Vec<Problem>,
        unknown: Vec<UnknownSection>,
        notices: Vec<Notice>,
    ) -> Self {
        list.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        Self { list, unknown, notices }
    }
}

impl fmt::Display for Problems {
    /// A line per problem, without a last newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// How a notice is to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// The key's feature does not exist yet; logged as a warning.
    NotAvailable,
    /// The key is read but changes nothing here; logged as a warning.
    NoEffect,
    /// The key is deprecated; a warning with the fields `alert=true` and
    /// `alert_type=deprecated_config`.
    Deprecated,
    /// A warning of SPIRE's.
    Warning,
    /// A line of SPIRE's at level info.
    Info,
}

/// Something that the author of a configuration should know; no obstacle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line, from one, when the notice has a place.
    pub line: Option<usize>,
    /// The key, as `server.profiling_enabled`; empty when it concerns no single
    /// one.
    pub key: String,
    /// The line to log; SPIRE's text where SPIRE has one.
    pub text: String,
    /// How to log it.
    pub kind: NoticeKind,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        write_place(f, &self.file, self.line, &self.key)
    }
}
