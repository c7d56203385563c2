use super::Oid;
use crate::der::{self, DerError, Reader};
use crate::oid;

/// A distinguished name, made of the attributes that Go's `pkix.Name` knows. Encodes as that does:
/// attributes in a fixed order, repeated ones in one multi-valued RDN, extra ones at the end.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct DistinguishedName {
    /// C
    pub country: Vec<String>,
    /// O
    pub organization: Vec<String>,
    /// OU
    pub organizational_unit: Vec<String>,
    /// L
    pub locality: Vec<String>,
    /// ST
    pub province: Vec<String>,
    /// STREET
    pub street_address: Vec<String>,
    /// postalCode
    pub postal_code: Vec<String>,
    /// CN
    pub common_name: String,
    /// The serialNumber attribute, which is not the certificate's serial number.
    pub serial_number: String,
    /// Further attributes, each an RDN of its own. One of a type that has a field above takes the
    /// place of what that field says. Not read back by [`DistinguishedName::from_der`], as in Go.
    pub extra_names: Vec<(Oid, String)>,
}

impl DistinguishedName {
    /// Whether no attribute is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The DER RDNSequence.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        der::put_nested(&mut out, der::SEQUENCE, |out| {
            for (name, values) in self.lists() {
                self.put_known(out, name, values.iter().map(String::as_str));
            }
            let singles =
                [(oid::COMMON_NAME, &self.common_name), (oid::SERIAL_NUMBER, &self.serial_number)];
            for (name, value) in singles {
                let value = Some(value.as_str()).filter(|value| !value.is_empty());
                self.put_known(out, name, value.into_iter());
            }
            for (name, value) in &self.extra_names {
                put_rdn(out, name.as_bytes(), std::iter::once(value.as_str()));
            }
        });
        out
    }

    fn put_known<'a>(&self, out: &mut Vec<u8>, name: &[u8], values: impl Iterator<Item = &'a str>) {
        if self.extra_names.iter().all(|(extra, _)| extra.as_bytes() != name) {
            put_rdn(out, name, values);
        }
    }

    fn lists(&self) -> [(&'static [u8], &[String]); 7] {
        [
            (oid::COUNTRY, &self.country),
            (oid::PROVINCE, &self.province),
            (oid::LOCALITY, &self.locality),
            (oid::STREET_ADDRESS, &self.street_address),
            (oid::POSTAL_CODE, &self.postal_code),
            (oid::ORGANIZATION, &self.organization),
            (oid::ORGANIZATIONAL_UNIT, &self.organizational_unit),
        ]
    }

    /// Reads a DER RDNSequence. Attributes other than this type's are checked for form and left
    /// out; of several common names or serial numbers the last one counts, as in Go.
    ///
    /// # Errors
    /// When the encoding is broken or a value is not text.
    pub fn from_der(name: &[u8]) -> Result<Self, DerError> {
        let mut out = Self::default();
        let mut rdns = Reader::sequence_of(name)?;
        while !rdns.is_empty() {
            let mut rdn = Reader::new(rdns.value(der::SET)?);
            while !rdn.is_empty() {
                let mut attribute = rdn.sequence()?;
                let kind = attribute.value(der::OID)?;
                let value = attribute.any()?;
                attribute.finish()?;
                out.add(kind, value.tag, value.value)?;
            }
        }
        Ok(out)
    }

    fn add(&mut self, kind: &[u8], tag: u8, value: &[u8]) -> Result<(), DerError> {
        let list = match kind {
            oid::COUNTRY => &mut self.country,
            oid::ORGANIZATION => &mut self.organization,
            oid::ORGANIZATIONAL_UNIT => &mut self.organizational_unit,
            oid::LOCALITY => &mut self.locality,
            oid::PROVINCE => &mut self.province,
            oid::STREET_ADDRESS => &mut self.street_address,
            oid::POSTAL_CODE => &mut self.postal_code,
            oid::COMMON_NAME => {
                self.common_name = decode_string(tag, value)?;
                return Ok(());
            }
            oid::SERIAL_NUMBER => {
                self.serial_number = decode_string(tag, value)?;
                return Ok(());
            }
            _ => return Ok(()),
        };
        list.push(decode_string(tag, value)?);
        Ok(())
    }
}

fn put_rdn<'a>(out: &mut Vec<u8>, name: &[u8], values: impl Iterator<Item = &'a str>) {
    let mut attributes: Vec<Vec<u8>> = values
        .map(|value| {
            let mut attribute = Vec::with_capacity(value.len() + 16);
            der::put_nested(&mut attribute, der::SEQUENCE, |out| {
                der::put(out, der::OID, name);
                encode_printable_or_utf8(out, value);
            });
            attribute
        })
        .collect();
    if attributes.is_empty() {
        return;
    }
    // DER orders the members of a SET by their encodings.
    attributes.sort_unstable();
    der::put_nested(out, der::SET, |out| attributes.iter().for_each(|it| out.extend(it)));
}

/// Appends PrintableString when the text allows that, else UTF8String, as Go does.
fn encode_printable_or_utf8(out: &mut Vec<u8>, text: &str) {
    let tag = if text.bytes().all(is_printable) { der::PRINTABLE_STRING } else { der::UTF8_STRING };
    der::put(out, tag, text.as_bytes());
}

fn is_printable(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&c)
}

pub(super) fn decode_string(tag: u8, value: &[u8]) -> Result<String, DerError> {
    const BAD: DerError = DerError::Value("string");
    match tag {
        der::UTF8_STRING => String::from_utf8(value.to_vec()).map_err(|_| BAD),
        // Go lets '*' and '&' pass here, because certificates in the field have them.
        der::PRINTABLE_STRING
            if value.iter().all(|c| is_printable(*c) || matches!(c, b'*' | b'&')) =>
        {
            Ok(value.iter().map(|c| char::from(*c)).collect())
        }
        der::NUMERIC_STRING if value.iter().all(|c| c.is_ascii_digit() || *c == b' ') => {
            Ok(value.iter().map(|c| char::from(*c)).collect())
        }
        der::IA5_STRING if value.is_ascii() => Ok(value.iter().map(|c| char::from(*c)).collect()),
        // In practice Latin-1.
        der::T61_STRING => Ok(value.iter().map(|c| char::from(*c)).collect()),
        der::BMP_STRING if value.len().is_multiple_of(2) => {
            let units = value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().map_err(|_| BAD)
        }
        _ => Err(BAD),
    }
}
