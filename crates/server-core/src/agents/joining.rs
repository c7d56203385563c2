//! Joining by a token: SPIRE's, which are good for one use, and ours, which are good for several.

use std::time::{Duration, SystemTime};

use steeple_spiffe::{IdError, Selector, SpiffeId, TrustDomain};
use steeple_store::model::{JoinAttempt, JoinToken, NewEntry, TokenBearer};
use steeple_store::{JoinTokenError, StoreError};

use super::{AgentError, AgentSvid, Agents, Evidence, JOIN_TOKEN, JoinTokenRequest, Proven};
use crate::access::Operator;
use crate::ids;
use crate::time::unix_seconds;
use crate::tokens::{PREFIX, Presented, may_come_from, new_node};

impl Agents {
    /// Makes a join token, and the alias of the agent that will use it.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn create_join_token(
        &self,
        _operator: &Operator,
        request: JoinTokenRequest,
        now: SystemTime,
    ) -> Result<JoinToken, AgentError> {
        let ttl =
            u64::try_from(request.ttl).ok().filter(|ttl| *ttl > 0).ok_or(AgentError::NoTtl)?;
        let alias_id = match &request.agent_id {
            Some(raw) => {
                Some(ids::workload(&self.trust_domain, Some(raw)).map_err(AgentError::Id)?)
            }
            None => None,
        };
        let token = match request.token {
            token if token.is_empty() => uuid::Uuid::new_v4().to_string(),
            token => token,
        };
        // One of ours would be taken for a token that is not there.
        if token.starts_with(PREFIX) {
            return Err(AgentError::ReservedToken);
        }
        // A token that cannot become part of an agent's ID could never be used.
        let agent_id = join_token_id(&self.trust_domain, &token).map_err(AgentError::BadToken)?;
        let alias = alias_id.map(|alias_id| {
            let own = Selector::new("spiffe_id", agent_id.as_str());
            NewEntry::new(alias_id, agent_id.clone(), vec![own])
        });
        let expires_at = unix_seconds(now + Duration::from_secs(ttl));
        let token = JoinToken { token, expires_at };
        self.store
            .create_join_token(token.clone(), alias)
            .await
            .map_err(AgentError::CreateToken)?;
        self.index.refresh().await;
        Ok(token)
    }

    /// The token is spent in the transaction that records the node, so that of any number of
    /// simultaneous attempts one succeeds and the others learn the same as a latecomer.
    pub(super) async fn attest_by_join_token(
        &self,
        evidence: Evidence,
        address: &str,
        now: SystemTime,
    ) -> Result<AgentSvid, AgentError> {
        let token = String::from_utf8(evidence.payload).ok();
        let token = token.ok_or(AgentError::UnknownJoinToken)?;
        if let Some(presented) = Presented::parse(&token) {
            return self.attest_by_reusable_token(presented, evidence.csr, address, now).await;
        }
        // A look before the work: without a token, no signature is made.
        let id = join_token_id(&self.trust_domain, &token);
        let known = match &id {
            Ok(id) => self.store.fetch_join_attempt(&token, id).await,
            // It names no agent that could be banned.
            Err(_) => self
                .store
                .fetch_join_token(&token)
                .await
                .map(|token| token.map(|token| JoinAttempt { token, is_banned: false })),
        };
        let known = known.map_err(AgentError::FetchToken)?.ok_or(AgentError::UnknownJoinToken)?;
        if known.token.expires_at < unix_seconds(now) {
            return self.discard(&token, AgentError::ExpiredJoinToken).await;
        }
        let id = id.map_err(AgentError::JoinTokenId)?;
        if known.is_banned {
            return self.discard(&token, AgentError::Banned(id)).await;
        }
        let proven = Proven { id, selectors: Vec::new(), can_reattest: false };
        self.admit(JOIN_TOKEN, &[], &proven.id, &proven.selectors)?;
        let chain = self.sign(proven.id.clone(), evidence.csr, now).await?;
        let node = self.node(&proven, JOIN_TOKEN, &chain);
        match self.store.attest_with_join_token(node, &token, now).await {
            Ok(_recorded) => {}
            Err(error) => return Err(refusal(error, proven.id)),
        }
        self.index.refresh().await;
        Ok(AgentSvid { id: proven.id, chain, can_reattest: false })
    }

    /// Deletes a token that can no longer succeed; whoever lost the race for it learns that.
    async fn discard(&self, token: &str, reason: AgentError) -> Result<AgentSvid, AgentError> {
        match self.store.delete_join_token(token).await {
            Ok(()) => Err(reason),
            Err(StoreError::NotFound(_)) => Err(AgentError::UnknownJoinToken),
            Err(error) => Err(AgentError::FetchToken(error)),
        }
    }

    /// A node that brought something to be known by comes back as the agent that it was, and is
    /// counted once; one that did not (an agent of SPIRE's) is a new agent each time.
    async fn attest_by_reusable_token(
        &self,
        presented: Presented,
        csr: Vec<u8>,
        address: &str,
        now: SystemTime,
    ) -> Result<AgentSvid, AgentError> {
        let token = self.store.fetch_reusable_token(&presented.id).await;
        let token = token.map_err(AgentError::FetchToken)?.filter(|it| presented.is_of(it));
        let token = token.ok_or(AgentError::UnknownJoinToken)?;
        if token.expires_at < unix_seconds(now) {
            return Err(AgentError::ExpiredJoinToken);
        }
        if !may_come_from(&token, address) {
            return Err(AgentError::JoinTokenAddress);
        }
        if presented.node.is_none() && token.uses >= token.max_uses {
            return Err(AgentError::UsedUpJoinToken);
        }
        let can_reattest = presented.node.is_some();
        let name = presented.node.clone().unwrap_or_else(new_node);
        let path = ["spire", "agent", JOIN_TOKEN, &token.id, &name];
        let id = SpiffeId::from_segments(&self.trust_domain, &path);
        let id = id.map_err(AgentError::JoinTokenId)?;
        self.check_not_banned(&id).await?;
        let mut selectors = token.selectors;
        selectors.push(Selector::new(JOIN_TOKEN, &format!("id:{}", token.id)));
        let proven = Proven { id, selectors, can_reattest };
        self.admit(JOIN_TOKEN, &[], &proven.id, &proven.selectors)?;
        let chain = self.sign(proven.id.clone(), csr, now).await?;
        let node = self.node(&proven, JOIN_TOKEN, &chain);
        let bearer = TokenBearer {
            token_id: &presented.id,
            digest: &presented.digest,
            node: presented.node.as_deref(),
        };
        match self.store.attest_with_reusable_token(node, bearer, now).await {
            Ok(_recorded) => {}
            Err(JoinTokenError::UsedUp) => return Err(AgentError::UsedUpJoinToken),
            Err(other) => return Err(refusal(other, proven.id)),
        }
        self.index.refresh().await;
        Ok(AgentSvid { id: proven.id, chain, can_reattest })
    }
}

fn refusal(error: JoinTokenError, id: SpiffeId) -> AgentError {
    match error {
        JoinTokenError::Unknown => AgentError::UnknownJoinToken,
        JoinTokenError::Expired => AgentError::ExpiredJoinToken,
        JoinTokenError::Banned => AgentError::Banned(id),
        JoinTokenError::Store(error) => AgentError::Record(error),
        other => AgentError::Record(StoreError::Internal(other.to_string())),
    }
}

fn join_token_id(trust_domain: &TrustDomain, token: &str) -> Result<SpiffeId, IdError> {
    SpiffeId::from_segments(trust_domain, &["spire", "agent", JOIN_TOKEN, token])
}
