//! The two ways in which X.509 writes a time (RFC 5280 §4.1.2.5), to the second, in UTC.

use std::time::SystemTime;

use ::time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

use crate::der::{self, DerError, Tlv};

/// The whole seconds of a time since 1970; rounded down, as Go's encoder does.
pub(crate) fn truncate_to_seconds(time: SystemTime) -> Option<SystemTime> {
    let time = to_offset(time)?;
    Some(time.replace_nanosecond(0).ok()?.into())
}

/// Appends the time: UTCTime for 1950 to 2049, GeneralizedTime else. `None` when out of range.
pub(super) fn put(out: &mut Vec<u8>, time: SystemTime) -> Option<()> {
    let time = to_offset(time)?;
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second) = time.to_hms();
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    match year {
        1950..2050 => {
            let text = format!("{:02}{rest}", year % 100);
            der::put(out, der::UTC_TIME, text.as_bytes());
        }
        0..=9999 => {
            let text = format!("{year:04}{rest}");
            der::put(out, der::GENERALIZED_TIME, text.as_bytes());
        }
        _ => return None,
    }
    Some(())
}

/// Reads either form.
pub(super) fn read(element: Tlv<'_>) -> Result<SystemTime, DerError> {
    const BAD: DerError = DerError::Value("time");
    let text = element.value;
    let (year, rest) = match element.tag {
        der::UTC_TIME if text.len() == 13 => {
            let short = i32::from(two(text)?);
            (if short >= 50 { 1900 + short } else { 2000 + short }, &text[2..])
        }
        der::GENERALIZED_TIME if text.len() == 15 => {
            (i32::from(two(text)?) * 100 + i32::from(two(&text[2..])?), &text[4..])
        }
        _ => return Err(BAD),
    };
    if rest[10] != b'Z' {
        return Err(BAD);
    }
    let month = Month::try_from(two(rest)?).map_err(|_| BAD)?;
    let date = Date::from_calendar_date(year, month, two(&rest[2..])?).map_err(|_| BAD)?;
    let time = Time::from_hms(two(&rest[4..])?, two(&rest[6..])?, two(&rest[8..])?);
    let time = time.map_err(|_| BAD)?;
    Ok(PrimitiveDateTime::new(date, time).assume_utc().into())
}

fn two(text: &[u8]) -> Result<u8, DerError> {
    match *text {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9', ..] => Ok((tens - b'0') * 10 + (ones - b'0')),
        _ => Err(DerError::Value("time")),
    }
}

fn to_offset(time: SystemTime) -> Option<OffsetDateTime> {
    // `OffsetDateTime::from` panics beyond year 9999; the sum is checked instead.
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => OffsetDateTime::UNIX_EPOCH.checked_add(after.try_into().ok()?),
        Err(before) => OffsetDateTime::UNIX_EPOCH.checked_sub(before.duration().try_into().ok()?),
    }
}
