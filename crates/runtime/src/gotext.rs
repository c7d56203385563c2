//! Errors of the system in Go's words, which operators' searches and alerts expect.

use std::io;

/// The error as Go prints it: in lower case, without its number (`connection refused`).
#[must_use]
pub fn system(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}

/// A host's name that was not resolved: `lookup host: no such host`. Other reasons than that
/// there is no such host keep the system's words.
#[must_use]
pub fn lookup(host: &str, error: &io::Error) -> String {
    let text = system(error);
    let reason = match text.strip_prefix("failed to lookup address information: ") {
        Some("Name or service not known" | "No address associated with hostname") => "no such host",
        Some("Temporary failure in name resolution") => "server misbehaving",
        Some(other) => other,
        None => &text,
    };
    format!("lookup {host}: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_read_as_gos() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(system(&refused), "connection refused");
        assert_eq!(system(&io::Error::other("Already said")), "already said");
    }

    #[test]
    fn a_host_that_is_not_there_is_told_by_its_name() {
        let text = "failed to lookup address information: Name or service not known";
        assert_eq!(lookup("h.test", &io::Error::other(text)), "lookup h.test: no such host");
        assert_eq!(lookup("h", &io::Error::other("It broke")), "lookup h: it broke");
    }
}
