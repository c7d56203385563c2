//! Page tokens: the last row's id in decimal (TG-17, TG-18, TD-24).

use sea_orm::sea_query::{Expr, ExprTrait, Order, SelectStatement};

use super::dialect::Dialect;
use crate::error::{StoreError, excerpt};
use crate::model::Page;

/// Narrows a SELECT, whose rows have an `id`, to one page in the order of the ids.
pub(super) fn apply(
    dialect: Dialect,
    select: &mut SelectStatement,
    page: Option<&Page>,
) -> Result<(), StoreError> {
    select.order_by("id", Order::Asc);
    let Some(page) = page else { return Ok(()) };
    if page.size == 0 {
        return Err(StoreError::Invalid("cannot paginate with pagesize = 0".into()));
    }
    // As large as a driver can say; nobody has so many rows.
    select.limit(Ord::min(page.size as u64, i64::MAX.cast_unsigned()));
    if let Some(token) = page.token.as_deref().filter(|token| !token.is_empty()) {
        let after = Ord::min(parse_token(token)?, dialect.max_id());
        select.and_where(Expr::col("id").gt(after.cast_signed()));
    }
    Ok(())
}

/// The token of the page after this one; `None` after an empty page or without pages.
pub(super) fn next_token(page: Option<&Page>, last_id: Option<i64>) -> Option<String> {
    page.and(last_id).map(|id| id.to_string())
}

fn parse_token(token: &str) -> Result<u64, StoreError> {
    // Longer than any u64; do not even look.
    const LONGEST: usize = 20;
    let digits = token.len() <= LONGEST && token.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| token.parse().ok())
        .flatten()
        .ok_or_else(|| StoreError::Invalid(format!("could not parse token '{}'", excerpt(token))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_decimal_digits_are_a_token() {
        assert_eq!(parse_token("0").unwrap(), 0);
        assert_eq!(parse_token("18446744073709551615").unwrap(), u64::MAX);
        for token in ["-1", "+1", " 1", "1.0", "0x1", "18446744073709551616", "abc", "١"] {
            let error = parse_token(token).unwrap_err();
            assert!(matches!(error, StoreError::Invalid(_)), "{token}");
        }
        let long = parse_token(&"9".repeat(10_000)).unwrap_err().to_string();
        assert!(long.len() < 100, "a long token is not echoed");
    }

    #[test]
    fn no_page_or_no_row_means_no_token() {
        let page = Page { token: None, size: 5 };
        assert_eq!(next_token(Some(&page), Some(7)).as_deref(), Some("7"));
        assert_eq!(next_token(Some(&page), None), None);
        assert_eq!(next_token(None, Some(7)), None);
    }
}
