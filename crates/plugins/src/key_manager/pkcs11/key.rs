//! One key on the token, and how it signs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::types::Ulong;
use steeple_pki::{KeyKind, PublicKey, SignError, SignatureAlgorithm, Signer, external};
use steeple_plugin::Code;

use super::failed;
use super::objects::Found;
use super::token::{Failure, Open, Token};

/// Signs on the token.
pub(super) struct TokenKey {
    token: Arc<Token>,
    public_key: PublicKey,
    object: Arc<Object>,
}

/// The private half.
struct Object {
    id: Vec<u8>,
    /// Its handle, and the generation of sessions that it is one of.
    handle: Mutex<Option<(u64, ObjectHandle)>>,
}

impl TokenKey {
    pub(super) fn new(token: Arc<Token>, found: Found) -> Self {
        let Found { id, public_key } = found;
        Self { token, public_key, object: Arc::new(Object { id, handle: Mutex::new(None) }) }
    }
}

#[async_trait]
impl Signer for TokenKey {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    async fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let kind = self.public_key.kind();
        let input = Input::new(kind, algorithm, message)
            .ok_or(SignError::Unsupported { kind, algorithm })?;
        let object = Arc::clone(&self.object);
        let sign = move |token: &Arc<Token>| {
            token.with_session(|open| input.sign(&open.session, object.handle(open)?))
        };
        let told = |error| SignError::Failed(failed("failed to sign: ", &error).message);
        self.token.run(DEADLINE, sign).await.map_err(told)
    }
}

impl Object {
    fn handle(&self, open: &Open) -> Result<ObjectHandle, Failure> {
        let mut known = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, handle)) = known.filter(|(generation, _)| *generation == open.generation) {
            return Ok(handle);
        }
        let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(self.id.clone())];
        let found = open.session.find_objects(&wanted)?;
        let gone = || Failure::told(Code::NotFound, "the key is not on the token any more");
        let handle = *found.first().ok_or_else(gone)?;
        *known = Some((open.generation, handle));
        Ok(handle)
    }
}

/// What the token is given to sign.
pub(super) struct Input {
    scheme: Scheme,
    data: Vec<u8>,
}

/// How it signs. (A `Mechanism` of the module may not change threads.)
#[derive(Clone, Copy)]
enum Scheme {
    Ecdsa,
    Pkcs1,
    Pss(MechanismType, PkcsMgfType),
}

impl Input {
    /// `None` where kind and algorithm do not go together.
    pub(super) fn new(
        kind: KeyKind,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Option<Self> {
        use SignatureAlgorithm as Alg;
        let mut data = external::digest(algorithm, message)?;
        let scheme = match (kind, algorithm) {
            (KeyKind::P256, Alg::EcdsaSha256) | (KeyKind::P384, Alg::EcdsaSha384) => Scheme::Ecdsa,
            (KeyKind::Rsa(_), Alg::RsaPkcs1Sha256 | Alg::RsaPkcs1Sha384 | Alg::RsaPkcs1Sha512) => {
                data = external::digest_info(&data)?;
                Scheme::Pkcs1
            }
            (KeyKind::Rsa(_), Alg::RsaPssSha256) => {
                Scheme::Pss(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256)
            }
            (KeyKind::Rsa(_), Alg::RsaPssSha384) => {
                Scheme::Pss(MechanismType::SHA384, PkcsMgfType::MGF1_SHA384)
            }
            (KeyKind::Rsa(_), Alg::RsaPssSha512) => {
                Scheme::Pss(MechanismType::SHA512, PkcsMgfType::MGF1_SHA512)
            }
            _ => return None,
        };
        Some(Self { scheme, data })
    }

    pub(super) fn sign(&self, session: &Session, key: ObjectHandle) -> Result<Vec<u8>, Failure> {
        let mechanism = match self.scheme {
            Scheme::Ecdsa => Mechanism::Ecdsa,
            Scheme::Pkcs1 => Mechanism::RsaPkcs,
            // The salt is as long as the digest.
            Scheme::Pss(hash_alg, mgf) => {
                let s_len = Ulong::try_from(self.data.len()).map_err(Failure::from)?;
                Mechanism::RsaPkcsPss(PkcsPssParams { hash_alg, mgf, s_len })
            }
        };
        let signature = session.sign(&mechanism, key, &self.data)?;
        if !matches!(self.scheme, Scheme::Ecdsa) {
            return Ok(signature);
        }
        let malformed = || Failure::told(Code::Internal, "the token made a malformed signature");
        external::ecdsa_der(&signature).ok_or_else(malformed)
    }
}

/// Until a signature is made.
const DEADLINE: Duration = Duration::from_secs(15);
