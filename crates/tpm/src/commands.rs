//! The commands (part 3), as far as attestation and signing need them.

use std::collections::BTreeMap;

use crate::session::{Auth, Command, Handle, Tpm, TpmError};
use crate::spec::{ALG_NULL, ALG_SHA256, RH_ENDORSEMENT, RH_NULL, RH_OWNER};
use crate::wire::{Reader, Writer};

/// A key that is loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Its handle.
    pub handle: Handle,
    /// Its public area (TPMT_PUBLIC).
    pub public: Vec<u8>,
    /// Its name: an algorithm, and that digest of the public area.
    pub name: Vec<u8>,
}

/// A key outside of the TPM, where it is encrypted by its parent.
#[derive(Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// Its public area (TPMT_PUBLIC).
    pub public: Vec<u8>,
    /// Its private area, encrypted (the contents of a TPM2B_PRIVATE).
    pub private: Vec<u8>,
}

/// What a TPM says, signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attested {
    /// What it says (TPMS_ATTEST).
    pub attest: Vec<u8>,
    /// The signature (TPMT_SIGNATURE).
    pub signature: Vec<u8>,
}

/// PCRs of one bank.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PcrSelection {
    /// The bank's hash (TPM_ALG_ID).
    pub hash: u16,
    /// Which; below 24.
    pub pcrs: Vec<u8>,
}

impl PcrSelection {
    fn put(&self, out: Writer) -> Writer {
        let mut bits = [0_u8; 3];
        for pcr in self.pcrs.iter().filter(|pcr| **pcr < 24) {
            bits[usize::from(pcr / 8)] |= 1 << (pcr % 8);
        }
        out.u16(self.hash).u8(3).bytes(&bits)
    }
}

/// TPML_PCR_SELECTION.
fn put_selections(out: Writer, selections: &[PcrSelection]) -> Writer {
    let count = u32::try_from(selections.len()).unwrap_or(u32::MAX);
    selections.iter().fold(out.u32(count), |out, selection| selection.put(out))
}

impl Tpm {
    /// TPM2_CreatePrimary: derives the key that `template` describes from a hierarchy's seed.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn create_primary(
        &mut self,
        hierarchy: u32,
        auth: Auth<'_>,
        template: &[u8],
    ) -> Result<Loaded, TpmError> {
        const NAME: &str = "TPM2_CreatePrimary";
        let answer = self.call(&Command {
            name: NAME,
            code: 0x131,
            handles: &[hierarchy],
            auths: &[auth],
            parameters: creation(template),
            loads: true,
        })?;
        let (public, name) = answer.read(NAME, |fields| {
            let public = fields.sized(MAX_PUBLIC)?.to_vec();
            // Creation data, its digest, and the ticket for them.
            fields.sized(MAX_BUFFER)?;
            fields.sized(MAX_BUFFER)?;
            fields.take(6)?;
            fields.sized(MAX_BUFFER)?;
            Ok((public, fields.sized(MAX_NAME)?.to_vec()))
        })?;
        Ok(Loaded { handle: answer.handle, public, name })
    }

    /// TPM2_Create: makes a key under `parent`.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn create(
        &mut self,
        parent: Handle,
        auth: Auth<'_>,
        template: &[u8],
    ) -> Result<Wrapped, TpmError> {
        const NAME: &str = "TPM2_Create";
        let command = Command {
            name: NAME,
            code: 0x153,
            handles: &[parent.0],
            auths: &[auth],
            parameters: creation(template),
            loads: false,
        };
        self.call(&command)?.read(NAME, |fields| {
            let private = fields.sized(MAX_BUFFER)?.to_vec();
            Ok(Wrapped { private, public: fields.sized(MAX_PUBLIC)?.to_vec() })
        })
    }

    /// TPM2_Load: takes a wrapped key back in.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn load(
        &mut self,
        parent: Handle,
        auth: Auth<'_>,
        key: &Wrapped,
    ) -> Result<Loaded, TpmError> {
        const NAME: &str = "TPM2_Load";
        let answer = self.call(&Command {
            name: NAME,
            code: 0x157,
            handles: &[parent.0],
            auths: &[auth],
            parameters: Writer::new().sized(&key.private).sized(&key.public).finish(),
            loads: true,
        })?;
        let name = answer.read(NAME, |fields| Ok(fields.sized(MAX_NAME)?.to_vec()))?;
        Ok(Loaded { handle: answer.handle, public: key.public.clone(), name })
    }

    /// TPM2_ReadPublic: what is under a handle.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn read_public(&mut self, handle: Handle) -> Result<Loaded, TpmError> {
        const NAME: &str = "TPM2_ReadPublic";
        let command = Command { name: NAME, code: 0x173, handles: &[handle.0], ..Command::NONE };
        self.call(&command)?.read(NAME, |fields| {
            let public = fields.sized(MAX_PUBLIC)?.to_vec();
            Ok(Loaded { handle, public, name: fields.sized(MAX_NAME)?.to_vec() })
        })
    }

    /// TPM2_Sign: signs a digest by a scheme (TPM_ALG_ID) with a hash; gives a TPMT_SIGNATURE.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn sign(
        &mut self,
        key: Handle,
        auth: Auth<'_>,
        (scheme, hash): (u16, u16),
        digest: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        // No ticket: the digest is not the TPM's.
        let parameters = Writer::new().sized(digest).u16(scheme).u16(hash);
        let parameters = parameters.u16(TAG_HASHCHECK).u32(RH_NULL).sized(&[]).finish();
        let command = Command {
            name: "TPM2_Sign",
            code: 0x15d,
            handles: &[key.0],
            auths: &[auth],
            parameters,
            loads: false,
        };
        Ok(self.call(&command)?.parameters)
    }

    /// TPM2_Certify: `signer` says that `object` is in this TPM.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn certify(
        &mut self,
        (object, object_auth): (Handle, Auth<'_>),
        (signer, signer_auth): (Handle, Auth<'_>),
        qualifying_data: &[u8],
    ) -> Result<Attested, TpmError> {
        const NAME: &str = "TPM2_Certify";
        let command = Command {
            name: NAME,
            code: 0x148,
            handles: &[object.0, signer.0],
            auths: &[object_auth, signer_auth],
            parameters: Writer::new().sized(qualifying_data).u16(ALG_NULL).finish(),
            loads: false,
        };
        self.call(&command)?.read(NAME, attested)
    }

    /// TPM2_Quote: `signer` says what the PCRs are.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn quote(
        &mut self,
        (signer, auth): (Handle, Auth<'_>),
        qualifying_data: &[u8],
        selections: &[PcrSelection],
    ) -> Result<Attested, TpmError> {
        const NAME: &str = "TPM2_Quote";
        let parameters = Writer::new().sized(qualifying_data).u16(ALG_NULL);
        let command = Command {
            name: NAME,
            code: 0x158,
            handles: &[signer.0],
            auths: &[auth],
            parameters: put_selections(parameters, selections).finish(),
            loads: false,
        };
        self.call(&command)?.read(NAME, attested)
    }

    /// TPM2_PCR_Read, as often as it takes.
    ///
    /// # Errors
    /// [`TpmError`]; also when the TPM does not have one of them.
    pub fn read_pcrs(
        &mut self,
        selection: &PcrSelection,
    ) -> Result<BTreeMap<u8, Vec<u8>>, TpmError> {
        const NAME: &str = "TPM2_PCR_Read";
        let mut values = BTreeMap::new();
        // One at a time: how many a TPM gives at once is its own affair.
        for pcr in &selection.pcrs {
            let one = PcrSelection { hash: selection.hash, pcrs: vec![*pcr] };
            let parameters = put_selections(Writer::new(), &[one]).finish();
            let command = Command { name: NAME, code: 0x17e, parameters, ..Command::NONE };
            let value = self.call(&command)?.read(NAME, |fields| {
                fields.u32()?;
                for _ in 0..fields.u32()?.min(MAX_LIST) {
                    fields.u16()?;
                    let len = usize::from(fields.u8()?);
                    fields.take(len)?;
                }
                match fields.u32()? {
                    0 => Ok(None),
                    _ => Ok(Some(fields.sized(MAX_NAME)?.to_vec())),
                }
            })?;
            let absent = || TpmError::Unfit(format!("the TPM has no PCR {pcr} in that bank"));
            values.insert(*pcr, value.ok_or_else(absent)?);
        }
        Ok(values)
    }

    /// TPM2_ActivateCredential: what a credential for `object` and `key` (an EK) holds.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn activate_credential(
        &mut self,
        (object, object_auth): (Handle, Auth<'_>),
        (key, key_auth): (Handle, Auth<'_>),
        credential_blob: &[u8],
        secret: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        const NAME: &str = "TPM2_ActivateCredential";
        let command = Command {
            name: NAME,
            code: 0x147,
            handles: &[object.0, key.0],
            auths: &[object_auth, key_auth],
            parameters: Writer::new().sized(credential_blob).sized(secret).finish(),
            loads: false,
        };
        let answer = self.call(&command)?;
        if let Auth::Policy(session) = key_auth {
            self.forget(session);
        }
        answer.read(NAME, |fields| Ok(fields.sized(MAX_NAME)?.to_vec()))
    }

    /// TPM2_StartAuthSession and TPM2_PolicySecret: a policy session that may use an EK.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn endorsement_policy(&mut self, auth: Auth<'_>) -> Result<Handle, TpmError> {
        const POLICY_SESSION: u8 = 1;
        // Neither salted nor bound: nothing that it protects depends on it.
        let parameters = Writer::new()
            .sized(&[0; 16])
            .sized(&[])
            .u8(POLICY_SESSION)
            .u16(ALG_NULL)
            .u16(ALG_SHA256)
            .finish();
        let session = self.call(&Command {
            name: "TPM2_StartAuthSession",
            code: 0x176,
            handles: &[RH_NULL, RH_NULL],
            auths: &[],
            parameters,
            loads: true,
        })?;
        self.call(&Command {
            name: "TPM2_PolicySecret",
            code: 0x151,
            handles: &[RH_ENDORSEMENT, session.handle.0],
            auths: &[auth],
            parameters: Writer::new().sized(&[]).sized(&[]).sized(&[]).u32(0).finish(),
            loads: false,
        })?;
        Ok(session.handle)
    }

    /// TPM2_NV_ReadPublic and TPM2_NV_Read: what an NV index holds; `None` when there is none.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn nv_read(&mut self, index: u32, owner: Auth<'_>) -> Result<Option<Vec<u8>>, TpmError> {
        const NAME: &str = "TPM2_NV_ReadPublic";
        let command = Command { name: NAME, code: 0x169, handles: &[index], ..Command::NONE };
        let public = match self.call(&command) {
            Err(error) if error.refusal().is_some_and(|code| code.is_absent()) => return Ok(None),
            public => public?,
        };
        let (attributes, len) = public.read(NAME, |fields| {
            let mut public = Reader::new(fields.sized(MAX_BUFFER)?);
            public.take(6)?;
            let attributes = public.u32()?;
            public.sized(MAX_NAME)?;
            Ok((attributes, public.u16()?))
        })?;
        if attributes & NV_WRITTEN == 0 {
            return Ok(None);
        }
        let by_itself = attributes & NV_AUTH_READ != 0;
        let (reader, auth) = if by_itself { (index, Auth::NONE) } else { (RH_OWNER, owner) };
        let mut data = Vec::with_capacity(usize::from(len));
        while data.len() < usize::from(len) {
            let offset = u16::try_from(data.len()).unwrap_or(u16::MAX);
            let count = (len - offset).min(NV_CHUNK);
            let command = Command {
                name: "TPM2_NV_Read",
                code: 0x14e,
                handles: &[reader, index],
                auths: &[auth],
                parameters: Writer::new().u16(count).u16(offset).finish(),
                loads: false,
            };
            let chunk = self.call(&command)?;
            let chunk =
                chunk.read(command.name, |fields| fields.sized(MAX_BUFFER).map(<[_]>::to_vec))?;
            if chunk.len() != usize::from(count) {
                return Err(TpmError::Malformed(command.name));
            }
            data.extend(chunk);
        }
        Ok(Some(data))
    }

    /// TPM2_EvictControl: keeps a loaded key under a persistent handle, or drops one that is kept.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn evict_control(
        &mut self,
        owner: Auth<'_>,
        object: Handle,
        persistent: Handle,
    ) -> Result<(), TpmError> {
        let command = Command {
            name: "TPM2_EvictControl",
            code: 0x120,
            handles: &[RH_OWNER, object.0],
            auths: &[owner],
            parameters: Writer::new().u32(persistent.0).finish(),
            loads: false,
        };
        self.call(&command).map(drop)
    }

    /// TPM2_GetCapability: the handles there are, from `first` on, of its kind. Loaded sessions,
    /// HMAC or policy, are one kind.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn handles(&mut self, first: u32) -> Result<Vec<Handle>, TpmError> {
        self.capability(CAP_HANDLES, first, |fields| fields.u32().map(Handle))
    }

    /// TPM2_GetCapability: fixed properties of the TPM from `first` on, by number.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn properties(&mut self, first: u32) -> Result<BTreeMap<u32, u32>, TpmError> {
        let read = |fields: &mut Reader<'_>| Ok((fields.u32()?, fields.u32()?));
        Ok(self.capability(CAP_TPM_PROPERTIES, first, read)?.into_iter().collect())
    }

    /// TPM2_GetCapability: the curves that the TPM has.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn curves(&mut self) -> Result<Vec<u16>, TpmError> {
        self.capability(CAP_ECC_CURVES, 0, |fields| fields.u16())
    }

    /// TPM2_GetCapability: the banks of PCRs that are in use, by hash.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn pcr_banks(&mut self) -> Result<Vec<u16>, TpmError> {
        let banks = self.capability(CAP_PCRS, 0, |fields| {
            let hash = fields.u16()?;
            let len = usize::from(fields.u8()?);
            Ok((hash, fields.take(len)?.iter().any(|bits| *bits != 0)))
        })?;
        Ok(banks.into_iter().filter(|(_, used)| *used).map(|(hash, _)| hash).collect())
    }

    fn capability<T>(
        &mut self,
        capability: u32,
        first: u32,
        read: impl Fn(&mut Reader<'_>) -> Result<T, crate::wire::Malformed>,
    ) -> Result<Vec<T>, TpmError> {
        const NAME: &str = "TPM2_GetCapability";
        let parameters = Writer::new().u32(capability).u32(first).u32(MAX_LIST).finish();
        let command = Command { name: NAME, code: 0x17a, parameters, ..Command::NONE };
        self.call(&command)?.read(NAME, |fields| {
            fields.u8()?;
            fields.u32()?;
            let count = fields.u32()?.min(MAX_LIST);
            (0..count).map(|_| read(fields)).collect()
        })
    }
}

/// The parameters of a creation: no password, nothing sealed, no PCRs noted.
fn creation(template: &[u8]) -> Vec<u8> {
    let sensitive = Writer::new().sized(&[]).sized(&[]).finish();
    Writer::new().sized(&sensitive).sized(template).sized(&[]).u32(0).finish()
}

fn attested(fields: &mut Reader<'_>) -> Result<Attested, crate::wire::Malformed> {
    let attest = fields.sized(MAX_BUFFER)?.to_vec();
    Ok(Attested { attest, signature: fields.rest().to_vec() })
}

const TAG_HASHCHECK: u16 = 0x8024;
const CAP_HANDLES: u32 = 1;
const CAP_PCRS: u32 = 5;
const CAP_TPM_PROPERTIES: u32 = 6;
const CAP_ECC_CURVES: u32 = 8;
const NV_AUTH_READ: u32 = 1 << 18;
const NV_WRITTEN: u32 = 1 << 29;
/// What every TPM gives at once.
const NV_CHUNK: u16 = 512;
const MAX_LIST: u32 = 256;
const MAX_NAME: usize = 66;
const MAX_PUBLIC: usize = 1024;
const MAX_BUFFER: usize = 4096;
