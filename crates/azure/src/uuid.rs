//! The forms of a UUID that SPIRE takes for a VM's ID: canonical or without dashes, bare, in
//! braces, or as a URN.

/// Checks that `text` is a UUID; what it says otherwise is what SPIRE's library says.
pub(crate) fn check(text: &str) -> Result<(), &'static str> {
    let bytes = text.as_bytes();
    let plain = match bytes.len() {
        32 | 36 => bytes,
        34 | 38 => match bytes {
            [b'{', inner @ .., b'}'] => inner,
            _ => return Err("uuid: incorrect UUID format in string: invalid braces"),
        },
        41 | 45 => bytes
            .strip_prefix(b"urn:uuid:")
            .ok_or("uuid: incorrect UUID format in string: invalid URN prefix")?,
        _ => return Err("uuid: incorrect UUID length"),
    };
    let is_dash = |at: usize| plain.len() == 36 && matches!(at, 8 | 13 | 18 | 23);
    if (0..plain.len()).any(|at| is_dash(at) && plain[at] != b'-') {
        return Err("uuid: incorrect UUID format in string: dashes were not in expected positions");
    }
    match (0..plain.len()).all(|at| is_dash(at) || plain[at].is_ascii_hexdigit()) {
        true => Ok(()),
        false => Err("uuid: invalid UUID format"),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn every_form_of_a_uuid_is_one_and_nothing_else() {
        const PLAIN: &str = "550e8400-e29b-41d4-a716-446655440000";
        let bare = PLAIN.replace('-', "");
        for good in [PLAIN, &bare] {
            check(good).unwrap();
            check(&format!("{{{good}}}")).unwrap();
            check(&format!("urn:uuid:{good}")).unwrap();
        }
        for (bad, why) in [
            ("", "length"),
            ("not-a-uuid", "length"),
            ("550e8400-e29b-41d4-a716-44665544000'", "format"),
            ("550e8400-e29b-41d4-a716_446655440000", "dashes"),
            ("(550e8400-e29b-41d4-a716-446655440000)", "braces"),
            ("urn:uuix:550e8400-e29b-41d4-a716-446655440000", "prefix"),
        ] {
            assert!(check(bad).unwrap_err().contains(why), "{bad}");
        }
    }
}
