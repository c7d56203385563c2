//! What an operator may do by hand: look, prepare, activate, taint, revoke (CA-14).

use std::sync::Arc;
use std::time::SystemTime;

use steeple_pki::Bundle;
use steeple_pki::x509::Certificate;

use super::{CaManager, State};
use crate::error::{AuthorityError, AuthorityStoreError, RevokeRefused, RotationError};
use crate::journal::SUBSYSTEM;
use crate::kind::{Jwt, Kind, X509};
use crate::rotation::{Action, Authority, Next, Rotation};

/// Which authorities a request is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthorityKind {
    /// X.509 CAs.
    X509,
    /// JWT keys.
    Jwt,
}

/// One authority, as an operator sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthorityState {
    /// Hex SKI or `kid`.
    pub authority_id: String,
    /// When it expires.
    pub expires_at: SystemTime,
    /// Hex SKI of the upstream authority that signed it; empty when there is none.
    pub upstream_authority_id: String,
}

/// The authorities of a kind. Never both `prepared` and `old`: there are two slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthorityStates {
    /// In use.
    pub active: AuthorityState,
    /// Waiting for its turn.
    pub prepared: Option<AuthorityState>,
    /// In use before the active one.
    pub old: Option<AuthorityState>,
}

/// The authorities of every kind, as they were when somebody last looked.
#[derive(Default)]
pub(super) struct View {
    x509: Option<AuthorityStates>,
    jwt: Option<AuthorityStates>,
}

impl CaManager {
    /// Looks at the authorities of a kind.
    ///
    /// # Errors
    /// There is none yet, or the kind is disabled.
    pub async fn authorities(
        &self,
        kind: AuthorityKind,
    ) -> Result<AuthorityStates, AuthorityError> {
        if kind == AuthorityKind::Jwt && self.0.config.disable_jwt {
            return Err(AuthorityError::JwtDisabled);
        }
        // Whoever is at work may be waiting for an upstream authority.
        if let Ok(state) = self.0.state.try_lock() {
            self.remember(&state);
        }
        let view = self.0.view.load();
        let states = match kind {
            AuthorityKind::X509 => &view.x509,
            AuthorityKind::Jwt => &view.jwt,
        };
        states.clone().ok_or(AuthorityError::Initializing)
    }

    /// Keeps what there is to see.
    pub(super) fn remember(&self, state: &State) {
        let jwt = state.jwt.as_ref().and_then(|jwt| states(jwt).ok());
        self.0.view.store(Arc::new(View { x509: states(&state.x509).ok(), jwt }));
    }

    /// Prepares an authority now, in place of one that is prepared already.
    ///
    /// # Errors
    /// There is no active one yet, or a step failed (it is taken again by the next tick).
    pub async fn prepare_authority(
        &self,
        kind: AuthorityKind,
    ) -> Result<AuthorityState, AuthorityError> {
        let mut state = self.0.state.lock().await;
        let State { journal, x509, jwt, .. } = &mut *state;
        let now = self.0.clock.now();
        let prepared = match kind {
            AuthorityKind::X509 => {
                let action = x509.prepare(now)?;
                self.drive_for::<X509>("prepare", x509, journal, action).await?;
                prepared(x509)
            }
            AuthorityKind::Jwt => {
                let jwt = jwt.as_mut().ok_or(AuthorityError::JwtDisabled)?;
                let action = jwt.prepare(now)?;
                self.drive_for::<Jwt>("prepare", jwt, journal, action).await?;
                prepared(jwt)
            }
        };
        self.remember(&state);
        // Preparing may have ended in taking over at once, when that was overdue.
        match prepared {
            Some(prepared) => Ok(prepared),
            None => Ok(self.active(&state, kind)),
        }
    }

    /// Lets the prepared authority take over now.
    ///
    /// # Errors
    /// The id is not that of a prepared authority (TE-16, TE-17), or the journal could not be
    /// written, in which case nothing has changed.
    pub async fn activate_authority(
        &self,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<AuthorityState, AuthorityError> {
        let mut state = self.0.state.lock().await;
        let State { journal, x509, jwt, .. } = &mut *state;
        let now = self.0.clock.now();
        match kind {
            AuthorityKind::X509 => {
                let action = x509.activate(id, now)?;
                self.drive_for::<X509>("activate", x509, journal, action).await?;
            }
            AuthorityKind::Jwt => {
                let jwt = jwt.as_mut().ok_or(AuthorityError::JwtDisabled)?;
                let action = jwt.activate(id, now)?;
                self.drive_for::<Jwt>("activate", jwt, journal, action).await?;
            }
        }
        self.remember(&state);
        Ok(self.active(&state, kind))
    }

    /// Marks the old authority as tainted, so that all it signed is replaced (CA-15).
    ///
    /// # Errors
    /// The id is not that of the old authority (TE-16, TE-18), or the datastore failed.
    pub async fn taint_authority(
        &self,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<AuthorityState, AuthorityError> {
        let state = self.0.state.lock().await;
        let store = &self.0.store;
        let tainted = match kind {
            AuthorityKind::X509 if self.0.upstream.is_some() => {
                return Err(AuthorityError::HasUpstream { verb: "tainted" });
            }
            AuthorityKind::X509 => {
                let old = state_of(state.x509.check_taint(id)?);
                store.taint_x509(id).await.map_err(|error| failed::<X509>("taint", error))?;
                self.tell_of_tainted(id).await.map_err(|source| AuthorityError::Failed {
                    verb: "taint",
                    kind: X509::API_NAME,
                    source,
                })?;
                old
            }
            AuthorityKind::Jwt => {
                let jwt = state.jwt.as_ref().ok_or(AuthorityError::JwtDisabled)?;
                let old = state_of(jwt.check_taint(id)?);
                store.taint_jwt(id).await.map_err(|error| failed::<Jwt>("taint", error))?;
                old
            }
        };
        self.bundle_changed();
        log_done(kind, id, "tainted");
        Ok(tainted)
    }

    /// Removes a tainted authority from the trust bundle.
    ///
    /// # Errors
    /// The authority is in use or prepared, or not tainted, or the datastore failed.
    pub async fn revoke_authority(
        &self,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<(), AuthorityError> {
        let state = self.0.state.lock().await;
        let store = &self.0.store;
        match kind {
            AuthorityKind::X509 if self.0.upstream.is_some() => {
                return Err(AuthorityError::HasUpstream { verb: "revoked" });
            }
            AuthorityKind::X509 => {
                check_revoke_x509(&state.x509, id).map_err(AuthorityError::Revoke)?;
                store.revoke_x509(id).await.map_err(|error| failed::<X509>("revoke", error))?;
            }
            AuthorityKind::Jwt => {
                let jwt = state.jwt.as_ref().ok_or(AuthorityError::JwtDisabled)?;
                let bundle =
                    store.bundle().await.map_err(|error| failed::<Jwt>("revoke", error))?;
                check_revoke_jwt(jwt, id, bundle.as_ref()).map_err(AuthorityError::Revoke)?;
                store.revoke_jwt(id).await.map_err(|error| failed::<Jwt>("revoke", error))?;
            }
        }
        self.bundle_changed();
        log_done(kind, id, "revoked");
        Ok(())
    }

    async fn drive_for<K: Kind>(
        &self,
        verb: &'static str,
        rotation: &mut Rotation<K::Authority>,
        journal: &mut crate::journal::Journal,
        action: Action<K::Authority>,
    ) -> Result<(), AuthorityError> {
        self.drive::<K>(rotation, journal, Some(action))
            .await
            .map_err(|source| AuthorityError::Failed { verb, kind: K::API_NAME, source })
    }

    fn active(&self, state: &State, kind: AuthorityKind) -> AuthorityState {
        match kind {
            AuthorityKind::X509 => state.x509.current().map(state_of),
            AuthorityKind::Jwt => state.jwt.as_ref().and_then(|jwt| jwt.current()).map(state_of),
        }
        .expect("it has just taken over")
    }

    pub(super) async fn tell_of_tainted(&self, id: &str) -> Result<(), RotationError> {
        let bundle = self.0.store.bundle().await?;
        let tainted = tainted_in(bundle.as_ref());
        if !tainted.iter().any(|root| root.authority_id() == id) {
            return Err(RotationError::NoTaintedRoot(id.to_owned()));
        }
        self.0.tainted.send_replace(tainted);
        Ok(())
    }

    pub(super) async fn tell_all_tainted(&self) -> Result<(), RotationError> {
        let bundle = self.0.store.bundle().await?;
        self.0.tainted.send_replace(tainted_in(bundle.as_ref()));
        Ok(())
    }

    pub(super) fn bundle_changed(&self) {
        self.0.bundle_updates.send_modify(|count| *count += 1);
    }
}

fn tainted_in(bundle: Option<&Bundle>) -> Arc<[Certificate]> {
    let roots = bundle.into_iter().flat_map(|bundle| &bundle.x509_authorities);
    roots.filter(|root| root.tainted).map(|root| root.certificate.clone()).collect()
}

fn states<A: Authority>(rotation: &Rotation<A>) -> Result<AuthorityStates, AuthorityError> {
    let active = state_of(rotation.current().ok_or(AuthorityError::Initializing)?);
    let (prepared, old) = match rotation.next() {
        Next::Empty => (None, None),
        Next::Prepared(prepared) => (Some(state_of(prepared)), None),
        Next::Old(old) => (None, Some(state_of(old))),
    };
    Ok(AuthorityStates { active, prepared, old })
}

fn prepared<A: Authority>(rotation: &Rotation<A>) -> Option<AuthorityState> {
    match rotation.next() {
        Next::Prepared(prepared) => Some(state_of(prepared)),
        _ => None,
    }
}

fn state_of<A: Authority>(authority: &A) -> AuthorityState {
    AuthorityState {
        authority_id: authority.id().to_owned(),
        expires_at: authority.not_after(),
        upstream_authority_id: authority.upstream_id().to_owned(),
    }
}

fn check_revoke_x509<A: Authority>(rotation: &Rotation<A>, id: &str) -> Result<(), RevokeRefused> {
    match rotation.next() {
        _ if id.is_empty() => Err(RevokeRefused::NoAuthorityId),
        _ if rotation.current().is_some_and(|current| current.id() == id) => {
            Err(RevokeRefused::Current)
        }
        Next::Old(old) if old.id() == id => Ok(()),
        _ => Err(RevokeRefused::NotOld),
    }
}

fn check_revoke_jwt<A: Authority>(
    rotation: &Rotation<A>,
    id: &str,
    bundle: Option<&Bundle>,
) -> Result<(), RevokeRefused> {
    let published = |bundle: &Bundle| bundle.jwt_authorities.iter().any(|key| key.key_id == id);
    match rotation.next() {
        _ if id.is_empty() => Err(RevokeRefused::NoAuthorityId),
        Next::Prepared(prepared) if prepared.id() == id => Err(RevokeRefused::Prepared),
        Next::Old(old) if old.id() == id => Ok(()),
        _ if rotation.current().is_some_and(|current| current.id() == id) => {
            Err(RevokeRefused::Current)
        }
        _ if bundle.is_some_and(published) => Ok(()),
        _ => Err(RevokeRefused::Unknown),
    }
}

fn failed<K: Kind>(verb: &'static str, error: AuthorityStoreError) -> AuthorityError {
    AuthorityError::Failed { verb, kind: K::API_NAME, source: error.into() }
}

fn log_done(kind: AuthorityKind, id: &str, verb: &str) {
    let name = match kind {
        AuthorityKind::X509 => X509::API_NAME,
        AuthorityKind::Jwt => Jwt::API_NAME,
    };
    tracing::info!(
        subsystem_name = SUBSYSTEM,
        local_authority_id = id,
        "{name} authority {verb} successfully"
    );
}
