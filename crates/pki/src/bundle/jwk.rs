//! Public keys as JSON Web Keys (RFC 7517, RFC 7518 §6, RFC 8037), members in go-jose's order.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use zeroize::Zeroizing;

use crate::der::{self, DerError, Reader};
use crate::keys::{KeyKind, PrivateKey, PublicKey};
use crate::x509::{Certificate, MAX_CERTIFICATE_LEN};

/// The longest member of a key that is looked at: a modulus of 8192 bits has 1366 characters.
const MAX_NUMBER_LEN: usize = 1400;

#[derive(Serialize, Deserialize, Default)]
pub(crate) struct Jwk {
    #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
    pub(super) key_use: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) kty: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) kid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub(super) alg: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) y: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) e: Option<String>,
    /// The private part, which has no place in a bundle.
    #[serde(default, skip_serializing)]
    pub(super) d: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) x5c: Option<Vec<String>>,
}

/// A public key as a JSON Web Key that is for signatures of the algorithm `alg`.
#[must_use]
pub fn public_jwk(key: &PublicKey, alg: &str) -> serde_json::Value {
    let jwk = Jwk { alg: Some(alg.to_owned()), ..Jwk::of_key(key, None) };
    serde_json::to_value(jwk).expect("texts are JSON")
}

/// A private key as a JSON Web Key, as go-jose writes it.
///
/// # Errors
/// When the key is of a kind that has none.
pub fn private_jwk(key: &PrivateKey) -> Result<Zeroizing<String>, DerError> {
    let pkcs8 = key.to_pkcs8_der();
    let mut info = Reader::sequence_of(&pkcs8)?;
    let _version = info.unsigned()?;
    let _algorithm = info.sequence()?;
    let inner = info.value(der::OCTET_STRING)?;
    let mut inner = Reader::sequence_of(inner)?;
    let _version = inner.unsigned()?;
    let text = |bytes: &[u8]| Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes));
    let public = Jwk::of_key(key.public_key(), None);
    let public = serde_json::to_string(&public).expect("texts are JSON");
    let mut jwk = Zeroizing::new(public.trim_end_matches('}').to_owned());
    let mut add = |name: &str, bytes: &[u8]| {
        for part in [",\"", name, "\":\"", &text(bytes), "\""] {
            jwk.push_str(part);
        }
    };
    if let KeyKind::Rsa(_) = key.public_key().kind() {
        let (_n, _e) = (inner.unsigned()?, inner.unsigned()?);
        for name in ["d", "p", "q", "dp", "dq", "qi"] {
            add(name, inner.unsigned()?);
        }
    } else {
        add("d", inner.value(der::OCTET_STRING)?);
    }
    jwk.push('}');
    Ok(jwk)
}

impl Jwk {
    pub(super) fn of_key(key: &PublicKey, key_use: Option<&str>) -> Self {
        let base = Self { key_use: key_use.map(str::to_owned), ..Self::default() };
        match key.kind() {
            KeyKind::P256 => base.with_point("P-256", key),
            KeyKind::P384 => base.with_point("P-384", key),
            KeyKind::P521 => base.with_point("P-521", key),
            KeyKind::Rsa(_) => {
                let (n, e) = key.rsa_numbers().expect("an RSA key has a modulus and an exponent");
                Self {
                    kty: Some("RSA".into()),
                    n: Some(URL_SAFE_NO_PAD.encode(n)),
                    e: Some(URL_SAFE_NO_PAD.encode(e)),
                    ..base
                }
            }
            KeyKind::Ed25519 => Self {
                kty: Some("OKP".into()),
                crv: Some("Ed25519".into()),
                x: Some(URL_SAFE_NO_PAD.encode(key.bits())),
                ..base
            },
        }
    }

    fn with_point(self, curve: &str, key: &PublicKey) -> Self {
        let (x, y) = key.bits()[1..].split_at(key.bits().len() / 2);
        Self {
            kty: Some("EC".into()),
            crv: Some(curve.into()),
            x: Some(URL_SAFE_NO_PAD.encode(x)),
            y: Some(URL_SAFE_NO_PAD.encode(y)),
            ..self
        }
    }

    pub(super) fn with_key_id(self, key_id: &str) -> Self {
        Self { kid: Some(key_id.to_owned()), ..self }
    }

    pub(super) fn with_certificate(self, certificate: &Certificate) -> Self {
        Self { x5c: Some(vec![STANDARD.encode(certificate.der())]), ..self }
    }

    /// The key itself.
    pub(crate) fn public_key(&self) -> Result<PublicKey, String> {
        if self.d.is_some() {
            return Err("a bundle must not hold private keys".into());
        }
        match (self.kty.as_deref(), self.crv.as_deref()) {
            (None | Some(""), _) => Err("go-jose/go-jose: missing json web key type".into()),
            (Some("EC"), Some("P-256")) => self.point(KeyKind::P256, 32),
            (Some("EC"), Some("P-384")) => self.point(KeyKind::P384, 48),
            (Some("EC"), Some("P-521")) => self.point(KeyKind::P521, 66),
            (Some("EC"), _) => Err("go-jose/go-jose: unsupported/unknown elliptic curve".into()),
            (Some("RSA"), _) => self.rsa(),
            (Some("OKP"), Some("Ed25519")) => {
                let bytes = number(self.x.as_deref(), "x")?;
                PublicKey::from_ed25519(&bytes).map_err(|err| err.to_string())
            }
            _ => Err("go-jose/go-jose: unsupported key type/format".into()),
        }
    }

    fn point(&self, kind: KeyKind, len: usize) -> Result<PublicKey, String> {
        let mut point = vec![4];
        for (name, value) in [("x", self.x.as_deref()), ("y", self.y.as_deref())] {
            let bytes = number(value, name)?;
            // RFC 7518 §6.2.1.2: the full size of a coordinate.
            if bytes.len() != len {
                return Err(format!(
                    "go-jose/go-jose: invalid EC public key, wrong length for {name}"
                ));
            }
            point.extend_from_slice(&bytes);
        }
        PublicKey::from_ec_point(kind, &point)
            .map_err(|_| "go-jose/go-jose: invalid EC key, X/Y are not on declared curve".into())
    }

    fn rsa(&self) -> Result<PublicKey, String> {
        let (n, e) = (number(self.n.as_deref(), "n")?, number(self.e.as_deref(), "e")?);
        let mut rsa_public_key = Vec::with_capacity(n.len() + 16);
        der::put_nested(&mut rsa_public_key, der::SEQUENCE, |out| {
            der::put_unsigned(out, &n);
            der::put_unsigned(out, &e);
        });
        PublicKey::from_rsa_der(&rsa_public_key).map_err(|err| err.to_string())
    }

    /// The certificates of `x5c`.
    pub(super) fn certificates(&self) -> Result<Vec<Certificate>, String> {
        let wrap = |err: String| format!("go-jose/go-jose: failed to unmarshal x5c field: {err}");
        let encoded = self.x5c.as_deref().unwrap_or_default();
        // Only their number matters when there is more than one.
        encoded
            .iter()
            .map(|text| {
                if text.len() > MAX_CERTIFICATE_LEN * 4 / 3 + 4 {
                    return Err(wrap("certificate is too large".into()));
                }
                let der = STANDARD.decode(text).map_err(|err| wrap(err.to_string()))?;
                Certificate::from_der(der).map_err(|err| wrap(err.to_string()))
            })
            .collect()
    }
}

fn number(value: Option<&str>, name: &str) -> Result<Vec<u8>, String> {
    let value = value.ok_or_else(|| format!("missing {name} value"))?;
    if value.len() > MAX_NUMBER_LEN {
        return Err(format!("{name} value is too long"));
    }
    URL_SAFE_NO_PAD.decode(value).map_err(|_| format!("{name} value is not base64url"))
}
