//! Command-line flags with the semantics of Go's `flag` package.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use steeple_runtime::duration::{self, ParseDurationError};

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Text,
    Integer,
    Duration,
    DurationValue,
    Switch,
    /// `true`, `false`, or anything else for "both" (the agent filters).
    Tristate,
    /// May be given more than once.
    Repeated,
    /// One value, split at commas.
    CommaList,
    /// Given or not, whatever its value (`-x=false` counts as given).
    Mention,
    /// `pretty` or `json`.
    Output,
}

#[derive(Debug)]
struct Flag {
    kind: Kind,
    default: String,
    usage: &'static str,
}

/// Why a command line was not accepted; Display is Go's wording.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// `-h` or `-help` was given.
    #[error("flag: help requested")]
    Help,
    /// Anything else, already in words.
    #[error("{0}")]
    Bad(String),
}

/// The flags of one verb, and after [`FlagSet::parse`] their values.
#[derive(Debug)]
pub struct FlagSet {
    name: String,
    flags: BTreeMap<&'static str, Flag>,
    values: BTreeMap<&'static str, Vec<String>>,
    rest: Vec<String>,
}

impl FlagSet {
    /// An empty set; `name` stands in the usage text.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            flags: BTreeMap::new(),
            values: BTreeMap::new(),
            rest: Vec::new(),
        }
    }

    fn define(&mut self, name: &'static str, kind: Kind, default: String, usage: &'static str) {
        self.flags.insert(name, Flag { kind, default, usage });
    }

    /// A string flag.
    pub fn text(&mut self, name: &'static str, default: &str, usage: &'static str) {
        self.define(name, Kind::Text, default.to_owned(), usage);
    }

    /// A 64-bit integer flag.
    pub fn integer(&mut self, name: &'static str, default: i64, usage: &'static str) {
        let default = if default == 0 { String::new() } else { default.to_string() };
        self.define(name, Kind::Integer, default, usage);
    }

    /// A Go duration (`1h30m`).
    pub fn duration(&mut self, name: &'static str, default: Duration, usage: &'static str) {
        let default = if default.is_zero() { String::new() } else { duration::format_go(default) };
        self.define(name, Kind::Duration, default, usage);
    }

    /// A Go duration that Go's usage text calls a mere value.
    pub fn duration_value(&mut self, name: &'static str, default: Duration, usage: &'static str) {
        self.define(name, Kind::DurationValue, duration::format_go(default), usage);
    }

    /// A boolean flag, false unless given.
    pub fn switch(&mut self, name: &'static str, usage: &'static str) {
        self.define(name, Kind::Switch, String::new(), usage);
    }

    /// A filter that is `true`, `false` or unset.
    pub fn tristate(&mut self, name: &'static str, usage: &'static str) {
        self.define(name, Kind::Tristate, String::new(), usage);
    }

    /// A string flag that may be repeated.
    pub fn repeated(&mut self, name: &'static str, usage: &'static str) {
        self.define(name, Kind::Repeated, String::new(), usage);
    }

    /// A comma-separated list.
    pub fn comma_list(&mut self, name: &'static str, usage: &'static str) {
        self.define(name, Kind::CommaList, String::new(), usage);
    }

    /// A switch of which only the mention counts.
    pub fn mention(&mut self, name: &'static str, usage: &'static str) {
        self.define(name, Kind::Mention, String::new(), usage);
    }

    /// The output format, under `-output` or another name.
    pub fn output(&mut self, name: &'static str, usage: &'static str) {
        self.define(name, Kind::Output, String::new(), usage);
    }

    /// Reads the arguments after the verb. Parsing stops at the first one that
    /// is no flag; what follows is ignored, as the verbs take no arguments.
    pub fn parse(&mut self, args: &[String]) -> Result<(), FlagError> {
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let Some(body) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else {
                self.rest = std::iter::once(arg).chain(args).cloned().collect();
                return Ok(());
            };
            let body = body.strip_prefix('-').unwrap_or(body);
            if body.is_empty() {
                self.rest = args.cloned().collect();
                return Ok(());
            }
            if body.starts_with('-') || body.starts_with('=') {
                return Err(FlagError::Bad(format!("bad flag syntax: {arg}")));
            }
            let (name, inline) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            let Some((&known, flag)) = self.flags.get_key_value(name) else {
                return Err(match name {
                    "h" | "help" => FlagError::Help,
                    _ => FlagError::Bad(format!("flag provided but not defined: -{name}")),
                });
            };
            let value = match (inline, flag.kind) {
                (Some(value), _) => value,
                (None, Kind::Switch | Kind::Mention) => "true".to_owned(),
                (None, _) => match args.next() {
                    Some(value) => value.clone(),
                    None => {
                        return Err(FlagError::Bad(format!("flag needs an argument: -{name}")));
                    }
                },
            };
            let value = check(known, flag.kind, value, self.values.get(known))?;
            let slot = self.values.entry(known).or_default();
            if flag.kind != Kind::Repeated {
                slot.clear();
            }
            slot.push(value);
        }
        Ok(())
    }

    /// The usage text, in the layout of Go's `PrintDefaults`.
    pub fn usage(&self) -> String {
        let mut text = format!("Usage of {}:\n", self.name);
        for (name, flag) in &self.flags {
            let kind = match flag.kind {
                Kind::Text => " string",
                Kind::Integer => " int",
                Kind::Duration => " duration",
                Kind::Switch | Kind::Mention => "",
                Kind::DurationValue
                | Kind::Tristate
                | Kind::Repeated
                | Kind::CommaList
                | Kind::Output => " value",
            };
            let _ = write!(text, "  -{name}{kind}\n    \t{}", flag.usage);
            match flag.kind {
                _ if flag.default.is_empty() => {}
                Kind::Text => drop(write!(text, " (default {:?})", flag.default)),
                _ => drop(write!(text, " (default {})", flag.default)),
            }
            text.push('\n');
        }
        text
    }

    /// The names of all flags, for shell completion.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.flags.keys().copied()
    }

    fn last(&self, name: &str) -> Option<&str> {
        self.values.get(name).and_then(|values| values.last()).map(String::as_str)
    }

    fn with_default(&self, name: &str) -> &str {
        let default = self.flags.get(name).map_or("", |flag| flag.default.as_str());
        self.last(name).unwrap_or(default)
    }

    /// The value of a string flag.
    pub fn str(&self, name: &str) -> &str {
        self.with_default(name)
    }

    /// The value of an integer flag.
    pub fn int(&self, name: &str) -> i64 {
        parse_int(self.with_default(name)).unwrap_or(0)
    }

    /// The value of a duration flag.
    pub fn dur(&self, name: &str) -> Duration {
        duration::parse_go(self.with_default(name)).unwrap_or_default()
    }

    /// Whether a switch is on, or a mention was made.
    pub fn is_set(&self, name: &str) -> bool {
        self.last(name) == Some("true")
    }

    /// A tristate filter.
    pub fn tri(&self, name: &str) -> Option<bool> {
        match self.last(name) {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => None,
        }
    }

    /// All values of a repeated flag, or the members of a comma list.
    pub fn list(&self, name: &str) -> Vec<String> {
        match self.flags.get(name).map(|flag| flag.kind) {
            Some(Kind::CommaList) => self
                .last(name)
                .map(|value| value.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            _ => self.values.get(name).cloned().unwrap_or_default(),
        }
    }
}

/// Checks one value and brings it to the form that the accessors read.
fn check(
    name: &'static str,
    kind: Kind,
    value: String,
    earlier: Option<&Vec<String>>,
) -> Result<String, FlagError> {
    let invalid =
        |why: &str| Err(FlagError::Bad(format!("invalid value {value:?} for flag -{name}: {why}")));
    match kind {
        Kind::Text | Kind::Repeated | Kind::CommaList | Kind::Tristate => Ok(value),
        Kind::Mention => Ok("true".to_owned()),
        Kind::Switch => match value.as_str() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok("true".to_owned()),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok("false".to_owned()),
            _ => Err(FlagError::Bad(format!(
                "invalid boolean value {value:?} for -{name}: parse error"
            ))),
        },
        Kind::Integer => match parse_int(&value) {
            Ok(number) => Ok(number.to_string()),
            Err(why) => invalid(why),
        },
        Kind::Duration => match duration::parse_go(&value) {
            Ok(_) => Ok(value),
            Err(_) => invalid("parse error"),
        },
        Kind::DurationValue => match duration::parse_go(&value) {
            // What is below zero is no limit, as zero is.
            Ok(_) | Err(ParseDurationError::Negative(_)) => Ok(value),
            Err(error) => invalid(&error.to_string()),
        },
        Kind::Output => {
            let wanted = match value.to_ascii_lowercase().as_str() {
                "json" => "json",
                "pretty" | "prettyprint" => "pretty",
                _ => {
                    let why = format!("bad formatter flag: unknown format option: {value:?}");
                    return invalid(&why);
                }
            };
            match earlier.and_then(|values| values.last()) {
                Some(set) if set != wanted => {
                    invalid(&format!("the output format has already been set to {set:?}"))
                }
                _ => Ok(wanted.to_owned()),
            }
        }
    }
}

/// Go's `strconv.ParseInt(s, 0, 64)`: base prefixes and digit underscores.
fn parse_int(text: &str) -> Result<i64, &'static str> {
    if text.is_empty() {
        return Err("parse error");
    }
    let (negative, digits) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(hex) = lower.strip_prefix("0x") {
        (16, hex.to_owned())
    } else if let Some(bits) = lower.strip_prefix("0b") {
        (2, bits.to_owned())
    } else if let Some(octal) = lower.strip_prefix("0o") {
        (8, octal.to_owned())
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, lower[1..].to_owned())
    } else {
        (10, lower)
    };
    let digits = digits.replace('_', "");
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err("parse error");
    }
    let magnitude = i128::from_str_radix(&digits, radix).map_err(|_| "value out of range")?;
    let number = if negative { -magnitude } else { magnitude };
    i64::try_from(number).map_err(|_| "value out of range")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> FlagSet {
        let mut flags = FlagSet::new("entry show");
        flags.text("spiffeID", "", "an ID");
        flags.text("match", "superset", "how");
        flags.integer("ttl", 600, "seconds");
        flags.switch("admin", "is admin");
        flags.mention("noPrefetch", "off");
        flags.repeated("selector", "many");
        flags.comma_list("audience", "list");
        flags.output("output", "format");
        flags.duration("expiredFor", Duration::from_secs(3600), "age");
        flags
    }

    fn parse(args: &[&str]) -> Result<FlagSet, FlagError> {
        let mut flags = set();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        flags.parse(&args).map(|()| flags)
    }

    #[test]
    fn accepts_one_dash_or_two_and_a_value_beside_or_inside() {
        let flags =
            parse(&["-spiffeID", "a", "--ttl=0x10", "-admin", "-selector", "x:1", "-selector=y:2"])
                .unwrap();
        assert_eq!(flags.str("spiffeID"), "a");
        assert_eq!(flags.int("ttl"), 16);
        assert!(flags.is_set("admin"));
        assert_eq!(flags.list("selector"), ["x:1", "y:2"]);
        assert_eq!(flags.str("match"), "superset");
        assert_eq!(flags.dur("expiredFor"), Duration::from_secs(3600));
    }

    #[test]
    fn a_mention_counts_whatever_its_value() {
        assert!(parse(&["-noPrefetch=false"]).unwrap().is_set("noPrefetch"));
        assert!(!parse(&["-admin=false"]).unwrap().is_set("admin"));
    }

    #[test]
    fn errors_have_the_wording_of_go() {
        let text = |args: &[&str]| parse(args).unwrap_err().to_string();
        assert_eq!(text(&["-nope"]), "flag provided but not defined: -nope");
        assert_eq!(text(&["-ttl", "x"]), "invalid value \"x\" for flag -ttl: parse error");
        assert_eq!(text(&["-ttl"]), "flag needs an argument: -ttl");
        assert_eq!(
            text(&["-admin=maybe"]),
            "invalid boolean value \"maybe\" for -admin: parse error"
        );
        assert_eq!(
            text(&["-ttl", "99999999999999999999"]),
            "invalid value \"99999999999999999999\" for flag -ttl: value out of range"
        );
        assert_eq!(
            text(&["-output", "foo"]),
            "invalid value \"foo\" for flag -output: bad formatter flag: unknown format option: \"foo\""
        );
        assert_eq!(text(&["---x"]), "bad flag syntax: ---x");
        assert_eq!(parse(&["-h"]).unwrap_err(), FlagError::Help);
    }

    #[test]
    fn stops_at_the_first_argument_that_is_no_flag() {
        let flags = parse(&["extra", "-output", "json"]).unwrap();
        assert_eq!(flags.str("output"), "");
        assert_eq!(flags.rest.len(), 3);
    }

    #[test]
    fn usage_is_laid_out_as_go_does() {
        let usage = set().usage();
        assert!(usage.starts_with("Usage of entry show:\n  -admin\n    \tis admin\n"));
        assert!(usage.contains("  -match string\n    \thow (default \"superset\")\n"));
        assert!(usage.contains("  -ttl int\n    \tseconds (default 600)\n"));
        assert!(usage.contains("  -expiredFor duration\n    \tage (default 1h0m0s)\n"));
    }
}
