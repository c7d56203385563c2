//! Certificates, claims and times as lines of text: labels and values, nothing printed here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use steeple_pki::Certificate;
use steeple_pki::x509::DistinguishedName;
use steeple_runtime::duration::format_go;

/// A label and a value.
pub(crate) type Fact = (&'static str, String);

/// What a certificate says.
pub(crate) fn certificate(leaf: &Certificate) -> Vec<Fact> {
    let lifetime = leaf.not_after().duration_since(leaf.not_before()).unwrap_or_default();
    let mut facts = vec![
        ("subject", leaf.subject().map_or_else(|_| "?".to_owned(), |name| subject(&name))),
        ("URI SAN", leaf.uri_sans().join(" ")),
        ("valid from", time(leaf.not_before())),
        ("valid until", format!("{} ({})", time(leaf.not_after()), format_go(lifetime))),
        ("serial", leaf.serial_decimal()),
        ("public key", leaf.public_key().kind().to_string()),
    ];
    if let Some(authority) = leaf.authority_key_id() {
        facts.push(("signed by", format!("authority {}", hex(authority))));
    }
    facts
}

/// What a token's claims say, times also as dates.
pub(crate) fn claims(claims: &Map<String, Value>) -> Vec<(String, String)> {
    let shown = |(name, value): (&String, &Value)| {
        let text = match (name.as_str(), value) {
            ("exp" | "iat" | "nbf", Value::Number(seconds)) => {
                let seconds = seconds.as_u64().unwrap_or_default();
                format!("{seconds} ({})", time(UNIX_EPOCH + Duration::from_secs(seconds)))
            }
            (_, Value::String(text)) => text.clone(),
            (_, value) => value.to_string(),
        };
        (name.clone(), text)
    };
    claims.iter().map(shown).collect()
}

/// A time to the second, in UTC.
pub(crate) fn time(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let at = i64::try_from(since).ok().and_then(|it| jiff::Timestamp::from_second(it).ok());
    at.map_or_else(|| "?".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// A time of the clock only.
pub(crate) fn clock(at: SystemTime) -> String {
    time(at).split(' ').nth(1).unwrap_or("?").to_owned()
}

/// The end of a serial number, enough to tell two apart.
pub(crate) fn short(serial: &str) -> String {
    let skipped = serial.chars().count().saturating_sub(12);
    let end: String = serial.chars().skip(skipped).collect();
    if skipped == 0 { end } else { format!("…{end}") }
}

/// A name as RFC 4514 does, first attribute first.
fn subject(name: &DistinguishedName) -> String {
    let lists = [
        ("C", &name.country),
        ("ST", &name.province),
        ("L", &name.locality),
        ("O", &name.organization),
        ("OU", &name.organizational_unit),
    ];
    let mut parts: Vec<String> = lists
        .into_iter()
        .flat_map(|(label, values)| values.iter().map(move |value| format!("{label}={value}")))
        .collect();
    if !name.common_name.is_empty() {
        parts.push(format!("CN={}", name.common_name));
    }
    parts.join(", ")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use steeple_pki::x509::{self, ExtKeyUsage, KeyUsage, SerialNumber, Template};
    use steeple_pki::{KeyType, PrivateKey};

    use super::*;

    #[test]
    fn times_in_claims_are_dates_too() {
        let Value::Object(object) = json!({"aud": ["db"], "exp": 1_795_330_800, "sub": "x"}) else {
            panic!("it is an object");
        };
        assert_eq!(
            claims(&object),
            [
                ("aud".to_owned(), "[\"db\"]".to_owned()),
                ("exp".to_owned(), "1795330800 (2026-11-22 07:00:00 UTC)".to_owned()),
                ("sub".to_owned(), "x".to_owned()),
            ]
        );
    }

    #[test]
    fn a_time_beyond_the_calendar_is_no_panic() {
        assert_eq!(time(UNIX_EPOCH + Duration::from_secs(u64::MAX / 4)), "?");
        assert_eq!(clock(UNIX_EPOCH + Duration::from_secs(61)), "00:01:01");
    }

    #[test]
    fn serials_are_told_apart_by_their_end() {
        assert_eq!(short("123456789012"), "123456789012");
        assert_eq!(short("9123456789012"), "…123456789012");
    }

    #[test]
    fn a_subject_reads_as_one_writes_it() {
        let name = DistinguishedName {
            country: vec!["US".into()],
            organization: vec!["SPIRE".into()],
            common_name: "web".into(),
            ..Default::default()
        };
        assert_eq!(subject(&name), "C=US, O=SPIRE, CN=web");
    }

    #[tokio::test]
    async fn a_certificate_is_told_by_all_that_makes_it_an_svid() {
        let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
        let noon = UNIX_EPOCH + Duration::from_secs(1_795_348_800);
        let template = Template {
            subject: DistinguishedName { country: vec!["US".into()], ..Default::default() },
            public_key: key.public_key().clone(),
            serial: SerialNumber::random(),
            not_before: noon - Duration::from_secs(10),
            not_after: noon + Duration::from_secs(3600),
            ca: false,
            key_usage: KeyUsage::DIGITAL_SIGNATURE,
            ext_key_usage: vec![ExtKeyUsage::ServerAuth, ExtKeyUsage::ClientAuth],
            uri_sans: vec!["spiffe://example.org/web".into()],
            dns_names: Vec::new(),
            policies: vec![],
            extra_extensions: vec![],
        };
        let leaf = x509::self_sign(&template, key).await.unwrap();
        let facts = certificate(&leaf);
        let expected = [
            ("subject", "C=US".to_owned()),
            ("URI SAN", "spiffe://example.org/web".to_owned()),
            ("valid from", "2026-11-22 11:59:50 UTC".to_owned()),
            ("valid until", "2026-11-22 13:00:00 UTC (1h0m10s)".to_owned()),
            ("serial", leaf.serial_decimal()),
            ("public key", "EC P-256".to_owned()),
        ];
        assert_eq!(facts[..6], expected);
    }
}
