//! The server's half.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use steeple_pki::verify::{PathRules, paths};
use steeple_pki::{Certificate, envelope};
use steeple_plugin::{AgentAttributes, Challenger, Code, HostContext, NodeAttestor, PluginError};
use steeple_runtime::Clock;
use steeple_spiffe::{SpiffeId, TrustDomain};
use steeple_tpm::verify::{
    AttestationKey, EndorsementKey, PcrValue, Public, VerifyError, check_endorsement_usage,
};
use zeroize::Zeroizing;

use super::config::ServerConfig;
use super::payload::{self, Challenge, Evidence, Response, Statement};
use super::pcrs::{self, Bank};
use super::trust::{self, Hash, Watched};
use super::{NAME, error, invalid};

/// Judges TPMs.
pub(super) struct Server {
    authorities: Option<Arc<Watched<Vec<Certificate>>>>,
    hashes: Option<Arc<Watched<HashSet<Hash>>>>,
    require_both: bool,
    require_key_in_tpm: bool,
    pcrs: Vec<Bank>,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
}

/// Evidence whose parts are what they are said to be; nothing of it is proved yet.
pub(super) struct Claim {
    ek: EndorsementKey,
    ak: AttestationKey,
    certificates: Vec<Certificate>,
    key: Option<Public>,
}

/// What is known of the endorsement key's TPM.
struct Judged {
    hash: Hash,
    /// Selectors from the certificate.
    described: Vec<String>,
    by_certificate: bool,
    by_list: bool,
}

impl Server {
    pub(super) fn new(config: ServerConfig, host: &HostContext) -> Result<Self, PluginError> {
        let failed = |what: &str, reason: trust::TrustError| {
            error(Code::FailedPrecondition, format!("{what}: {reason}"))
        };
        let authorities = config.ca.map(|path| Watched::open(path, trust::authorities));
        let authorities = authorities.transpose().map_err(|reason| failed("ca_path", reason))?;
        let hashes = config.hashes.map(|path| Watched::open(path, trust::hashes));
        let hashes = hashes.transpose().map_err(|reason| failed("hash_path", reason))?;
        Ok(Self {
            authorities: authorities.map(Arc::new),
            hashes: hashes.map(Arc::new),
            require_both: config.require_both,
            require_key_in_tpm: config.require_key_in_tpm,
            pcrs: config.pcrs,
            trust_domain: host.trust_domain.clone(),
            clock: Arc::clone(&host.clock),
        })
    }

    /// Whether the operator trusts the endorsement key.
    async fn judge(&self, claim: &Claim) -> Result<Judged, PluginError> {
        let (authorities, hashes) = (self.authorities.clone(), self.hashes.clone());
        let read =
            move || (authorities.map(|watched| watched.now()), hashes.map(|watched| watched.now()));
        let read = tokio::task::spawn_blocking(read).await;
        let (authorities, hashes) =
            read.map_err(|_| error(Code::Internal, "reading the lists of trust panicked"))?;

        let hash = trust::hash(claim.ek.key());
        let by_list = hashes.is_some_and(|hashes| hashes.contains(&hash));
        let by_certificate = match authorities {
            None => Err("no ca_path is configured".to_owned()),
            Some(authorities) => certified(claim, &authorities, self.clock.now()),
        };
        let trusted = match self.require_both {
            true => by_list && by_certificate.is_ok(),
            false => by_list || by_certificate.is_ok(),
        };
        if !trusted {
            let mut reasons = Vec::new();
            if self.authorities.is_some()
                && let Err(reason) = &by_certificate
            {
                reasons.push(format!("its certificate is not trusted: {reason}"));
            }
            if self.hashes.is_some() && !by_list {
                reasons.push("it is not on the list".to_owned());
            }
            let (hash, reasons) = (trust::hex(&hash), reasons.join("; "));
            let text = format!("endorsement key {hash} is not trusted: {reasons}");
            return Err(error(Code::PermissionDenied, text));
        }
        let described = match (&by_certificate, claim.certificates.first()) {
            (Ok(()), Some(certificate)) => describe(certificate),
            _ => Vec::new(),
        };
        Ok(Judged { hash, described, by_certificate: by_certificate.is_ok(), by_list })
    }

    fn attributes(
        &self,
        judged: Judged,
        quoted: &[PcrValue],
        key_in_tpm: bool,
    ) -> Result<AgentAttributes, PluginError> {
        let hash = trust::hex(&judged.hash);
        let agent_id =
            SpiffeId::from_path(&self.trust_domain, &format!("/spire/agent/{NAME}/{hash}"))
                .map_err(|reason| {
                    error(Code::Internal, format!("failed to create agent ID: {reason}"))
                })?;
        let mut selector_values = vec![format!("pub_hash:{hash}")];
        if judged.by_certificate {
            selector_values.push("trusted_by:certificate".to_owned());
        }
        if judged.by_list {
            selector_values.push("trusted_by:list".to_owned());
        }
        selector_values.extend(judged.described);
        selector_values.push(format!("key_in_tpm:{key_in_tpm}"));
        for PcrValue { hash, pcr, value } in quoted {
            let bank = pcrs::hash_name(*hash).unwrap_or_default();
            selector_values.push(format!("pcr:{bank}:{pcr}:{}", trust::hex(value)));
        }
        Ok(AgentAttributes { agent_id, selector_values, can_reattest: true })
    }
}

#[async_trait]
impl NodeAttestor for Server {
    fn name(&self) -> &str {
        NAME
    }

    async fn attest(
        &self,
        payload: &[u8],
        challenger: &mut dyn Challenger,
    ) -> Result<AgentAttributes, PluginError> {
        let evidence = Evidence::parse(payload)
            .map_err(|reason| invalid(format!("failed to read the evidence: {reason}")))?;
        let claim = read(&evidence)?;
        let subject = challenger.requested_key();
        // What does not need the agent any more comes first.
        let resident = match (&claim.key, &subject) {
            (Some(public), Some(subject)) => {
                let key = public.key().map_err(unusable("SVID key"))?;
                if key != *subject {
                    return Err(invalid("the key in the TPM is not the one of the CSR"));
                }
                Some(public)
            }
            (Some(_), None) => return Err(invalid("there is no CSR for the key in the TPM")),
            (None, _) => None,
        };
        if self.require_key_in_tpm && resident.is_none() {
            let text = "the key of the CSR is not in the TPM, which require_key_in_tpm asks for: \
                        the agent needs the KeyManager \"tpm\"";
            return Err(error(Code::PermissionDenied, text));
        }
        let judged = self.judge(&claim).await?;

        let unwrapped = |reason: VerifyError| {
            invalid(format!("no secret can be wrapped for the endorsement key: {reason}"))
        };
        let mut secret = Zeroizing::new(vec![0; claim.ek.secret_len().map_err(unwrapped)?]);
        envelope::random(&mut secret);
        let mut nonce = [0; NONCE];
        envelope::random(&mut nonce);
        let name = claim.ak.name().map_err(unwrapped)?;
        let credential = claim.ek.make_credential(&name, &secret).map_err(unwrapped)?;
        let challenge = Challenge::new(credential.id_object, credential.secret, &nonce, &self.pcrs);
        let response = challenger.challenge(&payload::encode(&challenge)).await?;
        let response = Response::parse(&response)
            .map_err(|reason| invalid(format!("failed to read the response: {reason}")))?;

        let refused = |what: &str, reason: &dyn std::fmt::Display| {
            error(Code::PermissionDenied, format!("{what}: {reason}"))
        };
        if !envelope::same(&secret, &response.secret.0) {
            let reason = "the secret is another than the one for this TPM and attestation key";
            return Err(refused("credential activation failed", &reason));
        }
        let binding = payload::binding(&nonce, subject.as_ref());
        let quoted = quoted(&claim.ak, &response, &binding, &self.pcrs)
            .map_err(|reason| refused("the quote does not hold", &reason))?;
        if let Some(public) = resident {
            let certified = response.certification.as_ref();
            let Statement { attest, signature } = certified
                .ok_or_else(|| refused("the certification does not hold", &"it is missing"))?;
            let key = claim
                .ak
                .certified(public.clone(), &attest.0, &signature.0, Some(&binding))
                .map_err(|reason| refused("the certification does not hold", &reason))?;
            if Some(key.key()) != subject.as_ref() {
                return Err(refused("the certification does not hold", &"it is another key's"));
            }
        }
        self.attributes(judged, &quoted, resident.is_some())
    }
}

/// Takes the evidence for what it says it is.
///
/// # Errors
/// When a part is none.
pub(super) fn read(evidence: &Evidence) -> Result<Claim, PluginError> {
    let public = |bytes: &[u8], what| Public::parse(bytes).map_err(unusable(what));
    let ek = EndorsementKey::new(public(&evidence.ek.0, "endorsement key")?)
        .map_err(unusable("endorsement key"))?;
    let ak = AttestationKey::new(public(&evidence.ak.0, "attestation key")?)
        .map_err(unusable("attestation key"))?;
    let key = evidence.key.as_ref().map(|key| public(&key.0, "SVID key")).transpose()?;
    let certificates = evidence.certificates.iter().enumerate().map(|(number, der)| {
        Certificate::from_der(der.0.clone())
            .map_err(|reason| invalid(format!("certificate {number} is malformed: {reason}")))
    });
    let certificates = certificates.collect::<Result<_, _>>()?;
    Ok(Claim { ek, ak, certificates, key })
}

fn unusable<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> PluginError {
    move |reason| invalid(format!("the {what} cannot be used: {reason}"))
}

/// Whether certificates lead from an authority to the endorsement key.
fn certified(claim: &Claim, authorities: &[Certificate], now: SystemTime) -> Result<(), String> {
    let [leaf, intermediates @ ..] = &claim.certificates[..] else {
        return Err("the TPM has none".to_owned());
    };
    if leaf.public_key() != claim.ek.key() {
        return Err("it is of another key".to_owned());
    }
    if leaf.is_ca() {
        return Err("it is an authority's".to_owned());
    }
    check_endorsement_usage(leaf).map_err(|reason| reason.to_string())?;
    let rules = PathRules { judged: &[SUBJECT_ALT_NAME], ..PathRules::at(now) };
    let rules = PathRules { max_intermediates: payload::MAX_CERTIFICATES, ..rules };
    paths(leaf, intermediates, authorities, &rules).map(drop).map_err(|reason| reason.to_string())
}

/// What an endorsement certificate says of the TPM (TCG EK credential profile, §3.1.2).
fn describe(certificate: &Certificate) -> Vec<String> {
    let Ok(attributes) = certificate.directory_attributes() else { return Vec::new() };
    let named = |(kind, value): &(Vec<u8>, String)| {
        let (_, name) = TPM_ATTRIBUTES.iter().find(|(known, _)| known == kind)?;
        let plain = value.len() <= MAX_DESCRIPTION && !value.chars().any(char::is_control);
        plain.then(|| format!("{name}:{value}"))
    };
    attributes.iter().filter_map(named).collect()
}

/// The values of the PCRs that were asked for, and of no others.
fn quoted(
    ak: &AttestationKey,
    response: &Response,
    binding: &[u8],
    asked: &[Bank],
) -> Result<Vec<PcrValue>, String> {
    let asked = pcrs::selections(asked).map_err(|reason| reason.to_string())?;
    let mut values = Vec::new();
    for (selection, pcr) in asked.iter().flat_map(|it| it.pcrs.iter().map(move |pcr| (it, *pcr))) {
        let name = pcrs::hash_name(selection.hash).unwrap_or_default();
        let of = |it: &&payload::Value| it.hash == name && it.pcr == pcr;
        let value = response.values.iter().find(of);
        let value = value.ok_or_else(|| format!("the value of PCR {name}:{pcr} is missing"))?;
        let value = value.value.0.clone();
        values.push(PcrValue { hash: selection.hash, pcr: pcr.into(), value });
    }
    let Statement { attest, signature } = &response.quote;
    let quoted = ak
        .quoted(&attest.0, &signature.0, binding, &values)
        .map_err(|reason| reason.to_string())?;
    match quoted.values == values {
        true => Ok(quoted.values),
        false => Err("it speaks of other PCRs than were asked for".to_owned()),
    }
}

/// How long the nonce is.
const NONCE: usize = 32;
/// A longer description is none.
const MAX_DESCRIPTION: usize = 128;
/// 2.5.29.17, critical in certificates without a subject.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// 2.23.133.2.1 to 3.
const TPM_ATTRIBUTES: [(&[u8], &str); 3] = [
    (&[0x67, 0x81, 0x05, 0x02, 0x01], "manufacturer"),
    (&[0x67, 0x81, 0x05, 0x02, 0x02], "model"),
    (&[0x67, 0x81, 0x05, 0x02, 0x03], "version"),
];
