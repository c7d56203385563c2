use serde_json::json;

use super::*;

fn pod(uid: &str, containers: &[&str]) -> Pod {
    let statuses: Vec<_> = containers
        .iter()
        .map(|id| json!({"name": "c", "containerID": format!("containerd://{id}")}))
        .collect();
    let pod = json!({"metadata": {"uid": uid}, "status": {"containerStatuses": statuses}});
    Pod::parse(pod.to_string().as_bytes()).unwrap()
}

fn uid(lookup: &Lookup) -> &str {
    match lookup {
        Lookup::Found { pod, .. } => &pod.uid,
        Lookup::Missing => "missing",
        Lookup::Ambiguous => "ambiguous",
        Lookup::Malformed(_) => "malformed",
    }
}

#[test]
fn ids_are_what_follows_the_runtime() {
    let id = |text: &str| {
        let container = Container { container_id: text.into(), ..Container::default() };
        container.id().map(str::to_owned)
    };
    for text in ["docker://abc", "containerd://abc", "cri-o://abc", "x://user@abc/path?q#f"] {
        assert_eq!(id(text).as_deref(), Some("abc"), "{text}");
    }
    for text in ["", "abc", "docker:abc", "docker://", "docker:///abc"] {
        assert_eq!(id(text), None, "{text}");
    }
}

#[test]
fn null_is_nothing() {
    let text = br#"{"metadata":{"uid":"u","labels":{"a":null},"ownerReferences":null,
        "annotations":null,"namespace":null},"spec":null,
        "status":{"containerStatuses":null,"initContainerStatuses":[{"name":null}]}}"#;
    let pod = Pod::parse(text).unwrap();
    assert_eq!((&*pod.uid, &*pod.namespace, pod.containers.len()), ("u", "", 0));
    assert_eq!(pod.labels.get("a").map(|value| &**value), Some(""));
    assert_eq!(pod.init_containers.len(), 1);
}

#[test]
fn a_pod_without_uid_is_none_and_one_that_is_broken_keeps_its_uid() {
    assert_eq!(Pod::parse(b"{}"), Err(PodError::NoUid));
    assert_eq!(Pod::parse(b"[]"), Err(PodError::NoUid));
    assert_eq!(Pod::parse(b"{\"metadata\":{\"uid\":\"u\""), Err(PodError::NoUid));
    let broken = Pod::parse(br#"{"metadata":{"uid":"u"},"spec":7}"#);
    assert!(matches!(broken, Err(PodError::Malformed { uid, .. }) if &*uid == "u"));
}

#[test]
fn a_mirror_pod_becomes_the_static_pod_that_it_shows() {
    let text = br#"{"metadata":{"uid":"of-the-server","annotations":
        {"kubernetes.io/config.mirror":"of-the-kubelet","kubernetes.io/config.source":"file"},
        "ownerReferences":[{"kind":"Node","name":"n"}]}}"#;
    let pod = Pod::parse(text).unwrap();
    assert_eq!((&*pod.uid, pod.owners.len()), ("of-the-kubelet", 0));
    let as_is = Pod::parse_as_is(text).unwrap();
    assert_eq!((&*as_is.uid, as_is.owners.len()), ("of-the-server", 1));
}

#[test]
fn pods_come_change_and_go() {
    let mut pods = Pods::default();
    pods.insert(Ok(pod("a", &["1", "2"])));
    pods.insert(Ok(pod("b", &["2", "3"])));
    assert_eq!(uid(&pods.find(None, "1", false)), "a");
    assert_eq!(uid(&pods.find(None, "2", false)), "ambiguous");
    assert_eq!(uid(&pods.find(Some("b"), "2", false)), "b");
    assert_eq!(uid(&pods.find(Some("b"), "1", false)), "missing");
    assert_eq!(uid(&pods.find(Some("b"), "1", true)), "b");
    pods.insert(Ok(pod("a", &["4"])));
    assert_eq!(uid(&pods.find(None, "1", false)), "missing");
    assert_eq!(uid(&pods.find(None, "2", false)), "b");
    pods.remove("b");
    assert_eq!(uid(&pods.find(None, "3", false)), "missing");
    pods.insert(Err(PodError::Malformed { uid: "a".into(), reason: "why".into() }));
    assert_eq!(uid(&pods.find(None, "4", false)), "malformed");
    assert_eq!(uid(&pods.find(Some("a"), "4", false)), "malformed");
    pods.remove("a");
    assert_eq!(uid(&pods.find(None, "4", false)), "missing");
    assert_eq!(pods.len(), 0);
    assert!(pods.by_container.is_empty());
}
