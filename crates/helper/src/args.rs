//! A line of arguments, split as spiffe-helper splits it: at single spaces,
//! except inside double quotes, which are dropped; two of them stand for one.

/// The arguments, or what is wrong with the line.
pub(crate) fn split(line: &str) -> Result<Vec<String>, String> {
    let mut arguments = Vec::new();
    let mut rest = line;
    if line.is_empty() {
        return Ok(arguments);
    }
    loop {
        let (argument, after) = match rest.strip_prefix('"') {
            Some(quoted) => in_quotes(quoted)?,
            None => {
                let (argument, after) = match rest.split_once(' ') {
                    Some((argument, after)) => (argument, Some(after)),
                    None => (rest, None),
                };
                if argument.contains('"') {
                    return Err(format!("bare \" in an argument: {}", shown(argument)));
                }
                (argument.to_owned(), after)
            }
        };
        arguments.push(argument);
        match after {
            Some(after) => rest = after,
            None => return Ok(arguments),
        }
    }
}

/// What is in quotes that are open, and what follows the space behind them.
fn in_quotes(text: &str) -> Result<(String, Option<&str>), String> {
    let mut argument = String::new();
    let mut rest = text;
    loop {
        let Some((before, after)) = rest.split_once('"') else {
            return Err("a quoted argument does not end".to_owned());
        };
        argument.push_str(before);
        if let Some(more) = after.strip_prefix('"') {
            argument.push('"');
            rest = more;
        } else if after.is_empty() {
            return Ok((argument, None));
        } else if let Some(more) = after.strip_prefix(' ') {
            return Ok((argument, Some(more)));
        } else {
            return Err(format!("extraneous \" in an argument: {}", shown(&argument)));
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn lines_split_as_spiffe_helper_splits_them() {
        let split = |line| split(line).unwrap();
        assert!(split("").is_empty());
        assert_eq!(
            split("server --listen localhost:8002"),
            ["server", "--listen", "localhost:8002"]
        );
        assert_eq!(split("a  b"), ["a", "", "b"]);
        assert_eq!(split(r#""this is one argument""#), ["this is one argument"]);
        assert_eq!(
            split(r#""with ONE double-quote "" in it" x"#),
            [r#"with ONE double-quote " in it"#, "x"]
        );
        assert_eq!(split("-c 'echo hello world'"), ["-c", "'echo", "hello", "world'"]);
        assert_eq!(split("a "), ["a", ""]);
    }

    #[test]
    fn quotes_in_the_wrong_place_are_told() {
        for line in [r#"a"b"#, r#""a"#, r#""a"b"#] {
            assert!(split(line).is_err(), "{line}");
        }
    }
}
