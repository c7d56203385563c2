//! The character and path rules of SPIFFE-ID §2, shared by IDs and trust domains.

use crate::IdError;

pub(crate) const SCHEME_PREFIX: &str = "spiffe://";

pub(crate) fn is_trust_domain_char(c: u8) -> bool {
    matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_')
}

fn is_path_segment_char(c: u8) -> bool {
    matches!(c, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_')
}

/// Checks the path of a SPIFFE ID: empty, or `/` followed by non-empty segments that are neither
/// `.` nor `..` (SPIFFE-ID §2.2).
///
/// # Errors
/// The first rule that the path breaks, reading from the left.
pub fn validate_path(path: &str) -> Result<(), IdError> {
    if path.is_empty() {
        return Ok(());
    }
    let Some(rest) = path.strip_prefix('/') else {
        return Err(IdError::NoLeadingSlash);
    };
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        // A bad character is reported before the emptiness of a later segment, and a trailing
        // slash has an error of its own.
        if segment.is_empty() {
            let last = segments.peek().is_none();
            return Err(if last { IdError::TrailingSlash } else { IdError::EmptySegment });
        }
        validate_segment(segment)?;
    }
    Ok(())
}

/// Checks one path segment.
pub(crate) fn validate_segment(segment: &str) -> Result<(), IdError> {
    match segment {
        "" => Err(IdError::EmptySegment),
        "." | ".." => Err(IdError::DotSegment),
        _ if segment.bytes().all(is_path_segment_char) => Ok(()),
        _ => Err(IdError::BadPathSegmentChar),
    }
}
