//! The one place where errors become gRPC statuses.
//!
//! A status says what the use case says and, after a colon, the reason, except
//! for "not found", whose reason is nobody's business. The log gets both.

use std::error::Error;

use steeple_ca::AuthorityError;
use steeple_net::status::{pack, with_details};
use steeple_proto::spire::api::types;
use steeple_proto::spire::api::types::permission_denied_details::Reason;
use steeple_server_core::access::{AccessError, AgentFault};
use steeple_server_core::agents::AgentError;
use steeple_server_core::bundles::BundleError;
use steeple_server_core::entries::EntryError;
use steeple_server_core::federation::FederationError;
use steeple_server_core::peers::PeerError;
use steeple_server_core::svids::SvidError;
use steeple_store::StoreError;
use tonic::{Code, Status};

/// An error that a caller gets to see.
pub(crate) trait Answer: Error {
    /// Its gRPC code.
    fn code(&self) -> Code;

    /// What an agent should do about it.
    fn fault(&self) -> Option<AgentFault> {
        None
    }

    /// The words of the status.
    fn text(&self) -> String {
        match (self.code(), self.source()) {
            (Code::NotFound, _) | (_, None) => self.to_string(),
            (_, Some(reason)) => format!("{self}: {reason}"),
        }
    }

    /// The status of a whole call.
    fn status(&self) -> Status {
        match self.fault() {
            Some(fault) => denied(fault, self.text()),
            None => Status::new(self.code(), self.text()),
        }
    }

    /// The status of one item of a batch.
    fn item(&self) -> types::Status {
        types::Status { code: self.code() as i32, message: self.text() }
    }
}

/// The status of an item that went well.
pub(crate) fn ok() -> types::Status {
    types::Status { code: Code::Ok as i32, message: "OK".to_owned() }
}

/// A refusal that agents act upon by its detail.
pub(crate) fn denied(fault: AgentFault, text: impl Into<String>) -> Status {
    let reason = match fault {
        AgentFault::Expired => Reason::AgentExpired,
        AgentFault::NotAttested => Reason::AgentNotAttested,
        AgentFault::NotActive => Reason::AgentNotActive,
        AgentFault::Banned => Reason::AgentBanned,
        AgentFault::MustReattest => Reason::AgentMustReattest,
    };
    let detail = types::PermissionDeniedDetails { reason: reason as i32 };
    let detail = pack("spire.api.types.PermissionDeniedDetails", &detail);
    with_details(Code::PermissionDenied, text, vec![detail])
}

impl Answer for EntryError {
    fn code(&self) -> Code {
        match self {
            Self::MissingId
            | Self::MissingEntryId
            | Self::Rule(_)
            | Self::ParentFilter(_)
            | Self::SpiffeIdFilter(_)
            | Self::SelectorsFilter(_)
            | Self::FederatesWithFilter(_) => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
            Self::Create(error) | Self::Update(error) => of_store(error),
            Self::List(error) | Self::Count(error) => of_read(error),
            Self::Delete(error) | Self::Fetch(error) => of_read(error),
        }
    }
}

impl Answer for AgentError {
    fn code(&self) -> Code {
        match self {
            Self::Evidence(_)
            | Self::UnknownJoinToken
            | Self::ExpiredJoinToken
            | Self::UsedUpJoinToken
            | Self::ReservedToken
            | Self::NoRenewParams
            | Self::MissingCsr
            | Self::Csr(_)
            | Self::Id(_)
            | Self::LongVersion
            | Self::NoTtl
            | Self::BadToken(_)
            | Self::Selectors(_) => Code::InvalidArgument,
            Self::NoAttestor(_) => Code::FailedPrecondition,
            Self::Attestor(error) => Code::from_i32(error.code.number()),
            Self::Banned(_)
            | Self::NotAdmitted(_)
            | Self::OnlyAsPart(_)
            | Self::PartUsed(_)
            | Self::JoinTokenAddress
            | Self::MustReattest => Code::PermissionDenied,
            Self::NotFound => Code::NotFound,
            Self::ServerId | Self::OthersId(_) | Self::JoinTokenId(_) | Self::Sign(_) => {
                Code::Internal
            }
            Self::Fetch(error)
            | Self::FetchToken(error)
            | Self::Record(error)
            | Self::Update(error)
            | Self::Remove(error)
            | Self::Ban(error)
            | Self::List(error)
            | Self::Count(error)
            | Self::CreateToken(error) => of_read(error),
        }
    }

    fn fault(&self) -> Option<AgentFault> {
        matches!(self, Self::MustReattest).then_some(AgentFault::MustReattest)
    }
}

impl Answer for SvidError {
    fn code(&self) -> Code {
        match self {
            Self::MissingCsr
            | Self::MalformedCsr(_)
            | Self::CsrSignature(_)
            | Self::MintCsrSignature(_)
            | Self::NoUri
            | Self::ManyUris
            | Self::BadUri(_)
            | Self::BadDnsName(_)
            | Self::DnsOverlap(_)
            | Self::MissingEntryId
            | Self::BadId(_)
            | Self::MissingPublicKey
            | Self::BadPublicKey(_)
            | Self::MalformedPublicKey(_)
            | Self::WitKey(_)
            | Self::NoAudience => Code::InvalidArgument,
            Self::NotAuthorized | Self::NoBundle => Code::NotFound,
            Self::JwtDisabled | Self::WitDisabled => Code::Unimplemented,
            Self::SignX509(_) | Self::SignJwt(_) | Self::SignWit(_) | Self::SignDownstream(_) => {
                Code::Internal
            }
            Self::FetchBundle(error) => of_read(error),
        }
    }
}

impl Answer for BundleError {
    fn code(&self) -> Code {
        match self {
            Self::NotFound => Code::NotFound,
            Self::Exists | Self::KeyIdTaken => Code::AlreadyExists,
            Self::Full => Code::ResourceExhausted,
            Self::TrustDomain(_)
            | Self::Own { .. }
            | Self::RemoveOwn
            | Self::NothingToAppend
            | Self::X509Authority(_)
            | Self::JwtAuthority(_)
            | Self::NoJwtAuthority
            | Self::PublishedJwtAuthority(_)
            | Self::Malformed(_) => Code::InvalidArgument,
            Self::PublishUpward(_) => Code::Internal,
            Self::Delete(error) => of_store(error),
            Self::List(error) => of_list(error),
            Self::Fetch(error)
            | Self::Append(error)
            | Self::Publish(error)
            | Self::Count(error)
            | Self::Create(error)
            | Self::Update(error)
            | Self::Set(error) => of_read(error),
        }
    }
}

impl Answer for FederationError {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) | Self::Own | Self::NoTrustDomain | Self::TrustDomain(_) => {
                Code::InvalidArgument
            }
            Self::Unknown | Self::NotFound => Code::NotFound,
            Self::List(error) => of_list(error),
            Self::Fetch(error)
            | Self::Create(error)
            | Self::Update(error)
            | Self::Delete(error) => of_read(error),
        }
    }
}

impl Answer for AuthorityError {
    fn code(&self) -> Code {
        Code::from_i32(Self::code(self).number())
    }

    /// These texts hold their reasons already.
    fn text(&self) -> String {
        self.to_string()
    }
}

impl Answer for PeerError {
    fn code(&self) -> Code {
        match self {
            Self::Bundle(error) => error.code(),
            _ => Code::Unauthenticated,
        }
    }

    /// These texts hold their reasons already, and must not hold more.
    fn text(&self) -> String {
        self.to_string()
    }
}

impl Answer for AccessError {
    fn code(&self) -> Code {
        match self {
            Self::NoRule | Self::Agent { .. } => Code::PermissionDenied,
            Self::Lookup(error) | Self::Activate(error) => of_read(error),
        }
    }

    fn fault(&self) -> Option<AgentFault> {
        if let Self::Agent { fault, .. } = self { Some(*fault) } else { None }
    }
}

/// A store's error where the caller's own words may be what is wrong.
fn of_store(error: &StoreError) -> Code {
    match error {
        StoreError::NotFound(_) => Code::NotFound,
        StoreError::AlreadyExists(_) => Code::AlreadyExists,
        StoreError::Precondition(_) => Code::FailedPrecondition,
        other => of_read(other),
    }
}

/// A store's error where only a malformed page or filter is the caller's doing.
pub(crate) fn of_read(error: &StoreError) -> Code {
    match error {
        StoreError::Invalid(_) => Code::InvalidArgument,
        StoreError::Unavailable(_) => Code::Unavailable,
        _ => Code::Internal,
    }
}

/// A store's error where SPIRE calls even a malformed page token its own fault.
fn of_list(error: &StoreError) -> Code {
    match error {
        StoreError::Unavailable(_) => Code::Unavailable,
        _ => Code::Internal,
    }
}
