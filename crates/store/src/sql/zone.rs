//! The time zone that timestamps without a zone are in: Go's `loc` parameter (MySQL).

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A zone. Copied about, so it is a reference to one that lives as long as the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Zone(Option<&'static TimeZone>);

impl Zone {
    /// UTC, which Go's driver assumes.
    pub(super) const UTC: Self = Self(None);

    /// A zone by the name that Go gives it: `UTC`, `Local`, or one of the zone database.
    pub(super) fn find(name: &str) -> Option<Self> {
        let zone = match name {
            "UTC" | "" => return Some(Self::UTC),
            "Local" => TimeZone::system(),
            name => TimeZone::get(name).ok()?,
        };
        // Once per opened database, which a process does once.
        Some(Self(Some(Box::leak(Box::new(zone)))))
    }

    /// How many seconds the zone is ahead of UTC at a time in seconds since the epoch.
    pub(super) fn offset_at(self, seconds: i64) -> i32 {
        match (self.0, Timestamp::from_second(seconds)) {
            (Some(zone), Ok(at)) => zone.to_offset(at).seconds(),
            _ => 0,
        }
    }

    /// Seconds since the epoch of a clock in this zone that shows `seconds`, taken as if in UTC.
    pub(super) fn to_utc(self, seconds: i64) -> i64 {
        // Twice, so that it is right on the other side of a change of the clocks too.
        let guess = seconds - i64::from(self.offset_at(seconds));
        seconds - i64::from(self.offset_at(guess))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_read_as_it_was_set() {
        let berlin = Zone::find("Europe/Berlin").unwrap();
        for utc in [1_795_327_841, 1_780_000_000, 0] {
            let shown = utc + i64::from(berlin.offset_at(utc));
            assert_eq!(berlin.to_utc(shown), utc);
        }
        assert_eq!(berlin.offset_at(1_795_327_841), 3600, "winter");
        assert_eq!(berlin.offset_at(1_780_000_000), 7200, "summer");
        assert_eq!(Zone::find("UTC"), Some(Zone::UTC));
        assert!(Zone::find("Local").is_some());
        assert_eq!(Zone::find("Nowhere/Land"), None);
    }
}
