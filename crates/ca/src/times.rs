//! Points in time in log lines.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// As Go prints a time in UTC, which is what SPIRE's text log holds:
/// `2026-11-22 06:00:00.5 +0000 UTC`.
pub(crate) fn go_time(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let mut text = at.format(SECONDS).unwrap_or_default();
    if at.nanosecond() != 0 {
        let fraction = format!(".{:09}", at.nanosecond());
        text.push_str(fraction.trim_end_matches('0'));
    }
    text + " +0000 UTC"
}

const SECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn times_look_as_in_go() {
        let noon = UNIX_EPOCH + Duration::from_secs(1_795_327_200);
        assert_eq!(go_time(noon), "2026-11-22 06:00:00 +0000 UTC");
        let later = noon + Duration::from_millis(120);
        assert_eq!(go_time(later), "2026-11-22 06:00:00.12 +0000 UTC");
    }
}
