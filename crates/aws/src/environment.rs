//! What AWS's SDKs take from the process's environment.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

type LookUp = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Environment variables; an empty one counts as none, as in the SDKs.
#[derive(Clone)]
pub(crate) struct Environment(Arc<LookUp>);

impl Environment {
    /// The process's own.
    pub(crate) fn process() -> Self {
        Self(Arc::new(|name| std::env::var(name).ok()))
    }

    /// These and no others.
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests"))]
    pub(crate) fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let variables: HashMap<_, _> = variables.into_iter().map(own).collect();
        Self(Arc::new(move |name| variables.get(name).cloned()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    /// Whether a variable says yes.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// A file in the directory `.aws` of the user, unless a variable names another.
    pub(crate) fn file(&self, variable: &str, name: &str) -> Option<PathBuf> {
        if let Some(path) = self.get(variable) {
            return Some(PathBuf::from(path));
        }
        self.get("HOME").map(|home| PathBuf::from(home).join(".aws").join(name))
    }
}
