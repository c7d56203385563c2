//! Organizations: the accounts of one.

use std::collections::HashSet;

use http::Method;
use serde::Deserialize;

use super::MAX_PAGES;
use crate::error::ApiError;
use crate::session::{Call, ORGANIZATIONS, Session};

/// A page of the list.
#[derive(Deserialize)]
struct Page {
    #[serde(rename = "Accounts", default)]
    accounts: Vec<Account>,
    #[serde(rename = "NextToken")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Account {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Status")]
    status: Option<String>,
}

/// Which page failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    #[error("issue while getting list of accounts: {0}")]
    First(ApiError),
    #[error("issue while getting list of accounts in pagination: {0}")]
    Further(ApiError),
}

/// The accounts of the organization that are active.
pub(crate) async fn active_accounts(session: &Session) -> Result<HashSet<String>, ListError> {
    let mut accounts = HashSet::new();
    let mut next: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let further = next.is_some();
        let page = page(session, next).await.map_err(|error| match further {
            true => ListError::Further(error),
            false => ListError::First(error),
        })?;
        let active = page.accounts.into_iter().filter(|it| it.status.as_deref() == Some("ACTIVE"));
        accounts.extend(active.map(|it| it.id));
        next = page.next;
        if next.is_none() {
            return Ok(accounts);
        }
    }
    Err(ListError::Further(call(None).malformed("too many pages")))
}

fn call(next: Option<String>) -> Call {
    let body = match next {
        Some(token) => serde_json::json!({ "NextToken": token }).to_string(),
        None => "{}".to_owned(),
    };
    Call {
        service: &ORGANIZATIONS,
        operation: "ListAccounts",
        method: Method::POST,
        target: "/".to_owned(),
        headers: &[
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", "AWSOrganizationsV20161128.ListAccounts"),
        ],
        body,
        signed: true,
    }
}

async fn page(session: &Session, next: Option<String>) -> Result<Page, ApiError> {
    let call = call(next);
    let answer = session.call(&call).await?;
    serde_json::from_slice(&answer).map_err(|_| call.malformed("invalid ListAccounts response"))
}
