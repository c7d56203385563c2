//! `steeple.server.jointoken.v1.JoinToken`: join tokens that may be used more than once.

use steeple_proto::steeple::server::jointoken::v1 as pb;
use steeple_server_core::tokens::{TokenError, TokenRequest, Tokens};
use steeple_store::model::ReusableToken;
use tonic::{Code, Request, Response, Status};

use crate::call::{Call, log_call};
use crate::convert::{page, raw_selectors, selector_messages};
use crate::status::{Answer, of_read};

/// The JoinToken service.
pub(crate) struct TokenService {
    pub(crate) tokens: Tokens,
}

impl Answer for TokenError {
    fn code(&self) -> Code {
        match self {
            Self::NoTtl
            | Self::LongTtl
            | Self::JoinTtl
            | Self::Uses
            | Self::Cidr(..)
            | Self::Cidrs
            | Self::Selectors(_)
            | Self::ManySelectors
            | Self::SelectorText(_)
            | Self::SelectorType(_)
            | Self::Description => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
            Self::Create(error) | Self::List(error) | Self::Revoke(error) => of_read(error),
        }
    }
}

#[tonic::async_trait]
impl pb::join_token_server::JoinToken for TokenService {
    async fn create_join_token(
        &self,
        request: Request<pb::CreateJoinTokenRequest>,
    ) -> Result<Response<pb::CreateJoinTokenResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let wish = TokenRequest {
            ttl: request.ttl,
            join_ttl: request.join_ttl,
            max_uses: request.max_uses,
            cidrs: request.cidrs,
            selectors: raw_selectors(request.selectors),
            description: request.description,
        };
        let created = self.tokens.create(call.operator()?, wish, call.now()).await;
        let (value, token) = created.map_err(|error| call.fail(&error))?;
        call.note(|fields| fields.text("join_token_id", &token.id));
        log_call!(info, call, { join_token_id = token.id, }, "Join token created");
        let response =
            pb::CreateJoinTokenResponse { value: value.into_inner(), token: Some(message(token)) };
        Ok(Response::new(response))
    }

    async fn list_join_tokens(
        &self,
        request: Request<pb::ListJoinTokensRequest>,
    ) -> Result<Response<pb::ListJoinTokensResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let page = page(request.page_size, request.page_token);
        let listed = self.tokens.list(call.operator()?, page).await;
        let (tokens, next) = listed.map_err(|error| call.fail(&error))?;
        Ok(Response::new(pb::ListJoinTokensResponse {
            tokens: tokens.into_iter().map(message).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<pb::RevokeJoinTokenRequest>,
    ) -> Result<Response<pb::RevokeJoinTokenResponse>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().id;
        let revoked = self.tokens.revoke(call.operator()?, &id).await;
        revoked.map_err(|error| call.fail(&error))?;
        call.note(|fields| fields.text("join_token_id", &id));
        log_call!(info, call, { join_token_id = id, }, "Join token revoked");
        Ok(Response::new(pb::RevokeJoinTokenResponse {}))
    }
}

fn message(token: ReusableToken) -> pb::Token {
    pb::Token {
        id: token.id,
        description: token.description,
        created_at: token.created_at,
        expires_at: token.expires_at,
        joins_until: token.joins_until,
        max_uses: token.max_uses,
        uses: token.uses,
        selectors: selector_messages(&token.selectors),
        cidrs: token.cidrs,
    }
}
