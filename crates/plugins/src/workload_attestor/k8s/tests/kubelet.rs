//! The kubelet as it should be, and as it should not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::*;

/// A pod as large as real ones are.
fn large_pod(index: usize) -> Value {
    let mut it = pod(&format!("00000000-0000-0000-0000-{index:012}"), &format!("{index:064x}"));
    it["metadata"]["name"] = json!(format!("pod-{index}"));
    it["metadata"]["managedFields"] = json!([{"fieldsV1": {"f:metadata": "y".repeat(1500)}}]);
    it["spec"]["containers"] = json!([{"env": (0..40)
        .map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "a \"quoted\" value"}))
        .collect::<Vec<_>>()}]);
    it["spec"]["tolerations"] = json!([{"key": "node.kubernetes.io/not-ready", "seconds": 300}]);
    it
}

#[tokio::test]
async fn five_thousand_pods_are_read_by_one_request_for_ten_thousand_callers() {
    let mut pods: Vec<Value> = (0..4999).map(large_pod).collect();
    pods.push(pod(POD, CONTAINER));
    let node = Node::of(pods).await;
    node.in_container(7, None, &format!("{:064x}", 1234));
    let attestor = Arc::new(node.attestor("poll_retry_interval = \"1h\"").unwrap());
    let callers = (0..10_000).map(|index| {
        let attestor = Arc::clone(&attestor);
        async move { attestor.attest(if index % 2 == 0 { PID } else { 7 }).await.unwrap().len() }
    });
    let counts = futures_util::future::join_all(callers).await;
    assert!(counts.iter().all(|&count| count == 16), "{:?}", &counts[..4]);
    assert_eq!(node.kubelet.asked().len(), 1);
    let found = values(&attestor, 7).await.unwrap();
    assert!(found.contains(&"k8s:pod-name:pod-1234".to_owned()), "{found:?}");
}

#[tokio::test]
async fn all_who_wait_for_a_container_are_woken_by_one_list() {
    let node = Node::of(vec![]).await;
    let (before, after) = (list(&[]), list(&[pod(POD, CONTAINER)]));
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    node.kubelet.answer(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        0..4 => ok(before.clone()),
        _ => ok(after.clone()),
    });
    let attestor = Arc::new(node.attestor("").unwrap());
    let callers = (0..200).map(|_| values(&attestor, PID));
    for found in futures_util::future::join_all(callers).await {
        assert_eq!(found.unwrap(), of_the_pod(POD));
    }
    // Locating runs on threads: on a busy machine callers come late, and to lists of their own.
    let asked = asked.load(Ordering::SeqCst);
    assert!((5..100).contains(&asked), "{asked} requests");
}

#[tokio::test]
async fn a_container_without_status_is_waited_for() {
    let mut early = pod(POD, CONTAINER);
    early["status"]["containerStatuses"][0]["containerID"] = json!("");
    let (early, late) = (list(&[early]), list(&[pod(POD, CONTAINER)]));
    let node = Node::of(vec![]).await;
    let asked = AtomicUsize::new(0);
    node.kubelet.answer(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0..3 => ok(early.clone()),
        _ => ok(late.clone()),
    });
    let attestor = node.attestor("").unwrap();
    assert_eq!(values(&attestor, PID).await.unwrap(), of_the_pod(POD));
    assert_eq!(node.kubelet.asked().len(), 4);
}

#[tokio::test]
async fn who_is_gone_waits_for_nothing() {
    let node = Node::of(vec![]).await;
    let attestor = Arc::new(node.attestor("poll_retry_interval = \"100ms\"").unwrap());
    let caller = values(&attestor, PID);
    assert!(tokio::time::timeout(Duration::from_millis(150), caller).await.is_err());
    while attestor.fetcher.as_ref().unwrap().is_running() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let asked = node.kubelet.asked().len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.kubelet.asked().len(), asked, "nobody waits, and the kubelet is asked");
    node.kubelet.answer(|_| ok(list(&[pod(POD, CONTAINER)])));
    assert_eq!(values(&attestor, PID).await.unwrap(), of_the_pod(POD));
}

#[tokio::test]
async fn the_token_is_shown_and_read_again() {
    let node = Node::new(|asked| match asked.authorization.as_deref() {
        Some("Bearer second") => ok(list(&[pod(POD, CONTAINER)])),
        _ => Answer::Json(401, "Unauthorized".to_owned()),
    })
    .await;
    let attestor = node.attestor("reload_interval = \"1h\"\nmax_poll_attempts = 1").unwrap();
    let error = values(&attestor, PID).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert_eq!(
        error.message,
        "workloadattestor(k8s): unexpected status code on pods response: 401 Unauthorized"
    );
    // A refusal is reason enough to look at the file before its time.
    node.write("token", "  second \n");
    assert_eq!(values(&attestor, PID).await.unwrap(), of_the_pod(POD));
    assert_eq!(node.kubelet.asked()[0].authorization.as_deref(), Some("Bearer first"));
    assert_eq!(node.kubelet.asked()[0].target, "/pods");
}

#[tokio::test]
async fn files_are_read_again_when_their_time_is_over() {
    let node = Node::of(vec![pod(POD, CONTAINER)]).await;
    let attestor = node.attestor("reload_interval = \"1ms\"\nmax_poll_attempts = 1").unwrap();
    assert!(values(&attestor, PID).await.is_ok());
    node.write("token", "second");
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(values(&attestor, PID).await.is_ok());
    assert_eq!(node.kubelet.asked()[1].authorization.as_deref(), Some("Bearer second"));
    node.write("ca.crt", &Ca::new().pem);
    tokio::time::sleep(Duration::from_millis(60)).await;
    let error = values(&attestor, PID).await.unwrap_err();
    assert!(error.message.contains("certificate signed by unknown authority"), "{error}");
    fs::remove_file(node.path("token")).unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let error = values(&attestor, PID).await.unwrap_err();
    let text = format!("open {}: no such file or directory", node.path("token"));
    assert_eq!(error.message, format!("workloadattestor(k8s): unable to load token: {text}"));
    // Back again, all is well again.
    node.write("token", "third");
    node.write("ca.crt", &node.ca.pem);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(values(&attestor, PID).await.unwrap(), of_the_pod(POD));
}

#[tokio::test]
async fn a_certificate_or_nothing_is_shown_instead_of_a_token() {
    let node = Node::of(vec![pod(POD, CONTAINER)]).await;
    let leaf = node.ca.leaf(&["agent"]);
    node.write("client.crt", &leaf.pem);
    node.write("client.key", &leaf.key_pem());
    let both = format!(
        "certificate_path = {:?}\nprivate_key_path = {:?}\n",
        node.path("client.crt"),
        node.path("client.key")
    );
    assert_eq!(node.attest(&both).await.unwrap(), of_the_pod(POD));
    let anonymous = "use_anonymous_authentication = true";
    assert_eq!(node.attest(anonymous).await.unwrap(), of_the_pod(POD));
    assert_eq!(node.attest(&format!("{both}\n{anonymous}")).await.unwrap(), of_the_pod(POD));
    let shown: Vec<_> = node
        .kubelet
        .asked()
        .iter()
        .map(|it| (it.certificate, it.authorization.is_some()))
        .collect();
    assert_eq!(shown, [(true, false), (false, false), (false, false)]);

    let half = format!("certificate_path = {:?}", node.path("client.crt"));
    let error = node.attestor(&half).err().unwrap();
    assert_eq!(error.code, Code::InvalidArgument);
    assert_eq!(
        error.message,
        "workloadattestor(k8s): the private key path is required with the certificate path"
    );
    node.write("client.key", &node.ca.leaf(&["other"]).key_pem());
    let error = node.attestor(&both).err().unwrap();
    assert!(error.message.contains("unable to load keypair: "), "{error}");
    node.write("client.key", "nothing");
    assert!(node.attestor(&both).is_err());
}

#[tokio::test]
async fn the_read_only_port_is_spoken_to_in_the_clear() {
    let node = Node::of(vec![]).await;
    let clear = Stand::start(None, |_| ok(list(&[pod(POD, CONTAINER)]))).await;
    let settings = format!("kubelet_read_only_port = {}", clear.port);
    assert_eq!(node.attest(&settings).await.unwrap(), of_the_pod(POD));
    assert_eq!(clear.asked()[0].authorization, None, "a token in the clear");
    assert_eq!(node.kubelet.asked().len(), 0);
}

#[tokio::test]
async fn the_kubelet_is_verified_by_name_if_there_is_one_and_by_authority_in_any_case() {
    let node = Node::of(vec![pod(POD, CONTAINER)]).await;
    let attest = async |settings: &str| {
        let settings = format!("max_poll_attempts = 1\n{settings}");
        node.attest(&settings).await.map_err(|error| error.message)
    };
    // Its certificate is for localhost.
    assert!(attest("").await.is_ok(), "on 127.0.0.1 its name does not matter");
    assert!(attest("node_name = \"localhost\"").await.is_ok());
    let error = attest("node_name = \"127.0.0.1\"").await.unwrap_err();
    assert!(error.contains("failed to verify certificate"), "{error}");
    node.write("ca.crt", &Ca::new().pem);
    for name in ["", "node_name = \"localhost\""] {
        let error = attest(name).await.unwrap_err();
        assert!(error.contains("certificate signed by unknown authority"), "{error}");
    }
    assert!(attest("skip_kubelet_verification = true").await.is_ok());
    assert!(attest("skip_kubelet_verification = true\nnode_name = \"127.0.0.1\"").await.is_ok());
    node.write("ca.crt", "nothing");
    let error = node.attestor("").err().unwrap();
    assert_eq!(error.message, "workloadattestor(k8s): unable to parse kubelet CA: no PEM blocks");
    fs::remove_file(node.path("ca.crt")).unwrap();
    let error = node.attestor("").err().unwrap();
    assert_eq!(error.code, Code::InvalidArgument);
    let text = format!("open {}: no such file or directory", node.path("ca.crt"));
    assert_eq!(error.message, format!("workloadattestor(k8s): unable to load kubelet CA: {text}"));
    assert!(attest("skip_kubelet_verification = true").await.is_ok(), "nobody reads it then");
}

#[tokio::test]
async fn what_a_kubelet_may_do_wrong_is_an_error_and_costs_little() {
    let node = Node::of(vec![]).await;
    let attestor = node.attestor("max_poll_attempts = 1").unwrap();
    let prefix = "workloadattestor(k8s): ";
    let own = format!("Get \"https://127.0.0.1:{}/pods\": ", node.kubelet.port);
    let endless_head = "HTTP/1.1 200 OK\r\n\r\n";
    let cases: Vec<(Box<dyn Fn() -> Answer + Send + Sync>, String)> = vec![
        (
            Box::new(|| Answer::Json(500, "x".repeat(5000))),
            format!("unexpected status code on pods response: 500 {}", "x".repeat(1024)),
        ),
        (
            Box::new(|| {
                Answer::Raw(b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere/pods\r\nContent-Length: 0\r\n\r\n".to_vec())
            }),
            "unexpected status code on pods response: 302 ".to_owned(),
        ),
        (Box::new(|| ok("[]")), "invalid kubelet response: expected an object".to_owned()),
        (Box::new(|| ok("{}")), "invalid kubelet response: expected an items array".to_owned()),
        (
            Box::new(|| ok("{\"items\":7}")),
            "invalid kubelet response: expected an items array".to_owned(),
        ),
        (
            Box::new(|| ok("{\"items\":[{\"metadata\":")),
            "unable to parse kubelet response: unexpected end of JSON input".to_owned(),
        ),
        (
            Box::new(|| Answer::Raw(b"SSH-2.0-OpenSSH\r\n".to_vec())),
            format!(
                "unable to perform request: {own}unable to read the answer: invalid HTTP version parsed"
            ),
        ),
        (
            // Whatever follows the mistake is not read.
            Box::new(move || Answer::Endless(endless_head.to_owned(), b"{\"items\":[}".to_vec())),
            "unable to parse kubelet response: invalid character at byte 10".to_owned(),
        ),
    ];
    for (answer, expected) in cases {
        node.kubelet.answer(move |_| answer());
        tokio::time::sleep(Duration::from_millis(30)).await;
        let error = values(&attestor, PID).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        assert_eq!(error.message, format!("{prefix}{expected}"));
    }
    node.kubelet.answer(|_| ok("{\"items\":null}"));
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(values(&attestor, PID).await.unwrap_err().code, Code::DeadlineExceeded);
}

/// What a fetcher makes of the kubelet, given so long.
async fn fetched(node: &Node, deadline: Duration) -> String {
    let attestor = node.attestor("").unwrap();
    let config = config::KubeletConfig { deadline, ..attestor.config.kubelet.unwrap() };
    let fetcher = Fetcher::new(config, Duration::from_millis(20)).unwrap();
    fetcher.next(0).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_kubelet_that_hangs_or_drips_holds_nobody_longer_than_its_time() {
    let node = Node::of(vec![]).await;
    let (drip, chunks) = tokio::sync::mpsc::unbounded_channel();
    drip.send("{\"items\":[".to_owned()).unwrap();
    let chunks = std::sync::Mutex::new(Some(chunks));
    node.kubelet.answer(move |_| match chunks.lock().unwrap().take() {
        Some(chunks) => Answer::Chunks(chunks),
        None => Answer::Hang,
    });
    for _ in 0..2 {
        let error = fetched(&node, Duration::from_millis(500)).await;
        assert!(error.ends_with("context deadline exceeded"), "{error}");
    }
}

#[tokio::test]
async fn a_list_without_end_is_not_kept() {
    let node = Node::of(vec![]).await;
    let head = "HTTP/1.1 200 OK\r\n\r\n{\"items\":[\"".to_owned();
    // One item that never ends: nothing of it is kept beyond the limit of an item.
    node.kubelet.answer(move |_| Answer::Endless(head.clone(), vec![b'x'; 1 << 20]));
    let error = fetched(&node, Duration::from_secs(2)).await;
    let (large, slow) = ("larger than", "context deadline exceeded");
    assert!(error.contains(large) || error.contains(slow), "{error}");
}

#[tokio::test]
async fn without_a_kubelet_the_caller_learns_why() {
    let node = Node::of(vec![]).await;
    // A port that is bound, and where nobody listens.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let settings = format!("kubelet_secure_port = {port}\nmax_poll_attempts = 2");
    let error = node.attest(&settings).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert_eq!(
        error.message,
        format!(
            "workloadattestor(k8s): unable to perform request: Get \
             \"https://127.0.0.1:{port}/pods\": dial tcp 127.0.0.1:{port}: connect: connection \
             refused"
        )
    );
    let attestor = node.attestor("disable_kubelet_client = true").unwrap();
    let error = values(&attestor, PID).await.unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition);
    assert_eq!(error.message, "workloadattestor(k8s): kubelet client is disabled");
}

#[tokio::test]
async fn requests_are_as_far_apart_as_they_should_be() {
    let node = Node::of(vec![]).await;
    let attestor = node.attestor("poll_retry_interval = \"50ms\"\nmax_poll_attempts = 5").unwrap();
    let started = Instant::now();
    let waiting = (0..50).map(|_| values(&attestor, PID));
    for outcome in futures_util::future::join_all(waiting).await {
        assert_eq!(outcome.unwrap_err().code, Code::DeadlineExceeded);
    }
    let (took, asked) = (started.elapsed(), node.kubelet.asked().len());
    assert!(took >= Duration::from_millis(200), "{took:?}");
    let most = usize::try_from(took.as_millis() / 50).unwrap() + 1;
    assert!((5..=most).contains(&asked), "{asked} requests in {took:?}");
}
