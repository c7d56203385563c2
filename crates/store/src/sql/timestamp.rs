//! Timestamps as Go's SQLite driver writes and reads them: texts such as
//! `2026-11-22 06:10:41.481568464+00:00`.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

/// Nanoseconds since the epoch, before it if negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Nanos(i128);

const NANOS_PER_SECOND: i128 = 1_000_000_000;

impl Nanos {
    pub(super) fn from_seconds(seconds: i64) -> Self {
        Self(i128::from(seconds) * NANOS_PER_SECOND)
    }

    /// Whole seconds since the epoch, rounded down as Go's `Unix()`.
    pub(super) fn seconds(self) -> i64 {
        i64::try_from(self.0.div_euclid(NANOS_PER_SECOND)).unwrap_or(i64::MAX)
    }

    /// Seconds since the epoch, rounded to the nearest (half up), which is how SPIRE tells
    /// `created_at` so that databases without fractions tell the same.
    pub(super) fn rounded_seconds(self) -> i64 {
        Self(self.0 + NANOS_PER_SECOND / 2).seconds()
    }

    /// The nearest whole second.
    pub(super) fn rounded(self) -> Self {
        Self::from_seconds(self.rounded_seconds())
    }

    /// The same fraction of another second.
    pub(super) fn shift_to(self, second: impl Fn(i64) -> i64) -> Self {
        let fraction = self.0.rem_euclid(NANOS_PER_SECOND);
        Self(Self::from_seconds(second(self.seconds())).0 + fraction)
    }

    pub(super) fn from_micros(micros: i64) -> Self {
        Self(i128::from(micros) * 1000)
    }

    /// The same as a point of the system's time; what that cannot tell is the epoch.
    pub(super) fn to_system_time(self) -> SystemTime {
        let far = |nanos: i128| u64::try_from(nanos).ok().map(Duration::from_nanos);
        let at = if self.0 >= 0 {
            far(self.0).and_then(|after| SystemTime::UNIX_EPOCH.checked_add(after))
        } else {
            far(-self.0).and_then(|before| SystemTime::UNIX_EPOCH.checked_sub(before))
        };
        at.unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl From<SystemTime> for Nanos {
    fn from(at: SystemTime) -> Self {
        let nanos = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
        match at.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Self(nanos(after)),
            Err(before) => Self(-nanos(before.duration())),
        }
    }
}

/// Writes a timestamp; years beyond what SQL can hold are cut to the last second of 9999.
pub(super) fn format(at: Nanos, utc_offset_seconds: i32) -> String {
    let mut text = format_without_zone(at, utc_offset_seconds);
    let minutes = utc_offset_seconds.unsigned_abs() / 60;
    let sign = if utc_offset_seconds < 0 { '-' } else { '+' };
    let _ = write!(text, "{sign}{:02}:{:02}", minutes / 60, minutes % 60);
    text
}

/// The same without the zone at the end: what a clock in that zone shows.
pub(super) fn format_without_zone(at: Nanos, utc_offset_seconds: i32) -> String {
    let offset =
        UtcOffset::from_whole_seconds(utc_offset_seconds / 60 * 60).unwrap_or(UtcOffset::UTC);
    let first = Nanos::from_seconds(-62_135_596_800 + 86_400).0;
    let last = Nanos::from_seconds(253_402_300_799 - 86_400).0;
    let at = OffsetDateTime::from_unix_timestamp_nanos(at.0.clamp(first, last))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .to_offset(offset);
    let mut text = format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    if at.nanosecond() != 0 {
        let fraction = format!("{:09}", at.nanosecond());
        let _ = write!(text, ".{}", fraction.trim_end_matches('0'));
    }
    text
}

/// Reads a timestamp in any of the forms that Go's driver reads; without a zone it is in UTC.
pub(super) fn parse(text: &str) -> Option<Nanos> {
    const LONGEST: usize = 40;
    if text.len() > LONGEST || !text.is_ascii() {
        return None;
    }
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, rest) = text.split_at_checked(10)?;
    let date = parse_date(date)?;
    let (time, offset) = match rest.strip_prefix([' ', 'T']) {
        None if rest.is_empty() => (Time::MIDNIGHT, UtcOffset::UTC),
        None => return None,
        Some(rest) => match rest.rfind(['+', '-']) {
            Some(at) => (parse_time(&rest[..at])?, parse_offset(&rest[at..])?),
            None => (parse_time(rest)?, UtcOffset::UTC),
        },
    };
    let at = PrimitiveDateTime::new(date, time).assume_offset(offset);
    Some(Nanos(at.unix_timestamp_nanos()))
}

fn parse_date(text: &str) -> Option<Date> {
    let mut parts = text.split('-');
    let (year, month, day) = (digits(parts.next()?, 4)?, parts.next()?, parts.next()?);
    let month = Month::try_from(u8::try_from(digits(month, 2)?).ok()?).ok()?;
    Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(digits(day, 2)?).ok()?)
        .ok()
}

fn parse_time(text: &str) -> Option<Time> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = clock.split(':');
    let hour = u8::try_from(digits(parts.next()?, 2)?).ok()?;
    let minute = u8::try_from(digits(parts.next()?, 2)?).ok()?;
    let second = parts.next().map_or(Some(0), |second| digits(second, 2))?;
    if parts.next().is_some() || fraction.len() > 9 {
        return None;
    }
    let fraction_digits = u32::try_from(fraction.len()).ok()?;
    let nanos = digits(fraction, fraction.len())? * 10_u32.pow(9 - fraction_digits);
    Time::from_hms_nano(hour, minute, u8::try_from(second).ok()?, nanos).ok()
}

fn parse_offset(text: &str) -> Option<UtcOffset> {
    let negative = text.starts_with('-');
    let (hours, minutes) = text[1..].split_once(':')?;
    let seconds = i32::try_from(digits(hours, 2)? * 3600 + digits(minutes, 2)? * 60).ok()?;
    UtcOffset::from_whole_seconds(if negative { -seconds } else { seconds }).ok()
}

fn digits(text: &str, length: usize) -> Option<u32> {
    let right =
        !text.is_empty() && text.len() == length && text.bytes().all(|b| b.is_ascii_digit());
    if right { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(seconds: i64, nanos: i128) -> Nanos {
        Nanos(Nanos::from_seconds(seconds).0 + nanos)
    }

    #[test]
    fn writes_what_the_go_driver_writes() {
        assert_eq!(
            format(nanos(1_795_327_841, 481_568_464), 0),
            "2026-11-22 06:10:41.481568464+00:00"
        );
        assert_eq!(
            format(nanos(1_795_327_841, 487_907_430), 0),
            "2026-11-22 06:10:41.48790743+00:00"
        );
        assert_eq!(format(Nanos::from_seconds(0), 0), "1970-01-01 00:00:00+00:00");
        assert_eq!(format(Nanos::from_seconds(0), -12_600), "1969-12-31 20:30:00-03:30");
        assert_eq!(format(Nanos::from_seconds(0), 7200), "1970-01-01 02:00:00+02:00");
    }

    #[test]
    fn reads_back_what_it_writes() {
        for seconds in [-62_135_000_000, -1, 0, 1, 1_795_327_841, 253_402_000_000] {
            for (fraction, offset) in [(0, 0), (1, 3600), (999_999_999, -34_200), (500, 50_400)] {
                let at = nanos(seconds, fraction);
                assert_eq!(parse(&format(at, offset)), Some(at));
            }
        }
    }

    #[test]
    fn reads_all_forms_of_the_go_driver() {
        let noon = Nanos::from_seconds(1_795_348_800);
        for text in [
            "2026-11-22 12:00:00+00:00",
            "2026-11-22T14:00:00.000+02:00",
            "2026-11-22 12:00:00.000000000",
            "2026-11-22T12:00:00Z",
            "2026-11-22 12:00",
            "2026-11-22T12:00",
        ] {
            assert_eq!(parse(text), Some(noon), "{text}");
        }
        assert_eq!(parse("2026-11-22"), Some(Nanos::from_seconds(1_795_348_800 - 43_200)));
    }

    #[test]
    fn refuses_what_is_no_timestamp() {
        for text in [
            "",
            "now",
            "2026-13-01",
            "2026-11-31",
            "2026-11-22 24:00:00",
            "2026-11-22 12",
            "2026-11-22 12:00:00.1234567890",
            "2026-11-22 12:00:00+25:99x",
            "2026-1-22",
            "2026-11-22 12:00:00.",
            "2026-11-22 1é:00",
            "2026-11-22x12:00:00",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_absurd_time_is_cut_and_not_a_panic() {
        assert!(format(Nanos::from_seconds(i64::MAX), 50_400).starts_with("9999-12-3"));
        assert!(format(Nanos::from_seconds(i64::MIN), -43_200).starts_with("0001-01-"));
    }

    #[test]
    fn created_at_is_rounded_and_expiry_is_cut() {
        assert_eq!(nanos(10, 499_999_999).rounded_seconds(), 10);
        assert_eq!(nanos(10, 500_000_000).rounded_seconds(), 11);
        assert_eq!(nanos(10, 999_999_999).seconds(), 10);
        assert_eq!(nanos(-1, 1).seconds(), -1);
    }
}
