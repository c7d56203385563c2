//! The pods of the node as the API server tells them.

use std::sync::Mutex;

use tokio::sync::mpsc;

use super::*;

const WATCH: &str =
    "experimental { api_server { watch { enabled = true } } }\nnode_name = \"localhost\"";

/// An API server with lists of pods and watches that a test feeds.
struct ApiServer {
    stand: Stand,
    watches: Arc<Mutex<Vec<mpsc::UnboundedReceiver<String>>>>,
}

impl ApiServer {
    /// One with these pods.
    async fn of(node: &Node, pods: Vec<Value>) -> Self {
        let leaf = node.ca.leaf(&["127.0.0.1"]);
        let watches: Arc<Mutex<Vec<mpsc::UnboundedReceiver<String>>>> = Arc::default();
        let stand = Stand::start(Some((&leaf, &node.ca)), |_| Answer::Hang).await;
        let server = Self { stand, watches };
        server.list(&pods);
        server
    }

    /// What is listed from now on.
    fn list(&self, pods: &[Value]) {
        let watches = Arc::clone(&self.watches);
        let listed = json!({
            "kind": "PodList", "metadata": {"resourceVersion": "10"}, "items": pods
        });
        self.stand.answer(move |asked| {
            if !asked.target.contains("watch=1") {
                return ok(listed.to_string());
            }
            match watches.lock().unwrap().pop() {
                Some(events) => Answer::Chunks(events),
                None => Answer::Hang,
            }
        });
    }

    /// The next watch is told what is sent here.
    fn watch(&self) -> mpsc::UnboundedSender<String> {
        let (tell, events) = mpsc::unbounded_channel();
        self.watches.lock().unwrap().insert(0, events);
        tell
    }

    fn attestor(&self, node: &Node, settings: &str) -> Arc<K8s> {
        let port = self.stand.port.to_string();
        let attestor = node.attestor_in(settings, move |name| match name {
            "KUBERNETES_SERVICE_HOST" => Some("127.0.0.1".to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some(port.clone()),
            _ => None,
        });
        Arc::new(attestor.unwrap())
    }

    async fn asked_for_watches(&self, count: usize) {
        let watches = || {
            let asked = self.stand.asked();
            asked.iter().filter(|it| it.target.contains("watch=1")).count()
        };
        for _ in 0..3000 {
            if watches() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} watches of {count}", watches());
    }
}

fn event(kind: &str, version: &str, mut object: Value) -> String {
    object["metadata"]["resourceVersion"] = json!(version);
    format!("{}\n", json!({"type": kind, "object": object}))
}

#[tokio::test]
async fn a_waiting_caller_is_woken_by_the_event() {
    let node = Node::of(vec![]).await;
    let server = ApiServer::of(&node, vec![pod(OTHER_POD, &container('b'))]).await;
    let tell = server.watch();
    // An interval that no test would wait for: only an event can wake anybody.
    let settings = format!("{WATCH}\npoll_retry_interval = \"10m\"");
    let attestor = server.attestor(&node, &settings);
    let waiting = tokio::join!(
        async {
            let callers = (0..100).map(|_| values(&attestor, PID));
            futures_util::future::join_all(callers).await
        },
        async {
            server.asked_for_watches(1).await;
            let mut early = pod(POD, CONTAINER);
            early["status"] = json!({});
            tell.send(event("ADDED", "11", early)).unwrap();
            let late = event("MODIFIED", "12", pod(POD, CONTAINER));
            let (one, two) = late.split_at(100);
            tell.send(one.to_owned()).unwrap();
            tell.send(two.to_owned()).unwrap();
        }
    )
    .0;
    for found in waiting {
        assert_eq!(found.unwrap(), of_the_pod(POD));
    }
    assert_eq!(node.kubelet.asked().len(), 0);
    let asked = server.stand.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(asked[0].target, "/api/v1/pods?fieldSelector=spec.nodeName%3Dlocalhost&limit=500");
    assert_eq!(asked[0].authorization.as_deref(), Some("Bearer first"));
    assert!(asked[1].target.contains("allowWatchBookmarks=true"), "{}", asked[1].target);
    assert!(asked[1].target.ends_with("&resourceVersion=10"), "{}", asked[1].target);
}

#[tokio::test]
async fn a_pod_that_is_gone_is_nobody_and_a_new_one_with_its_name_is_another() {
    let node = Node::of(vec![]).await;
    let server = ApiServer::of(&node, vec![pod(POD, CONTAINER)]).await;
    let tell = server.watch();
    let attestor = server.attestor(&node, &format!("{WATCH}\npoll_retry_interval = \"10m\""));
    assert_eq!(values(&attestor, PID).await.unwrap(), of_the_pod(POD));
    tell.send(event("DELETED", "11", pod(POD, CONTAINER))).unwrap();
    tell.send(event("ADDED", "12", pod(OTHER_POD, &container('c')))).unwrap();
    node.in_container(5, Some(OTHER_POD), &container('c'));
    assert_eq!(values(&attestor, 5).await.unwrap(), of_the_pod(OTHER_POD));
    let waits = tokio::time::timeout(Duration::from_millis(300), values(&attestor, PID)).await;
    assert!(waits.is_err(), "{waits:?}");
}

#[tokio::test]
async fn a_watch_goes_on_where_it_ended_and_begins_anew_when_it_missed_something() {
    let node = Node::of(vec![]).await;
    let server = ApiServer::of(&node, vec![]).await;
    let settings = format!("{WATCH}\npoll_retry_interval = \"10m\"");
    let attestor = server.attestor(&node, &settings);
    let (first, second, third) = (server.watch(), server.watch(), server.watch());
    let caller = values(&attestor, PID);
    let script = async {
        server.asked_for_watches(1).await;
        first.send(event("BOOKMARK", "77", json!({"kind": "Pod"}))).unwrap();
        drop(first);
        server.asked_for_watches(2).await;
        server.list(&[pod(POD, CONTAINER)]);
        let gone =
            json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"});
        second.send(format!("{}\n", json!({"type": "ERROR", "object": gone}))).unwrap();
        server.asked_for_watches(3).await;
    };
    let (found, ()) = tokio::join!(caller, script);
    assert_eq!(found.unwrap(), of_the_pod(POD));
    drop(third);
    let asked = server.stand.asked();
    let kinds: Vec<&str> = asked
        .iter()
        .map(|it| match it.target.rsplit_once("resourceVersion=") {
            Some((_, version)) => version,
            None => "list",
        })
        .collect();
    assert_eq!(kinds[..5], ["list", "10", "77", "list", "10"]);
}

#[tokio::test]
async fn while_there_is_no_watch_the_kubelet_is_asked() {
    let node = Node::of(vec![pod(POD, CONTAINER)]).await;
    let server = ApiServer::of(&node, vec![]).await;
    server.stand.answer(|_| {
        let text = json!({"kind": "Status", "reason": "Forbidden", "code": 403,
            "message": "pods is forbidden: User \"x\" cannot list resource"});
        Answer::Json(403, text.to_string())
    });
    let attestor = server.attestor(&node, WATCH);
    assert_eq!(values(&attestor, PID).await.unwrap(), of_the_pod(POD));
    assert_eq!(node.kubelet.asked().len(), 1);
    // Without a kubelet, what the API server said is why.
    let settings = format!(
        "{WATCH}\ndisable_kubelet_client = true\nmax_poll_attempts = 10\npoll_retry_interval = \"300ms\""
    );
    let attestor = server.attestor(&node, &settings);
    let error = values(&attestor, PID).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert_eq!(
        error.message,
        "workloadattestor(k8s): pods is forbidden: User \"x\" cannot list resource"
    );
}

#[tokio::test]
async fn with_a_watch_no_kubelet_is_needed() {
    let node = Node::of(vec![]).await;
    let mut mirror = pod("of-the-server", CONTAINER);
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": POD});
    mirror["metadata"]["ownerReferences"] = json!([{"kind": "Node", "name": "n", "uid": "u"}]);
    let server = ApiServer::of(&node, vec![mirror]).await;
    let _tell = server.watch();
    let settings = format!("{WATCH}\ndisable_kubelet_client = true\npoll_retry_interval = \"10m\"");
    let attestor = server.attestor(&node, &settings);
    // As the kubelet would tell of the static pod.
    let expected: Vec<String> =
        of_the_pod(POD).into_iter().filter(|it| !it.starts_with("k8s:pod-owner")).collect();
    assert_eq!(values(&attestor, PID).await.unwrap(), expected);
    assert_eq!(node.kubelet.asked().len(), 0);
}

#[tokio::test]
async fn long_lists_come_in_pages_and_events_that_make_no_sense_end_the_watch() {
    let node = Node::of(vec![]).await;
    let server = ApiServer::of(&node, vec![]).await;
    let watches = Arc::clone(&server.watches);
    server.stand.answer(move |asked| {
        if asked.target.contains("watch=1") {
            return watches.lock().unwrap().pop().map_or(Answer::Hang, Answer::Chunks);
        }
        let (next, it) = match asked.target.contains("continue=a%2Fb") {
            false => ("a/b", pod(OTHER_POD, &container('b'))),
            true => ("", pod(POD, CONTAINER)),
        };
        let metadata = json!({"resourceVersion": "3", "continue": next});
        ok(json!({"metadata": metadata, "items": [it]}).to_string())
    });
    let tell = server.watch();
    let attestor = server.attestor(&node, &format!("{WATCH}\npoll_retry_interval = \"10m\""));
    assert_eq!(values(&attestor, PID).await.unwrap(), of_the_pod(POD));
    tell.send("{nonsense}\n".to_owned()).unwrap();
    server.asked_for_watches(2).await;
}

#[tokio::test]
async fn the_watch_ends_with_the_attestor() {
    let node = Node::of(vec![]).await;
    let server = ApiServer::of(&node, vec![pod(POD, CONTAINER)]).await;
    let tell = server.watch();
    let attestor = server.attestor(&node, &format!("{WATCH}\npoll_retry_interval = \"10m\""));
    assert!(values(&attestor, PID).await.is_ok());
    drop(attestor);
    tokio::time::timeout(Duration::from_secs(30), async {
        // The server notices when it sends something that nobody reads.
        while tell.send(event("BOOKMARK", "5", json!({}))).is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("somebody still reads the watch");
}
