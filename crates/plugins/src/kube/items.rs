//! Finds the items of a list of Kubernetes in the pieces that its JSON comes in.
//!
//! Only as much is understood as tells where an item begins and ends: strings, and the depth of
//! brackets. One item is held at a time. What an item is, its decoder says.

use memchr::memchr2;

/// The largest item that is looked at, in bytes; the API server keeps none of half that.
pub(crate) const MAX_ITEM: usize = 4 * 1024 * 1024;
/// The most that is kept of the list's own metadata.
const MAX_METADATA: usize = 64 * 1024;
/// The longest key of the list itself; there are four, all short.
const MAX_KEY: usize = 64;

/// Why a text is no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScanError {
    #[error("expected an object")]
    NoObject,
    #[error("expected an items array")]
    NoItems,
    #[error("unexpected end of JSON input")]
    Truncated,
    #[error("invalid character at byte {0}")]
    Syntax(u64),
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// An item's text.
    Item(&'a [u8]),
    /// An item that is larger than may be.
    TooLarge,
}

/// Where in the text the scanner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before the list.
    Start,
    /// Where a key of the list may begin, or the list end; whether a comma came before.
    Key,
    /// In a key.
    InKey,
    /// Between a key and its value.
    Colon,
    /// Where the value of a key begins.
    Value,
    /// In a value.
    InValue(Of),
    /// After a value.
    AfterValue,
    /// Where an item may begin, or the items end.
    Items,
    /// After an item.
    AfterItem,
    /// After the list.
    End,
}

/// Whose value is being passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Item,
    Metadata,
    Other,
}

/// Where in a value the scanner is.
#[derive(Clone, Copy, Debug, Default)]
struct Nesting {
    depth: usize,
    string: bool,
    escaped: bool,
}

/// The state between two pieces.
#[derive(Debug)]
pub(crate) struct Items {
    at: At,
    nesting: Nesting,
    /// What of the current key, item or metadata came in earlier pieces.
    held: Vec<u8>,
    too_large: bool,
    metadata: Vec<u8>,
    saw_items: bool,
    read: u64,
}

impl Items {
    pub(crate) fn new() -> Self {
        Self {
            at: At::Start,
            nesting: Nesting::default(),
            held: Vec::new(),
            too_large: false,
            metadata: Vec::new(),
            saw_items: false,
            read: 0,
        }
    }

    /// Takes the next piece, and hands over the items that end in it.
    pub(crate) fn push(
        &mut self,
        piece: &[u8],
        mut found: impl FnMut(Found<'_>),
    ) -> Result<(), ScanError> {
        let mut rest = piece;
        while let Some(&byte) = rest.first() {
            if let At::InValue(of) = self.at {
                rest = self.pass(of, rest, &mut found);
                continue;
            }
            if self.at == At::InKey {
                rest = self.key(rest)?;
                continue;
            }
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                let at = self.read + (piece.len() - rest.len()) as u64;
                if self.step(byte, at)? {
                    continue;
                }
            }
            rest = &rest[1..];
        }
        self.read += piece.len() as u64;
        Ok(())
    }

    /// The list's own metadata as text, empty if it has none, once all of the list was there.
    pub(crate) fn finish(self) -> Result<Vec<u8>, ScanError> {
        match self.at {
            At::Start => Err(ScanError::NoObject),
            At::End if !self.saw_items => Err(ScanError::NoItems),
            At::End => Ok(self.metadata),
            _ => Err(ScanError::Truncated),
        }
    }

    /// One byte between values. Tells whether it belongs to what follows and is to be seen again.
    fn step(&mut self, byte: u8, at: u64) -> Result<bool, ScanError> {
        self.at = match (self.at, byte) {
            (At::Start, b'{') => At::Key,
            (At::Start, _) => return Err(ScanError::NoObject),
            (At::Key, b'"') => At::InKey,
            (At::Key | At::AfterValue, b'}') => At::End,
            (At::Colon, b':') => At::Value,
            (At::AfterValue, b',') => At::Key,
            (At::Value, _) => {
                let key = std::mem::take(&mut self.held);
                let of = match key.as_slice() {
                    b"items" if byte == b'[' => {
                        self.saw_items = true;
                        self.at = At::Items;
                        return Ok(false);
                    }
                    // Go prints a list without items so.
                    b"items" if byte == b'n' => {
                        self.saw_items = true;
                        Of::Other
                    }
                    b"items" => return Err(ScanError::NoItems),
                    b"metadata" => Of::Metadata,
                    _ => Of::Other,
                };
                self.begin(of);
                return Ok(true);
            }
            (At::Items | At::AfterItem, b']') => At::AfterValue,
            (At::AfterItem, b',') => At::Items,
            (At::Items, _) => {
                self.begin(Of::Item);
                return Ok(true);
            }
            _ => return Err(ScanError::Syntax(at)),
        };
        Ok(false)
    }

    fn begin(&mut self, of: Of) {
        self.at = At::InValue(of);
        self.nesting = Nesting::default();
        self.too_large = false;
        self.held.clear();
    }

    fn key<'p>(&mut self, rest: &'p [u8]) -> Result<&'p [u8], ScanError> {
        match rest.iter().position(|&byte| byte == b'"') {
            Some(end) if self.held.len() + end <= MAX_KEY => {
                self.held.extend_from_slice(&rest[..end]);
                self.at = At::Colon;
                Ok(&rest[end + 1..])
            }
            None if self.held.len() + rest.len() <= MAX_KEY => {
                self.held.extend_from_slice(rest);
                Ok(&[])
            }
            _ => Err(ScanError::Syntax(self.read)),
        }
    }

    /// Passes over as much of a value as there is.
    fn pass<'p>(&mut self, of: Of, rest: &'p [u8], found: &mut impl FnMut(Found<'_>)) -> &'p [u8] {
        let end = self.nesting.end(rest);
        let part = &rest[..end.unwrap_or(rest.len())];
        let limit = match of {
            Of::Item => MAX_ITEM,
            Of::Metadata => MAX_METADATA,
            Of::Other => 0,
        };
        if self.held.len() + part.len() > limit {
            self.too_large = true;
            self.held.clear();
        }
        match end {
            None if self.too_large => {}
            None => self.held.extend_from_slice(part),
            Some(_) => self.end_value(of, part, found),
        }
        &rest[part.len()..]
    }

    fn end_value(&mut self, of: Of, part: &[u8], found: &mut impl FnMut(Found<'_>)) {
        self.at = if of == Of::Item { At::AfterItem } else { At::AfterValue };
        match of {
            Of::Item if self.too_large => found(Found::TooLarge),
            Of::Item if self.held.is_empty() => found(Found::Item(part)),
            Of::Item => {
                self.held.extend_from_slice(part);
                found(Found::Item(&self.held));
            }
            Of::Metadata if !self.too_large => {
                self.held.extend_from_slice(part);
                self.metadata = std::mem::take(&mut self.held);
            }
            _ => {}
        }
        self.held.clear();
        if self.held.capacity() > MAX_METADATA {
            self.held.shrink_to(MAX_METADATA);
        }
    }
}

impl Nesting {
    /// Where the value ends in `text`, if it does.
    fn end(&mut self, text: &[u8]) -> Option<usize> {
        let mut index = 0;
        while index < text.len() {
            if self.string {
                if self.escaped {
                    self.escaped = false;
                    index += 1;
                    continue;
                }
                let at = memchr2(b'"', b'\\', &text[index..])?;
                index += at + 1;
                if text[index - 1] == b'\\' {
                    self.escaped = true;
                } else {
                    self.string = false;
                    if self.depth == 0 {
                        return Some(index);
                    }
                }
                continue;
            }
            match text[index] {
                b'"' => self.string = true,
                b'{' | b'[' => self.depth += 1,
                // The end of a number or a word is what follows it.
                b'}' | b']' | b',' | b' ' | b'\t' | b'\n' | b'\r' if self.depth == 0 => {
                    return Some(index);
                }
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(index + 1);
                    }
                }
                _ => {}
            }
            index += 1;
        }
        None
    }
}

/// The text of a member of the JSON object `text`; nothing when it has none.
pub(crate) fn member<'t>(text: &'t [u8], key: &str) -> Option<&'t [u8]> {
    let skip = |rest: &'t [u8]| -> &'t [u8] { rest.trim_ascii_start() };
    let mut rest = skip(text).strip_prefix(b"{")?;
    loop {
        rest = skip(rest);
        let end = Nesting::default().end(rest)?;
        let (name, after) = rest.split_at(end);
        let after = skip(skip(after).strip_prefix(b":")?);
        let end = Nesting::default().end(after)?;
        let (value, after) = after.split_at(end);
        if name.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\"")) == Some(key.as_bytes()) {
            return Some(value);
        }
        rest = skip(after).strip_prefix(b",")?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(pieces: &[&[u8]]) -> Result<(Vec<String>, String), ScanError> {
        let mut items = Items::new();
        let mut found = Vec::new();
        for piece in pieces {
            items.push(piece, |it| match it {
                Found::Item(text) => found.push(String::from_utf8(text.to_vec()).unwrap()),
                Found::TooLarge => found.push("too large".to_owned()),
            })?;
        }
        let metadata = String::from_utf8(items.finish()?).unwrap();
        Ok((found, metadata))
    }

    const LIST: &str = r#" {"kind":"PodList","metadata":{"resourceVersion":"7","x":[1,{}]},"n":12,
        "items": [ {"a":"]}\"\\"} , {"b":[{"c":{}}]},3 ,"s" ,null], "after" : true } "#;

    #[test]
    fn items_are_found_however_the_text_is_cut() {
        let whole = scan(&[LIST.as_bytes()]).unwrap();
        let expected = [r#"{"a":"]}\"\\"}"#, r#"{"b":[{"c":{}}]}"#, "3", r#""s""#, "null"];
        assert_eq!(whole.0, expected);
        assert_eq!(whole.1, r#"{"resourceVersion":"7","x":[1,{}]}"#);
        for cut in 0..LIST.len() {
            let (before, after) = LIST.as_bytes().split_at(cut);
            assert_eq!(scan(&[before, after]).unwrap(), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = LIST.as_bytes().chunks(1).collect();
        assert_eq!(scan(&bytes).unwrap(), whole);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (text, error) in [
            ("", ScanError::NoObject),
            ("[]", ScanError::NoObject),
            ("\"x\"", ScanError::NoObject),
            ("{}", ScanError::NoItems),
            ("{\"items\":{}}", ScanError::NoItems),
            ("{\"items\":\"x\"}", ScanError::NoItems),
            ("{\"items\":[{}", ScanError::Truncated),
            ("{\"items\":[{}]", ScanError::Truncated),
            ("{\"items\":[{} {}]}", ScanError::Syntax(13)),
            ("{\"items\":[]}}", ScanError::Syntax(12)),
            ("{,}", ScanError::Syntax(1)),
        ] {
            assert_eq!(scan(&[text.as_bytes()]), Err(error), "{text}");
        }
        assert_eq!(scan(&[b"{\"items\":null}"]).unwrap().0.len(), 0);
    }

    #[test]
    fn an_item_that_is_too_large_is_passed_over_and_not_held() {
        let text = format!("{{\"items\":[\"{}\",7]}}", "x".repeat(MAX_ITEM));
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(100_000).collect();
        assert_eq!(scan(&pieces).unwrap().0, ["too large", "7"]);
        let mut items = Items::new();
        for piece in &pieces[..40] {
            items.push(piece, |_| {}).unwrap();
        }
        assert!(items.held.capacity() <= 2 * MAX_ITEM);
    }

    #[test]
    fn a_member_is_found_among_others() {
        let text = br#" {"type" : "ADDED","n":1, "object": {"a":[1,"}"]} } "#;
        assert_eq!(member(text, "object"), Some(br#"{"a":[1,"}"]}"#.as_slice()));
        assert_eq!(member(text, "n"), Some(b"1".as_slice()));
        for text in ["", "{", "{}", "[1]", "{\"a\"", "{\"a\":", "{\"a\":1", "{a:1}"] {
            assert_eq!(member(text.as_bytes(), "object"), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_member_of_anything_is_looked_for_without_panic(text in "[ \\[\\]{},:\"\\\\a]{0,30}") {
            let _ = member(text.as_bytes(), "a");
        }

        #[test]
        fn no_text_makes_it_panic_or_depend_on_the_cuts(
            text in "[ \\[\\]{},:\"\\\\a-c1]{0,40}",
            prefix in prop::sample::select(vec!["", "{\"items\":[", "{\"items\":[{"]),
            cut in 0usize..60,
        ) {
            let text = format!("{prefix}{text}");
            let cut = cut.min(text.len());
            let (before, after) = text.as_bytes().split_at(cut);
            let (whole, parts) = (scan(&[text.as_bytes()]), scan(&[before, after]));
            prop_assert_eq!(whole.is_ok(), parts.is_ok());
            if let (Ok(whole), Ok(parts)) = (whole, parts) {
                prop_assert_eq!(whole, parts);
            }
        }
    }
}
