//! Distinguished names in the words of Go's `pkix.Name.String`.

use steeple_pki::x509::DistinguishedName;

/// The name with its last attribute first, as RFC 2253 has it: `CN=x,O=SPIRE,C=US`.
pub(crate) fn go_name(name: &DistinguishedName) -> String {
    let one = |text: &String| if text.is_empty() { Vec::new() } else { vec![text.clone()] };
    let rdns = [
        ("SERIALNUMBER", one(&name.serial_number)),
        ("CN", one(&name.common_name)),
        ("POSTALCODE", name.postal_code.clone()),
        ("STREET", name.street_address.clone()),
        ("ST", name.province.clone()),
        ("L", name.locality.clone()),
        ("OU", name.organizational_unit.clone()),
        ("O", name.organization.clone()),
        ("C", name.country.clone()),
    ];
    let rdns: Vec<String> = rdns
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(kind, values)| {
            let pairs: Vec<_> =
                values.iter().map(|value| format!("{kind}={}", escaped(value))).collect();
            pairs.join("+")
        })
        .collect();
    rdns.join(",")
}

fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (at, letter) in value.chars().enumerate() {
        let special = match letter {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => true,
            ' ' => at == 0 || at == last,
            '#' => at == 0,
            _ => false,
        };
        if special {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_from_its_end_with_special_letters_escaped() {
        let name = DistinguishedName {
            country: vec!["US".to_owned()],
            organization: vec!["A, Inc.".to_owned(), "B".to_owned()],
            common_name: " x#".to_owned(),
            ..DistinguishedName::default()
        };
        assert_eq!(go_name(&name), "CN=\\ x#,O=A\\, Inc.+O=B,C=US");
    }
}
