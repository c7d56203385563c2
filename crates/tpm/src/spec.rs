//! Numbers of the standard (part 2).

/// `TPM_ALG_RSA`.
pub const ALG_RSA: u16 = 0x0001;
/// `TPM_ALG_SHA1`.
pub const ALG_SHA1: u16 = 0x0004;
/// `TPM_ALG_AES`.
pub const ALG_AES: u16 = 0x0006;
/// `TPM_ALG_SHA256`.
pub const ALG_SHA256: u16 = 0x000b;
/// `TPM_ALG_SHA384`.
pub const ALG_SHA384: u16 = 0x000c;
/// `TPM_ALG_SHA512`.
pub const ALG_SHA512: u16 = 0x000d;
/// `TPM_ALG_NULL`.
pub const ALG_NULL: u16 = 0x0010;
/// `TPM_ALG_RSASSA`.
pub const ALG_RSASSA: u16 = 0x0014;
/// `TPM_ALG_RSAPSS`.
pub const ALG_RSAPSS: u16 = 0x0016;
/// `TPM_ALG_ECDSA`.
pub const ALG_ECDSA: u16 = 0x0018;
/// `TPM_ALG_ECC`.
pub const ALG_ECC: u16 = 0x0023;
/// `TPM_ALG_CFB`.
pub const ALG_CFB: u16 = 0x0043;

/// `TPM_ECC_NIST_P256`.
pub const CURVE_P256: u16 = 0x0003;
/// `TPM_ECC_NIST_P384`.
pub const CURVE_P384: u16 = 0x0004;

/// `TPM_RH_OWNER`: the storage hierarchy.
pub const RH_OWNER: u32 = 0x4000_0001;
/// `TPM_RH_NULL`.
pub const RH_NULL: u32 = 0x4000_0007;
/// `TPM_RS_PW`: the session that is a password.
pub const RS_PW: u32 = 0x4000_0009;
/// `TPM_RH_ENDORSEMENT`.
pub const RH_ENDORSEMENT: u32 = 0x4000_000b;

/// TPMA_OBJECT: the key never leaves this TPM.
pub const FIXED_TPM: u32 = 1 << 1;
/// TPMA_OBJECT: the key never changes its parent.
pub const FIXED_PARENT: u32 = 1 << 4;
/// TPMA_OBJECT: the TPM made the private half.
pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
/// TPMA_OBJECT: a password authorises.
pub const USER_WITH_AUTH: u32 = 1 << 6;
/// TPMA_OBJECT: a policy authorises what administrators do.
pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
/// TPMA_OBJECT: wrong passwords do not count towards a lock-out.
pub const NO_DA: u32 = 1 << 10;
/// TPMA_OBJECT: works on what the TPM made only.
pub const RESTRICTED: u32 = 1 << 16;
/// TPMA_OBJECT: decrypts.
pub const DECRYPT: u32 = 1 << 17;
/// TPMA_OBJECT: signs.
pub const SIGN: u32 = 1 << 18;

/// Where TPMs have the RSA-2048 EK's certificate (TCG EK credential profile, §2.2.1.4).
pub const NV_EK_CERT_RSA: u32 = 0x01c0_0002;
/// Where TPMs have the P-256 EK's certificate.
pub const NV_EK_CERT_P256: u32 = 0x01c0_000a;
/// What the RSA-2048 EK's template has for a nonce, where it has one.
pub(crate) const NV_EK_NONCE_RSA: u32 = 0x01c0_0003;
/// The RSA-2048 EK's template, where it is not the default one.
pub(crate) const NV_EK_TEMPLATE_RSA: u32 = 0x01c0_0004;
/// As for RSA.
pub(crate) const NV_EK_NONCE_P256: u32 = 0x01c0_000b;
/// As for RSA.
pub(crate) const NV_EK_TEMPLATE_P256: u32 = 0x01c0_000c;
/// Where provisioned TPMs keep the RSA-2048 EK (TCG provisioning guidance, §7.8).
pub(crate) const PERSISTENT_EK_RSA: u32 = 0x8101_0001;
/// Where provisioned TPMs keep the P-256 EK.
pub(crate) const PERSISTENT_EK_P256: u32 = 0x8101_0002;
