//! What can go wrong, with the texts that SPIRE's users and tests know.

use std::time::SystemTime;

use steeple_plugin::{Code, PluginError};

/// A credential could not be issued.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// No X.509 authority is active yet.
    #[error("X509 CA is not available for signing")]
    NoX509Ca,
    /// No JWT authority is active, yet or by configuration.
    #[error("JWT key is not available for signing")]
    NoJwtKey,
    /// The active X.509 authority has expired and no other has taken over.
    #[error("X509 CA is not available for signing: it expired at {}", rfc3339(*.0))]
    X509CaExpired(SystemTime),
    /// The active X.509 authority is from the future: the clock was set back.
    #[error("X509 CA is not available for signing: it is not valid until {}", rfc3339(*.0))]
    X509CaNotYetValid(SystemTime),
    /// The active JWT authority has expired and no other has taken over.
    #[error("JWT key is not available for signing: it expired at {}", rfc3339(*.0))]
    JwtKeyExpired(SystemTime),
    /// No WIT authority is active, yet or by configuration.
    #[error("WIT key is not available for signing")]
    NoWitKey,
    /// The active WIT authority has expired and no other has taken over.
    #[error("WIT key is not available for signing: it expired at {}", rfc3339(*.0))]
    WitKeyExpired(SystemTime),
    /// The SPIFFE ID asked for is not one that this trust domain issues.
    #[error("invalid {kind} ID: {id:?} is not a member of trust domain {trust_domain:?}{}",
        if *.empty_path { "; path is empty" } else { "" })]
    ForeignId {
        /// `X509-SVID` or `JWT-SVID`.
        kind: &'static str,
        /// The SPIFFE ID.
        id: String,
        /// The trust domain of this server.
        trust_domain: String,
        /// The ID is that of the trust domain itself.
        empty_path: bool,
    },
    /// A credential composer refused, or answered what cannot be.
    #[error(transparent)]
    Composer(PluginError),
    /// No audience, or only empty ones.
    #[error("invalid JWT-SVID audience: cannot be empty")]
    NoAudience,
    /// The certificate could not be built or signed.
    #[error("failed to sign X509 SVID: {0}")]
    SignX509(#[source] steeple_pki::x509::IssueError),
    /// The subject of the active CA's own certificate cannot be read.
    #[error("unable to create downstream X509 CA: subject of the issuer: {reason}")]
    OwnSubject {
        /// What the parser said.
        reason: String,
    },
    /// The downstream CA certificate could not be built or signed.
    #[error("unable to create downstream X509 CA: {0}")]
    SignDownstream(#[source] steeple_pki::x509::IssueError),
    /// The token could not be built or signed.
    #[error("unable to sign JWT SVID: {0}")]
    SignJwt(#[source] steeple_pki::jwt::JwtError),
    /// What was signed is not what may be released (CR-27).
    #[error("invalid {what}: {source}")]
    Invalid {
        /// `workload X509-SVID`, `agent X509-SVID`, `server X509-SVID`, `downstream X509 CA`.
        what: &'static str,
        /// The rule that it breaks.
        source: InvalidCredential,
    },
}

/// A credential breaks a rule for what this server may release (CR-27).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidCredential {
    /// A rule that needs no data to be explained.
    #[error("{0}")]
    Rule(&'static str),
    /// The URI SAN is not the SPIFFE ID asked for.
    #[error("{kind}: expected URI SAN {expected:?} but got {found:?}")]
    UriSan {
        /// `invalid X509 CA` or `invalid X509-SVID`.
        kind: &'static str,
        /// What was asked for.
        expected: String,
        /// What is in the certificate.
        found: Vec<String>,
    },
    /// The certificate that was made cannot be read.
    #[error("failed to parse certificate: {0}")]
    Unreadable(String),
    /// The `sub` claim is not the SPIFFE ID asked for.
    #[error("invalid JWT-SVID \"sub\" claim: expected {expected:?} but got {found:?}")]
    Subject {
        /// What was asked for.
        expected: String,
        /// What the claims say, cut short.
        found: String,
    },
    /// A claim is not of its type; holds its name.
    #[error("failed to extract JWT-SVID claims for validation: malformed {0:?} claim")]
    Claim(&'static str),
    /// The validity period lies in the future.
    #[error("{kind}: not yet valid until {}", rfc3339(*.not_before))]
    NotYetValid {
        /// What is invalid, as the message begins.
        kind: &'static str,
        /// When it begins to be valid.
        not_before: SystemTime,
    },
    /// The validity period has passed.
    #[error("{kind}: already expired as of {}", rfc3339(*.not_after))]
    Expired {
        /// What is invalid, as the message begins.
        kind: &'static str,
        /// When it expired.
        not_after: SystemTime,
    },
}

/// An operator's wish about an authority cannot be fulfilled (TE-16 to TE-18).
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// No authority is in use yet.
    #[error("server is initializing")]
    Initializing,
    /// JWT-SVIDs are disabled.
    #[error("JWT functionality is disabled")]
    JwtDisabled,
    /// The request names no authority.
    #[error("no authority ID provided")]
    NoAuthorityId,
    /// The request names an authority that is not in the slot beside the current one.
    #[error("unexpected authority ID")]
    UnexpectedAuthorityId,
    /// Only what is prepared can be activated.
    #[error(
        "only Prepared authorities can be activated: unsupported local authority status: {found}"
    )]
    OnlyPrepared {
        /// The status found, as in the journal.
        found: &'static str,
    },
    /// The prepared authority has run out, or its time has not come by our clock.
    #[error("the prepared authority is not valid now; prepare another")]
    NotValidNow,
    /// The authority in use cannot be tainted.
    #[error("unable to taint current local authority")]
    TaintCurrent,
    /// Only what is old can be tainted.
    #[error(
        "only Old local authorities can be tainted: unsupported local authority status: {found}"
    )]
    OnlyOldTainted {
        /// The status found, as in the journal.
        found: &'static str,
    },
    /// With an upstream authority, the roots are its own.
    #[error("local authority can't be {verb} if there is an upstream authority")]
    HasUpstream {
        /// `tainted` or `revoked`.
        verb: &'static str,
    },
    /// There is no upstream authority.
    #[error("upstream authority is not configured")]
    NoUpstream,
    /// The upstream authority cannot be tainted.
    #[error("provided subject key id is not valid: {0}")]
    TaintUpstream(UpstreamRefused),
    /// The datastore did not mark it.
    #[error("failed to taint upstream authority: {source}")]
    TaintUpstreamFailed {
        /// Why.
        source: RotationError,
    },
    /// It is marked, and those concerned could not be told.
    #[error("failed to notify tainted authority: {source}")]
    NotifyTainted {
        /// Why.
        source: RotationError,
    },
    /// The datastore did not remove it.
    #[error("failed to revoke X.509 upstream authority: {source}")]
    RevokeUpstreamFailed {
        /// Why.
        source: RotationError,
    },
    /// The upstream authority cannot be revoked.
    #[error("invalid subject key ID: {0}")]
    RevokeUpstream(UpstreamRefused),
    /// The authority cannot be revoked.
    #[error("invalid authority ID: {0}")]
    Revoke(RevokeRefused),
    /// A step of the rotation failed.
    #[error("failed to {verb} {kind} authority: {source}")]
    Failed {
        /// `prepare`, `activate`, `taint` or `revoke`.
        verb: &'static str,
        /// `X.509`, `JWT` or `WIT`.
        kind: &'static str,
        /// Why.
        source: RotationError,
    },
}

/// Why an upstream authority cannot be tainted or revoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UpstreamRefused {
    /// The request names none.
    #[error("no subject key ID provided")]
    NoId,
    /// It stands above the CA in use. (The spelling is SPIRE's.)
    #[error("unable to use upstream authority singing current authority")]
    Current,
    /// It does not stand above the other CA.
    #[error("upstream authority didn't sign the old local authority")]
    NotAboveOld,
    /// It stands above a CA that waits for its turn.
    #[error("only upstream authorities signing an old authority can be used")]
    NotOld,
}

/// Why an authority cannot be revoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RevokeRefused {
    /// The request names no authority.
    #[error("no authority ID provided")]
    NoAuthorityId,
    /// It is the one in use.
    #[error("unable to use current authority")]
    Current,
    /// It is not an old one (X.509).
    #[error("only Old local authority can be revoked")]
    NotOld,
    /// It is prepared (JWT).
    #[error("unable to use a prepared key")]
    Prepared,
    /// No such key in the bundle (JWT).
    #[error("no JWT authority found with provided authority ID")]
    Unknown,
}

impl AuthorityError {
    /// The status that SPIRE's API answers with.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Initializing => Code::Unavailable,
            Self::JwtDisabled => Code::Unimplemented,
            Self::NoAuthorityId
            | Self::UnexpectedAuthorityId
            | Self::TaintCurrent
            | Self::OnlyOldTainted { .. }
            | Self::TaintUpstream(_)
            | Self::RevokeUpstream(_)
            | Self::Revoke(_) => Code::InvalidArgument,
            Self::HasUpstream { .. } | Self::NoUpstream => Code::FailedPrecondition,
            Self::TaintUpstreamFailed { .. }
            | Self::NotifyTainted { .. }
            | Self::RevokeUpstreamFailed { .. }
            | Self::OnlyPrepared { .. }
            | Self::NotValidNow
            | Self::Failed { .. } => Code::Internal,
        }
    }
}

/// A step of a rotation, or of loading what an earlier run left, failed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The key manager.
    #[error(transparent)]
    KeyManager(#[from] PluginError),
    /// The key manager has lost the key that it has just made.
    #[error("key manager holds no key {0:?}")]
    KeyGone(String),
    /// The datastore.
    #[error(transparent)]
    Store(#[from] AuthorityStoreError),
    /// The request to the upstream authority could not be made.
    #[error("unable to request X509 CA: {0}")]
    Request(#[from] steeple_pki::csr::CsrError),
    /// What the upstream authority answered cannot be used.
    #[error("X509 CA minted by upstream authority is invalid: {0}")]
    Minted(#[source] InvalidMint),
    /// The CA certificate could not be made.
    #[error("unable to self-sign X509 CA: {0}")]
    SelfSign(#[source] steeple_pki::x509::IssueError),
    /// The CA certificate breaks the rules for one.
    #[error("{0}")]
    Invalid(#[from] InvalidCredential),
    /// The journal in the database is not one.
    #[error("unable to unmarshal entries from CA journal record: {0}")]
    Journal(#[from] prost::DecodeError),
    /// A journal entry holds something that is not what it says.
    #[error("unable to parse {what} of journal entry: {reason}")]
    Entry {
        /// The field.
        what: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// The bundle holds no tainted X.509 authority of this id.
    #[error("no tainted root CA found with authority ID: {0:?}")]
    NoTaintedRoot(String),
    /// No authority is in use yet.
    #[error("server is initializing")]
    Initializing,
    /// The CA stands under a tainted root although it was just replaced.
    #[error("the current X.509 authority is still signed by a tainted upstream authority")]
    StillTainted,
    /// The bundle did not hold what was appended to it.
    #[error("the trust bundle does not hold the authority that was appended to it")]
    NotInBundle,
}

/// Why nothing of an upstream authority's answer is used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMint {
    /// There is no certificate in it.
    #[error("plugin response missing X.509 CA chain")]
    NoChain,
    /// There are more certificates than anybody verifies.
    #[error("X509 CA chain is too long: {0} certificates")]
    LongChain(usize),
    /// There is no root in it.
    #[error("plugin response missing upstream X.509 roots")]
    NoRoots,
    /// A list is longer than any bundle's.
    #[error("upstream bundle has too many authorities: {0}")]
    Many(usize),
    /// It was issued to somebody else.
    #[error("the certificate is not for the key that was sent")]
    OtherKey,
    /// The certificate is not that of a CA of this trust domain.
    #[error("invalid upstream-signed X509 CA: {0}")]
    Ca(#[from] InvalidCredential),
    /// The key manager did not sign with the key.
    #[error("failed to sign validation certificate: {0}")]
    Probe(#[source] steeple_pki::x509::IssueError),
    /// Nobody could verify what the CA signs.
    #[error("X509 CA produced an invalid X509-SVID chain: {0}")]
    Path(#[source] steeple_pki::verify::VerifyError),
    /// It stands under a root that the upstream authority calls tainted.
    #[error("the upstream authority signed it under a root that it calls tainted")]
    Tainted,
}

/// The datastore failed to do what the CA manager asked of it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct AuthorityStoreError {
    /// The kind of failure.
    pub code: Code,
    /// What the store said.
    pub message: String,
}

fn rfc3339(at: SystemTime) -> String {
    time::OffsetDateTime::from(at)
        .replace_nanosecond(0)
        .expect("zero is a nanosecond")
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}
