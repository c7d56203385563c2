//! The claims of a workload's JWT-SVID.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Number, Value};
use steeple_plugin::CredentialComposer;
use steeple_spiffe::SpiffeId;

use super::{failed, unless_unimplemented};
use crate::credentials::validate;
use crate::error::{CaError, InvalidCredential};
use crate::kind::{from_unix, unix};

/// Has every composer look at the claims of a JWT-SVID to be, and checks what they are then
/// (CR-27). They end no later than `cap`, which is when the key does.
///
/// # Errors
/// The first composer that refuses or is too slow, or the first rule that is broken.
pub(in crate::credentials) async fn workload_claims(
    composers: &[Arc<dyn CredentialComposer>],
    id: &SpiffeId,
    mut claims: Map<String, Value>,
    cap: SystemTime,
    now: SystemTime,
) -> Result<Composed, CaError> {
    for composer in composers {
        let before = claims.clone();
        let hook = composer.compose_workload_jwt_svid(id, claims);
        claims = unless_unimplemented(composer.as_ref(), before, hook)
            .await
            .map_err(CaError::Composer)?;
        if size(&claims) > MAX_CLAIMS {
            let text = format!(
                "plugin returned invalid JWTSVID attributes: claims larger than {MAX_CLAIMS} bytes"
            );
            let code = steeple_plugin::Code::Internal;
            return Err(CaError::Composer(failed(composer.as_ref(), code, &text)));
        }
    }
    claims.values_mut().for_each(whole_numbers);
    let times = check(&mut claims, id, cap, now)
        .map_err(|source| CaError::Invalid { what: "workload JWT-SVID", source })?;
    Ok(Composed { claims, issued_at: times.0, expires_at: times.1 })
}

/// What is to be signed.
pub(in crate::credentials) struct Composed {
    pub(in crate::credentials) claims: Map<String, Value>,
    /// The `iat` claim.
    pub(in crate::credentials) issued_at: i64,
    /// The `exp` claim.
    pub(in crate::credentials) expires_at: i64,
}

fn check(
    claims: &mut Map<String, Value>,
    id: &SpiffeId,
    cap: SystemTime,
    now: SystemTime,
) -> Result<(i64, i64), InvalidCredential> {
    let subject = match present(claims, "sub") {
        None => "",
        Some(Value::String(subject)) => subject,
        Some(_) => return malformed("sub"),
    };
    if subject != id.as_str() {
        let found = subject.chars().take(MAX_ECHO).collect();
        return Err(InvalidCredential::Subject { expected: id.to_string(), found });
    }
    let Some(expires_at) = time(claims, "exp")? else {
        return rule("invalid JWT-SVID \"exp\" claim: required but missing");
    };
    let not_before = time(claims, "nbf")?;
    let Some(issued_at) = time(claims, "iat")? else {
        return rule("invalid JWT-SVID \"iat\" claim: required but missing");
    };
    let audience: Vec<String> = match present(claims, "aud") {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(several)) => {
            let text = |it: &Value| it.as_str().map(str::to_owned);
            let Some(texts) = several.iter().map(text).collect() else { return malformed("aud") };
            texts
        }
        Some(_) => return malformed("aud"),
    };
    // No verifier could check it longer than that: the key is gone from the bundle.
    let expires_at = expires_at.min(unix(cap));
    claims.insert("exp".to_owned(), expires_at.into());
    claims.insert("iat".to_owned(), issued_at.into());
    if let Some(not_before) = not_before.map(from_unix).filter(|not_before| *not_before > now) {
        let kind = "invalid JWT-SVID \"nbf\" claim";
        return Err(InvalidCredential::NotYetValid { kind, not_before });
    }
    validate::jwt_svid(from_unix(expires_at), &audience, now)?;
    Ok((issued_at, expires_at))
}

fn present<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).filter(|value| !value.is_null())
}

/// A NumericDate in whole seconds; fractions are dropped, as SPIRE does.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<i64>, InvalidCredential> {
    match present(claims, name) {
        None => Ok(None),
        Some(Value::Number(number)) => match whole(number) {
            Some(seconds) if (0..=LAST_SECOND).contains(&seconds) => Ok(Some(seconds)),
            _ => malformed(name),
        },
        Some(_) => malformed(name),
    }
}

fn whole(number: &Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        #[expect(clippy::cast_possible_truncation, reason = "within the whole numbers of a double")]
        (float.abs() <= WHOLE).then_some(float as i64)
    })
}

/// Claims pass through a protobuf `Struct`, which knows no number but doubles: those that are
/// whole become whole again, so that no verifier sees `1.7e9`.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(whole) = whole(number).filter(|it| number.as_f64() == Some(*it as f64)) {
                *number = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(members) => members.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// About as long as they are in JSON.
fn size(claims: &Map<String, Value>) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::Null | Value::Bool(_) => 5,
            Value::Number(_) => 16,
            Value::String(text) => text.len() + 3,
            Value::Array(items) => 2 + items.iter().map(of).sum::<usize>(),
            Value::Object(members) => size(members),
        }
    }
    2 + claims.iter().map(|(name, value)| name.len() + 4 + of(value)).sum::<usize>()
}

fn malformed<T>(claim: &'static str) -> Result<T, InvalidCredential> {
    Err(InvalidCredential::Claim(claim))
}

fn rule<T>(text: &'static str) -> Result<T, InvalidCredential> {
    Err(InvalidCredential::Rule(text))
}

/// Half of what a token may have at most, before base64.
const MAX_CLAIMS: usize = 32 * 1024;
const MAX_ECHO: usize = 100;
/// 2^53: up to here a double tells whole numbers apart.
const WHOLE: f64 = 9_007_199_254_740_992.0;
/// The end of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;
