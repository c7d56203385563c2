//! Passwords that are shown to a TPM without being said: HMAC sessions (part 1, §19.6), neither
//! salted nor bound. Whoever listens on the bus, or sits between, learns no password from it and
//! cannot change command or answer; only a weak password could be guessed from what was heard.

use steeple_pki::envelope::{self, Sha2};
use zeroize::Zeroizing;

use crate::device::HEADER;
use crate::session::{Auth, Command, Handle, Tpm, TpmError};
use crate::spec::{ALG_NULL, ALG_SHA256, RH_NULL};
use crate::wire::{Malformed, Reader, Writer};

/// How long nonces are.
const NONCE: usize = 32;
/// No TPM answers with a longer one.
const MAX_NONCE: usize = 64;
/// What is signed of the session's attributes: nothing, it ends with the command.
const ATTRIBUTES: u8 = 0;
const HMAC_SESSION: u8 = 0;
const TAG_SESSIONS: u16 = 0x8002;

/// What a session knows of a command that is under way.
pub(crate) struct Pending {
    session: Handle,
    nonce: [u8; NONCE],
    key: Zeroizing<Vec<u8>>,
    code: u32,
}

/// The password that a command is protected by, if it can be: it authorises alone, and the names of
/// all that the command uses are their handles.
pub(crate) fn password<'a>(command: &Command<'a>) -> Option<&'a [u8]> {
    let [Auth::Password(password)] = command.auths else { return None };
    let plain = command.handles.iter().all(|handle| matches!(handle >> 24, 0x02 | 0x03 | 0x40));
    (plain && !password.is_empty()).then_some(*password)
}

impl Tpm {
    /// The encoding of `command` in a session of its own, and what its answer is checked by.
    pub(crate) fn protect(
        &mut self,
        command: &Command<'_>,
        password: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, Pending), TpmError> {
        const NAME: &str = "TPM2_StartAuthSession";
        let mut nonce = [0; NONCE];
        envelope::random(&mut nonce);
        let parameters = Writer::new()
            .sized(&nonce)
            .sized(&[])
            .u8(HMAC_SESSION)
            .u16(ALG_NULL)
            .u16(ALG_SHA256)
            .finish();
        let session = self.call(&Command {
            name: NAME,
            code: 0x176,
            handles: &[RH_NULL, RH_NULL],
            parameters,
            loads: true,
            ..Command::NONE
        })?;
        let tpm_nonce = session.read(NAME, |fields| Ok(fields.sized(MAX_NONCE)?.to_vec()))?;
        envelope::random(&mut nonce);

        // Trailing zeros are no part of a password.
        let len = password.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        let key = Zeroizing::new(password[..len].to_vec());
        let names = command.handles.iter().fold(Writer::new(), |out, handle| out.u32(*handle));
        let names = names.finish();
        let code = command.code.to_be_bytes();
        let digest = Sha2::Sha256.digest(&[&code, &names, &command.parameters]);
        let mac = Sha2::Sha256.hmac(&key, &[&digest, &nonce, &tpm_nonce, &[ATTRIBUTES]]);

        let auth = Writer::new().u32(session.handle.0).sized(&nonce).u8(ATTRIBUTES).sized(&mac);
        let auth = auth.finish();
        let body = Writer::new()
            .bytes(&code)
            .bytes(&names)
            .u32(u32::try_from(auth.len()).unwrap_or(u32::MAX))
            .bytes(&auth)
            .bytes(&command.parameters)
            .finish();
        let size = u32::try_from(body.len() + 6).unwrap_or(u32::MAX);
        let bytes = Writer::new().u16(TAG_SESSIONS).u32(size).bytes(&body).finish();
        let pending = Pending { session: session.handle, nonce, key, code: command.code };
        Ok((Zeroizing::new(bytes), pending))
    }

    /// The session of a command that failed stays; that of one that did not ended with it.
    pub(crate) fn settle(&mut self, pending: &Pending, failed: bool) -> Result<(), TpmError> {
        match failed {
            true => self.flush(pending.session),
            false => {
                self.forget(pending.session);
                Ok(())
            }
        }
    }
}

impl Pending {
    /// Whether the answer comes from somebody who knows the password too.
    pub(crate) fn check(&self, answer: &[u8], loads: bool) -> Result<(), TpmError> {
        let unproved = |_: Malformed| {
            TpmError::Unfit("the TPM's answer is not authenticated by the password".to_owned())
        };
        let genuine = self.genuine(answer, loads).map_err(unproved)?;
        if genuine { Ok(()) } else { Err(unproved(Malformed)) }
    }

    fn genuine(&self, answer: &[u8], loads: bool) -> Result<bool, Malformed> {
        let mut fields = Reader::new(answer.get(HEADER..).ok_or(Malformed)?);
        if loads {
            fields.u32()?;
        }
        let size = usize::try_from(fields.u32()?).map_err(|_| Malformed)?;
        let parameters = fields.take(size)?;
        let tpm_nonce = fields.sized(MAX_NONCE)?;
        let attributes = fields.u8()?;
        let mac = fields.sized(MAX_NONCE)?;
        let success = [0; 4];
        let digest = Sha2::Sha256.digest(&[&success, &self.code.to_be_bytes(), parameters]);
        let expected =
            Sha2::Sha256.hmac(&self.key, &[&digest, tpm_nonce, &self.nonce, &[attributes]]);
        Ok(envelope::same(&expected, mac))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::emulator::Emulator;
    use crate::spec::{RH_ENDORSEMENT, RH_OWNER};
    use crate::template::{self, KeyShape};
    use crate::{EkKind, Parent};

    fn set_password(tpm: &mut Tpm, hierarchy: u32, old: &[u8], new: &[u8]) {
        let auths = [Auth::Password(old)];
        let parameters = Writer::new().sized(new).finish();
        let handles = [hierarchy];
        let name = "TPM2_HierarchyChangeAuth";
        let command = Command {
            name,
            code: 0x129,
            handles: &handles,
            auths: &auths,
            parameters,
            loads: false,
        };
        tpm.call(&command).unwrap();
    }

    #[test]
    fn hierarchies_with_passwords_are_used_without_saying_them() {
        let Some(emulator) = Emulator::start() else { return };
        let soon = Instant::now() + Duration::from_secs(60);
        let mut tpm = Tpm::open(&emulator.path(), soon).unwrap();
        let (owner, endorsement) = (&b"of the owner"[..], &b"of the endorsement\0\0"[..]);
        set_password(&mut tpm, RH_OWNER, &[], owner);
        set_password(&mut tpm, RH_ENDORSEMENT, &[], endorsement);
        let srk = Parent::Srk(KeyShape::P256);
        for wrong in [&b""[..], b"wrong", b"of the owner "] {
            let error = tpm.parent(srk, Auth::Password(wrong)).unwrap_err();
            assert!(error.refusal().unwrap().is_about_a_password(), "{error}");
        }
        let parent = tpm.parent(srk, Auth::Password(owner)).unwrap();
        let key = tpm.create(parent.handle, Auth::NONE, &template::ak(KeyShape::P256)).unwrap();
        tpm.leave(srk, parent.handle).unwrap();
        tpm.load_under(srk, Auth::Password(owner), &key).unwrap();
        let (endorsement, owner) = (Auth::Password(endorsement), Auth::Password(owner));
        tpm.ek(EkKind::P256, endorsement, owner).unwrap();
        tpm.endorsement_policy(endorsement).unwrap();
        // Two keys and the policy session: the sessions of the passwords are gone.
        assert_eq!(tpm.handles(0x0200_0000).unwrap().len(), 1);
        assert_eq!(tpm.handles(0x8000_0000).unwrap().len(), 2);

        let handles = [RH_OWNER];
        let auths = [owner];
        let parameters = Writer::new().sized(b"a parameter").finish();
        let command = Command { handles: &handles, auths: &auths, parameters, ..Command::NONE };
        let password = password(&command).unwrap();
        let (bytes, pending) = tpm.protect(&command, password).unwrap();
        assert!(!bytes.windows(password.len()).any(|part| part == password));
        tpm.settle(&pending, true).unwrap();
    }

    #[test]
    fn an_answer_that_somebody_else_made_is_refused() {
        let key = Zeroizing::new(b"secret".to_vec());
        let nonce = [1; NONCE];
        let pending = Pending { session: Handle(0x0200_0000), nonce, key, code: 0x131 };
        let digest = Sha2::Sha256.digest(&[&[0; 4], &0x131_u32.to_be_bytes(), b"fine"]);
        let answer = |password: &[u8]| {
            let mac = Sha2::Sha256.hmac(password, &[&digest, &[2; 32], &nonce, &[0]]);
            let area = Writer::new().u32(4).bytes(b"fine").sized(&[2; 32]).u8(0).sized(&mac);
            [&[0; HEADER][..], &area.finish()].concat()
        };
        pending.check(&answer(b"secret"), false).unwrap();
        let mut touched = answer(b"secret");
        touched[HEADER + 5] ^= 1;
        for forged in [answer(b"guess"), touched, answer(b"secret")[..40].to_vec(), Vec::new()] {
            let error = pending.check(&forged, false).unwrap_err().to_string();
            assert_eq!(error, "the TPM's answer is not authenticated by the password");
        }
    }
}
