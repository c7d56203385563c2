use std::sync::Arc;

use steeple_spiffe::{IdError, SpiffeId, TrustDomain, validate_path};

use crate::ast::Forest;
use crate::{Value, exec, parse};

/// The longest template, in bytes.
const MAX_TEMPLATE: usize = 64 * 1024;

/// A template of the path that agents get below `/spire/agent`.
#[derive(Clone, Debug)]
pub struct AgentPathTemplate {
    source: Arc<str>,
    forest: Arc<Forest>,
}

/// Why a template is none, or gave no SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The text is not a template.
    #[error("{0}")]
    Parse(String),
    /// The template could not be executed with what it was given.
    #[error("{0}")]
    Execute(String),
    /// What the template wrote is no path of a SPIFFE ID.
    #[error("invalid agent path suffix {suffix:?}: {source}")]
    Path {
        /// What it wrote, cut short.
        suffix: String,
        /// The rule that it broke.
        source: IdError,
    },
}

impl AgentPathTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// When the text is not a template, or too long.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE {
            return Err(TemplateError::Parse("template: agent-path:1: it is too long".to_owned()));
        }
        let forest = parse::parse(text).map_err(TemplateError::Parse)?;
        Ok(Self { source: text.into(), forest: Arc::new(forest) })
    }

    /// The SPIFFE ID of the agent that `data` tells of: the path is what the template writes,
    /// after `/spire/agent`.
    ///
    /// # Errors
    /// When the template cannot be executed with `data`, or what it writes is no path. Nothing is
    /// cleaned up.
    pub fn render(
        &self,
        trust_domain: &TrustDomain,
        data: &Value,
    ) -> Result<SpiffeId, TemplateError> {
        let suffix = self.execute(data)?;
        let refused = |source| TemplateError::Path {
            suffix: suffix.chars().take(MAX_ECHO).collect(),
            source,
        };
        validate_path(&suffix).map_err(refused)?;
        SpiffeId::from_path(trust_domain, &format!("/spire/agent{suffix}")).map_err(refused)
    }

    /// What the template writes, which may be anything.
    ///
    /// # Errors
    /// When the template cannot be executed with `data`.
    pub fn execute(&self, data: &Value) -> Result<String, TemplateError> {
        exec::execute(&self.forest, &self.source, data).map_err(TemplateError::Execute)
    }
}

/// How much of what a template wrote an error repeats.
const MAX_ECHO: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn td() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn render(template: &str, data: &Value) -> Result<String, String> {
        AgentPathTemplate::parse(template)
            .and_then(|template| template.render(&td(), data))
            .map(|id| id.as_str().to_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn fields_become_a_path_below_the_agents() {
        let data = Value::map([
            ("PluginName", Value::from("x509pop")),
            ("Tags", Value::string_map([("Name", "web")])),
        ]);
        assert_eq!(
            render("/{{ .PluginName }}/{{ .Tags.Name }}", &data).unwrap(),
            "spiffe://example.org/spire/agent/x509pop/web"
        );
    }

    #[test]
    fn what_is_no_path_is_refused_and_never_cleaned_up() {
        for (name, why) in [
            ("../../admin", "path cannot contain dot segments"),
            ("a//b", "path cannot contain empty segments"),
            ("a/", "path cannot have a trailing slash"),
            (
                "a b",
                "path segment characters are limited to letters, numbers, dots, dashes, and \
                 underscores",
            ),
        ] {
            let data = Value::map([("Name", Value::from(name))]);
            let error = render("/x/{{ .Name }}", &data).unwrap_err();
            assert_eq!(
                error,
                format!("invalid agent path suffix {:?}: {why}", format!("/x/{name}"))
            );
        }
        let data = Value::map([("Name", Value::from("x"))]);
        let error = render("{{ .Name }}", &data).unwrap_err();
        assert_eq!(error, "invalid agent path suffix \"x\": path must have a leading slash");
    }
}
