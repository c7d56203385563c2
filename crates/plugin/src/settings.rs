//! How plugins read their settings.

use serde::de::DeserializeOwned;
use steeple_hcl::Block;

use crate::{Code, Kind, PluginError};

/// Decodes the `plugin_data` of a plugin that says nothing about keys it does not know; we say it
/// in the log. No `plugin_data` at all is an empty one.
///
/// # Errors
/// When it cannot be decoded: `refusal`, and why.
pub fn decode_leniently<T>(
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
///
/// # Errors
/// When there are settings.
pub fn refuse_any(kind: Kind, name: &str, data: Option<&Block>) -> Result<(), PluginError> {
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

/// Decodes the `plugin_data` of a plugin that refuses keys it does not know, all of them at once.
///
/// # Errors
/// When it cannot be decoded, or has keys that are not known.
pub fn decode_strictly<T>(kind: Kind, name: &str, data: Option<&Block>) -> Result<T, PluginError>
where
    T: DeserializeOwned + Default,
{
    let refused = |message: String| PluginError::new(kind, name, Code::InvalidArgument, message);
    let Some(data) = data else { return Ok(T::default()) };
    let decoded = data
        .decode::<T>()
        .map_err(|errors| refused(format!("unable to decode configuration: {errors}")))?;
    if decoded.unknown.is_empty() {
        return Ok(decoded.value);
    }
    let mut keys: Vec<&str> = decoded.unknown.iter().map(|unknown| &*unknown.key).collect();
    keys.sort_unstable();
    keys.dedup();
    Err(refused(format!("unknown configurations detected: {}", keys.join(","))))
}
