//! Credentials of the instance's role, by the metadata service.

use super::{Credentials, CredentialsError, Document};
use crate::environment::Environment;
use crate::imds::Imds;

const ROLES: &str = "/meta-data/iam/security-credentials/";

pub(super) async fn fetch(environment: &Environment) -> Result<Credentials, CredentialsError> {
    let imds = Imds::new(None, environment).map_err(CredentialsError::NoRole)?;
    let mut open = imds.open("GetMetadata");
    let roles = open.get(ROLES).await.map_err(CredentialsError::NoRole)?;
    let role = roles.lines().map(str::trim).find(|role| !role.is_empty());
    let role = role.filter(|role| is_name(role));
    let role = role.ok_or(CredentialsError::Malformed("EC2 IMDS role"))?;
    let text = open.get(&format!("{ROLES}{role}")).await.map_err(CredentialsError::Role)?;
    parse(&text)
}

fn parse(text: &str) -> Result<Credentials, CredentialsError> {
    let malformed = CredentialsError::Malformed("EC2 IMDS role credentials");
    #[derive(serde::Deserialize)]
    struct Status {
        #[serde(rename = "Code")]
        code: String,
    }
    match serde_json::from_str::<Status>(text) {
        Ok(status) if status.code.eq_ignore_ascii_case("success") => {}
        _ => return Err(malformed),
    }
    let document: Document = serde_json::from_str(text).map_err(|_| malformed)?;
    document.into_credentials()
}

/// A role's name, by IAM's rules.
fn is_name(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_a_role_are_read_when_they_say_success() {
        let text = r#"{"Code":"Success","LastUpdated":"x","Type":"AWS-HMAC","AccessKeyId":"ASIA",
            "SecretAccessKey":"s","Token":"t","Expiration":"2026-01-02T03:04:05Z"}"#;
        let credentials = parse(text).unwrap();
        assert_eq!(credentials.key_id, "ASIA");
        assert!(credentials.expires.is_some() && credentials.token.is_some());
        for bad in [
            r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"no"}"#,
            r#"{"Code":"Success"}"#,
            "",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let late = text.replace("2026-01-02T03:04:05Z", "soon");
        assert!(matches!(parse(&late), Err(CredentialsError::Time)));
    }
}
