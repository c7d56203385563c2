//! The filters of `agent list` and `agent count`.

use steeple_proto::spire::api::types::{SelectorMatch, selector_match::MatchBehavior};
use time::OffsetDateTime;
use time::macros::format_description;

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
    let layout = format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
    );
    let valid = text.rsplit_once(' ').is_some_and(|(date, zone)| {
        OffsetDateTime::parse(date, layout).is_ok()
            && zone.len() == 3
            && zone.starts_with(['+', '-'])
            && zone[1..].bytes().all(|digit| digit.is_ascii_digit())
    });
    if valid {
        return Ok(());
    }
    Err(format!(
        "date is not valid: parsing time {text:?} as \"2006-01-02 15:04:05 -0700 -07\": \
         cannot parse {text:?} as \"2006\""
    )
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_one_layout() {
        assert!(check_date("2026-11-22 06:00:00 +0100 +01").is_ok());
        assert!(check_date("2026-11-22 06:00:00").is_err());
        assert!(check_date("2026-11-22 06:00:00 +0100").is_err());
    }
}
