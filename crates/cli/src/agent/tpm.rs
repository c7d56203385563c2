//! `tpm show`: what an operator must know of a machine's TPM to have the server trust it. Asks the
//! TPM itself; no agent need run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use steeple_pki::envelope::Sha2;
use steeple_pki::x509::DistinguishedName;
use steeple_pki::{Certificate, PublicKey};
use steeple_tpm::verify::Public;
use steeple_tpm::{Access, Auth, EkKind, PcrSelection, Tpm, TpmError, spec};

use crate::dispatch::{Failure, Verb};
use crate::gofmt;
use crate::output::{Output, line};
use crate::{Env, FlagSet};

pub(super) struct Show;

#[async_trait]
impl Verb for Show {
    fn path(&self) -> &'static str {
        "tpm show"
    }

    fn synopsis(&self) -> &'static str {
        "Shows the machine's TPM: its endorsement keys, their certificates, and PCRs"
    }

    fn flags(&self, flags: &mut FlagSet) {
        flags.text("tpmDevicePath", "", "Path to the TPM; found in /dev when not given");
        flags.text("writeCertificate", "", "File to write the endorsement certificate to, as PEM");
        Output::declare(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let configured = Some(flags.str("tpmDevicePath")).filter(|path| !path.is_empty());
        let path = steeple_tpm::find(configured.map(Path::new))
            .map_err(|reason| Failure(format!("no TPM in /dev: {reason}")))?;
        let seen = Access::to(&path).run(PATIENCE, look).await;
        let seen = seen.map_err(|reason: TpmError| Failure(reason.to_string()))?;
        let target = flags.str("writeCertificate");
        if !target.is_empty() {
            let certificate = seen.keys.iter().find_map(|key| key.certificate.as_ref());
            let none = || Failure("the TPM has no endorsement certificate".to_owned());
            std::fs::write(target, certificate.ok_or_else(none)?.pem())
                .map_err(|reason| Failure(format!("write {target}: {reason}")))?;
        }
        env.out(&match Output::of(flags).is_json() {
            true => line(&seen.json(&path)),
            false => seen.text(&path),
        });
        Ok(())
    }
}

/// What the TPM said.
struct Seen {
    manufacturer: String,
    firmware: u64,
    keys: Vec<EndorsementKey>,
    /// PCRs of the SHA-256 bank.
    pcrs: Vec<(u8, Vec<u8>)>,
}

struct EndorsementKey {
    kind: EkKind,
    key: PublicKey,
    certificate: Option<Certificate>,
}

fn look(tpm: &mut Tpm) -> Result<Seen, TpmError> {
    let properties = tpm.properties(PT_MANUFACTURER)?;
    let number = |property| properties.get(&property).copied().unwrap_or_default();
    let manufacturer = number(PT_MANUFACTURER).to_be_bytes();
    let manufacturer = manufacturer.iter().map(|byte| char::from(*byte));
    let manufacturer = manufacturer.filter(char::is_ascii_graphic).collect();
    let firmware =
        u64::from(number(PT_FIRMWARE_VERSION_1)) << 32 | u64::from(number(PT_FIRMWARE_VERSION_2));
    let mut keys = Vec::new();
    for kind in EkKind::ALL {
        let ek = match tpm.ek(kind, Auth::NONE, Auth::NONE) {
            // Not every TPM has every kind.
            Err(error) if error.refusal().is_some_and(|code| code.is_unsupported()) => continue,
            ek => ek?,
        };
        let unfit = |reason: String| TpmError::Unfit(reason);
        let key = Public::parse(&ek.public).map_err(|reason| unfit(reason.to_string()))?;
        let key = key.key().map_err(|reason| unfit(reason.to_string()))?;
        tpm.leave_ek(&ek)?;
        let certificate = tpm.ek_certificate(kind, Auth::NONE)?;
        let certificate = certificate.map(Certificate::from_der).transpose();
        let certificate = certificate.map_err(|reason| {
            unfit(format!("the certificate of its {} key: {reason}", kind.name()))
        })?;
        keys.push(EndorsementKey { kind, key, certificate });
    }
    let has_bank = tpm.pcr_banks()?.contains(&spec::ALG_SHA256);
    let all = PcrSelection { hash: spec::ALG_SHA256, pcrs: (0..24).collect() };
    let pcrs = if has_bank { tpm.read_pcrs(&all)?.into_iter().collect() } else { Vec::new() };
    Ok(Seen { manufacturer, firmware, keys, pcrs })
}

impl Seen {
    fn text(&self, path: &Path) -> String {
        let mut out = format!(
            "TPM                 : {}\nManufacturer        : {}\nFirmware            : {}\n",
            path.display(),
            self.manufacturer,
            self.firmware()
        );
        for ek in &self.keys {
            out += &format!(
                "\nEndorsement key     : {}\nHash                : {}\n",
                ek.kind.name(),
                ek.hash()
            );
            out += &match &ek.certificate {
                None => "Certificate         : none in the TPM\n".to_owned(),
                Some(certificate) => format!(
                    "Certificate issuer  : {}\nCertificate expires : {}\n",
                    issuer(certificate),
                    gofmt::rfc3339(seconds(certificate))
                ),
            };
        }
        if !self.pcrs.is_empty() {
            out.push('\n');
        }
        for (pcr, value) in &self.pcrs {
            out += &format!("PCR sha256:{pcr:<9}: {}\n", hex(value));
        }
        out
    }

    fn json(&self, path: &Path) -> Value {
        let keys = self.keys.iter().map(|ek| {
            let certificate = ek.certificate.as_ref().map(|certificate| {
                json!({"issuer": issuer(certificate), "expires_at": seconds(certificate)})
            });
            json!({"type": ek.kind.name(), "hash": ek.hash(), "certificate": certificate})
        });
        let keys: Vec<_> = keys.collect();
        let pcrs = self.pcrs.iter().map(|(pcr, value)| (pcr.to_string(), hex(value).into()));
        json!({
            "path": PathBuf::from(path).display().to_string(),
            "manufacturer": self.manufacturer,
            "firmware": self.firmware(),
            "endorsement_keys": keys,
            "pcrs": {"sha256": Value::Object(pcrs.collect())},
        })
    }

    /// Four numbers, as manufacturers write it.
    fn firmware(&self) -> String {
        let [a, b, c, d, e, f, g, h] = self.firmware.to_be_bytes();
        let parts =
            [[a, b], [c, d], [e, f], [g, h]].map(|part| u16::from_be_bytes(part).to_string());
        parts.join(".")
    }
}

impl EndorsementKey {
    fn hash(&self) -> String {
        hex(&Sha2::Sha256.digest(&[self.key.spki_der()]))
    }
}

fn issuer(certificate: &Certificate) -> String {
    let name = DistinguishedName::from_der(certificate.issuer_der()).unwrap_or_default();
    let parts = name.organization.into_iter().chain([name.common_name]);
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

fn seconds(certificate: &Certificate) -> i64 {
    let since = certificate.not_after().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        write!(out, "{byte:02x}").expect("a String takes every write");
        out
    })
}

const PT_MANUFACTURER: u32 = 0x105;
const PT_FIRMWARE_VERSION_1: u32 = 0x10b;
const PT_FIRMWARE_VERSION_2: u32 = 0x10c;
/// A discrete TPM derives an RSA endorsement key in seconds.
const PATIENCE: Duration = Duration::from_secs(60);
