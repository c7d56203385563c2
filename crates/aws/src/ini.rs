//! The files `~/.aws/config` and `~/.aws/credentials`: sections of keys and values.

use std::collections::HashMap;

/// The longest file that is read, in bytes.
pub(crate) const MAX_FILE: u64 = 256 * 1024;

/// Sections by name, each with its keys in lower case. Later ones add to earlier ones.
pub(crate) type Sections = HashMap<String, HashMap<String, String>>;

/// Reads a file; lines that are none of the format are passed over, as the SDKs do. Keys inside a
/// key (indented lines) are nobody's.
pub(crate) fn parse(text: &str) -> Sections {
    let mut sections = Sections::new();
    let mut now: Option<String> = None;
    for line in text.lines() {
        if line.starts_with([' ', '\t']) {
            continue;
        }
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.split(']').next().unwrap_or_default().trim();
            sections.entry(name.to_owned()).or_default();
            now = Some(name.to_owned());
            continue;
        }
        let (Some(section), Some((key, value))) = (&now, line.split_once('=')) else { continue };
        let value = value.split(" #").next().unwrap_or_default();
        let value = value.split(" ;").next().unwrap_or_default().trim();
        let keys = sections.entry(section.clone()).or_default();
        keys.insert(key.trim().to_ascii_lowercase(), value.to_owned());
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_keys_and_comments_are_told_apart() {
        let text = "\
            # comment\nstray = 1\n[default]\nAWS_Access_Key_Id=AKID # why\n\
            s3 =\n  nested = 1\n[profile  x]\n\nrole_arn = a=b\nnonsense\n";
        let sections = parse(text);
        assert_eq!(sections["default"]["aws_access_key_id"], "AKID");
        assert!(!sections["default"].contains_key("nested"));
        assert_eq!(sections["profile  x"]["role_arn"], "a=b");
        assert_eq!(sections.len(), 2);
    }
}
