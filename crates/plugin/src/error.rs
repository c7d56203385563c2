//! How plugins fail.

use std::fmt;

use crate::host::Kind;

/// The kinds of failure, with gRPC's names and numbers, since external plugins answer with those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// The caller gave up.
    Cancelled = 1,
    /// Not one of the others.
    Unknown = 2,
    /// The request makes no sense, whatever the state.
    InvalidArgument = 3,
    /// It took too long.
    DeadlineExceeded = 4,
    /// What was asked for does not exist.
    NotFound = 5,
    /// What was to be made exists.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// Something is used up.
    ResourceExhausted = 8,
    /// The state does not allow it now.
    FailedPrecondition = 9,
    /// Given up because of a conflict; may be tried again.
    Aborted = 10,
    /// Past the end of what there is.
    OutOfRange = 11,
    /// The plugin does not do this.
    Unimplemented = 12,
    /// Something broke that should not.
    Internal = 13,
    /// Not now; may be tried again.
    Unavailable = 14,
    /// Something is lost for good.
    DataLoss = 15,
    /// The caller is not known.
    Unauthenticated = 16,
}

impl Code {
    const ALL: [Self; 16] = [
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// gRPC's number of it.
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// The code with gRPC's number `number`; [`Code::Unknown`] for any that is none, 0 included,
    /// since a success is no failure.
    pub fn from_number(number: i32) -> Self {
        Self::ALL.into_iter().find(|code| code.number() == number).unwrap_or(Self::Unknown)
    }

    /// gRPC's name of it in Go, as logs and command lines print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "Canceled",
            Self::Unknown => "Unknown",
            Self::InvalidArgument => "InvalidArgument",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::PermissionDenied => "PermissionDenied",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::FailedPrecondition => "FailedPrecondition",
            Self::Aborted => "Aborted",
            Self::OutOfRange => "OutOfRange",
            Self::Unimplemented => "Unimplemented",
            Self::Internal => "Internal",
            Self::Unavailable => "Unavailable",
            Self::DataLoss => "DataLoss",
            Self::Unauthenticated => "Unauthenticated",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A plugin's failure. `Display` is the message alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PluginError {
    /// What kind of failure.
    pub code: Code,
    /// What happened, beginning with the plugin: `keymanager(disk): …`.
    pub message: String,
}

impl PluginError {
    /// A failure of the plugin `name` of `kind`; the message gets its name in front, once.
    pub fn new(kind: Kind, name: &str, code: Code, message: impl AsRef<str>) -> Self {
        let message = message.as_ref();
        let prefix = format!("{}({name}): ", kind.prefix());
        if message.starts_with(&prefix) {
            return Self { code, message: message.to_owned() };
        }
        // A plugin that names itself already is not named twice.
        let message = message
            .strip_prefix(name)
            .and_then(|message| message.strip_prefix(": "))
            .unwrap_or(message);
        Self { code, message: prefix + message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_is_named_once_in_front() {
        let error =
            |message| PluginError::new(Kind::NodeAttestor, "x509pop", Code::Internal, message);
        let expected = "nodeattestor(x509pop): it broke";
        for message in ["it broke", "x509pop: it broke", "nodeattestor(x509pop): it broke"] {
            assert_eq!(error(message).to_string(), expected);
        }
    }

    #[test]
    fn codes_keep_their_numbers_on_the_wire() {
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), code);
        }
        assert_eq!(Code::from_number(0), Code::Unknown);
        assert_eq!(Code::from_number(99), Code::Unknown);
        assert_eq!(Code::Unauthenticated.number(), 16);
    }
}
