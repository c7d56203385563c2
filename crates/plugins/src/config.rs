//! What the plugins share in reading their configuration.

use serde::de::DeserializeOwned;
use steeple_hcl::Block;
use steeple_plugin::{Code, Kind, PluginError};

/// Decodes the `plugin_data` of a plugin that says nothing about keys it does not know; we say it
/// in the log. No `plugin_data` at all is an empty one.
pub(crate) fn decode_leniently<T>(
    kind: Kind,
    name: &str,
    data: Option<&Block>,
    refusal: &str,
) -> Result<T, PluginError>
where
    T: DeserializeOwned + Default,
{
    let Some(data) = data else { return Ok(T::default()) };
    let decoded = data.decode::<T>().map_err(|errors| {
        PluginError::new(kind, name, Code::InvalidArgument, format!("{refusal}: {errors}"))
    })?;
    for unknown in &decoded.unknown {
        tracing::warn!(
            plugin_type = kind.name(),
            plugin_name = name,
            setting = unknown.key,
            line = unknown.position.line,
            "Unknown plugin setting is ignored"
        );
    }
    Ok(decoded.value)
}

/// What a plugin without settings answers when it is given some.
pub(crate) fn refuse_any(kind: Kind, name: &str, data: Option<&Block>) -> Result<(), PluginError> {
    match data {
        None => Ok(()),
        Some(_) => Err(PluginError::new(
            kind,
            name,
            Code::InvalidArgument,
            "no supported configuration interface found",
        )),
    }
}
