//! What device identities take besides: their parent, and signatures over what the TPM hashed
//! itself, which restricted keys ask for.

use crate::commands::{Loaded, Wrapped};
use crate::session::{Auth, Command, Handle, Tpm, TpmError};
use crate::spec::{ALG_NULL, RH_OWNER};
use crate::template::{KeyShape, srk_high_range};
use crate::wire::Writer;

impl Tpm {
    /// The storage root key that device identities are made under (template H-1 or H-2 of TCG's EK
    /// credential profile): another key than the one that the provisioning guidance has.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn devid_parent(&mut self, shape: KeyShape, owner: Auth<'_>) -> Result<Loaded, TpmError> {
        self.create_primary(RH_OWNER, owner, &srk_high_range(shape))
    }

    /// TPM2_Create with a password.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn create_with_password(
        &mut self,
        parent: Handle,
        auth: Auth<'_>,
        template: &[u8],
        password: &[u8],
    ) -> Result<Wrapped, TpmError> {
        const NAME: &str = "TPM2_Create";
        let sensitive = Writer::new().sized(password).sized(&[]).finish();
        let parameters = Writer::new().sized(&sensitive).sized(template).sized(&[]).u32(0).finish();
        let command = Command {
            name: NAME,
            code: 0x153,
            handles: &[parent.0],
            auths: &[auth],
            parameters,
            loads: false,
        };
        self.call(&command)?.read(NAME, |fields| {
            let private = fields.sized(MAX_BUFFER)?.to_vec();
            Ok(Wrapped { private, public: fields.sized(MAX_BUFFER)?.to_vec() })
        })
    }

    /// TPM2_Hash: the digest of `message` (at most 1024 bytes), and the TPM's ticket that it is not
    /// what only the TPM itself may say.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn hash(&mut self, message: &[u8], hash: u16) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        const NAME: &str = "TPM2_Hash";
        let parameters = Writer::new().sized(message).u16(hash).u32(RH_OWNER).finish();
        let command = Command { name: NAME, code: 0x17d, parameters, ..Command::NONE };
        self.call(&command)?.read(NAME, |fields| {
            let digest = fields.sized(MAX_BUFFER)?.to_vec();
            Ok((digest, fields.rest().to_vec()))
        })
    }

    /// TPM2_Sign by the key's own scheme, over a digest with the TPM's ticket for it; gives a
    /// TPMT_SIGNATURE.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn sign_hashed(
        &mut self,
        key: Handle,
        auth: Auth<'_>,
        digest: &[u8],
        ticket: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        let command = Command {
            name: "TPM2_Sign",
            code: 0x15d,
            handles: &[key.0],
            auths: &[auth],
            parameters: Writer::new().sized(digest).u16(ALG_NULL).bytes(ticket).finish(),
            loads: false,
        };
        Ok(self.call(&command)?.parameters)
    }
}

const MAX_BUFFER: usize = 4096;
