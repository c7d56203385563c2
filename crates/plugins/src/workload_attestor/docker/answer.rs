//! What we read of a daemon's answers; the rest is skipped.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `GET /containers/<id>/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ContainerAnswer {
    /// Which image it runs, whatever the image's name means by now.
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    state: Option<State>,
    #[serde(default)]
    config: Option<Config>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    running: Option<bool>,
    #[serde(default)]
    pid: Option<i32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// `GET /images/<name>/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ImageAnswer {
    #[serde(default)]
    pub(super) id: Option<String>,
}

/// Whether a container runs, by the daemon's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Running {
    /// With this first process.
    As(i32),
    /// It does not.
    No,
    /// The daemon does not say.
    Unsaid,
}

impl ContainerAnswer {
    pub(super) fn running(&self) -> Running {
        match &self.state {
            Some(State { pid: Some(pid), .. }) if *pid > 0 => Running::As(*pid),
            Some(State { running: Some(false), .. }) => Running::No,
            _ => Running::Unsaid,
        }
    }

    /// The selectors, in an order that stays; none when the answer has no configuration at all.
    pub(super) fn selector_values(&self) -> Option<Vec<String>> {
        let config = self.config.as_ref()?;
        let mut values: Vec<String> = config
            .labels
            .iter()
            .flatten()
            .map(|(label, value)| format!("label:{label}:{value}"))
            .collect();
        values.extend(config.env.iter().flatten().map(|variable| format!("env:{variable}")));
        values.extend(self.image_name().map(|image| format!("image_id:{image}")));
        Some(values)
    }

    /// The name by which the container was made.
    pub(super) fn image_name(&self) -> Option<&str> {
        self.config.as_ref()?.image.as_deref().filter(|name| !name.is_empty())
    }

    /// The image that the container was made of.
    pub(super) fn image_id(&self) -> Option<&str> {
        self.image.as_deref().filter(|id| {
            let digest = id.strip_prefix("sha256:").unwrap_or(id);
            digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    }
}
