//! The server's own authorities, in an operator's hands.

use steeple_ca::{AuthorityError, AuthorityKind, AuthorityState, AuthorityStates, CaManager};

use crate::access::Operator;
use crate::bundles::Bundles;

/// The use cases about local authorities: the CA manager's, behind the proof of a right to them.
pub struct Authorities {
    manager: CaManager,
    bundles: Bundles,
}

impl Authorities {
    /// The authorities of `manager`; `bundles` is told to look again when they change.
    #[must_use]
    pub fn new(manager: CaManager, bundles: Bundles) -> Self {
        Self { manager, bundles }
    }

    /// Looks at the authorities of a kind.
    ///
    /// # Errors
    /// See [`CaManager::authorities`].
    pub async fn states(
        &self,
        _operator: &Operator,
        kind: AuthorityKind,
    ) -> Result<AuthorityStates, AuthorityError> {
        self.manager.authorities(kind).await
    }

    /// Prepares the next authority.
    ///
    /// # Errors
    /// See [`CaManager::prepare_authority`].
    pub async fn prepare(
        &self,
        _operator: &Operator,
        kind: AuthorityKind,
    ) -> Result<AuthorityState, AuthorityError> {
        let prepared = self.manager.prepare_authority(kind).await;
        self.bundles.forget();
        prepared
    }

    /// Lets the prepared authority take over.
    ///
    /// # Errors
    /// See [`CaManager::activate_authority`].
    pub async fn activate(
        &self,
        _operator: &Operator,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<AuthorityState, AuthorityError> {
        self.manager.activate_authority(kind, id).await
    }

    /// Marks the old authority as tainted.
    ///
    /// # Errors
    /// See [`CaManager::taint_authority`].
    pub async fn taint(
        &self,
        _operator: &Operator,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<AuthorityState, AuthorityError> {
        let tainted = self.manager.taint_authority(kind, id).await;
        self.bundles.forget();
        tainted
    }

    /// Marks the upstream authority above the old CA as tainted; answers its id.
    ///
    /// # Errors
    /// See [`CaManager::taint_upstream_authority`].
    pub async fn taint_upstream(
        &self,
        _operator: &Operator,
        id: &str,
    ) -> Result<String, AuthorityError> {
        let tainted = self.manager.taint_upstream_authority(id).await;
        self.bundles.forget();
        tainted
    }

    /// Removes a tainted upstream authority from the trust bundle; answers its id.
    ///
    /// # Errors
    /// See [`CaManager::revoke_upstream_authority`].
    pub async fn revoke_upstream(
        &self,
        _operator: &Operator,
        id: &str,
    ) -> Result<String, AuthorityError> {
        let revoked = self.manager.revoke_upstream_authority(id).await;
        self.bundles.forget();
        revoked
    }

    /// Removes a tainted authority from the trust bundle.
    ///
    /// # Errors
    /// See [`CaManager::revoke_authority`].
    pub async fn revoke(
        &self,
        _operator: &Operator,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<(), AuthorityError> {
        let revoked = self.manager.revoke_authority(kind, id).await;
        self.bundles.forget();
        revoked
    }
}
