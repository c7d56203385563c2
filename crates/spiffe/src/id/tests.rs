use super::*;

fn example() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

#[test]
fn ids_come_apart_and_together() {
    for (text, path) in [
        ("spiffe://example.org", ""),
        ("spiffe://example.org/web", "/web"),
        ("spiffe://example.org/a/B/c_d-e.f/...", "/a/B/c_d-e.f/..."),
    ] {
        let id = SpiffeId::parse(text).unwrap();
        assert_eq!(id.as_str(), text);
        assert_eq!(id.to_string(), text);
        assert_eq!(id.path(), path);
        assert_eq!(id.trust_domain(), example());
        assert!(id.is_member_of(&example()));
        assert_eq!(SpiffeId::from_path(&example(), path).unwrap(), id);
        let borrowed = SpiffeIdRef::parse(text).unwrap();
        assert_eq!(borrowed, SpiffeIdRef::from(&id));
        assert_eq!((borrowed.as_str(), borrowed.path()), (text, path));
        assert_eq!(borrowed.trust_domain_name(), example().as_str());
        assert!(borrowed.is_member_of(&example()));
        assert_eq!(borrowed.to_owned(), id);
    }
    let id = SpiffeId::from_segments(&example(), &["a", "b"]).unwrap();
    assert_eq!(id.as_str(), "spiffe://example.org/a/b");
    assert_eq!(SpiffeId::from_segments(&example(), &[]).unwrap(), example().id());
}

#[test]
fn what_go_spiffe_refuses_is_refused_with_its_reason() {
    use IdError::*;
    for (text, error) in [
        ("", Empty),
        ("example.org", WrongScheme),
        ("SPIFFE://example.org", WrongScheme),
        ("spiffe:/example.org", WrongScheme),
        (" spiffe://example.org", WrongScheme),
        ("spiffe://", MissingTrustDomain),
        ("spiffe:///web", MissingTrustDomain),
        ("spiffe://Example.org", BadTrustDomainChar),
        ("spiffe://example.org:80/web", BadTrustDomainChar),
        ("spiffe://user@example.org/web", BadTrustDomainChar),
        ("spiffe://exämple.org", BadTrustDomainChar),
        ("spiffe://example.org?query", BadTrustDomainChar),
        ("spiffe://example.org/", TrailingSlash),
        ("spiffe://example.org/web/", TrailingSlash),
        ("spiffe://example.org//", EmptySegment),
        ("spiffe://example.org//web", EmptySegment),
        ("spiffe://example.org/web//", EmptySegment),
        ("spiffe://example.org/.", DotSegment),
        ("spiffe://example.org/./web", DotSegment),
        ("spiffe://example.org/web/..", DotSegment),
        ("spiffe://example.org/web?query", BadPathSegmentChar),
        ("spiffe://example.org/web#fragment", BadPathSegmentChar),
        ("spiffe://example.org/%77eb", BadPathSegmentChar),
        ("spiffe://example.org/wéb", BadPathSegmentChar),
        ("spiffe://example.org/we b", BadPathSegmentChar),
        ("spiffe://example.org/web\0", BadPathSegmentChar),
    ] {
        assert_eq!(SpiffeId::parse(text), Err(error), "{text}");
    }
    assert_eq!(SpiffeId::from_path(&example(), "web"), Err(NoLeadingSlash));
    for (segment, error) in
        [("", EmptySegment), (".", DotSegment), ("..", DotSegment), ("a/b", BadPathSegmentChar)]
    {
        assert_eq!(SpiffeId::from_segments(&example(), &["x", segment]), Err(error));
    }
}

#[test]
fn lengths_are_those_of_the_standard() {
    let prefix = "spiffe://example.org/";
    let longest = format!("{prefix}{}", "a".repeat(MAX_ID_LEN - prefix.len()));
    assert_eq!(SpiffeId::parse(&longest).unwrap().as_str().len(), MAX_ID_LEN);
    assert_eq!(SpiffeId::parse(&format!("{longest}a")), Err(IdError::TooLong));
    assert_eq!(SpiffeId::parse(&longest.repeat(9)), Err(IdError::TooLong));
    let path = format!("/{}", "a".repeat(MAX_ID_LEN));
    assert_eq!(SpiffeId::from_path(&example(), &path), Err(IdError::TooLong));
    assert_eq!(SpiffeId::from_segments(&example(), &[&path[1..]]), Err(IdError::TooLong));

    let name = "a".repeat(MAX_TRUST_DOMAIN_LEN);
    assert_eq!(TrustDomain::parse(&name).unwrap().id().trust_domain_name(), name);
    assert_eq!(TrustDomain::parse(&format!("{name}a")), Err(IdError::TrustDomainTooLong));
    let id = format!("spiffe://{name}a/web");
    assert_eq!(SpiffeId::parse(&id), Err(IdError::TrustDomainTooLong));
}

#[test]
fn trust_domains_are_names_or_ids_where_that_is_allowed() {
    for text in ["example.org", "spiffe://example.org", "spiffe://example.org/web"] {
        assert_eq!(TrustDomain::from_name_or_id(text), Ok(example()));
    }
    assert_eq!(example().id_string(), example().id().as_str());
    assert_eq!(TrustDomain::parse(""), Err(IdError::MissingTrustDomain));
    assert_eq!(TrustDomain::parse("spiffe://example.org"), Err(IdError::BadTrustDomainChar));
    assert_eq!(TrustDomain::from_name_or_id("spiffe:/example.org"), Err(IdError::WrongScheme));
    assert_eq!(TrustDomain::from_name_or_id("example.org/"), Err(IdError::BadTrustDomainChar));
    assert_eq!(TrustDomain::from_name_or_id(""), Err(IdError::MissingTrustDomain));
}

#[test]
fn the_systems_own_ids_are_told_from_others() {
    let id = |path: &str| SpiffeId::from_path(&example(), path).unwrap();
    assert_eq!(SpiffeId::server(&example()), id("/spire/server"));
    assert!(SpiffeId::server(&example()).is_server());
    assert!(id("/spire/agent/join_token/x").is_agent());
    assert!(!id("/spire/agent").is_agent());
    assert!(!id("/spire/agents/x").is_agent());
    for reserved in ["/spire", "/spire/server", "/spire/agent/x", "/spire/other"] {
        assert!(id(reserved).is_reserved(), "{reserved}");
    }
    for free in ["", "/spired", "/web/spire", "/Spire"] {
        assert!(!id(free).is_reserved(), "{free}");
    }
}

#[test]
fn a_name_that_another_begins_with_is_another() {
    let longer = SpiffeId::parse("spiffe://example.organic/web").unwrap();
    assert!(!longer.is_member_of(&example()));
}
