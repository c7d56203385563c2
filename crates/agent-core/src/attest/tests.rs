use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use steeple_plugin::{Code, PluginError};
use steeple_spiffe::Selector;
use tokio::net::UnixStream;

use super::*;

struct Fake {
    name: &'static str,
    answer: Result<&'static str, &'static str>,
    takes_ms: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Fake {
    fn new(name: &'static str, answer: Result<&'static str, &'static str>) -> Arc<Self> {
        Self::slow(name, answer, Duration::ZERO)
    }

    fn slow(
        name: &'static str,
        answer: Result<&'static str, &'static str>,
        takes: Duration,
    ) -> Arc<Self> {
        let takes_ms = AtomicUsize::new(usize::try_from(takes.as_millis()).unwrap());
        Arc::new(Self { name, answer, takes_ms, running: 0.into(), most: 0.into() })
    }

    fn takes(&self, takes: Duration) {
        let takes = usize::try_from(takes.as_millis()).unwrap();
        self.takes_ms.store(takes, Ordering::SeqCst);
    }
}

#[async_trait]
impl WorkloadAttestor for Fake {
    fn name(&self) -> &str {
        self.name
    }

    fn waits(&self) -> Option<Duration> {
        (self.name == "k8s").then_some(Duration::from_secs(60))
    }

    async fn attest(&self, _: i32) -> Result<Vec<Selector>, PluginError> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        let takes = self.takes_ms.load(Ordering::SeqCst) as u64;
        tokio::time::sleep(Duration::from_millis(takes)).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        match self.answer {
            Ok(value) => Ok(vec![Selector::new(self.name, value)]),
            Err(message) => Err(PluginError { code: Code::Internal, message: message.into() }),
        }
    }
}

fn with(attestors: &[Arc<Fake>], limits: AttestLimits) -> WorkloadAttestation {
    let attestors = attestors.iter().map(|fake| fake.clone() as Arc<dyn WorkloadAttestor>);
    WorkloadAttestation::new(attestors.collect(), limits, -1)
}

fn caller() -> (UnixStream, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (theirs, Peer::of(&ours).unwrap())
}

#[tokio::test]
async fn what_the_attestors_found_is_merged_and_sorted() {
    let attestation =
        with(&[Fake::new("unix", Ok("uid:1")), Fake::new("docker", Ok("x"))], Default::default());
    let (_stream, peer) = caller();
    assert_eq!(attestation.attest(&peer).await.unwrap().to_string(), "docker:x,unix:uid:1");
}

#[tokio::test]
async fn one_failure_is_survived_all_are_not() {
    let (_stream, peer) = caller();
    let some =
        with(&[Fake::new("unix", Ok("uid:1")), Fake::new("docker", Err("no"))], Default::default());
    assert_eq!(some.attest(&peer).await.unwrap().to_string(), "unix:uid:1");
    let all = with(&[Fake::new("docker", Err("no"))], Default::default());
    let error = all.attest(&peer).await.unwrap_err().to_string();
    assert_eq!(error, "workload attestor \"docker\" failed: no");
}

#[tokio::test(start_paused = true)]
async fn an_attestor_that_hangs_costs_its_deadline_only() {
    let slow = Fake::slow("docker", Ok("x"), Duration::from_secs(600));
    let attestation = with(&[Fake::new("unix", Ok("uid:1")), slow], Default::default());
    let (_stream, peer) = caller();
    assert_eq!(attestation.attest(&peer).await.unwrap().to_string(), "unix:uid:1");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_one_user_takes_no_more_than_its_share() {
    let fake = Fake::slow("unix", Ok("uid:1"), Duration::from_secs(1));
    let limits = AttestLimits { running: 8, running_per_uid: 3, ..Default::default() };
    let attestation = with(std::slice::from_ref(&fake), limits);
    let (_stream, peer) = caller();
    let calls = (0..30).map(|_| attestation.attest(&peer));
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(fake.most.load(Ordering::SeqCst), 3);
    assert_eq!(attestation.entrance.users(), 0, "shares do not pile up");
    assert_eq!(attestation.attestors[0].users(), 0, "here neither");
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_turned_away() {
    let fake = Fake::slow("unix", Ok("uid:1"), Duration::from_secs(20));
    let limits = AttestLimits { running_per_uid: 1, ..Default::default() };
    let attestation = with(std::slice::from_ref(&fake), limits);
    let (_stream, peer) = caller();
    let outcomes = join_all((0..3).map(|_| attestation.attest(&peer))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 2);
    let error = outcomes[2].as_ref().unwrap_err().to_string();
    assert_eq!(
        error,
        "workload attestor \"unix\" failed: too many workload attestations are waiting"
    );
}

#[tokio::test(start_paused = true)]
async fn an_attestor_that_rightly_waits_has_its_time_with_any_number() {
    let waiting = Fake::slow("k8s", Ok("ns:shop"), Duration::from_secs(45));
    let limits = AttestLimits { running: 4, running_per_uid: 2, ..Default::default() };
    let attestation = with(std::slice::from_ref(&waiting), limits);
    let (_stream, peer) = caller();
    let calls = (0..100).map(|_| attestation.attest(&peer));
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(waiting.most.load(Ordering::SeqCst), 100);
}

#[tokio::test(start_paused = true)]
async fn an_attestor_that_hangs_holds_nobody_elses_place() {
    let (quick, hung) =
        (Fake::new("unix", Ok("uid:1")), Fake::slow("docker", Ok("x"), Duration::from_secs(600)));
    let limits = AttestLimits { running: 4, running_per_uid: 2, ..Default::default() };
    let attestation = with(&[quick.clone(), hung], limits);
    let (_stream, peer) = caller();
    let begun = tokio::time::Instant::now();
    let outcomes = join_all((0..100).map(|_| attestation.attest(&peer))).await;
    for outcome in outcomes {
        assert_eq!(outcome.unwrap().to_string(), "unix:uid:1");
    }
    assert!(begun.elapsed() <= limits.queue_deadline + limits.attestor_deadline);
    // From now on nobody waits for it, save one who tries.
    let begun = tokio::time::Instant::now();
    let (_probe, outcome) = {
        let mut probe = Box::pin(attestation.attest(&peer));
        assert!(futures_util::poll!(&mut probe).is_pending());
        (probe, attestation.attest(&peer).await)
    };
    assert_eq!(outcome.unwrap().to_string(), "unix:uid:1");
    assert!(begun.elapsed() <= Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_attestor_that_comes_back_is_waited_for_again() {
    let slow = Fake::slow("docker", Ok("x"), Duration::from_secs(600));
    let attestation = with(&[Fake::new("unix", Ok("uid:1")), slow.clone()], Default::default());
    let (_stream, peer) = caller();
    let all = |n: usize| join_all((0..n).map(|_| attestation.attest(&peer)));
    all(8).await;
    slow.takes(Duration::from_secs(3));
    // One tries and finds it back; the others did not wait for it.
    let found = all(3).await.into_iter().filter(|it| it.as_ref().unwrap().len() == 2).count();
    assert_eq!(found, 1);
    let found = all(3).await.into_iter().filter(|it| it.as_ref().unwrap().len() == 2).count();
    assert_eq!(found, 3);
}

/// Connects and waits until its standard input is closed.
const CALLER: &str = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nsys.stdin.read()\n";

#[tokio::test]
async fn a_caller_that_dies_while_it_is_attested_gets_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let mut caller = std::process::Command::new("python3")
        .args(["-c", CALLER])
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    let (stream, _) = listener.accept().await.unwrap();
    let peer = Peer::of(&stream).unwrap();
    let slow = Fake::slow("unix", Ok("uid:1"), Duration::from_millis(200));
    let attestation = with(&[slow], AttestLimits::default());
    assert!(attestation.attest(&peer).await.is_ok());
    let dying = attestation.attest(&peer);
    tokio::pin!(dying);
    assert!(futures_util::poll!(&mut dying).is_pending());
    caller.kill().unwrap();
    caller.wait().unwrap();
    assert!(matches!(dying.await, Err(AttestError::CallerGone(_))));
}
