//! The filters of `agent list` and `agent count`.

use steeple_proto::spire::api::types::{SelectorMatch, selector_match::MatchBehavior};

use super::{SOCKET, entry_text};
use crate::FlagSet;
use crate::dispatch::Failure;
use crate::output::Output;

/// What narrows the list.
pub(super) struct Filter {
    pub(super) attestation_type: String,
    pub(super) selectors: Option<SelectorMatch>,
    pub(super) banned: Option<bool>,
    pub(super) can_reattest: Option<bool>,
    pub(super) expires_before: String,
}

/// Declares the flags.
pub(super) fn declare(flags: &mut FlagSet) {
    SOCKET.declare(flags);
    Output::declare(flags);
    flags.repeated("selector", "A type:value selector. Can be used more than once");
    flags.text("attestationType", "", "Filter by attestation type, like join_token or x509pop");
    flags.tristate(
        "canReattest",
        "'true': agents that can reattest, 'false': agents that can't, any other value: all",
    );
    flags.tristate(
        "banned",
        "'true': banned agents, 'false': agents that are not, any other value: all",
    );
    flags.text(
        "expiresBefore",
        "",
        "Filter by expiration time (format: \"2006-01-02 15:04:05 -0700 -07\")",
    );
    flags.text(
        "matchSelectorsOn",
        "superset",
        "How -selector matches. Options: exact, any, superset and subset",
    );
}

impl Filter {
    pub(super) fn of(flags: &FlagSet) -> Result<Self, Failure> {
        let selectors = flags.list("selector");
        let selectors = if selectors.is_empty() {
            None
        } else {
            let behavior = match flags.str("matchSelectorsOn") {
                "exact" => MatchBehavior::MatchExact,
                "any" => MatchBehavior::MatchAny,
                "superset" => MatchBehavior::MatchSuperset,
                "subset" => MatchBehavior::MatchSubset,
                _ => return Err("unsupported match behavior".into()),
            };
            let selectors = selectors
                .iter()
                .map(|text| {
                    entry_text::selector(text)
                        .map_err(|error| error.context(&format!("error parsing selector {text:?}")))
                })
                .collect::<Result<_, _>>()?;
            Some(SelectorMatch { selectors, r#match: behavior.into() })
        };
        let expires_before = flags.str("expiresBefore");
        if !expires_before.is_empty() {
            check_date(expires_before)?;
        }
        Ok(Self {
            attestation_type: flags.str("attestationType").to_owned(),
            selectors,
            banned: flags.tri("banned"),
            can_reattest: flags.tri("canReattest"),
            expires_before: expires_before.to_owned(),
        })
    }
}

/// The API takes the text as is; a malformed one is better told here.
fn check_date(text: &str) -> Result<(), Failure> {
    read_date(text).map_err(|wrong| {
        let why = match wrong {
            WrongDate::Shape(rest, piece) => {
                format!(" as \"2006-01-02 15:04:05 -0700 -07\": cannot parse {rest:?} as {piece:?}")
            }
            WrongDate::Range(what) => format!(": {what} out of range"),
            WrongDate::Extra(rest) => format!(": extra text: {rest:?}"),
        };
        format!("date is not valid: parsing time {text:?}{why}").into()
    })
}

enum WrongDate<'a> {
    /// What is left of the text, and the piece of the layout that it should begin with.
    Shape(&'a str, &'static str),
    Range(&'static str),
    Extra(&'a str),
}

/// Reads the text as Go's `time.Parse` does, piece by piece.
fn read_date(text: &str) -> Result<(), WrongDate<'_>> {
    use WrongDate::{Extra, Range, Shape};
    let (mut rest, mut year, mut month) = (text, 0, 1);
    // Each piece with the text before it, how many digits it has, and its bounds.
    let pieces = [
        ("", "2006", 4, 0..=9999, "year"),
        ("-", "01", 2, 1..=12, "month"),
        ("-", "02", 2, 1..=31, "day"),
        (" ", "15", 2, 0..=23, "hour"),
        (":", "04", 2, 0..=59, "minute"),
        (":", "05", 2, 0..=59, "second"),
    ];
    let mut day = 1;
    for (before, piece, width, bounds, what) in pieces {
        rest = skip(rest, before)?;
        // The hour alone may have one digit.
        let width = match (piece, rest.as_bytes()) {
            ("15", [b'0'..=b'9', next, ..]) if !next.is_ascii_digit() => 1,
            _ => width,
        };
        let number = digits(rest, width).ok_or(Shape(rest, piece))?;
        rest = &rest[width..];
        match what {
            "year" => year = number,
            "month" => month = number,
            "day" => day = number,
            _ => {}
        }
        if !bounds.contains(&number) {
            return Err(Range(what));
        }
    }
    if let Some(fraction) = rest.strip_prefix(['.', ',']) {
        let left = fraction.trim_start_matches(|digit: char| digit.is_ascii_digit());
        if left.len() < fraction.len() {
            rest = left;
        }
    }
    for (piece, width) in [("-0700", 4), ("-07", 2)] {
        rest = skip(rest, " ")?;
        let number = rest.strip_prefix(['+', '-']).and_then(|after| digits(after, width));
        let number = number.ok_or(Shape(rest, piece))?;
        let (hours, minutes) = if width == 4 { (number / 100, number % 100) } else { (number, 0) };
        if hours > 24 {
            return Err(Range("time zone offset hour"));
        }
        if minutes > 60 {
            return Err(Range("time zone offset minute"));
        }
        rest = &rest[width + 1..];
    }
    if !rest.is_empty() {
        return Err(Extra(rest));
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if day > longest { Err(Range("day")) } else { Ok(()) }
}

/// Any number of blanks, none at the end, is as good as one.
fn skip<'a>(text: &'a str, before: &'static str) -> Result<&'a str, WrongDate<'a>> {
    match before {
        " " if text.is_empty() || text.starts_with(' ') => Ok(text.trim_start_matches(' ')),
        _ => text.strip_prefix(before).ok_or(WrongDate::Shape(text, before)),
    }
}

fn digits(text: &str, width: usize) -> Option<u32> {
    let number = text.get(..width)?;
    number.bytes().all(|digit| digit.is_ascii_digit()).then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_one_layout() {
        assert!(check_date("2026-11-22 06:00:00 +0100 +01").is_ok());
        assert!(check_date("2026-11-22 06:00:00").is_err());
        assert!(check_date("2026-11-22 06:00:00 +0100").is_err());
        for (text, why) in [
            ("x", " as \"2006-01-02 15:04:05 -0700 -07\": cannot parse \"x\" as \"2006\""),
            ("2020", " as \"2006-01-02 15:04:05 -0700 -07\": cannot parse \"\" as \"-\""),
            (
                "2020-01-01 00:00:00 +0000",
                " as \"2006-01-02 15:04:05 -0700 -07\": cannot parse \"\" as \"-07\"",
            ),
            (
                "2020-01-01 00:00:00 Z +00",
                " as \"2006-01-02 15:04:05 -0700 -07\": cannot parse \"Z +00\" as \"-0700\"",
            ),
            ("2020-13-01 00:00:00 +0000 +00", ": month out of range"),
            ("2021-02-29 00:00:00 +0000 +00", ": day out of range"),
            ("2020-01-01 00:00:00 +2500 +00", ": time zone offset hour out of range"),
            ("2020-01-01 00:00:00 +0000 +00x", ": extra text: \"x\""),
        ] {
            let told = check_date(text).unwrap_err().0;
            assert_eq!(told, format!("date is not valid: parsing time {text:?}{why}"));
        }
    }
}
