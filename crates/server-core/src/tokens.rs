//! Join tokens that may be used more than once (ours): made, listed, revoked, read.
//!
//! `sjt_<id>_<secret>`, or what an agent makes of it: `sjt_<id>_<secret>.<node>`. The id is
//! public. The secret is 256 random bits, of which the datastore has a digest. The node's part is
//! of the agent's making, and what the agent comes back by.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_pki::{digest, envelope};
use steeple_runtime::Secret;
use steeple_runtime::ip_range::{IpRange, NotARange};
use steeple_spiffe::Selector;
use steeple_store::model::{Page, ReusableToken};
use steeple_store::{Store, StoreError};

use crate::access::Operator;
use crate::agents::COMPOSITE;
use crate::entries::{EntryRule, RawSelector, selectors};
use crate::time::unix_seconds;

/// What tokens of ours begin with; SPIRE's are UUIDs, or what an operator chose.
pub const PREFIX: &str = "sjt_";

const ID_LEN: usize = 16;
const SECRET_LEN: usize = 43;
const SHORTEST_NODE: usize = 16;
const LONGEST_NODE: usize = 128;

/// A hundred years.
const LONGEST_TTL: i64 = 100 * 366 * 24 * 60 * 60;
const MOST_USES: u32 = 1_000_000;
const MOST_IN_A_LIST: usize = 64;
const LONGEST_VALUE: usize = 255;
const LONGEST_DESCRIPTION: usize = 200;

/// Why nothing was made, listed or revoked.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum TokenError {
    #[error("ttl is required, you must provide one")]
    NoTtl,
    #[error("ttl is too long (max {LONGEST_TTL} seconds)")]
    LongTtl,
    #[error("nodes cannot join for longer than the token lives")]
    JoinTtl,
    #[error("too many uses (max {MOST_USES})")]
    Uses,
    #[error("failed to parse CIDR {0}")]
    Cidr(usize, #[source] NotARange),
    #[error("too many CIDRs (max {MOST_IN_A_LIST})")]
    Cidrs,
    #[error("failed to parse selectors")]
    Selectors(#[source] EntryRule),
    #[error("too many selectors (max {MOST_IN_A_LIST})")]
    ManySelectors,
    #[error("selector {0} is too long, or of more than one line")]
    SelectorText(usize),
    #[error("selectors of type {0} are not a token's to give")]
    SelectorType(String),
    #[error("description is too long (max {LONGEST_DESCRIPTION} bytes), or of more than one line")]
    Description,
    #[error("join token not found")]
    NotFound,
    #[error("failed to create join token")]
    Create(#[source] StoreError),
    #[error("failed to list join tokens")]
    List(#[source] StoreError),
    #[error("failed to revoke join token")]
    Revoke(#[source] StoreError),
}

/// A wish for a token.
#[derive(Clone, Debug, Default)]
pub struct TokenRequest {
    /// Lifetime in seconds; required.
    pub ttl: i64,
    /// For how many seconds nodes may join; 0 = for as long as the token lives.
    pub join_ttl: i64,
    /// How many nodes may join; 0 = one.
    pub max_uses: u32,
    /// The addresses that they may come from; none is all.
    pub cidrs: Vec<String>,
    /// What their agents have.
    pub selectors: Vec<RawSelector>,
    /// The operator's words.
    pub description: String,
}

/// The use cases of operators.
pub struct Tokens {
    store: Arc<dyn Store>,
    /// Types of selectors that something else vouches for.
    reserved: Vec<String>,
}

impl Tokens {
    /// `attestors` are the names of the node attestors, whose selectors a token cannot give.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, attestors: impl IntoIterator<Item = String>) -> Self {
        // A composite's tell the server whose evidence has counted, here or on a server beside.
        let own = ["join_token", "spiffe_id", COMPOSITE].map(str::to_owned);
        Self { store, reserved: attestors.into_iter().chain(own).collect() }
    }

    /// Makes a token; it is never said again.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn create(
        &self,
        _operator: &Operator,
        request: TokenRequest,
        now: SystemTime,
    ) -> Result<(Secret<String>, ReusableToken), TokenError> {
        let (id, secret) = fresh();
        let mut token = self.check(request, now)?;
        token.digest = digest_of(&id, &secret);
        token.id = id;
        self.store.create_reusable_token(token.clone()).await.map_err(TokenError::Create)?;
        let value = Secret::new(format!("{PREFIX}{}_{secret}", token.id));
        Ok((value, token))
    }

    /// The tokens, and the token of the next page.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn list(
        &self,
        _operator: &Operator,
        page: Option<Page>,
    ) -> Result<(Vec<ReusableToken>, Option<String>), TokenError> {
        self.store.list_reusable_tokens(page.as_ref()).await.map_err(TokenError::List)
    }

    /// Lets nobody in any more by this token, nor back.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn revoke(&self, _operator: &Operator, id: &str) -> Result<(), TokenError> {
        if !is_id(id) {
            return Err(TokenError::NotFound);
        }
        match self.store.delete_reusable_token(id).await {
            Ok(()) => Ok(()),
            Err(StoreError::NotFound(_)) => Err(TokenError::NotFound),
            Err(error) => Err(TokenError::Revoke(error)),
        }
    }

    /// The token that is wished for, without id and digest.
    fn check(&self, request: TokenRequest, now: SystemTime) -> Result<ReusableToken, TokenError> {
        let ttl = Some(request.ttl).filter(|ttl| *ttl > 0).ok_or(TokenError::NoTtl)?;
        if ttl > LONGEST_TTL {
            return Err(TokenError::LongTtl);
        }
        let join_ttl = if request.join_ttl == 0 { ttl } else { request.join_ttl };
        if !(1..=ttl).contains(&join_ttl) {
            return Err(TokenError::JoinTtl);
        }
        if request.max_uses > MOST_USES {
            return Err(TokenError::Uses);
        }
        if request.cidrs.len() > MOST_IN_A_LIST {
            return Err(TokenError::Cidrs);
        }
        let ranges = request.cidrs.iter().enumerate().map(|(index, text)| {
            text.parse::<IpRange>().map_err(|error| TokenError::Cidr(index + 1, error))
        });
        let ranges = ranges.collect::<Result<Vec<_>, _>>()?;
        let selectors = self.check_selectors(&request.selectors)?;
        let description = request.description;
        if description.len() > LONGEST_DESCRIPTION || description.contains(char::is_control) {
            return Err(TokenError::Description);
        }
        let after = |seconds: i64| unix_seconds(now + Duration::from_secs(seconds.cast_unsigned()));
        Ok(ReusableToken {
            id: String::new(),
            digest: [0; 32],
            description,
            created_at: unix_seconds(now),
            expires_at: after(ttl),
            joins_until: after(join_ttl),
            max_uses: request.max_uses.max(1),
            uses: 0,
            cidrs: ranges.iter().map(IpRange::to_string).collect(),
            selectors,
        })
    }

    fn check_selectors(&self, raw: &[RawSelector]) -> Result<Vec<Selector>, TokenError> {
        if raw.len() > MOST_IN_A_LIST {
            return Err(TokenError::ManySelectors);
        }
        let mut checked = selectors(raw).map_err(TokenError::Selectors)?;
        for (index, selector) in checked.iter().enumerate() {
            let texts = [&*selector.kind, &*selector.value];
            if texts.iter().any(|it| it.len() > LONGEST_VALUE || it.contains(char::is_control)) {
                return Err(TokenError::SelectorText(index + 1));
            }
            if self.reserved.iter().any(|kind| **kind == *selector.kind) {
                return Err(TokenError::SelectorType(selector.kind.to_string()));
            }
        }
        checked.sort_unstable();
        checked.dedup();
        Ok(checked)
    }
}

/// What an agent presents.
pub(crate) struct Presented {
    pub(crate) id: String,
    pub(crate) digest: [u8; 32],
    /// What the node is known by from now on, if the agent brought something.
    pub(crate) node: Option<String>,
}

impl Presented {
    /// Reads a token of ours; `None` for what cannot be one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        let (token, node) = match rest.split_once('.') {
            Some((token, node)) => (token, Some(node)),
            None => (rest, None),
        };
        let (id, secret) = token.split_once('_')?;
        let fits = |node: &str| (SHORTEST_NODE..=LONGEST_NODE).contains(&node.len());
        let right = is_id(id)
            && secret.len() == SECRET_LEN
            && is_base64(secret)
            && node.is_none_or(|node| fits(node) && is_base64(node));
        right.then(|| Self {
            id: id.to_owned(),
            digest: digest_of(id, secret),
            node: node.map(|node| node_name(id, node)),
        })
    }

    /// Whether this is the token, in a time that does not tell how much of it is.
    pub(crate) fn is_of(&self, token: &ReusableToken) -> bool {
        envelope::same(&self.digest, &token.digest)
    }
}

/// Whether the token may be used from this address.
pub(crate) fn may_come_from(token: &ReusableToken, address: &str) -> bool {
    if token.cidrs.is_empty() {
        return true;
    }
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    token.cidrs.iter().any(|it| it.parse::<IpRange>().is_ok_and(|range| range.contains(address)))
}

/// A name for a node that will not come back.
pub(crate) fn new_node() -> String {
    let mut bytes = [0; 16];
    envelope::random(&mut bytes);
    hex(&bytes)
}

fn fresh() -> (String, String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut id, mut secret) = ([0; ID_LEN / 2], [0; SECRET_LEN]);
    envelope::random(&mut id);
    envelope::random(&mut secret);
    // Six bits of each byte: 258 in all.
    let secret = secret.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 64)]));
    (hex(&id), secret.collect())
}

fn digest_of(id: &str, secret: &str) -> [u8; 32] {
    digest::Sha256::of(format!("steeple join token {id} {secret}").as_bytes())
}

/// What a node is called in its agent's ID: from this nobody finds what the agent brought.
fn node_name(id: &str, node: &str) -> String {
    let digest = digest::Sha256::of(format!("steeple join token node {id} {node}").as_bytes());
    hex(&digest[..16])
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_base64(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        format!("sjt_0123456789abcdef_{}", "s".repeat(SECRET_LEN))
    }

    #[test]
    fn a_token_is_read_with_its_node_and_without() {
        let bare = Presented::parse(&text()).unwrap();
        assert_eq!((bare.id.as_str(), bare.node), ("0123456789abcdef", None));
        let node = |node: &str| Presented::parse(&format!("{}.{node}", text())).unwrap();
        let first = node("0123456789abcdef");
        assert_eq!(first.digest, bare.digest);
        let name = first.node.unwrap();
        assert_eq!(name.len(), 32);
        assert_eq!(node("0123456789abcdef").node.unwrap(), name, "the same node has the same name");
        assert_ne!(node("0123456789abcdeF").node.unwrap(), name);
        let other = format!("sjt_1123456789abcdef_{}.0123456789abcdef", "s".repeat(SECRET_LEN));
        let other = Presented::parse(&other).unwrap();
        assert_ne!(other.node.unwrap(), name, "by another token it is another node");
        assert_ne!(other.digest, bare.digest);
    }

    #[test]
    fn what_is_no_token_of_ours_is_none() {
        let token = text();
        for odd in [
            String::new(),
            "sjt_".to_owned(),
            "00000000-0000-4000-8000-000000000000".to_owned(),
            token.to_uppercase(),
            token[..token.len() - 1].to_owned(),
            format!("{token}x"),
            format!("{token}."),
            format!("{token}.short"),
            format!("{token}.{}", "n".repeat(LONGEST_NODE + 1)),
            format!("{token}.node/with/slashes/in/it"),
            format!("{token}.0123456789abcdef.0123456789abcdef"),
            format!(" {token}"),
            format!("{token}\n"),
            token.replace("abcdef", "abcdeg"),
            token.replace('s', "é"),
        ] {
            assert!(Presented::parse(&odd).is_none(), "{odd}");
        }
    }

    #[test]
    fn tokens_that_are_made_can_be_read_and_differ() {
        let made: std::collections::HashSet<_> = (0..100)
            .map(|_| {
                let (id, secret) = fresh();
                let token = format!("{PREFIX}{id}_{secret}");
                assert!(Presented::parse(&token).is_some(), "{token}");
                token
            })
            .collect();
        assert_eq!(made.len(), 100);
        assert_ne!(new_node(), new_node());
    }

    fn token(cidrs: &[&str]) -> ReusableToken {
        ReusableToken {
            id: "0123456789abcdef".into(),
            digest: digest_of("0123456789abcdef", &"s".repeat(SECRET_LEN)),
            description: String::new(),
            created_at: 0,
            expires_at: 1,
            joins_until: 1,
            max_uses: 1,
            uses: 0,
            cidrs: cidrs.iter().map(|it| (*it).to_owned()).collect(),
            selectors: Vec::new(),
        }
    }

    #[test]
    fn a_token_is_recognised_by_its_secret() {
        assert!(Presented::parse(&text()).unwrap().is_of(&token(&[])));
        let wrong = text().replace("ss", "st");
        assert!(!Presented::parse(&wrong).unwrap().is_of(&token(&[])));
    }

    #[test]
    fn a_token_for_a_network_is_for_nobody_elsewhere() {
        assert!(may_come_from(&token(&[]), ""));
        let bound = token(&["10.0.0.0/8", "2001:db8::/32"]);
        for (address, may) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("2001:db8::1", true),
            ("11.0.0.1", false),
            ("", false),
            ("junk", false),
        ] {
            assert_eq!(may_come_from(&bound, address), may, "{address}");
        }
    }
}
