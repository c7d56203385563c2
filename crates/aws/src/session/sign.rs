//! Signatures of requests (AWS Signature Version 4).

use std::time::SystemTime;

use aws_credential_types::Credentials as Identity;
use aws_sigv4::http_request::{self, SignableBody, SignableRequest, SigningSettings};
use aws_sigv4::sign::v4;
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::credentials::Credentials;

/// A request that is to be signed.
pub(super) struct Signable<'a> {
    pub(super) method: &'a Method,
    pub(super) url: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

/// The headers that a signature adds.
pub(super) fn sign(
    request: &Signable<'_>,
    credentials: &Credentials,
    service: &str,
    region: &str,
    now: SystemTime,
) -> Result<HeaderMap, String> {
    let token = credentials.token.as_ref().map(|it| it.expose().clone());
    let secret = credentials.secret.expose().as_str();
    let identity = Identity::new(&credentials.key_id, secret, token, None, "steeple").into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| error.to_string())?
        .into();
    let headers = request.headers.iter();
    let headers = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let signable = SignableRequest::new(
        request.method.as_str(),
        request.url,
        headers,
        SignableBody::Bytes(request.body),
    )
    .map_err(|error| error.to_string())?;
    let (instructions, _) =
        http_request::sign(signable, &parameters).map_err(|error| error.to_string())?.into_parts();
    let mut made = HeaderMap::new();
    for (name, value) in instructions.headers() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        let mut value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        made.insert(name, value);
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The example of AWS's documentation of the signing process (IAM ListUsers, 2015-08-30).
    #[test]
    fn the_documented_example_has_the_documented_signature() {
        let mut headers = HeaderMap::new();
        let kind = "application/x-www-form-urlencoded; charset=utf-8";
        headers.insert("content-type", HeaderValue::from_static(kind));
        let request = Signable {
            method: &Method::GET,
            url: "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
            headers: &headers,
            body: b"",
        };
        let credentials =
            Credentials::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        let made = sign(&request, &credentials, "iam", "us-east-1", now).unwrap();
        assert_eq!(made["x-amz-date"], "20150830T123600Z");
        assert_eq!(
            made["authorization"],
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
        assert!(!made.contains_key("x-amz-security-token"));
    }
}
