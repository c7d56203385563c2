//! The objects on the token: what they are called, and how one takes the place of another.
//!
//! Both halves of a key have the label `steeple/<trust domain>/<key identifier>/<key id>`, and an
//! id (CKA_ID) of a digest of the label, a version that counts up, and random bytes. Of several
//! versions of a key **the lowest counts**: a successor is made beside it, has to prove itself,
//! and takes its place by the destruction of what is lower. Nothing is destroyed at any other
//! time, so whatever moment a process dies at, the key that was acknowledged last is there and is
//! the one that counts.
//!
//! A process that dies while the token makes a pair may leave one half, or one without a label.
//! And others may write to the token. So a public half is believed only after the private one has
//! signed something that it verifies.

use std::collections::BTreeMap;

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{
    Attribute, AttributeType, KeyType as TokenKeyType, ObjectClass, ObjectHandle,
};
use cryptoki::session::Session;
use cryptoki::types::Ulong;
use steeple_pki::digest::Sha256;
use steeple_pki::{KeyKind, KeyType, PublicKey, SignatureAlgorithm, external};
use steeple_plugin::{Code, Kind};

use super::NAME;
use super::key::Input;
use super::token::Failure;

/// How the keys of one server are called.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

/// A key that can sign.
pub(super) struct Found {
    /// Its CKA_ID.
    pub(super) id: Vec<u8>,
    pub(super) public_key: PublicKey,
}

/// One version of a key.
struct Version {
    number: u64,
    id: Vec<u8>,
    private: ObjectHandle,
}

/// A key that has not taken its place yet.
pub(super) struct Made {
    label: Vec<u8>,
    id: Vec<u8>,
    /// The versions before it, the lowest first.
    earlier: Vec<Version>,
    public: ObjectHandle,
    private: ObjectHandle,
}

impl Names {
    /// Neither part has a slash in it, so that no two servers have a label in common.
    pub(super) fn new(trust_domain: &str, key_identifier: &str) -> Self {
        Self { prefix: format!("steeple/{trust_domain}/{key_identifier}/") }
    }

    fn label(&self, key_id: &str) -> Vec<u8> {
        format!("{}{key_id}", self.prefix).into_bytes()
    }

    /// All keys of this server, by key id.
    ///
    /// # Errors
    /// The token's.
    pub(super) fn load(&self, session: &Session) -> Result<BTreeMap<String, Found>, Failure> {
        let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(true)];
        let mut versions: BTreeMap<String, Vec<Version>> = BTreeMap::new();
        let objects = session.find_objects(&wanted)?;
        if objects.len() > MAX_OBJECTS {
            let text = format!("the token holds more than {MAX_OBJECTS} private keys");
            return Err(Failure::told(Code::ResourceExhausted, text));
        }
        for object in objects {
            let (label, id) = match label_and_id(session, object) {
                Ok(told) => told,
                // What a death in the midst of making a key left, perhaps another server's.
                Err(error) if error.is_about_the_object() => continue,
                Err(error) => return Err(error),
            };
            let Some(key_id) = std::str::from_utf8(&label)
                .ok()
                .and_then(|label| label.strip_prefix(self.prefix.as_str()))
            else {
                continue;
            };
            if let Some(number) = version_of(&label, &id) {
                let version = Version { number, id, private: object };
                versions.entry(key_id.to_owned()).or_default().push(version);
            }
        }
        let mut keys = BTreeMap::new();
        for (key_id, mut versions) in versions {
            versions.sort_unstable_by_key(|version| version.number);
            if let Some(found) = first_usable(session, &key_id, versions)? {
                keys.insert(key_id, found);
            }
        }
        Ok(keys)
    }

    /// Makes the next version of a key beside those that there are.
    ///
    /// # Errors
    /// The token's.
    pub(super) fn make_next(
        &self,
        session: &Session,
        key_id: &str,
        kind: KeyType,
    ) -> Result<Made, Failure> {
        let label = self.label(key_id);
        let mut earlier = versions(session, &label)?;
        earlier.sort_unstable_by_key(|version| version.number);
        let newest = earlier.last().map_or(0, |version| version.number);
        let full = || Failure::told(Code::ResourceExhausted, "no version is left");
        let id = new_id(&label, newest.checked_add(1).ok_or_else(full)?);
        let (public, private) = make(session, kind, &label, &id)?;
        Ok(Made { label, id, earlier, public, private })
    }

    /// Makes a key, and destroys what is in its place.
    ///
    /// # Errors
    /// The token's; what was in its place is still there, unless the token went away meanwhile.
    pub(super) fn replace(
        &self,
        session: &Session,
        key_id: &str,
        kind: KeyType,
    ) -> Result<Found, Failure> {
        let Made { label, id, earlier, public, private } = self.make_next(session, key_id, kind)?;
        let proved = check(session, private, &id, kind).and_then(|public_key| {
            // The lowest counts, so it is the last to go.
            for version in earlier.iter().rev() {
                session.destroy_object(version.private).map_err(|error| {
                    let text = format!("the key before could not be destroyed: {error}");
                    Failure::told(Code::Internal, text)
                })?;
            }
            Ok(public_key)
        });
        match proved {
            Ok(public_key) => {
                destroy_other_public_keys(session, &label, &id);
                Ok(Found { id, public_key })
            }
            Err(error) => {
                for object in [private, public] {
                    // It does not count as long as the one before is there.
                    let _ = session.destroy_object(object);
                }
                Err(error)
            }
        }
    }
}

/// Does next to nothing, so that a lost session shows.
///
/// # Errors
/// The token's.
pub(super) fn probe(session: &Session) -> Result<(), Failure> {
    let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(Vec::new())];
    session.find_objects(&wanted)?;
    Ok(())
}

fn make(
    session: &Session,
    kind: KeyType,
    label: &[u8],
    id: &[u8],
) -> Result<(ObjectHandle, ObjectHandle), Failure> {
    let (mechanism, of_kind) = match kind {
        KeyType::EcP256 | KeyType::EcP384 => {
            let kind = if kind == KeyType::EcP256 { KeyKind::P256 } else { KeyKind::P384 };
            let curve = external::curve(kind).expect("the curve has a name");
            (Mechanism::EccKeyPairGen, vec![Attribute::EcParams(curve)])
        }
        KeyType::Rsa2048 | KeyType::Rsa4096 => {
            let bits = if kind == KeyType::Rsa2048 { 2048_u64 } else { 4096 };
            let exponent = Attribute::PublicExponent(vec![1, 0, 1]);
            let bits = Attribute::ModulusBits(Ulong::from(bits));
            (Mechanism::RsaPkcsKeyPairGen, vec![bits, exponent])
        }
    };
    let both = || {
        vec![Attribute::Token(true), Attribute::Label(label.to_vec()), Attribute::Id(id.to_vec())]
    };
    let mut public = both();
    public.extend(of_kind);
    public.extend([Attribute::Private(false), Attribute::Verify(true)]);
    let mut private = both();
    private.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ]);
    Ok(session.generate_key_pair(&mechanism, &public, &private)?)
}

/// The first version that can sign.
fn first_usable(
    session: &Session,
    key_id: &str,
    versions: Vec<Version>,
) -> Result<Option<Found>, Failure> {
    for Version { number, id, private } in versions {
        if let Some(public_key) = public_key(session, private, &id)? {
            return Ok(Some(Found { id, public_key }));
        }
        tracing::warn!(
            plugin_type = Kind::KeyManager.name(),
            plugin_name = NAME,
            key_id,
            version = number,
            "A private key on the token is ignored: no public key beside it verifies what it signs"
        );
    }
    Ok(None)
}

/// A key that was just made stays where it is, signs, and is of the kind asked for.
fn check(
    session: &Session,
    private: ObjectHandle,
    id: &[u8],
    kind: KeyType,
) -> Result<PublicKey, Failure> {
    let refused = |text: &str| Failure::told(Code::Internal, text);
    let asked = [AttributeType::Sensitive, AttributeType::Extractable];
    let told = session.get_attributes(private, &asked)?;
    let stays =
        told.contains(&Attribute::Sensitive(true)) && told.contains(&Attribute::Extractable(false));
    if !stays {
        return Err(refused("the token made a key that could be taken out of it"));
    }
    public_key(session, private, id)?
        .filter(|key| key.key_type() == Some(kind))
        .ok_or_else(|| refused("the token did not make a key of the kind asked for that signs"))
}

/// The public half of a private key, as it has just proved; `None` when there is none of a kind
/// that we make.
fn public_key(
    session: &Session,
    private: ObjectHandle,
    id: &[u8],
) -> Result<Option<PublicKey>, Failure> {
    let wanted = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Id(id.to_vec())];
    for object in session.find_objects(&wanted)?.into_iter().take(MAX_PUBLIC) {
        let Some(candidate) = read_public_key(session, object)? else { continue };
        let algorithm = SignatureAlgorithm::default_for(candidate.kind());
        let input = Input::new(candidate.kind(), algorithm, PROOF).expect("the default fits");
        match input.sign(session, private) {
            Ok(signature) if candidate.verify(algorithm, PROOF, &signature).is_ok() => {
                return Ok(Some(candidate));
            }
            Ok(_) => {}
            Err(error) if error.is_about_the_key() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The versions of one key.
fn versions(session: &Session, label: &[u8]) -> Result<Vec<Version>, Failure> {
    let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(label.to_vec())];
    let mut versions = Vec::new();
    for private in session.find_objects(&wanted)? {
        let (label, id) = label_and_id(session, private)?;
        if let Some(number) = version_of(&label, &id) {
            versions.push(Version { number, id, private });
        }
    }
    Ok(versions)
}

/// What a public key object says; `None` when it is of no kind that we make.
fn read_public_key(session: &Session, object: ObjectHandle) -> Result<Option<PublicKey>, Failure> {
    let asked = [AttributeType::KeyType];
    let key_type = session.get_attributes(object, &asked)?.into_iter().find_map(|it| match it {
        Attribute::KeyType(key_type) => Some(key_type),
        _ => None,
    });
    let made = match key_type {
        Some(TokenKeyType::EC) => ec_public_key(session, object)?,
        Some(TokenKeyType::RSA) => rsa_public_key(session, object)?,
        _ => None,
    };
    Ok(made.filter(|key| key.key_type().is_some()))
}

fn ec_public_key(session: &Session, object: ObjectHandle) -> Result<Option<PublicKey>, Failure> {
    let (mut curve, mut point) = (Vec::new(), Vec::new());
    let asked = [AttributeType::EcParams, AttributeType::EcPoint];
    for attribute in session.get_attributes(object, &asked)? {
        match attribute {
            Attribute::EcParams(value) => curve = value,
            Attribute::EcPoint(value) => point = value,
            _ => {}
        }
    }
    let kind = [KeyKind::P256, KeyKind::P384]
        .into_iter()
        .find(|kind| external::curve(*kind).is_some_and(|name| name == curve));
    Ok(kind.and_then(|kind| external::ec_public_key(kind, &point).ok()))
}

fn rsa_public_key(session: &Session, object: ObjectHandle) -> Result<Option<PublicKey>, Failure> {
    let (mut modulus, mut exponent) = (Vec::new(), Vec::new());
    let asked = [AttributeType::Modulus, AttributeType::PublicExponent];
    for attribute in session.get_attributes(object, &asked)? {
        match attribute {
            Attribute::Modulus(value) => modulus = value,
            Attribute::PublicExponent(value) => exponent = value,
            _ => {}
        }
    }
    Ok(external::rsa_public_key(&modulus, &exponent).ok())
}

/// Public halves without a private one are of no use; that one cannot be destroyed does no harm.
fn destroy_other_public_keys(session: &Session, label: &[u8], id: &[u8]) {
    let wanted = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Label(label.to_vec())];
    for object in session.find_objects(&wanted).unwrap_or_default() {
        let is_other = label_and_id(session, object).is_ok_and(|(_, of)| of != id);
        if is_other && let Err(error) = session.destroy_object(object) {
            tracing::debug!(
                plugin_type = Kind::KeyManager.name(),
                plugin_name = NAME,
                %error,
                "A public key without a private one stays on the token"
            );
        }
    }
}

fn label_and_id(session: &Session, object: ObjectHandle) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let (mut label, mut id) = (Vec::new(), Vec::new());
    let asked = [AttributeType::Label, AttributeType::Id];
    for attribute in session.get_attributes(object, &asked)? {
        match attribute {
            Attribute::Label(value) => label = value,
            Attribute::Id(value) => id = value,
            _ => {}
        }
    }
    Ok((label, id))
}

/// Part of a digest of the label, then the version, then what no other pair has: half a pair that
/// was left behind must not be taken for half of this one.
fn new_id(label: &[u8], version: u64) -> Vec<u8> {
    let mut id = Sha256::of(label)[..8].to_vec();
    id.extend_from_slice(&version.to_be_bytes());
    id.extend_from_slice(&uuid::Uuid::new_v4().as_bytes()[8..]);
    id
}

fn version_of(label: &[u8], id: &[u8]) -> Option<u64> {
    let (digest, rest) = id.split_at_checked(8)?;
    let (version, random) = rest.split_at_checked(8)?;
    let version = u64::from_be_bytes(version.try_into().ok()?);
    (random.len() == 8 && Sha256::of(label)[..8] == *digest).then_some(version)
}

/// More public halves under one id than anybody but an enemy makes.
const MAX_PUBLIC: usize = 8;
/// What a key signs to prove itself.
const PROOF: &[u8] = b"steeple: does this key sign?";
/// More than any token of a server's keys holds.
const MAX_OBJECTS: usize = 100_000;
