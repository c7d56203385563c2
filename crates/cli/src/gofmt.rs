//! Values in the layouts of Go's `time` and `fmt` packages, as the texts of the
//! verbs use them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::macros::format_description;

/// `2026-11-22 06:00:00 +0000 UTC`, as Go prints a time in UTC.
pub(crate) fn utc(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let whole = at
        .format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"))
        .unwrap_or_default();
    let mut fraction = String::new();
    if at.nanosecond() != 0 {
        fraction = format!(".{:09}", at.nanosecond());
        fraction.truncate(fraction.trim_end_matches('0').len());
    }
    format!("{whole}{fraction} +0000 UTC")
}

/// Seconds since the epoch in UTC.
pub(crate) fn utc_seconds(seconds: i64) -> String {
    utc(from_seconds(seconds))
}

/// Seconds since the epoch in the local time zone, with its offset and name
/// (`2026-11-22 07:00:00 +0100 CET`).
pub(crate) fn local_seconds(seconds: i64) -> String {
    let Ok(timestamp) = jiff::Timestamp::from_second(seconds) else {
        return utc_seconds(seconds);
    };
    timestamp.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// RFC 3339 in UTC, to the second.
pub(crate) fn rfc3339(seconds: i64) -> String {
    OffsetDateTime::from(from_seconds(seconds))
        .format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z"))
        .unwrap_or_default()
}

/// Seconds since the epoch as a system time; times before the epoch are the
/// epoch.
pub(crate) fn from_seconds(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// `1 entry`, `2 entries`.
pub(crate) fn plural(count: usize, singular: &str, plural: &str) -> String {
    format!("{count} {}", if count == 1 { singular } else { plural })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_laid_out_as_go_does() {
        assert_eq!(utc_seconds(1_700_000_000), "2023-11-14 22:13:20 +0000 UTC");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(
            utc(UNIX_EPOCH + Duration::from_millis(1_500)),
            "1970-01-01 00:00:01.5 +0000 UTC"
        );
    }

    #[test]
    fn plurals() {
        assert_eq!(plural(1, "entry", "entries"), "1 entry");
        assert_eq!(plural(0, "entry", "entries"), "0 entries");
    }
}
