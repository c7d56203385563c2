//! `memory`: keys that end with the process.

use std::sync::Arc;

use steeple_hcl::Block;
use steeple_plugin::{HostContext, KeyManager, Kind, PluginError};

use super::local::LocalKeys;
use steeple_plugin::settings::refuse_any;

/// The plugin's name in configuration.
pub const NAME: &str = "memory";

/// A manager without keys.
///
/// # Errors
/// When it is given settings, since it has none.
pub fn from_config(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn KeyManager>, PluginError> {
    check(data)?;
    Ok(new())
}

/// A manager without keys.
pub fn new() -> Arc<dyn KeyManager> {
    Arc::new(LocalKeys::in_memory(NAME))
}

pub(crate) fn check(data: Option<&Block>) -> Result<(), PluginError> {
    refuse_any(Kind::KeyManager, NAME, data)
}

#[cfg(test)]
mod tests {
    use steeple_plugin::contract;

    use super::*;

    #[tokio::test]
    async fn keeps_the_contract_of_key_managers() {
        contract::key_manager(async || new()).await;
    }

    #[test]
    fn settings_are_refused() {
        let data = Block::parse("keys_path = 1").unwrap();
        let error = check(Some(&data)).unwrap_err().to_string();
        assert_eq!(error, "keymanager(memory): no supported configuration interface found");
        assert!(check(None).is_ok());
    }
}
