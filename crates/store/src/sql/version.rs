//! Semantic versions, of this program and of the one that last ran on a database (TD-10).

use std::cmp::Ordering;

/// A semantic version (semver.org, 2.0).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Version {
    core: [u64; 3],
    pre_release: Vec<String>,
    pub(super) text: String,
}

impl Version {
    pub(super) fn parse(text: &str) -> Option<Self> {
        const LONGEST: usize = 255;
        if text.len() > LONGEST {
            return None;
        }
        let without_build = text.split_once('+').map_or(text, |(version, _)| version);
        let (core, pre_release) = match without_build.split_once('-') {
            Some((core, pre_release)) => (core, Some(pre_release)),
            None => (without_build, None),
        };
        let mut parts = core.split('.');
        let mut number = || {
            let part = parts.next()?;
            let right = part.bytes().all(|byte| byte.is_ascii_digit())
                && (part == "0" || !part.starts_with('0'));
            if right { part.parse().ok() } else { None }
        };
        let core = [number()?, number()?, number()?];
        if parts.next().is_some() {
            return None;
        }
        let pre_release: Vec<String> =
            pre_release.map(|ids| ids.split('.').map(str::to_owned).collect()).unwrap_or_default();
        let right = |id: &String| {
            !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        pre_release.iter().all(right).then(|| Self { core, pre_release, text: text.into() })
    }

    /// Precedence (semver.org, 11).
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        self.core.cmp(&other.core).then_with(|| {
            match (self.pre_release.is_empty(), other.pre_release.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => self.compare_pre_release(other),
            }
        })
    }

    fn compare_pre_release(&self, other: &Self) -> Ordering {
        for (mine, theirs) in self.pre_release.iter().zip(&other.pre_release) {
            let order = match (mine.parse::<u64>(), theirs.parse::<u64>()) {
                (Ok(mine), Ok(theirs)) => mine.cmp(&theirs),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => mine.cmp(theirs),
            };
            if order.is_ne() {
                return order;
            }
        }
        self.pre_release.len().cmp(&other.pre_release.len())
    }

    /// The same major version and at most one minor version apart.
    pub(super) fn is_next_to(&self, other: &Self) -> bool {
        self.core[0] == other.core[0] && self.core[1].abs_diff(other.core[1]) <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn versions_are_ordered_as_semver_orders_them() {
        let ascending = [
            "1.14.9",
            "1.15.0-alpha",
            "1.15.0-alpha.1",
            "1.15.0-alpha.beta",
            "1.15.0-beta.2",
            "1.15.0-beta.11",
            "1.15.0-steeple-0.1.0",
            "1.15.0",
            "1.15.3",
            "1.16.0-dev-unk",
            "2.0.0",
        ];
        for pair in ascending.windows(2) {
            assert_eq!(version(pair[0]).compare(&version(pair[1])), Ordering::Less, "{pair:?}");
            assert_eq!(version(pair[1]).compare(&version(pair[0])), Ordering::Greater, "{pair:?}");
        }
        assert_eq!(version("1.0.0+a").compare(&version("1.0.0+b")), Ordering::Equal);
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in
            ["", "1", "1.2", "1.2.3.4", "01.2.3", "1.2.x", "1.2.3-", "1.2.3-a..b", "1.2.3-ä"]
        {
            assert_eq!(Version::parse(text), None, "{text}");
        }
        assert_eq!(Version::parse(&"1".repeat(300)), None);
    }
}
