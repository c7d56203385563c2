//! Conversions of wall-clock time; no clock is read here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Whole seconds since 1970, negative before it.
#[must_use]
pub fn unix_seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    }
}

/// Milliseconds since 1970.
#[must_use]
pub(crate) fn unix_millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |after| i64::try_from(after.as_millis()).unwrap_or(i64::MAX))
}

/// The time of a number of seconds since 1970; `None` when it cannot be told.
#[must_use]
pub fn from_unix_seconds(seconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
}

/// A time as Go's RFC 3339 writes it: UTC, whole seconds.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    time::OffsetDateTime::from(time)
        .replace_nanosecond(0)
        .expect("zero is a nanosecond")
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}

/// Reads the time of an "expires before" filter, `2006-01-02 15:04:05 -0700 -07` in Go's way of
/// writing formats.
#[must_use]
pub fn parse_filter_time(text: &str) -> Option<i64> {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] = time::macros::format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
    );
    // The zone comes twice; the second one, in hours only, adds nothing.
    let (head, zone) = text.rsplit_once(' ')?;
    let hours = zone.strip_prefix(['+', '-'])?;
    if hours.len() != 2 || !hours.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    time::OffsetDateTime::parse(head, FORMAT).ok().map(time::OffsetDateTime::unix_timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_as_go_does() {
        assert_eq!(
            rfc3339(UNIX_EPOCH + Duration::from_millis(1_700_000_000_999)),
            "2023-11-14T22:13:20Z"
        );
        assert_eq!(parse_filter_time("2023-11-14 23:13:20 +0100 +01"), Some(1_700_000_000));
        for bad in ["", "2023-11-14", "2023-11-14 23:13:20 +0100", "2023-13-14 23:13:20 +0100 +01"]
        {
            assert_eq!(parse_filter_time(bad), None, "{bad}");
        }
    }
}
