use thiserror::Error;

/// Why a text is not a SPIFFE ID, a trust domain name or a SPIFFE ID path.
///
/// The texts are those of go-spiffe, because SPIRE puts them into its own errors and users'
/// scripts match on them. None of them repeats the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum IdError {
    /// The SPIFFE ID is the empty string.
    #[error("cannot be empty")]
    Empty,
    /// The text does not start with `spiffe://`.
    #[error("scheme is missing or invalid")]
    WrongScheme,
    /// There is nothing between `spiffe://` and the path.
    #[error("trust domain is missing")]
    MissingTrustDomain,
    /// A character outside `[a-z0-9._-]` in the trust domain name.
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and \
         underscores"
    )]
    BadTrustDomainChar,
    /// A character outside `[a-zA-Z0-9._-]` in a path segment.
    #[error(
        "path segment characters are limited to letters, numbers, dots, dashes, and underscores"
    )]
    BadPathSegmentChar,
    /// A path segment is `.` or `..`.
    #[error("path cannot contain dot segments")]
    DotSegment,
    /// A path segment is empty (`//`).
    #[error("path cannot contain empty segments")]
    EmptySegment,
    /// The path ends in `/`.
    #[error("path cannot have a trailing slash")]
    TrailingSlash,
    /// A non-empty path does not start with `/`.
    #[error("path must have a leading slash")]
    NoLeadingSlash,
    /// The trust domain name is longer than 255 bytes (SPIFFE-ID §2.1).
    #[error("trust domain cannot be longer than 255 bytes")]
    TrustDomainTooLong,
    /// The SPIFFE ID is longer than 2048 bytes (SPIFFE-ID §2.3).
    #[error("SPIFFE ID cannot be longer than 2048 bytes")]
    TooLong,
}
