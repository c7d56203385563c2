//! The `plugins` block.

use std::{fmt, fs, io, path::PathBuf};

use steeple_hcl::Block;

/// A plugin as the file configures it.
#[derive(Clone, Debug)]
pub struct PluginConfig {
    /// The type: `KeyManager`, `NodeAttestor` …
    pub kind: String,
    /// The name: `disk`, `join_token` …
    pub name: String,
    /// Whether it is to be loaded.
    pub enabled: bool,
    /// Its own configuration.
    pub data: PluginData,
    /// Line of its block.
    pub line: Option<usize>,
}

/// A plugin's own configuration.
#[derive(Clone)]
pub enum PluginData {
    /// None, or an empty block, which SPIRE does not tell apart.
    None,
    /// `plugin_data`.
    Inline(Block),
    /// `plugin_data_file`; read again when the server is told to reload.
    File(PathBuf),
}

impl PluginData {
    /// The text as SPIRE hands it to a plugin: HCL in canonical layout, or the
    /// file's content.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn text(&self) -> io::Result<String> {
        match self {
            Self::None => Ok(String::new()),
            Self::Inline(block) => Ok(block.to_hcl()),
            Self::File(path) => fs::read_to_string(path),
        }
    }
}

impl fmt::Debug for PluginData {
    /// Shape only: plugins are configured with secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Inline(block) => block.fmt(f),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}
