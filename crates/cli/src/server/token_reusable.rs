//! `token create|list|revoke`: join tokens that may be used more than once, which are ours.

use std::fmt::Write as _;

use async_trait::async_trait;
use steeple_proto::steeple::server::jointoken::v1::join_token_client::JoinTokenClient;
use steeple_proto::steeple::server::jointoken::v1::{
    CreateJoinTokenRequest, ListJoinTokensRequest, ListJoinTokensResponse, RevokeJoinTokenRequest,
    Token,
};

use super::SOCKET;
use super::entry_text::selectors;
use crate::dispatch::{Failure, Verb};
use crate::gofmt;
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) struct Create;
pub(super) struct List;
pub(super) struct Revoke;

/// Well under the message limit whatever the tokens carry.
const PAGE_SIZE: i32 = 100;

#[async_trait]
impl Verb for Create {
    fn path(&self) -> &'static str {
        "token create"
    }

    fn usage_name(&self) -> &'static str {
        "create"
    }

    fn synopsis(&self) -> &'static str {
        "Creates a join token with which nodes join, and come back after a reboot"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        flags.integer("ttl", 600, "Token TTL in seconds, for all that is done with it");
        flags.integer("joinTTL", 0, "TTL in seconds for nodes that join; as long as -ttl if 0");
        flags.integer("uses", 1, "How many nodes may join");
        flags.repeated("cidr", "A range of addresses to join from. Can be used more than once");
        flags.repeated(
            "selector",
            "A type:value selector of the agents that join. Can be used more than once",
        );
        flags.text("description", "", "What the token is for (optional)");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let uses = flags.int("uses");
        let max_uses = u32::try_from(uses).ok().filter(|uses| *uses > 0);
        let request = CreateJoinTokenRequest {
            ttl: flags.int("ttl"),
            join_ttl: flags.int("joinTTL"),
            max_uses: max_uses.ok_or_else(|| Failure(format!("invalid value for uses: {uses}")))?,
            cidrs: flags.list("cidr"),
            selectors: selectors(&flags.list("selector"))?,
            description: flags.str("description").to_owned(),
        };
        let mut client = JoinTokenClient::new(SOCKET.channel(flags, env)?);
        let created = client.create_join_token(request).await?.into_inner();
        if Output::of(flags).is_json() {
            let name = "steeple.server.jointoken.v1.CreateJoinTokenResponse";
            env.out(&proto_line(&Named(name, &created))?);
            return Ok(());
        }
        env.out(&format!("Token: {}\n", created.value));
        env.out(&format!("ID: {}\n", created.token.unwrap_or_default().id));
        Ok(())
    }
}

#[async_trait]
impl Verb for List {
    fn path(&self) -> &'static str {
        "token list"
    }

    fn usage_name(&self) -> &'static str {
        "list"
    }

    fn synopsis(&self) -> &'static str {
        "Lists join tokens made by create"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let mut client = JoinTokenClient::new(SOCKET.channel(flags, env)?);
        let mut tokens = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListJoinTokensRequest { page_size: PAGE_SIZE, page_token };
            let page = client.list_join_tokens(request).await?.into_inner();
            tokens.extend(page.tokens);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        if Output::of(flags).is_json() {
            let response = ListJoinTokensResponse { tokens, next_page_token: String::new() };
            let name = "steeple.server.jointoken.v1.ListJoinTokensResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        let found = gofmt::plural(tokens.len(), "join token", "join tokens");
        env.out(&format!("Found {found}\n"));
        for token in &tokens {
            env.out(&text(token));
        }
        Ok(())
    }
}

#[async_trait]
impl Verb for Revoke {
    fn path(&self) -> &'static str {
        "token revoke"
    }

    fn usage_name(&self) -> &'static str {
        "revoke"
    }

    fn synopsis(&self) -> &'static str {
        "Revokes a join token made by create; agents stay until their SVIDs end"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        flags.text("id", "", "The ID of the token, as create and list tell it");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let id = flags.str("id");
        if id.is_empty() {
            return Err("a token ID is required".into());
        }
        let request = RevokeJoinTokenRequest { id: id.to_owned() };
        JoinTokenClient::new(SOCKET.channel(flags, env)?).revoke_join_token(request).await?;
        let json = Output::of(flags).is_json();
        env.out(if json { "{}\n" } else { "Join token revoked successfully\n" });
        Ok(())
    }
}

/// The lines of one token, with the empty line before it.
fn text(token: &Token) -> String {
    let mut text = String::from("\n");
    let mut line = |label: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{label:18}: {value}");
    };
    line("ID", &token.id);
    if !token.description.is_empty() {
        line("Description", &token.description);
    }
    line("Created", &gofmt::local_seconds(token.created_at));
    line("Expiration time", &gofmt::local_seconds(token.expires_at));
    if token.joins_until != token.expires_at {
        line("Joins until", &gofmt::local_seconds(token.joins_until));
    }
    line("Nodes joined", &format_args!("{} of {}", token.uses, token.max_uses));
    for cidr in &token.cidrs {
        line("CIDR", cidr);
    }
    for selector in &token.selectors {
        line("Selector", &format_args!("{}:{}", selector.r#type, selector.value));
    }
    text
}
