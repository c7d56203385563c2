//! Proof that the device identity's key lives in the TPM that a manufacturer vouches for.
//!
//! The device identity's certificate names a key; the attestation key says that this key is in its
//! TPM; the endorsement key's TPM opens a secret only while it holds that attestation key; and the
//! endorsement certificate says whose TPM that is. Each step takes what the one before it verified.

use std::time::SystemTime;

use steeple_pki::envelope::{self, rsa_numbers};
use steeple_pki::verify::{PathRules, paths};
use steeple_pki::{Certificate, KeyKind, SignatureAlgorithm};
use steeple_plugin::{Code, PluginError};
use steeple_tpm::verify::{
    AttestationKey, Credential, EndorsementKey, Parameters, Public, ResidentKey, VerifyError,
    check_endorsement_usage,
};
use zeroize::Zeroizing;

use super::error;
use super::payload::Request;

/// The subject alternative name (2.5.29.17), critical in certificates without a subject.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// What is proved once a secret of [`Residency::secret`] comes back.
pub(super) struct Residency {
    /// The device identity's key, which is the certificate's.
    devid: ResidentKey,
    ak: AttestationKey,
    ek: EndorsementKey,
}

impl Residency {
    /// Verifies all that can be without the agent.
    pub(super) fn verify(
        request: &Request,
        devid_certificate: &Certificate,
        endorsement_roots: &[Certificate],
        now: SystemTime,
    ) -> Result<Self, PluginError> {
        for (blob, missing) in [
            (&request.ak_pub, "missing attestation key public blob"),
            (&request.devid_pub, "missing DevID key public blob"),
            (&request.ek_cert, "missing endorsement certificate"),
            (&request.ek_pub, "missing endorsement key public blob"),
        ] {
            if blob.0.is_empty() {
                return Err(invalid(missing));
            }
        }
        let ek_certificate = Certificate::from_der(request.ek_cert.0.clone())
            .map_err(|err| invalid(format!("cannot parse endorsement certificate: {err}")))?;
        let devid = Public::parse(&request.devid_pub.0)
            .map_err(|err| invalid(format!("cannot decode DevID key public blob: {err}")))?;
        let ak = Public::parse(&request.ak_pub.0)
            .map_err(|err| invalid(format!("cannot decode attestation key public blob: {err}")))?;
        let ek = Public::parse(&request.ek_pub.0)
            .map_err(|_| invalid("cannot decode endorsement key public blob"))?;

        same_rsa_key(&ek_certificate, &ek).map_err(|reason| {
            invalid(format!(
                "public key in EK certificate differs from public key created via EK template: \
                 {reason}"
            ))
        })?;
        let rules =
            PathRules { max_intermediates: 0, judged: &[SUBJECT_ALT_NAME], ..PathRules::at(now) };
        paths(&ek_certificate, &[], endorsement_roots, &rules).map_err(|err| {
            invalid(format!(
                "cannot verify EK signature: endorsement certificate verification failed: {err}"
            ))
        })?;
        check_endorsement_usage(&ek_certificate).map_err(|err| invalid(err.to_string()))?;
        let ek = EndorsementKey::new(ek).map_err(|err| invalid(err.to_string()))?;

        let (ak, devid) = certified(request, ak, devid, devid_certificate).map_err(|reason| {
            invalid(format!("cannot verify that DevID is in the same TPM than AK: {reason}"))
        })?;
        Ok(Self { devid, ak, ek })
    }

    /// A new secret, and the form in which only this TPM can open it.
    pub(super) fn secret(&self) -> Result<(Zeroizing<Vec<u8>>, Credential), PluginError> {
        self.wrapped_secret().map_err(|reason| {
            let text = format!("cannot generate credential activation challenge: {reason}");
            error(Code::Internal, text)
        })
    }

    fn wrapped_secret(&self) -> Result<(Zeroizing<Vec<u8>>, Credential), String> {
        let name = self.ak.name();
        let name = name.map_err(|err| format!("cannot extract name from AK public: {err}"))?;
        let len = self.ek.secret_len().map_err(|err| err.to_string())?;
        let mut secret = Zeroizing::new(vec![0; len]);
        envelope::random(&mut secret);
        let made = self.ek.make_credential(&name, &secret).map_err(|err| err.to_string())?;
        Ok((secret, made))
    }

    /// Whether `signature` is the device identity's over `challenge`.
    pub(super) fn possessed(&self, challenge: &[u8], signature: &[u8]) -> Result<(), &'static str> {
        let (failed, default) = match self.devid.key().kind() {
            KeyKind::Rsa(_) => {
                ("crypto/rsa: verification error", SignatureAlgorithm::RsaPkcs1Sha256)
            }
            _ => ("x509: ECDSA verification failure", SignatureAlgorithm::EcdsaSha256),
        };
        // SPIRE knows SHA-256 alone; a key that is bound to another hash says so itself.
        let scheme = self.devid.public().scheme();
        let algorithm = scheme.and_then(|scheme| scheme.signature_algorithm().ok());
        let algorithm = algorithm.unwrap_or(default);
        self.devid.key().verify(algorithm, challenge, signature).map_err(|_| failed)
    }
}

fn certified(
    request: &Request,
    ak: Public,
    devid: Public,
    devid_certificate: &Certificate,
) -> Result<(AttestationKey, ResidentKey), String> {
    if !matches!(ak.parameters(), Parameters::Rsa { .. }) {
        return Err("only RSA keys are supported".into());
    }
    let text = |err: VerifyError| err.to_string();
    let ak = AttestationKey::new(ak).map_err(text)?;
    let (attest, signature) = (&request.certified_devid.0, &request.certification_signature.0);
    let devid = ak.certified(devid, attest, signature, None).map_err(text)?;
    // Else the certificate's key could be anywhere, with any other key of the TPM in its place.
    if devid.key() != devid_certificate.public_key() {
        return Err("DevID certificate is of another key than the DevID key public blob".into());
    }
    Ok((ak, devid))
}

/// Whether a certificate and a public area are of one RSA key.
fn same_rsa_key(certificate: &Certificate, public: &Public) -> Result<(), String> {
    let of_certificate =
        rsa_numbers(certificate.public_key()).ok_or("key from certificate is not an RSA key")?;
    let template = public.key().map_err(|err| format!("cannot get template key: {err}"))?;
    let of_template = rsa_numbers(&template).ok_or("key from template is not an RSA key")?;
    if of_certificate.1 != of_template.1 {
        return Err("exponent mismatch".into());
    }
    if of_certificate.0 != of_template.0 {
        return Err("modulus mismatch".into());
    }
    Ok(())
}

fn invalid(message: impl AsRef<str>) -> PluginError {
    error(Code::InvalidArgument, message)
}
