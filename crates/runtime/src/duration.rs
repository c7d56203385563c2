//! Durations in the text form of Go's `time.Duration`, as configuration files hold them.

use std::time::Duration;

const NANOS_PER_MICRO: u128 = 1_000;
const NANOS_PER_MILLI: u128 = 1_000_000;
const NANOS_PER_SECOND: u128 = 1_000_000_000;
/// Go keeps a duration in a signed 64-bit count of nanoseconds.
const MAX_NANOS: u128 = i64::MAX as u128;
/// How much of a wrong text an error repeats.
const MAX_ECHO: usize = 64;

/// Why a text is no duration; the texts are Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    /// Not of the form, or out of range.
    #[error("time: invalid duration {}", quote(.0))]
    Invalid(String),
    /// A number other than 0 without a unit.
    #[error("time: missing unit in duration {}", quote(.0))]
    MissingUnit(String),
    /// A unit that Go does not know.
    #[error("time: unknown unit {} in duration {}", quote(.unit), quote(.text))]
    UnknownUnit {
        /// The unit as found.
        unit: String,
        /// The whole text.
        text: String,
    },
    /// Well-formed for Go, but below zero, which no setting of ours can be.
    #[error("negative duration {}", quote(.0))]
    Negative(String),
}

/// Parses what Go's `time.ParseDuration` does, such as `1h30m`, `1.5s` or `300ms`.
///
/// # Errors
/// On anything that Go refuses, and on a duration below zero.
pub fn parse_go(text: &str) -> Result<Duration, ParseDurationError> {
    let invalid = || ParseDurationError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (nanos, tail) = component(rest, text)?;
        total += nanos;
        if total > MAX_NANOS + u128::from(negative) {
            return Err(invalid());
        }
        rest = tail;
    }
    if negative && total > 0 {
        return Err(ParseDurationError::Negative(text.to_owned()));
    }
    Ok(from_nanos(total))
}

/// Prints as Go's `time.Duration` does: `1h30m0s`, `1.5s`, `100ms`, `0s`.
pub fn format_go(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < NANOS_PER_MICRO {
        return format!("{nanos}ns");
    }
    if nanos < NANOS_PER_MILLI {
        return format!("{}µs", decimal(nanos, NANOS_PER_MICRO));
    }
    if nanos < NANOS_PER_SECOND {
        return format!("{}ms", decimal(nanos, NANOS_PER_MILLI));
    }
    let minutes = nanos / (60 * NANOS_PER_SECOND);
    let seconds = decimal(nanos % (60 * NANOS_PER_SECOND), NANOS_PER_SECOND);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// One number with its unit from the front of `rest`: its nanoseconds, and what follows.
fn component<'a>(rest: &'a str, text: &str) -> Result<(u128, &'a str), ParseDurationError> {
    let invalid = || ParseDurationError::Invalid(text.to_owned());
    let (whole, tail) = split_digits(rest);
    let (fraction, tail) = match tail.strip_prefix('.') {
        Some(tail) => split_digits(tail),
        None => ("", tail),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(invalid());
    }
    let unit_end = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
    let (unit, tail) = tail.split_at(unit_end);
    if unit.is_empty() {
        return Err(ParseDurationError::MissingUnit(text.to_owned()));
    }
    let unit = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => NANOS_PER_MICRO,
        "ms" => NANOS_PER_MILLI,
        "s" => NANOS_PER_SECOND,
        "m" => 60 * NANOS_PER_SECOND,
        "h" => 3600 * NANOS_PER_SECOND,
        unknown => {
            let (unit, text) = (unknown.to_owned(), text.to_owned());
            return Err(ParseDurationError::UnknownUnit { unit, text });
        }
    };
    let whole: u128 = match whole {
        "" => 0,
        digits => digits.parse().map_err(|_| invalid())?,
    };
    let nanos = whole.checked_mul(unit).filter(|nanos| *nanos <= MAX_NANOS + 1);
    Ok((nanos.ok_or_else(invalid)? + fraction_of(fraction, unit), tail))
}

/// The part of `unit` that the digits after the point say; digits past the 18th say nothing.
fn fraction_of(digits: &str, unit: u128) -> u128 {
    let (mut value, mut scale) = (0u128, 1u128);
    for digit in digits.bytes().take(18) {
        value = value * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    value * unit / scale
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// `nanos` in `unit`s, with as many decimals as it needs.
fn decimal(nanos: u128, unit: u128) -> String {
    let (whole, fraction) = (nanos / unit, nanos % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    format!("{whole}.{}", format!("{fraction:0width$}").trim_end_matches('0'))
}

fn from_nanos(nanos: u128) -> Duration {
    let nanos = u64::try_from(nanos).expect("checked against Go's maximum");
    Duration::from_nanos(nanos)
}

fn quote(text: &str) -> String {
    let shown: String = text.chars().take(MAX_ECHO).collect();
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, nanos) in [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("+5s", 5_000_000_000),
            ("-0", 0),
            ("5.6s", 5_600_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("10ns", 10),
            ("11us", 11_000),
            ("12µs", 12_000),
            ("12μs", 12_000),
            ("13ms", 13_000_000),
            ("14m", 840_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            ("39h9m14.425s", 140_954_425_000_000),
            ("0.100000000000000000000h", 360_000_000_000),
            ("9223372036854775807ns", i64::MAX as u64),
        ] {
            assert_eq!(parse_go(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses_in_its_words() {
        for (text, error) in [
            ("", r#"time: invalid duration """#),
            ("3", r#"time: missing unit in duration "3""#),
            ("1h3", r#"time: missing unit in duration "1h3""#),
            ("-", r#"time: invalid duration "-""#),
            ("s", r#"time: invalid duration "s""#),
            (".", r#"time: invalid duration ".""#),
            (".s", r#"time: invalid duration ".s""#),
            ("1d", r#"time: unknown unit "d" in duration "1d""#),
            ("1 h", r#"time: unknown unit " h" in duration "1 h""#),
            ("9223372036854775808ns", r#"time: invalid duration "9223372036854775808ns""#),
            ("3000000h", r#"time: invalid duration "3000000h""#),
            ("99999999999999999999999999999999999999999h", "time: invalid duration"),
            ("-1h", r#"negative duration "-1h""#),
        ] {
            let found = parse_go(text).unwrap_err().to_string();
            assert!(found.starts_with(error), "{text}: {found}");
        }
        assert!(parse_go(&"x".repeat(100_000)).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn prints_as_go_prints() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (300_000_000_000, "5m0s"),
            (5_400_000_000_000, "1h30m0s"),
            (245_000_001_000_000, "68h3m20.001s"),
        ] {
            assert_eq!(format_go(Duration::from_nanos(nanos)), text);
            assert_eq!(parse_go(text), Ok(Duration::from_nanos(nanos)));
        }
    }
}
