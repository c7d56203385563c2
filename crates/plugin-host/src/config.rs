//! A plugin's own configuration: where it comes from, and when it is handed over again.

use std::path::PathBuf;

use steeple_pki::digest::sha512;

/// Where the text of a plugin's configuration comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// Nothing was configured.
    None,
    /// `plugin_data`, printed.
    Fixed(String),
    /// `plugin_data_file`, read anew at each reconfiguration.
    File(PathBuf),
}

/// The largest file that is read.
const MAX_FILE: u64 = 1024 * 1024;

impl Source {
    /// The text now.
    ///
    /// # Errors
    /// With Go's text, when the file cannot be read.
    pub async fn load(&self) -> Result<String, String> {
        match self {
            Self::None => Ok(String::new()),
            Self::Fixed(text) => Ok(text.clone()),
            Self::File(path) => {
                let failed = |error: std::io::Error| {
                    format!("open {}: {}", path.display(), steeple_runtime::gotext::system(&error))
                };
                let length = tokio::fs::metadata(path).await.map_err(failed)?.len();
                if length > MAX_FILE {
                    return Err(format!("{} is too large", path.display()));
                }
                tokio::fs::read_to_string(path).await.map_err(failed)
            }
        }
    }

    /// Whether it may say something else later.
    pub fn is_dynamic(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

/// By what a text is recognised: the first quarter of its SHA-512, in hexadecimal.
pub fn hash(text: &str) -> String {
    sha512(text.as_bytes())[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
