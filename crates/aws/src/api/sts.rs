//! STS: roles for credentials or for tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use steeple_runtime::Secret;

use crate::credentials::{AssumedRole, Credentials, CredentialsError, time_of};
use crate::error::words;
use crate::session::{Call, STS, Session};
use crate::xml;

const VERSION: &str = "2011-06-15";

/// How long a role is assumed for, in seconds, as AWS's SDK for Go has it.
const SECONDS: u32 = 900;

pub(crate) async fn assume_role(
    session: &Session,
    role: &AssumedRole,
    now: SystemTime,
) -> Result<Credentials, CredentialsError> {
    let mut parameters = vec![
        ("RoleArn".to_owned(), role.arn.clone()),
        ("RoleSessionName".to_owned(), name(role.session.as_deref(), now)),
        ("DurationSeconds".to_owned(), role.seconds.unwrap_or(SECONDS).to_string()),
    ];
    if let Some(id) = &role.external_id {
        parameters.push(("ExternalId".to_owned(), id.clone()));
    }
    let call = Call::query(&STS, "AssumeRole", VERSION, &parameters);
    let answer = session.call(&call).await.map_err(Box::new)?;
    read(&answer, "AssumeRoleResult")
}

pub(crate) async fn assume_role_with_web_identity(
    session: &Session,
    role: &str,
    session_name: Option<&str>,
    token: &Secret<String>,
    now: SystemTime,
) -> Result<Credentials, CredentialsError> {
    let parameters = [
        ("RoleArn".to_owned(), role.to_owned()),
        ("RoleSessionName".to_owned(), name(session_name, now)),
        ("WebIdentityToken".to_owned(), token.expose().clone()),
    ];
    let mut call = Call::query(&STS, "AssumeRoleWithWebIdentity", VERSION, &parameters);
    call.signed = false;
    let answer = session.call(&call).await.map_err(Box::new)?;
    read(&answer, "AssumeRoleWithWebIdentityResult")
}

/// The name of a session; one that nobody gave is the time, as in AWS's SDK for Go.
fn name(given: Option<&str>, now: SystemTime) -> String {
    match given {
        Some(name) => name.to_owned(),
        None => {
            let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            since.as_nanos().to_string()
        }
    }
}

fn read(answer: &[u8], result: &str) -> Result<Credentials, CredentialsError> {
    let malformed = || CredentialsError::Malformed("STS credentials");
    let document = xml::parse(answer).ok_or_else(malformed)?;
    let found = xml::at(document.root_element(), &[result, "Credentials"]);
    let found = found.ok_or_else(malformed)?;
    let text = |name: &str| xml::text(found, &[name]).filter(|it| !it.is_empty());
    let (Some(key_id), Some(secret), Some(token)) =
        (text("AccessKeyId"), text("SecretAccessKey"), text("SessionToken"))
    else {
        return Err(malformed());
    };
    let expires = text("Expiration").map(|it| time_of(&words(&it))).transpose()?;
    Ok(Credentials { expires, ..Credentials::new(key_id, secret) }.with_token(Some(token)))
}
