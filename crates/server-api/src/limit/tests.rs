use steeple_net::status::detail;

use super::*;

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
const MINUTE: Duration = Duration::from_secs(60);

/// SPIRE's.
const RATES: RateLimits = RateLimits {
    attestation: 1,
    signing: 500,
    publish: 500,
    post_status: 10,
    admin: 0,
    bundle: 0,
    sync: 0,
    by: LimitBy::Address,
};

fn limits(now: Instant) -> Limits {
    Limits::new(RATES, now)
}

fn wait(limits: &Limits, address: IpAddr, now: Instant) -> Duration {
    limits.take(Bucket::Attest, address, None, 1, MINUTE, now).unwrap()
}

#[test]
fn the_second_attestation_of_an_address_waits_a_second() {
    let start = Instant::now();
    let limits = limits(start);
    assert_eq!(wait(&limits, A, start), Duration::ZERO);
    assert_eq!(wait(&limits, A, start), Duration::from_secs(1));
    assert_eq!(wait(&limits, A, start), Duration::from_secs(2));
    assert_eq!(wait(&limits, B, start), Duration::ZERO, "another address waited too");
    assert_eq!(wait(&limits, A, start + Duration::from_secs(3)), Duration::ZERO);
}

#[test]
fn what_cannot_be_granted_in_time_is_refused_and_takes_nothing() {
    let start = Instant::now();
    let limits = limits(start);
    wait(&limits, A, start);
    let impatient = Duration::from_millis(500);
    let refused = limits.take(Bucket::Attest, A, None, 1, impatient, start).unwrap_err();
    assert_eq!(refused.to_string(), "rate: Wait(n=1) would exceed context deadline");
    assert_eq!(wait(&limits, A, start), Duration::from_secs(1));
}

#[test]
fn more_than_the_burst_is_never_granted() {
    let start = Instant::now();
    let limits = limits(start);
    let refused = limits.take(Bucket::SignX509, A, None, 501, MINUTE, start).unwrap_err();
    assert_eq!(refused.to_string(), "rate (501) exceeds burst size (500)");
    assert_eq!(limits.take(Bucket::SignX509, A, None, 500, MINUTE, start), Ok(Duration::ZERO));
}

#[test]
fn a_limit_that_is_switched_off_lets_everything_through() {
    let start = Instant::now();
    let limits = Limits::new(RateLimits { attestation: 0, signing: 0, ..RATES }, start);
    for _ in 0..10 {
        assert_eq!(wait(&limits, A, start), Duration::ZERO);
    }
    assert_eq!(limits.take(Bucket::SignJwt, A, None, 10_000, MINUTE, start), Ok(Duration::ZERO));
    assert!(limits.take(Bucket::Status, A, None, 11, MINUTE, start).is_err(), "has no switch");
}

#[test]
fn a_waiting_queue_is_bounded_and_idle_buckets_are_forgotten() {
    let start = Instant::now();
    let limit = PerCaller::new(1, start);
    let granted = (0..200).filter(|_| limit.take(A, 1, LONGEST_WAIT, start).is_ok()).count();
    assert_eq!(granted, 121);
    let mut later = start;
    for address in [B, B] {
        later += GENERATION;
        limit.take(address, 1, LONGEST_WAIT, later).unwrap();
        later += GENERATION;
        limit.take(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1, LONGEST_WAIT, later).unwrap();
    }
    let buckets = limit.buckets.lock().unwrap();
    let key = limit.keys.each_ref().map(|key| key.hash_one(A));
    assert!(!buckets.current.contains_key(&key) && !buckets.previous.contains_key(&key));
}

#[test]
fn a_flood_of_addresses_does_not_grow_the_map_without_end() {
    let start = Instant::now();
    let limit = PerCaller::new(1, start);
    for number in 0..200_000u32 {
        let address = IpAddr::V4(std::net::Ipv4Addr::from(number));
        limit.take(address, 1, LONGEST_WAIT, start).unwrap();
    }
    let buckets = limit.buckets.lock().unwrap();
    assert!(buckets.current.len() + buckets.previous.len() <= 2 * MOST_CALLERS);
}

#[test]
fn an_ipv6_host_has_one_bucket_for_all_its_addresses() {
    let start = Instant::now();
    let limits = limits(start);
    let [one, same, other]: [IpAddr; 3] =
        ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
    assert_eq!(wait(&limits, one, start), Duration::ZERO);
    assert_eq!(wait(&limits, same, start), Duration::from_secs(1));
    assert_eq!(wait(&limits, other, start), Duration::ZERO);
    let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
    assert_eq!(wait(&limits, mapped, start), Duration::ZERO);
    assert_eq!(wait(&limits, A, start), Duration::from_secs(1));
}

#[test]
fn callers_with_an_identity_can_be_told_apart_by_it() {
    let start = Instant::now();
    let limits = Limits::new(RateLimits { by: LimitBy::SpiffeId, ..RATES }, start);
    let ids = ["spiffe://example.org/a", "spiffe://example.org/b"];
    let ids = ids.map(|id| SpiffeId::parse(id).unwrap());
    let take = |address, id| limits.take(Bucket::Attest, address, id, 1, MINUTE, start).unwrap();
    assert_eq!(take(A, Some(&ids[0])), Duration::ZERO);
    assert_eq!(take(A, Some(&ids[1])), Duration::ZERO, "behind one address");
    assert_eq!(take(B, Some(&ids[0])), Duration::from_secs(1), "from two addresses");
    assert_eq!(take(A, None), Duration::ZERO);
    assert_eq!(take(A, None), Duration::from_secs(1));
}

#[test]
fn methods_that_spire_leaves_free_are_limited_only_where_a_rate_is_set() {
    let start = Instant::now();
    let free = limits(start);
    let bound = Limits::new(RateLimits { admin: 2, sync: 1, bundle: 3, ..RATES }, start);
    for (bucket, rate) in [(Bucket::Admin, 2), (Bucket::Sync, 1), (Bucket::Bundle, 3)] {
        let take = |limits: &Limits| limits.take(bucket, A, None, 1, Duration::ZERO, start);
        assert_eq!((0..100).filter(|_| take(&free).is_ok()).count(), 100);
        assert_eq!((0..100).filter(|_| take(&bound).is_ok()).count(), rate);
    }
}

#[test]
fn a_refusal_that_passes_says_when_to_come_again() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        retry_delay: Option<prost_types::Duration>,
    }
    let refusal = |reason| LimitRefusal { what: "post status rate limiting", reason }.status();
    let wait = Duration::from_millis(2_300);
    let later = refusal(LimitError::Deadline { asked: 1, wait });
    assert_eq!(later.code(), Code::ResourceExhausted);
    assert_eq!(
        later.message(),
        "rejecting request due to post status rate limiting: rate: Wait(n=1) would exceed context \
         deadline"
    );
    assert_eq!(later.metadata().get("retry-after").unwrap(), "3");
    let info: RetryInfo = detail(&later, "google.rpc.RetryInfo").unwrap();
    assert_eq!(info.retry_delay.unwrap(), prost_types::Duration::try_from(wait).unwrap());

    let never = refusal(LimitError::Burst { asked: 501, burst: 500 });
    assert_eq!(
        never.message(),
        "rejecting request due to post status rate limiting: rate (501) exceeds burst size (500)"
    );
    assert!(never.metadata().get("retry-after").is_none() && never.details().is_empty());
}
