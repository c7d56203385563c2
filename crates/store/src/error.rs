use thiserror::Error;

/// What went wrong in the datastore, sorted by what a caller can do about it.
///
/// The texts are the ones that SPIRE's datastore gives, so that an API can append them to its
/// own message unchanged. None of them holds a join token or more than 64 characters of what a
/// peer sent.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The row that was asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// A unique column already has this value, or a similar entry exists.
    #[error("{0}")]
    AlreadyExists(String),
    /// The request itself is wrong: sending it again will not help.
    #[error("{0}")]
    Invalid(String),
    /// The request is right, but not in the state the database is in.
    #[error("{0}")]
    Precondition(String),
    /// The database cannot be reached, or is locked for longer than the deadline.
    #[error("{0}")]
    Unavailable(String),
    /// Everything else: a failed statement, a damaged row.
    #[error("{0}")]
    Internal(String),
}

impl StoreError {
    /// A row that does not exist, in SPIRE's words.
    #[must_use]
    pub fn not_found() -> Self {
        Self::NotFound("datastore-sql: record not found".into())
    }

    pub(crate) fn validation(text: &str) -> Self {
        Self::Invalid(format!("datastore-validation: {text}"))
    }

    pub(crate) fn sql(text: &str) -> Self {
        Self::Internal(format!("datastore-sql: {text}"))
    }
}

/// Why an attestation by join token failed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum JoinTokenError {
    /// No such token: never made, or somebody was faster.
    #[error("join token does not exist or has already been used")]
    Unknown,
    /// The token was there, but too old. It is gone now.
    #[error("join token expired")]
    Expired,
    /// The agent of this token is banned. The token is gone now.
    #[error("agent is banned")]
    Banned,
    /// The token is good, but as many nodes as may have joined with it.
    #[error("join token does not let more nodes join")]
    UsedUp,
    /// The database failed; the token is as it was.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Quotes at most 64 characters of a peer's input, escaped.
pub(crate) fn excerpt(input: &str) -> String {
    const LIMIT: usize = 64;
    let mut out: String = input.chars().take(LIMIT).flat_map(char::escape_default).collect();
    if input.chars().nth(LIMIT).is_some() {
        out.push('…');
    }
    out
}
