use std::fmt;
use std::str::FromStr;

/// More than any object identifier in use takes.
const MAX_ENCODED: usize = 128;

/// An object identifier. Reads and shows the dotted form, such as `2.5.4.45`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Oid(Box<[u8]>);

/// The text is not an object identifier in dotted form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid OID")]
pub struct InvalidOid;

impl Oid {
    /// The content bytes of the DER encoding.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Oid {
    type Err = InvalidOid;

    /// At least two arcs, plain decimal numbers; each fits 128 bits, as those of UUIDs do.
    fn from_str(text: &str) -> Result<Self, InvalidOid> {
        if text.len() > 4 * MAX_ENCODED {
            return Err(InvalidOid);
        }
        let mut arcs = text.split('.').map(arc);
        let (first, second) = match (arcs.next(), arcs.next()) {
            (Some(first), Some(second)) => (first?, second?),
            _ => return Err(InvalidOid),
        };
        if first > 2 || (first < 2 && second >= 40) {
            return Err(InvalidOid);
        }
        let mut out = Vec::with_capacity(16);
        put_arc(&mut out, second.checked_add(40 * first).ok_or(InvalidOid)?);
        for next in arcs {
            put_arc(&mut out, next?);
        }
        if out.len() > MAX_ENCODED { Err(InvalidOid) } else { Ok(Self(out.into())) }
    }
}

fn arc(text: &str) -> Result<u128, InvalidOid> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || (text.len() > 1 && text.starts_with('0')) {
        return Err(InvalidOid);
    }
    text.parse().map_err(|_| InvalidOid)
}

/// Base 128, the highest digit first, all but the last with the top bit set (X.690 §8.19).
fn put_arc(out: &mut Vec<u8>, arc: u128) {
    let bits = 128 - arc.leading_zeros();
    for digit in (0..bits.div_ceil(7).max(1)).rev() {
        let low = u8::try_from(arc >> (7 * digit) & 0x7f).expect("seven bits");
        out.push(if digit == 0 { low } else { low | 0x80 });
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut arc = 0_u128;
        for byte in &self.0 {
            arc = arc << 7 | u128::from(byte & 0x7f);
            if byte & 0x80 != 0 {
                continue;
            }
            if first {
                let root = (arc / 40).min(2);
                write!(f, "{root}.{}", arc - 40 * root)?;
                first = false;
            } else {
                write!(f, ".{arc}")?;
            }
            arc = 0;
        }
        Ok(())
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Oid({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_forms_are_encoded_and_come_back() {
        for (text, der) in [
            ("2.5.4.45", &[0x55, 4, 45][..]),
            ("0.0", &[0]),
            ("1.39.127.128", &[79, 0x7f, 0x81, 0]),
            ("2.999.3", &[0x88, 0x37, 3]),
            ("1.2.840.113549.1.1.1", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]),
        ] {
            let oid: Oid = text.parse().unwrap();
            assert_eq!(oid.as_bytes(), der, "{text}");
            assert_eq!(oid.to_string(), text);
        }
        let uuid = "2.25.329800735698586629295641978511506172918";
        assert_eq!(uuid.parse::<Oid>().unwrap().to_string(), uuid);
    }

    #[test]
    fn what_is_no_object_identifier_is_refused() {
        let huge = "9".repeat(40);
        let long = format!("1.2{}", ".128".repeat(64));
        for text in [
            "",
            "2",
            "3.1",
            "1.40",
            "1..2",
            "1.2.",
            ".1.2",
            "1.-2",
            "+1.2",
            "01.2",
            "1.02",
            "a.b",
            "1.2 ",
            &format!("1.2.{huge}"),
            &long,
            &format!("2.{}", u128::MAX),
        ] {
            assert_eq!(text.parse::<Oid>(), Err(InvalidOid), "{text}");
        }
    }
}
