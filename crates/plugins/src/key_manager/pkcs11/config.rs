//! The settings, and where PIN and key identifier come from.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use steeple_hcl::Block;
use steeple_plugin::{Code, PluginError};
use steeple_runtime::fsx;
use zeroize::Zeroizing;

use super::error;

/// What the token is to be used with and by.
pub(super) struct Config {
    pub(super) module_path: PathBuf,
    pub(super) token: TokenName,
    pin: Pin,
    identifier: Identifier,
}

/// Which of the module's tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum TokenName {
    Label(String),
    Slot(u64),
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => write!(f, "token {label:?}"),
            Self::Slot(slot) => write!(f, "token in slot {slot}"),
        }
    }
}

enum Pin {
    /// The token asks for it itself, or for none.
    None,
    Value(Zeroizing<String>),
    File(PathBuf),
    Env(String),
}

enum Identifier {
    Value(String),
    File(PathBuf),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    module_path: String,
    token_label: String,
    slot_id: Option<u64>,
    pin: Option<String>,
    pin_file: String,
    pin_env: String,
    key_identifier_file: String,
    key_identifier_value: String,
}

/// Reads and checks the settings, and nothing else.
///
/// # Errors
/// With all that is wrong about them.
pub(super) fn read(data: Option<&Block>) -> Result<Config, PluginError> {
    let mut raw = Raw::default();
    let mut problems = Vec::new();
    if let Some(data) = data {
        let decoded = data
            .decode::<Raw>()
            .map_err(|errors| refused(format!("unable to decode configuration: {errors}")))?;
        for unknown in &decoded.unknown {
            problems.push(format!(
                "unknown setting {:?} in line {}",
                unknown.key, unknown.position.line
            ));
        }
        raw = decoded.value;
    }
    if raw.module_path.is_empty() {
        problems.push("module_path is required".to_owned());
    } else if !Path::new(&raw.module_path).is_absolute() {
        // A bare name would be searched for along the loader's path.
        problems.push("module_path must be absolute".to_owned());
    }
    let token = match (raw.token_label.as_str(), raw.slot_id) {
        ("", Some(slot)) => TokenName::Slot(slot),
        ("", None) => {
            problems.push("one of token_label and slot_id is required".to_owned());
            TokenName::Slot(0)
        }
        (_, Some(_)) => {
            problems.push("token_label and slot_id exclude each other".to_owned());
            TokenName::Slot(0)
        }
        (label, None) => TokenName::Label(label.to_owned()),
    };
    let pin = raw.pin.map(Zeroizing::new);
    let ways = usize::from(pin.is_some())
        + usize::from(!raw.pin_file.is_empty())
        + usize::from(!raw.pin_env.is_empty());
    if ways > 1 {
        problems.push("pin, pin_file and pin_env exclude each other".to_owned());
    }
    let pin = match (pin, raw.pin_file, raw.pin_env) {
        (Some(pin), _, _) => Pin::Value(pin),
        (None, file, _) if !file.is_empty() => Pin::File(file.into()),
        (None, _, env) if !env.is_empty() => Pin::Env(env),
        _ => Pin::None,
    };
    let identifier = match (raw.key_identifier_file, raw.key_identifier_value) {
        (file, value) if file.is_empty() && !value.is_empty() => {
            if !is_identifier(&value) {
                problems.push(format!("key_identifier_value must consist of {IDENTIFIER}"));
            }
            Identifier::Value(value)
        }
        (file, value) if !file.is_empty() && value.is_empty() => Identifier::File(file.into()),
        (file, _) => {
            let text = match file.is_empty() {
                true => "one of key_identifier_file and key_identifier_value is required",
                false => "key_identifier_file and key_identifier_value exclude each other",
            };
            problems.push(text.to_owned());
            Identifier::Value(String::new())
        }
    };
    if problems.is_empty() {
        let module_path = PathBuf::from(raw.module_path);
        return Ok(Config { module_path, token, pin, identifier });
    }
    Err(refused(problems.join("; ")))
}

impl Config {
    /// The user's PIN; `None` where the token asks for it itself.
    ///
    /// # Errors
    /// When the file or variable cannot be read.
    pub(super) fn pin(&self) -> Result<Option<Zeroizing<String>>, String> {
        let pin = match &self.pin {
            Pin::None => return Ok(None),
            Pin::Value(pin) => pin.clone(),
            Pin::File(path) => {
                let text = fsx::read_limited(path, MAX_PIN)
                    .map_err(|reason| format!("unable to read pin_file: {reason}"))?
                    .ok_or_else(|| format!("pin_file {} does not exist", path.display()))?;
                let text = Zeroizing::new(text);
                let text = std::str::from_utf8(&text)
                    .map_err(|_| format!("pin_file {} is not text", path.display()))?;
                Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            Pin::Env(name) => std::env::var(name)
                .map(Zeroizing::new)
                .map_err(|_| format!("environment variable {name} of pin_env is not set"))?,
        };
        Ok(Some(pin))
    }

    /// What tells this server's keys from those of others on the token; made up and kept when the
    /// file is not there yet.
    ///
    /// # Errors
    /// When the file cannot be read, understood or made.
    pub(super) fn key_identifier(&self) -> Result<String, PluginError> {
        let path = match &self.identifier {
            Identifier::Value(value) => return Ok(value.clone()),
            Identifier::File(path) => path,
        };
        let failed = |reason: &dyn fmt::Display| {
            error(Code::Internal, format!("key_identifier_file {}: {reason}", path.display()))
        };
        match fsx::read_limited(path, MAX_IDENTIFIER_FILE).map_err(|reason| failed(&reason))? {
            None => {
                let made = uuid::Uuid::new_v4().to_string();
                fsx::write_atomic(path, made.as_bytes(), 0o600)
                    .map_err(|reason| failed(&reason))?;
                Ok(made)
            }
            Some(text) => {
                let text = String::from_utf8(text).unwrap_or_default();
                let text = text.trim_end_matches(['\r', '\n']);
                match is_identifier(text) {
                    true => Ok(text.to_owned()),
                    false => Err(failed(&format_args!("it must consist of {IDENTIFIER}"))),
                }
            }
        }
    }
}

/// Nothing that could be mistaken for the parts around it in a label.
fn is_identifier(text: &str) -> bool {
    (1..=MAX_IDENTIFIER).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn refused(message: impl AsRef<str>) -> PluginError {
    error(Code::InvalidArgument, message)
}

const IDENTIFIER: &str = "1 to 63 letters, digits, dots, dashes and underscores";
const MAX_IDENTIFIER: usize = 63;
const MAX_IDENTIFIER_FILE: u64 = 1024;
const MAX_PIN: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        read(Some(&Block::parse(text).unwrap())).err().unwrap().to_string()
    }

    const GOOD: &str =
        "module_path = \"/m.so\"\ntoken_label = \"t\"\nkey_identifier_value = \"a\"\n";

    #[test]
    fn every_problem_is_told_at_once() {
        assert_eq!(
            read(None).err().unwrap().to_string(),
            "keymanager(pkcs11): module_path is required; one of token_label and slot_id is \
             required; one of key_identifier_file and key_identifier_value is required"
        );
        assert_eq!(
            problem(
                "module_path = \"m.so\"\ntoken_label = \"a\"\nslot_id = 1\npin = \"1\"\n\
                 pin_env = \"P\"\nkey_identifier_file = \"f\"\nkey_identifier_value = \"v\"\nx = 1"
            ),
            "keymanager(pkcs11): unknown setting \"x\" in line 8; module_path must be absolute; \
             token_label and slot_id exclude each other; pin, pin_file and pin_env exclude each \
             other; key_identifier_file and key_identifier_value exclude each other"
        );
        let bad = GOOD.replace("\"a\"", "\"a/b\"");
        assert!(problem(&bad).contains("key_identifier_value must consist of 1 to 63 letters"));
    }

    #[test]
    fn no_problem_repeats_a_pin() {
        let told = problem("pin = \"s3cret\"\npin_file = \"/f\"");
        assert!(!told.contains("s3cret"), "{told}");
        let told = problem("pin = [\"s3cret\"]");
        assert!(!told.contains("s3cret"), "{told}");
    }

    #[test]
    fn the_pin_comes_from_where_the_settings_say() {
        let expose = |pin: Result<Option<Zeroizing<String>>, String>| {
            pin.map(|pin| pin.map(|pin| pin.to_string()))
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        std::fs::write(&path, "1234\n").unwrap();
        let config =
            |more: &str| read(Some(&Block::parse(&format!("{GOOD}{more}")).unwrap())).unwrap();
        assert_eq!(expose(config("pin = \"77\"").pin()), Ok(Some("77".to_owned())));
        let from_file = config(&format!("pin_file = {path:?}")).pin();
        assert_eq!(expose(from_file), Ok(Some("1234".to_owned())));
        assert_eq!(expose(config("").pin()), Ok(None));
        let missing = config("pin_file = \"/does/not/exist\"").pin();
        assert_eq!(expose(missing), Err("pin_file /does/not/exist does not exist".to_owned()));
        let unset = config("pin_env = \"STEEPLE_NO_SUCH_PIN\"").pin();
        let told = "environment variable STEEPLE_NO_SUCH_PIN of pin_env is not set";
        assert_eq!(expose(unset), Err(told.to_owned()));
    }

    #[test]
    fn an_identifier_file_is_made_once_and_read_after() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        let text = format!("module_path = \"/m.so\"\nslot_id = 3\nkey_identifier_file = {path:?}");
        let config = read(Some(&Block::parse(&text).unwrap())).unwrap();
        assert_eq!(config.token, TokenName::Slot(3));
        let made = config.key_identifier().unwrap();
        assert_eq!(made.len(), 36);
        assert_eq!(config.key_identifier().unwrap(), made);
        std::fs::write(&path, "server-1\n").unwrap();
        assert_eq!(config.key_identifier().unwrap(), "server-1");
        std::fs::write(&path, "a b").unwrap();
        assert!(config.key_identifier().unwrap_err().message.contains("must consist of"));
        std::fs::write(&path, "").unwrap();
        assert!(config.key_identifier().is_err());
    }
}
