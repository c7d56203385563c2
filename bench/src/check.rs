//! Whether an answer is right: cheaply of every call, to the last signature of some.

use std::time::{Duration, SystemTime};

use steeple_pki::jwt::{self, JwtError, JwtKeySource};
use steeple_pki::verify::{self, X509Roots};
use steeple_pki::{Certificate, PrivateKey, PublicKey};
use steeple_proto::spire::api::types::{Bundle, Jwtsvid, X509svid};
use steeple_proto::workload::{JwtsvidResponse, X509svidResponse};
use steeple_spiffe::{SpiffeId, TrustDomain};

use crate::error::{Error, Result};

/// The trust domain of every deployment.
pub const TRUST_DOMAIN: &str = "example.org";

/// What the answers of one deployment are held against. Cheap to clone.
#[derive(Clone)]
pub struct Answers {
    roots: X509Roots,
    keys: Keys,
}

#[derive(Clone)]
struct Keys(Vec<(String, PublicKey)>);

impl JwtKeySource for Keys {
    fn jwt_key(
        &self,
        trust_domain: &TrustDomain,
        key_id: &str,
    ) -> std::result::Result<PublicKey, JwtError> {
        let key = self.0.iter().find(|(id, _)| id == key_id).map(|(_, key)| key.clone());
        key.ok_or_else(|| JwtError::UnknownKey {
            key_id: key_id.into(),
            trust_domain: trust_domain.clone(),
        })
    }
}

impl Answers {
    /// Trusts what is in the server's bundle.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn new(bundle: &Bundle) -> Result<Self> {
        let call = "GetBundle";
        let trust_domain =
            TrustDomain::parse(&bundle.trust_domain).map_err(|error| wrong(call, error))?;
        let authorities = bundle.x509_authorities.iter();
        let authorities = authorities.map(|it| Certificate::from_der(it.asn1.clone()));
        let authorities = authorities.collect::<std::result::Result<_, _>>();
        let keys = bundle
            .jwt_authorities
            .iter()
            .map(|it| PublicKey::from_spki_der(&it.public_key).map(|key| (it.key_id.clone(), key)));
        let keys = keys.collect::<std::result::Result<_, _>>();
        Ok(Self {
            roots: X509Roots {
                trust_domain,
                authorities: authorities.map_err(|error| wrong(call, error))?,
            },
            keys: Keys(keys.map_err(|error| wrong(call, error))?),
        })
    }

    /// A minted X509-SVID: of `path`, and for `key`.
    ///
    /// # Errors
    /// [`Error::Wrong`].
    pub fn minted_x509(
        &self,
        svid: Option<X509svid>,
        path: &str,
        key: &PublicKey,
        fully: bool,
    ) -> Result<()> {
        self.x509("MintX509SVID", svid, path, key, fully)
    }

    /// An X509-SVID that `call` brought: of `path`, and for `key`.
    ///
    /// # Errors
    /// [`Error::Wrong`].
    pub fn x509(
        &self,
        call: &'static str,
        svid: Option<X509svid>,
        path: &str,
        key: &PublicKey,
        fully: bool,
    ) -> Result<()> {
        let svid = svid.ok_or_else(|| wrong(call, "no SVID"))?;
        let id = svid.id.unwrap_or_default();
        if id.path != path || svid.cert_chain.is_empty() || svid.expires_at <= 0 {
            return Err(wrong(call, format!("{} instead of {path}", id.path)));
        }
        if fully {
            let chain = svid.cert_chain.into_iter().map(Certificate::from_der);
            let chain: Vec<_> =
                chain.collect::<std::result::Result<_, _>>().map_err(|error| wrong(call, error))?;
            self.chain(call, &chain, path, key)?;
        }
        Ok(())
    }

    /// A minted JWT-SVID: of `path`, for `audience`.
    ///
    /// # Errors
    /// [`Error::Wrong`].
    pub fn minted_jwt(
        &self,
        svid: Option<Jwtsvid>,
        path: &str,
        audience: &str,
        fully: bool,
    ) -> Result<()> {
        let svid = svid.ok_or_else(|| wrong("MintJWTSVID", "no SVID"))?;
        self.token("MintJWTSVID", &svid.token, path, audience, fully)
    }

    /// An update of the X.509 stream: one SVID, of `path`, with its key.
    ///
    /// # Errors
    /// [`Error::Wrong`].
    pub fn update(&self, update: &X509svidResponse, path: &str, fully: bool) -> Result<()> {
        let call = "FetchX509SVID";
        let [svid] = &update.svids[..] else {
            return Err(wrong(call, format!("{} SVIDs instead of one", update.svids.len())));
        };
        if svid.spiffe_id != format!("spiffe://{TRUST_DOMAIN}{path}") || svid.bundle.is_empty() {
            return Err(wrong(call, format!("{} instead of {path}", svid.spiffe_id)));
        }
        if fully {
            let chain = Certificate::parse_concatenated_der(&svid.x509_svid);
            let key = PrivateKey::from_pkcs8_der(&svid.x509_svid_key);
            let key = key.map_err(|error| wrong(call, error))?;
            let chain = chain.map_err(|error| wrong(call, error))?;
            self.chain(call, &chain, path, key.public_key())?;
        }
        Ok(())
    }

    /// An answer to FetchJWTSVID: one token, of `path`, for `audience`.
    ///
    /// # Errors
    /// [`Error::Wrong`].
    pub fn tokens(
        &self,
        response: &JwtsvidResponse,
        path: &str,
        audience: &str,
        fully: bool,
    ) -> Result<()> {
        match &response.svids[..] {
            [svid] => self.token("FetchJWTSVID", &svid.svid, path, audience, fully),
            svids => Err(wrong("FetchJWTSVID", format!("{} SVIDs instead of one", svids.len()))),
        }
    }

    fn chain(
        &self,
        call: &'static str,
        chain: &[Certificate],
        path: &str,
        key: &PublicKey,
    ) -> Result<()> {
        let id = verify::x509_svid(chain, &self.roots, SystemTime::now());
        has_path(call, &id.map_err(|error| wrong(call, error))?, path)?;
        if chain[0].public_key() == key { Ok(()) } else { Err(wrong(call, "for another key")) }
    }

    fn token(
        &self,
        call: &'static str,
        token: &str,
        path: &str,
        audience: &str,
        fully: bool,
    ) -> Result<()> {
        if token.split('.').count() != 3 {
            return Err(wrong(call, "not a compact JWS"));
        }
        if !fully {
            return Ok(());
        }
        let (now, leeway) = (SystemTime::now(), Duration::from_secs(60));
        let valid = jwt::verify_svid(token, &self.keys, audience, now, leeway);
        has_path(call, &valid.map_err(|error| wrong(call, error))?.spiffe_id, path)
    }
}

fn has_path(call: &'static str, id: &SpiffeId, path: &str) -> Result<()> {
    if id.path() == path { Ok(()) } else { Err(wrong(call, format!("{id} instead of {path}"))) }
}

fn wrong(call: &'static str, what: impl std::fmt::Display) -> Error {
    Error::Wrong { call, what: format!("{what}") }
}
