//! Upstream authorities that are tainted or revoked: by themselves, or by an operator.

use steeple_pki::x509::Certificate;
use steeple_pki::{Bundle, JwtAuthority};

use super::{CaManager, State};
use crate::error::{AuthorityError, RotationError, UpstreamRefused};
use crate::journal::SUBSYSTEM;
use crate::kind::{X509, X509Ca};
use crate::rotation::{Authority, Next, Rotation};

impl CaManager {
    /// Marks an upstream authority as tainted, by the hex SKI of its certificate, so that all
    /// under it is replaced.
    ///
    /// # Errors
    /// It is not the one above the old CA, or there is no upstream authority.
    pub async fn taint_upstream_authority(&self, id: &str) -> Result<String, AuthorityError> {
        let failed = |source| AuthorityError::TaintUpstreamFailed { source };
        let state = self.0.state.lock().await;
        let id = self.upstream_id(id)?;
        check_upstream(&state.x509, &id).map_err(AuthorityError::TaintUpstream)?;
        self.0.store.taint_x509(&id).await.map_err(|error| failed(error.into()))?;
        self.bundle_changed();
        self.tell_of_tainted(&id)
            .await
            .map_err(|source| AuthorityError::NotifyTainted { source })?;
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            subject_key_id = id,
            "X.509 upstream authority tainted successfully"
        );
        Ok(id)
    }

    /// Removes a tainted upstream authority from the trust bundle.
    ///
    /// # Errors
    /// It is not the one above the old CA or not tainted, or there is no upstream authority.
    pub async fn revoke_upstream_authority(&self, id: &str) -> Result<String, AuthorityError> {
        let failed = |source| AuthorityError::RevokeUpstreamFailed { source };
        let state = self.0.state.lock().await;
        let id = self.upstream_id(id)?;
        check_upstream(&state.x509, &id).map_err(AuthorityError::RevokeUpstream)?;
        self.0.store.revoke_x509(&id).await.map_err(|error| failed(error.into()))?;
        self.bundle_changed();
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            subject_key_id = id,
            "X.509 upstream authority successfully revoked"
        );
        Ok(id)
    }

    /// Publishes a JWT key: in the upstream's bundle where there is one, and in ours, which is
    /// the answer (SR-10).
    ///
    /// # Errors
    /// The upstream authority or the datastore fails.
    pub async fn publish_jwt_key(&self, key: JwtAuthority) -> Result<Bundle, RotationError> {
        if let Some(upstream) = &self.0.upstream {
            return upstream.publish_jwt_key(&key).await;
        }
        let mut addition = Bundle::new(self.0.config.trust_domain.clone());
        addition.set_jwt_authority(key);
        let bundle = self.0.store.append_bundle(addition).await?;
        self.bundle_changed();
        Ok(bundle)
    }

    /// The upstream calls these roots tainted: replaces what is under them, then marks them, then
    /// tells whoever has something signed by what was replaced (CA-13).
    ///
    /// # Errors
    /// A step failed, and none after it was taken.
    pub(crate) async fn replace_tainted(
        &self,
        tainted: &[Certificate],
    ) -> Result<(), RotationError> {
        let mut state = self.0.state.lock().await;
        let State { journal, x509, .. } = &mut *state;
        let now = self.0.clock.now();
        let current_is_under = is_under(x509.current(), tainted);
        let prepared = match x509.next() {
            Next::Prepared(prepared) => Some(prepared),
            _ => None,
        };
        let prepared_is_under = is_under(prepared, tainted);
        if current_is_under {
            tracing::info!(
                subsystem_name = SUBSYSTEM,
                "Current root CA is signed by a tainted upstream authority, preparing rotation"
            );
        }
        if prepared_is_under {
            tracing::info!(
                subsystem_name = SUBSYSTEM,
                "Next authority is tainted, prepare new X.509 authority"
            );
        }
        if prepared_is_under || (current_is_under && prepared.is_none()) {
            let action = x509.prepare(now).map_err(|_| RotationError::Initializing)?;
            self.drive::<X509>(x509, journal, Some(action)).await?;
        }
        if is_under(x509.current(), tainted)
            && let Next::Prepared(prepared) = x509.next()
        {
            let id = prepared.id().to_owned();
            let now = self.0.clock.now();
            let action = x509.activate(&id, now).map_err(|_| RotationError::Initializing)?;
            self.drive::<X509>(x509, journal, Some(action)).await?;
        }
        if is_under(x509.current(), tainted) {
            return Err(RotationError::StillTainted);
        }
        self.remember(&state);
        drop(state);
        for root in tainted {
            self.mark_tainted(root).await?;
        }
        self.bundle_changed();
        self.tell_all_tainted().await
    }

    /// Marks a root, unless it is marked already or gone.
    async fn mark_tainted(&self, root: &Certificate) -> Result<(), RotationError> {
        let bundle = self.0.store.bundle().await?;
        let stored = bundle.iter().flat_map(|bundle| &bundle.x509_authorities);
        let Some(stored) = stored.into_iter().find(|stored| stored.certificate == *root) else {
            return Ok(());
        };
        if !stored.tainted {
            self.0.store.taint_x509(&root.authority_id()).await?;
        }
        Ok(())
    }

    /// The id in the form that certificates have it.
    fn upstream_id(&self, id: &str) -> Result<String, AuthorityError> {
        if self.0.upstream.is_none() {
            return Err(AuthorityError::NoUpstream);
        }
        Ok(id.to_lowercase())
    }
}

fn is_under(ca: Option<&X509Ca>, roots: &[Certificate]) -> bool {
    ca.is_some_and(|ca| ca.is_under(roots))
}

fn check_upstream(rotation: &Rotation<X509Ca>, id: &str) -> Result<(), UpstreamRefused> {
    let above = |ca: &X509Ca| ca.upstream_id() == id;
    match rotation.next() {
        _ if id.is_empty() => Err(UpstreamRefused::NoId),
        _ if rotation.current().is_some_and(above) => Err(UpstreamRefused::Current),
        Next::Old(old) if above(old) => Ok(()),
        Next::Prepared(prepared) if above(prepared) => Err(UpstreamRefused::NotOld),
        _ => Err(UpstreamRefused::NotAboveOld),
    }
}
