//! Quoted strings and heredocs become the text they stand for.

/// A quoted string that the Go library would refuse.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadQuoting;

/// Undoes the quoting of `text`, which still has its quotes.
///
/// With `interpolation` (HCL, not JSON) whatever stands within `${…}` is kept
/// as written, line breaks and quotes included.
pub(crate) fn unquote(text: &str, interpolation: bool) -> Result<String, BadQuoting> {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or(BadQuoting)?;
    let may_break = interpolation && (inner.contains('$') || inner.contains('{'));
    if !may_break && inner.contains('\n') {
        return Err(BadQuoting);
    }

    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(c) = rest.chars().next() {
        if interpolation && rest.starts_with("${") {
            let length = interpolated(rest)?;
            out.extend_from_slice(&rest.as_bytes()[..length]);
            rest = &rest[length..];
            continue;
        }
        match c {
            '\n' | '"' => return Err(BadQuoting),
            '\\' => rest = escape(&rest[1..], interpolation, &mut out)?,
            c => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    String::from_utf8(out).map_err(|_| BadQuoting)
}

/// The length of the `${…}` that `text` starts with.
fn interpolated(text: &str) -> Result<usize, BadQuoting> {
    let mut braces = 0usize;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '{' => braces += 1,
            '}' => braces -= 1,
            '\u{fffd}' => return Err(BadQuoting),
            _ => {}
        }
        if braces == 0 {
            return Ok(at + c.len_utf8());
        }
    }
    Err(BadQuoting)
}

/// Reads what follows a backslash and returns what follows that.
fn escape<'a>(text: &'a str, hcl: bool, out: &mut Vec<u8>) -> Result<&'a str, BadQuoting> {
    let c = text.chars().next().ok_or(BadQuoting)?;
    let tail = &text[c.len_utf8()..];
    let byte = match c {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '"' => b'"',
        'x' => {
            let (value, tail) = digits(tail, 2, 16)?;
            out.push(u8::try_from(value).map_err(|_| BadQuoting)?);
            return Ok(tail);
        }
        'u' | 'U' => {
            let (value, tail) = digits(tail, if c == 'u' { 4 } else { 8 }, 16)?;
            let c = match char::from_u32(value) {
                Some(c) => c,
                // HCL's own reader lets surrogates through, as U+FFFD.
                None if hcl && value <= 0x10_ffff => char::REPLACEMENT_CHARACTER,
                None => return Err(BadQuoting),
            };
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(tail);
        }
        '0'..='7' => {
            let (value, tail) = digits(text, 3, 8)?;
            out.push(u8::try_from(value).map_err(|_| BadQuoting)?);
            return Ok(tail);
        }
        _ => return Err(BadQuoting),
    };
    out.push(byte);
    Ok(tail)
}

fn digits(text: &str, count: usize, radix: u32) -> Result<(u32, &str), BadQuoting> {
    let run = text.get(..count).ok_or(BadQuoting)?;
    if !run.chars().all(|c| c.is_digit(radix)) {
        return Err(BadQuoting);
    }
    let value = u32::from_str_radix(run, radix).map_err(|_| BadQuoting)?;
    Ok((value, &text[count..]))
}

/// The content of a heredoc given with its anchors.
///
/// `<<-` removes the indent of the closing anchor from each line, when every
/// line has it; else only the closing anchor's own indent goes.
pub(crate) fn heredoc(text: &str) -> String {
    let bytes = text.as_bytes();
    let Some(head) = bytes.iter().position(|byte| *byte == b'\n') else { return String::new() };
    // The library measures the closing anchor by the opening line.
    let cut = |end: usize| {
        let end = end.min(bytes.len());
        String::from_utf8_lossy(bytes.get(head + 1..end).unwrap_or_default()).into_owned()
    };
    let indented = bytes.get(2) == Some(&b'-');
    if !indented {
        return cut((bytes.len() + 1).saturating_sub(head));
    }

    let content = cut((bytes.len() + 2).saturating_sub(head));
    let lines: Vec<&str> = content.split('\n').collect();
    let prefix = lines.last().copied().unwrap_or_default();
    if !lines.iter().all(|line| line.starts_with(prefix)) {
        let kept = cut((bytes.len() + 1).saturating_sub(head));
        return kept.trim_end_matches([' ', '\t']).to_owned();
    }
    let mut out: String = lines[..lines.len() - 1]
        .iter()
        .map(|line| line.strip_prefix(prefix).unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n");
    if lines.len() > 1 {
        out.push('\n');
    }
    out
}
