//! Paths to certificates of a PKI that is not ours and knows no SPIFFE: from a machine's
//! certificate to the roots that an operator configured.
//!
//! Whoever asks has proved nothing yet, so the work is bounded before it is done: sizes and counts
//! first; then signatures, from the roots down, so that a key that a stranger sent is used only
//! after a trusted one vouched for it; then paths over what was verified, from the leaf up.

use std::time::SystemTime;

use thiserror::Error;

use super::name_constraints::{self, ConstraintError};
use super::rfc3339;
use crate::keys::{KeyKind, SignatureAlgorithm};
use crate::oid;
use crate::x509::{Certificate, ExtKeyUsage, KeyUsage};

/// How many steps from a certificate to one of its issuer's name are looked at.
const MAX_STEPS: usize = 256;
/// How many paths are given.
const MAX_PATHS: usize = 32;
/// How many signatures are verified.
const MAX_SIGNATURES: usize = 100;

/// What a path must keep to.
#[derive(Clone, Debug)]
pub struct PathRules<'a> {
    /// The time at which every certificate of the path must be valid.
    pub now: SystemTime,
    /// How many intermediates may come with the leaf.
    pub max_intermediates: usize,
    /// How large the RSA keys of leaf and intermediates may be, in bits.
    pub max_rsa_bits: usize,
    /// What the certificates must be meant for; nothing asks for nothing.
    pub usage: Option<ExtKeyUsage>,
    /// Critical extensions of the leaf that the caller judges, as the content bytes of their
    /// object identifiers.
    pub judged: &'a [&'a [u8]],
}

impl PathRules<'_> {
    /// The limits that SPIRE has by default: four intermediates, RSA with 8192 bits.
    #[must_use]
    pub const fn at(now: SystemTime) -> Self {
        Self { now, max_intermediates: 4, max_rsa_bits: 8192, usage: None, judged: &[] }
    }
}

/// Why there is no path. The texts are those of Go's crypto/x509, since users look for them.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum PathError {
    /// More intermediates than the rules allow.
    #[error("too many intermediate certificates")]
    TooManyIntermediates,
    /// The RSA key of the certificate with this number (the leaf is 0) is larger than allowed.
    #[error("key size of certificate {0} is too large")]
    KeyTooLarge(usize),
    /// No path leads to a root.
    #[error("x509: certificate signed by unknown authority{}", .0.as_ref().map(ToString::to_string).unwrap_or_default())]
    UnknownAuthority(Option<Hint>),
    /// A certificate is out of its time; holds the times.
    #[error("x509: certificate has expired or is not yet valid: {0}")]
    Expired(String),
    /// A critical extension that nobody looks into.
    #[error("x509: unhandled critical extension")]
    UnhandledCritical,
    /// An intermediate is no CA.
    #[error("x509: certificate is not authorized to sign other certificates")]
    NotAuthorizedToSign,
    /// A path is longer than a CA of it allows.
    #[error("x509: too many intermediates for path length constraint")]
    PathLength,
    /// The certificates are meant for other purposes.
    #[error("x509: certificate specifies an incompatible key usage")]
    Usage,
    /// A CA may not sign for a name.
    #[error(
        "x509: a root or intermediate certificate is not authorized to sign for this name: {0}"
    )]
    Name(ConstraintError),
    /// More signatures or paths than are looked at.
    #[error("x509: signature check attempts limit reached while verifying certificate chain")]
    Limit,
}

/// The authority that might have been meant, and why it was not it.
#[derive(Clone, Debug, Error)]
#[error(
    " (possibly because of {reason:?} while trying to verify candidate authority certificate \
     {authority:?})"
)]
pub struct Hint {
    reason: &'static str,
    authority: String,
}

/// Every path from `leaf` over `intermediates` to one of `roots`: the leaf first, the root last. A
/// leaf that is itself a root is a path of one. Names of SPIFFE are not looked at.
///
/// # Errors
/// When there is none, or looking for one would take more work than is allowed.
pub fn paths(
    leaf: &Certificate,
    intermediates: &[Certificate],
    roots: &[Certificate],
    rules: &PathRules<'_>,
) -> Result<Vec<Vec<Certificate>>, PathError> {
    paths_counted(leaf, intermediates, roots, rules, &mut Work::default())
}

/// What looking for paths took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// How many signatures were verified.
    pub signatures: usize,
    /// How many steps over verified signatures were taken.
    pub steps: usize,
}

/// [`paths`], and what it took.
///
/// # Errors
/// As [`paths`].
pub fn paths_counted(
    leaf: &Certificate,
    intermediates: &[Certificate],
    roots: &[Certificate],
    rules: &PathRules<'_>,
    work: &mut Work,
) -> Result<Vec<Vec<Certificate>>, PathError> {
    if intermediates.len() > rules.max_intermediates {
        return Err(PathError::TooManyIntermediates);
    }
    let sent = std::iter::once(leaf).chain(intermediates);
    if let Some(index) = sent.into_iter().position(|it| rsa_bits(it) > rules.max_rsa_bits) {
        return Err(PathError::KeyTooLarge(index));
    }
    if leaf.unhandled_critical().any(|id| !rules.judged.contains(&id)) {
        return Err(PathError::UnhandledCritical);
    }
    in_time(leaf, rules.now)?;
    if roots.contains(leaf) {
        return Ok(vec![vec![leaf.clone()]]);
    }
    let vouched = Vouched::from_roots(leaf, intermediates, roots);
    let mut search = Search { vouched: &vouched, rules, steps: 0, found: Vec::new(), why: None };
    let limit = search.climb(&mut vec![leaf]).err();
    let Search { found, why, steps, .. } = search;
    *work = Work { signatures: vouched.signatures, steps };
    let mut why = limit.or(why);
    let mut good: Vec<Vec<Certificate>> = Vec::new();
    for path in found {
        match beyond_signatures(&path, rules) {
            Ok(()) => good.push(path.into_iter().cloned().collect()),
            Err(error) => why = why.or(Some(error)),
        }
    }
    if !good.is_empty() {
        return Ok(good);
    }
    let unknown = || PathError::UnknownAuthority(vouched.hint.clone());
    Err(why.unwrap_or_else(|| if vouched.limited { PathError::Limit } else { unknown() }))
}

/// Who signed whom, as far as it leads back to a root.
struct Vouched<'a> {
    /// The certificate, the one above it, and whether that is a root.
    edges: Vec<(&'a Certificate, &'a Certificate, bool)>,
    hint: Option<Hint>,
    signatures: usize,
    /// There were more signatures than are verified.
    limited: bool,
}

impl<'a> Vouched<'a> {
    fn from_roots(
        leaf: &'a Certificate,
        intermediates: &'a [Certificate],
        roots: &'a [Certificate],
    ) -> Self {
        let mut out = Self { edges: Vec::new(), hint: None, signatures: 0, limited: false };
        let mut sent: Vec<&Certificate> = vec![leaf];
        for it in intermediates {
            if !sent.contains(&it) {
                sent.push(it);
            }
        }
        let named =
            |root: &&Certificate| sent.iter().any(|it| it.issuer_der() == root.subject_der());
        let mut waiting: Vec<(&Certificate, bool)> =
            roots.iter().filter(named).map(|root| (root, true)).collect();
        let mut trusted: Vec<&Certificate> = Vec::new();
        while let Some((parent, is_root)) = waiting.pop() {
            for child in &sent {
                if child.issuer_der() != parent.subject_der() || same_subject(child, parent) {
                    continue;
                }
                if !may_issue(parent) {
                    const REASON: &str = "x509: invalid signature: parent certificate cannot sign \
                                          this kind of certificate";
                    out.hint.get_or_insert_with(|| hint(REASON, parent));
                    continue;
                }
                if out.signatures == MAX_SIGNATURES {
                    out.limited = true;
                    return out;
                }
                out.signatures += 1;
                if child.verify_signed_by(parent.public_key()).is_err() {
                    out.hint.get_or_insert_with(|| hint(signature_failure(child, parent), parent));
                    continue;
                }
                out.edges.push((child, parent, is_root));
                if *child != leaf && !trusted.contains(child) {
                    trusted.push(child);
                    waiting.push((child, false));
                }
            }
        }
        out
    }
}

/// Paths over what was verified.
struct Search<'v, 'a> {
    vouched: &'v Vouched<'a>,
    rules: &'v PathRules<'v>,
    steps: usize,
    found: Vec<Vec<&'a Certificate>>,
    why: Option<PathError>,
}

impl<'a> Search<'_, 'a> {
    /// Goes on from the last certificate of `path`. As deep as there are intermediates.
    fn climb(&mut self, path: &mut Vec<&'a Certificate>) -> Result<(), PathError> {
        let Some(current) = path.last().copied() else { return Ok(()) };
        let vouched = self.vouched;
        for (_, parent, is_root) in vouched.edges.iter().filter(|(child, ..)| *child == current) {
            self.steps += 1;
            if self.steps > MAX_STEPS || self.found.len() == MAX_PATHS {
                return Err(PathError::Limit);
            }
            if path.iter().any(|it| same_subject(it, parent)) {
                continue;
            }
            if let Err(error) = self.may_follow(parent, path.len(), *is_root) {
                self.why.get_or_insert(error);
                continue;
            }
            path.push(parent);
            if *is_root {
                self.found.push(path.clone());
            } else {
                self.climb(path)?;
            }
            path.pop();
        }
        Ok(())
    }

    /// Whether `candidate` may stand above `below` certificates, as far as it says itself.
    fn may_follow(
        &self,
        candidate: &Certificate,
        below: usize,
        is_root: bool,
    ) -> Result<(), PathError> {
        if candidate.unhandled_critical().next().is_some() {
            return Err(PathError::UnhandledCritical);
        }
        in_time(candidate, self.rules.now)?;
        if !is_root && !candidate.is_ca() {
            return Err(PathError::NotAuthorizedToSign);
        }
        match candidate.path_len() {
            Some(most) if below - 1 > most as usize => Err(PathError::PathLength),
            _ => Ok(()),
        }
    }
}

/// What only a path whose signatures hold is asked.
fn beyond_signatures(path: &[&Certificate], rules: &PathRules<'_>) -> Result<(), PathError> {
    if let Some(usage) = &rules.usage {
        let serves = |it: &&Certificate| {
            let any = ExtKeyUsage::Other(oid::EKU_ANY.into());
            let list = it.ext_key_usage();
            list.is_empty() || list.contains(usage) || list.contains(&any)
        };
        if !path.iter().all(serves) {
            return Err(PathError::Usage);
        }
    }
    name_constraints::check(path).map_err(PathError::Name)
}

fn same_subject(one: &Certificate, other: &Certificate) -> bool {
    one.subject_der() == other.subject_der() && one.public_key() == other.public_key()
}

/// A certificate of version 1 or 2 cannot say that it is a CA; as a root it is one.
fn may_issue(certificate: &Certificate) -> bool {
    let says_so = if certificate.has_basic_constraints() {
        certificate.is_ca()
    } else {
        certificate.version() < 3
    };
    let usage = certificate.key_usage().filter(|usage| !usage.is_empty());
    says_so && usage.is_none_or(|usage| usage.contains(KeyUsage::KEY_CERT_SIGN))
}

fn in_time(certificate: &Certificate, now: SystemTime) -> Result<(), PathError> {
    let (what, bound) = if now < certificate.not_before() {
        ("before", certificate.not_before())
    } else if now > certificate.not_after() {
        ("after", certificate.not_after())
    } else {
        return Ok(());
    };
    Err(PathError::Expired(format!("current time {} is {what} {}", rfc3339(now), rfc3339(bound))))
}

fn rsa_bits(certificate: &Certificate) -> usize {
    match certificate.public_key().kind() {
        KeyKind::Rsa(bits) => usize::from(bits),
        _ => 0,
    }
}

/// What Go says of such a signature.
fn signature_failure(child: &Certificate, parent: &Certificate) -> &'static str {
    use SignatureAlgorithm as Alg;
    let by = parent.public_key().kind();
    match child.signature_algorithm() {
        None => "x509: cannot verify signature: algorithm unimplemented",
        Some(Alg::Ed25519) if by == KeyKind::Ed25519 => "x509: Ed25519 verification failure",
        Some(Alg::EcdsaSha256 | Alg::EcdsaSha384 | Alg::EcdsaSha512)
            if matches!(by, KeyKind::P256 | KeyKind::P384 | KeyKind::P521) =>
        {
            "x509: ECDSA verification failure"
        }
        Some(Alg::Ed25519 | Alg::EcdsaSha256 | Alg::EcdsaSha384 | Alg::EcdsaSha512) => {
            "x509: signature algorithm specifies another kind of key"
        }
        Some(_) if matches!(by, KeyKind::Rsa(_)) => "crypto/rsa: verification error",
        Some(_) => "x509: signature algorithm specifies another kind of key",
    }
}

fn hint(reason: &'static str, authority: &Certificate) -> Hint {
    let subject = authority.subject().unwrap_or_default();
    let name = match (subject.common_name, subject.organization.into_iter().next()) {
        (name, _) if !name.is_empty() => name,
        (_, Some(name)) => name,
        _ => format!("serial:{}", authority.serial_decimal()),
    };
    Hint { reason, authority: name.chars().take(100).collect() }
}

#[cfg(test)]
mod tests;
