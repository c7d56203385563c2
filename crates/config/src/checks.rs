//! What the checks of both programs share.

use std::{
    fmt::Display,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use steeple_hcl::{Located, UnknownKey};
use steeple_runtime::{
    duration::parse_go,
    log::{Format, Level, LogConfig},
};
use steeple_spiffe::TrustDomain;

use crate::{
    common::HealthChecks,
    problem::{Notice, NoticeKind, Problem, ProblemKind, Problems, UnknownSection},
    raw,
};

/// The longest trust domain name that the SPIFFE standard has.
const MAX_TRUST_DOMAIN: usize = 255;

/// How much of a wrong value an error repeats, in characters.
const MAX_ECHO: usize = 100;

/// Collects problems and notices while a configuration is checked.
pub(crate) struct Checker {
    file: PathBuf,
    problems: Vec<Problem>,
    unknown: Vec<UnknownSection>,
    notices: Vec<Notice>,
}

/// The feature flags that are on.
#[derive(Clone, Copy, Default)]
pub(crate) struct FeatureFlags {
    /// `wit-svid`.
    pub(crate) wit_svid: bool,
}

impl Checker {
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file, problems: Vec::new(), unknown: Vec::new(), notices: Vec::new() }
    }

    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<(T, Vec<Notice>), Problems> {
        match value {
            Some(value) if self.problems.is_empty() => Ok((value, self.notices)),
            _ => Err(Problems::new(self.problems, self.unknown, self.notices)),
        }
    }

    fn push(&mut self, kind: ProblemKind, line: Option<usize>, key: &str, text: String) {
        self.problems.push(Problem {
            file: self.file.clone(),
            line,
            key: key.to_owned(),
            text,
            kind,
        });
    }

    pub(crate) fn problem(&mut self, line: Option<usize>, key: &str, text: impl Into<String>) {
        self.push(ProblemKind::Invalid, line, key, text.into());
    }

    /// A problem that SPIRE has when it starts, and not before.
    pub(crate) fn plugin_count(&mut self, line: Option<usize>, key: &str, text: String) {
        self.push(ProblemKind::PluginCount, line, key, text);
    }

    /// A problem that SPIRE would not have: what is asked for does not exist
    /// here yet, and the service would not be what its operator thinks.
    pub(crate) fn refuse(&mut self, line: Option<usize>, key: &str, what: &str) {
        let text = format!("{what} is not available yet in this version of Steeple");
        self.push(ProblemKind::NotAvailable, line, key, text);
    }

    pub(crate) fn note(
        &mut self,
        kind: NoticeKind,
        line: Option<usize>,
        key: &str,
        text: impl Into<String>,
    ) {
        self.notices.push(Notice {
            file: self.file.clone(),
            line,
            key: key.to_owned(),
            text: text.into(),
            kind,
        });
    }

    /// Notes that a key is there which changes nothing here, and why.
    pub(crate) fn no_effect<T>(&mut self, key: &str, value: &Located<T>, why: &str) {
        if value.is_present() {
            self.note(
                NoticeKind::NoEffect,
                value.line(),
                key,
                format!("{key} has no effect: {why}"),
            );
        }
    }

    /// A duration in Go's form; `Some` also when it is wrong, which is noted.
    pub(crate) fn duration(
        &mut self,
        key: &str,
        value: &Located<String>,
        what: impl FnOnce(&str) -> String,
    ) -> Option<Duration> {
        let text = set(value)?;
        match parse_go(text) {
            Ok(duration) => Some(duration),
            Err(error) => {
                let text = format!("{}: {error}", what(&quote(text)));
                self.problem(value.line(), key, text);
                Some(Duration::ZERO)
            }
        }
    }

    /// A value parsed by its own `FromStr`.
    pub(crate) fn parse<T: std::str::FromStr<Err: Display>>(
        &mut self,
        key: &str,
        value: &Located<String>,
        what: &str,
    ) -> Option<T> {
        let text = set(value)?;
        text.parse().map_err(|error| self.problem(value.line(), key, format!("{what}{error}"))).ok()
    }

    pub(crate) fn trust_domain(
        &mut self,
        key: &str,
        value: &Located<String>,
    ) -> Option<TrustDomain> {
        let Some(text) = set(value) else {
            self.problem(value.line(), key, "trust_domain must be configured");
            return None;
        };
        match TrustDomain::from_name_or_id(text) {
            Ok(domain) => {
                if domain.as_str().len() > MAX_TRUST_DOMAIN {
                    let text = format!(
                        "Configured trust domain name should be less than {MAX_TRUST_DOMAIN} \
                         characters to be SPIFFE compliant; a longer trust domain name may \
                         impact interoperability"
                    );
                    self.note(NoticeKind::Warning, value.line(), key, text);
                }
                Some(domain)
            }
            Err(error) => {
                let text = format!("could not parse trust_domain {}: {error}", quote(text));
                self.problem(value.line(), key, text);
                None
            }
        }
    }

    /// `log_*` of either program; `prefix` is `server` or `agent`.
    pub(crate) fn log(
        &mut self,
        prefix: &str,
        level: &Located<String>,
        format: &Located<String>,
        file: &Located<String>,
        source_location: &Located<bool>,
    ) -> LogConfig {
        let level = match set(level).unwrap_or("INFO").parse::<Level>() {
            Ok(level) => level,
            Err(error) => {
                let text = format!("could not start logger: {error}");
                self.problem(level.line(), &format!("{prefix}.log_level"), text);
                Level::Info
            }
        };
        let format = match set(format).unwrap_or_default().parse::<Format>() {
            Ok(format) => format,
            Err(error) => {
                let text = format!("could not start logger: {error}");
                self.problem(format.line(), &format!("{prefix}.log_format"), text);
                Format::default()
            }
        };
        LogConfig {
            level,
            format,
            file: set(file).map(PathBuf::from),
            source_location: on(source_location),
        }
    }

    /// A TCP port that is not zero.
    pub(crate) fn port(&mut self, key: &str, value: &Located<i64>, host: &str) -> Option<u16> {
        let port = value.value?;
        u16::try_from(port)
            .map_err(|_| {
                let text = format!(
                    "could not resolve bind address \"{host}:{port}\": address {port}: invalid port"
                );
                self.problem(value.line(), key, text);
            })
            .ok()
    }

    /// `feature_flags`: names that SPIRE does not know are an error. Gives those that are on.
    pub(crate) fn feature_flags(
        &mut self,
        key: &str,
        flags: &Located<Vec<String>>,
    ) -> FeatureFlags {
        let mut on = FeatureFlags::default();
        let mut bad = Vec::new();
        for flag in flags.value.iter().flatten() {
            match flag.as_str() {
                "i_am_a_test_flag" => {
                    let text = format!("Developer feature flag \"{flag}\" has been enabled");
                    self.note(NoticeKind::Warning, flags.line(), key, text);
                }
                "wit-svid" => {
                    let text = format!("Developer feature flag \"{flag}\" has been enabled");
                    self.note(NoticeKind::Warning, flags.line(), key, text);
                    on.wit_svid = true;
                }
                _ => bad.push(shorten(flag)),
            }
        }
        if !bad.is_empty() {
            bad.sort();
            let bad = bad.join(" ");
            let text = format!("error loading feature flags: unknown feature flag(s): [{bad}]");
            self.problem(flags.line(), key, text);
        }
        on
    }

    /// Unknown keys: errors where SPIRE refuses them, else one line each.
    /// `section` gives SPIRE's name for the blocks that it looks at.
    pub(crate) fn unknown_keys(
        &mut self,
        unknown: Vec<UnknownKey>,
        section: impl Fn(&str) -> Option<String>,
    ) {
        for found in unknown {
            let block = found.section.strip_prefix("root").unwrap_or(&found.section);
            let block = block.trim_start_matches('.');
            let key = match block {
                "" => shorten(&found.key),
                block => format!("{block}.{}", shorten(&found.key)),
            };
            let line = (found.position.line > 0).then_some(found.position.line);
            let Some(section) = section(block) else {
                let text = format!("unknown key {key}; ignored, as SPIRE does");
                self.note(NoticeKind::NoEffect, line, &key, text);
                continue;
            };
            self.push(
                ProblemKind::Unknown,
                line,
                &key,
                "unknown configuration detected".to_owned(),
            );
            match self.unknown.iter_mut().find(|known| known.section == section) {
                Some(known) => known.keys.push(found.key),
                None => self.unknown.push(UnknownSection { section, keys: vec![found.key] }),
            }
        }
        for section in &mut self.unknown {
            section.keys.sort();
            section.keys.dedup();
        }
    }

    pub(crate) fn health_checks(raw: &raw::HealthChecks) -> HealthChecks {
        let or = |value: &Located<String>, default: &str| set(value).unwrap_or(default).to_owned();
        HealthChecks {
            listener_enabled: on(&raw.listener_enabled),
            bind_address: or(&raw.bind_address, "localhost").trim_matches(['[', ']']).to_owned(),
            bind_port: or(&raw.bind_port, "80"),
            live_path: or(&raw.live_path, "/live"),
            ready_path: or(&raw.ready_path, "/ready"),
        }
    }
}

/// SPIRE's name for a block of `telemetry` or `health_checks` whose keys it
/// looks at.
pub(crate) fn shared_section(block: &str) -> Option<String> {
    let name = match block.split('[').next().unwrap_or_default() {
        "" => "top-level",
        "telemetry.Prometheus" => "Prometheus",
        "telemetry.DogStatsd" => "DogStatsd",
        "telemetry.Statsd" => "Statsd",
        "telemetry.M3" => "M3",
        "telemetry.InMem" => "InMem",
        "telemetry.Otlp" => "Otlp",
        "health_checks" => "health check",
        _ => return None,
    };
    Some(name.to_owned())
}

/// A text that is there and not empty; SPIRE takes an empty one for absent.
pub(crate) fn set(value: &Located<String>) -> Option<&str> {
    value.as_ref().map(String::as_str).filter(|text| !text.is_empty())
}

/// A switch that is there and on.
pub(crate) fn on(value: &Located<bool>) -> bool {
    value.value == Some(true)
}

/// Puts a flag over a key, unless the flag is empty.
pub(crate) fn overlay(value: &mut Located<String>, flag: &str) {
    if !flag.is_empty() {
        *value = Located::from_elsewhere(flag.to_owned());
    }
}

/// Puts a flag over a key, unless the flag is off.
pub(crate) fn overlay_switch(value: &mut Located<bool>, flag: bool) {
    if flag {
        *value = Located::from_elsewhere(true);
    }
}

/// Go's `%q`, of a text that is cut when it is long.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars().take(MAX_ECHO) {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    if text.chars().nth(MAX_ECHO).is_some() {
        out.push('…');
    }
    out.push('"');
    out
}

/// A text for a message: on one line, and cut when it is long.
pub(crate) fn shorten(text: &str) -> String {
    let quoted = quote(text);
    quoted[1..quoted.len() - 1].to_owned()
}

/// An absolute path without `.`, `..` and doubled slashes, by its text alone.
pub(crate) fn absolute(path: &str) -> std::io::Result<PathBuf> {
    Ok(clean(&std::path::absolute(path)?))
}

/// A path without `.`, `..` and doubled slashes, by its text alone.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}
