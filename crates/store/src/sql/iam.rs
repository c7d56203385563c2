//! Log-in to a database of AWS RDS: a token instead of a password, good for 15 minutes, which is
//! an address signed by AWS's Signature Version 4 (TD-01).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use steeple_pki::digest::Sha256;
use time::OffsetDateTime;
use time::macros::format_description;

use super::hex::hex;
use crate::config::AwsIam;
use crate::error::StoreError;

/// How long AWS takes a token.
const GOOD_FOR: Duration = Duration::from_secs(15 * 60);
/// It is replaced so long before its end, for clocks that differ.
const MARGIN: Duration = Duration::from_secs(60);

/// A secret, as long as it lasts.
pub(super) struct Token(pub(super) String);

/// Who logs in where.
pub(super) struct Login {
    pub(super) credentials: Credentials,
    pub(super) region: String,
    pub(super) endpoint: String,
    pub(super) user: String,
    ends: Mutex<Option<SystemTime>>,
}

/// Keys of AWS.
pub(super) struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

impl Credentials {
    /// The configured ones, or those of the environment.
    fn find(aws: &AwsIam) -> Result<Self, StoreError> {
        if !aws.access_key_id.is_empty() && !aws.secret_access_key.is_empty() {
            return Ok(Self {
                access_key_id: aws.access_key_id.clone(),
                secret_access_key: aws.secret_access_key.clone(),
                session_token: None,
            });
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            (Some(access_key_id), Some(secret_access_key)) => Ok(Self {
                access_key_id,
                secret_access_key,
                session_token: variable("AWS_SESSION_TOKEN"),
            }),
            _ => Err(StoreError::Invalid(
                "datastore-sql: no AWS credentials: set access_key_id and secret_access_key, or \
                 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
                    .into(),
            )),
        }
    }
}

impl Login {
    pub(super) fn new(aws: &AwsIam, host: &str, port: u16, user: &str) -> Result<Self, StoreError> {
        if aws.region.is_empty() {
            return Err(StoreError::Invalid("datastore-sql: region must be specified".into()));
        }
        Ok(Self {
            credentials: Credentials::find(aws)?,
            region: aws.region.clone(),
            endpoint: format!("{host}:{port}"),
            user: user.to_owned(),
            ends: Mutex::new(None),
        })
    }

    /// A new token, if there is none yet or the last one grows old.
    pub(super) fn renew(&self, now: SystemTime) -> Result<Option<Token>, StoreError> {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.is_some_and(|ends| now + MARGIN < ends) {
            return Ok(None);
        }
        let token = self.sign(now)?;
        *ends = Some(now + GOOD_FOR);
        Ok(Some(token))
    }

    fn sign(&self, now: SystemTime) -> Result<Token, StoreError> {
        let date = OffsetDateTime::from(now)
            .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
            .map_err(|_| StoreError::sql("the time is out of range"))?;
        let day = &date[..8];
        let scope = format!("{day}/{}/rds-db/aws4_request", self.region);
        let Credentials { access_key_id, secret_access_key, session_token } = &self.credentials;
        // In the order of the alphabet, as the signature wants them.
        let mut query = format!(
            "Action=connect&DBUser={}&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}\
             &X-Amz-Date={date}&X-Amz-Expires={}",
            escape(&self.user),
            escape(&format!("{access_key_id}/{scope}")),
            GOOD_FOR.as_secs(),
        );
        if let Some(session_token) = session_token {
            query += &format!("&X-Amz-Security-Token={}", escape(session_token));
        }
        query += "&X-Amz-SignedHeaders=host";
        let request =
            format!("GET\n/\n{query}\nhost:{}\n\nhost\n{}", self.endpoint, hex(&Sha256::of(b"")));
        let to_sign =
            format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::of(request.as_bytes())));
        let secret = format!("AWS4{secret_access_key}");
        let mut key = hmac_sha256(secret.as_bytes(), day.as_bytes());
        for part in [self.region.as_str(), "rds-db", "aws4_request", to_sign.as_str()] {
            key = hmac_sha256(&key, part.as_bytes());
        }
        Ok(Token(format!("{}/?{query}&X-Amz-Signature={}", self.endpoint, hex(&key))))
    }
}

/// HMAC with SHA-256 (RFC 2104).
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut block = [0_u8; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::of(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pass = |pad: u8, message: &[u8]| {
        let mut digest = Sha256::new();
        digest.update(&block.map(|byte| byte ^ pad));
        digest.update(message);
        digest.finish()
    };
    pass(0x5c, &pass(0x36, message))
}

/// Everything but what RFC 3986 leaves alone.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(session_token: Option<&str>) -> Login {
        Login {
            credentials: Credentials {
                access_key_id: "AKID".into(),
                secret_access_key: "SECRET".into(),
                session_token: session_token.map(str::to_owned),
            },
            region: "us-east-1".into(),
            endpoint: "db.example.com:3306".into(),
            user: "spire user".into(),
            ends: Mutex::new(None),
        }
    }

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let tag = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex(&tag), expected);
        let tag =
            hmac_sha256(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First");
        let expected = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        assert_eq!(hex(&tag), expected);
    }

    /// Signed by botocore's `generate_db_auth_token` with the same keys at the same time.
    #[test]
    fn a_token_is_signed_as_awss_own_tools_sign_it() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        // The order of the parameters is of no importance once they are signed.
        let parts = |token: &str| {
            let (endpoint, query) = token.split_once("/?").unwrap();
            let mut parts: Vec<_> = query.split('&').map(str::to_owned).collect();
            parts.sort_unstable();
            (endpoint.to_owned(), parts)
        };
        for (session_token, expected) in [(None, PLAIN), (Some("TO/KEN+="), WITH_SESSION)] {
            let token = login(session_token).sign(now).unwrap();
            assert_eq!(parts(&token.0), parts(expected));
        }
    }

    const PLAIN: &str = "db.example.com:3306/?Action=connect&DBUser=spire%20user&X-Amz-Algorithm=AWS4-HMA\
        C-SHA256&X-Amz-Credential=AKID%2F20231114%2Fus-east-1%2Frds-db%2Faws4_request&X-\
        Amz-Date=20231114T221320Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signa\
        ture=5de916f13cdd085b863aba2bd44760cea06b2eb31ef1b9ee2d8aa676ef9c80fe";
    const WITH_SESSION: &str = "db.example.com:3306/?Action=connect&DBUser=spire%20user&X-Amz-Algorithm=AWS4-HMA\
        C-SHA256&X-Amz-Credential=AKID%2F20231114%2Fus-east-1%2Frds-db%2Faws4_request&X-\
        Amz-Date=20231114T221320Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Secur\
        ity-Token=TO%2FKEN%2B%3D&X-Amz-Signature=10b29feaeb7087e6440be7747e282f3e62a6f00\
        84190487d6ade1888e011711a";

    #[test]
    fn a_token_is_renewed_before_it_ends_and_not_sooner() {
        let login = login(None);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(login.renew(at(1000)).unwrap().is_some());
        assert!(login.renew(at(1000 + 13 * 60)).unwrap().is_none());
        assert!(login.renew(at(1000 + 14 * 60)).unwrap().is_some());
        assert!(login.renew(at(1000 + 15 * 60)).unwrap().is_none());
    }

    #[test]
    fn a_password_beside_a_token_and_a_missing_region_are_refused() {
        let aws = AwsIam {
            region: String::new(),
            access_key_id: "a".into(),
            secret_access_key: "b".into(),
        };
        let error = Login::new(&aws, "h", 1, "u").err().unwrap();
        assert_eq!(error.to_string(), "datastore-sql: region must be specified");
    }
}
