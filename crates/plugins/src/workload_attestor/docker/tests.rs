mod stand;

use std::fs;

use steeple_plugin::contract;

use super::*;
use stand::{Answers, Reply, Stand, values};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const IMAGE: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const OTHER_IMAGE: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";
/// The caller, and the first process of its container.
const PID: i32 = 123;
const FIRST: i32 = 100;

fn container_path() -> String {
    format!("/v1.41/containers/{ID}/json")
}

fn container(state: &str) -> String {
    format!(
        r#"{{"Id":"{ID}","Image":"{IMAGE}","State":{state},"Config":{{"Image":"team/app:1",
            "Env":["VAR=val","EMPTY="],"Labels":{{"this":"that","here":"there:x"}}}}}}"#
    )
}

fn running() -> String {
    container(&format!(r#"{{"Running":true,"Pid":{FIRST}}}"#))
}

fn image(id: &str, as_name: &str) -> (String, Reply) {
    (format!("/v1.41/images/{as_name}/json"), Reply::Json(200, format!(r#"{{"Id":"{id}"}}"#)))
}

fn usual() -> Answers {
    vec![(container_path(), Reply::Json(200, running())), image(IMAGE, IMAGE)]
}

fn expected() -> Vec<String> {
    let mut values: Vec<String> =
        ["label:here:there:x", "label:this:that", "env:VAR=val", "env:EMPTY="]
            .map(str::to_owned)
            .into();
    values.push("image_id:team/app:1".to_owned());
    values.push(format!("image_config_digest:{IMAGE}"));
    values
}

#[tokio::test]
async fn keeps_the_contract_of_workload_attestors() {
    let stand = Stand::new();
    stand.serve("docker.sock", usual());
    contract::workload_attestor(&stand.attestor(""), PID, i32::MAX).await;
}

#[tokio::test]
async fn labels_variables_and_image_become_selectors() {
    let stand = Stand::new();
    stand.serve("docker.sock", usual());
    assert_eq!(stand.values().await, expected());
    let paths = [
        "HEAD /_ping".to_owned(),
        format!("GET {}", container_path()),
        format!("GET /v1.41/images/{IMAGE}/json"),
    ];
    assert_eq!(stand.requests(), paths);
}

#[tokio::test]
async fn a_version_that_is_set_is_not_negotiated() {
    let stand = Stand::new();
    let path = format!("/v1.23/containers/{ID}/json");
    stand.serve("docker.sock", vec![(path, Reply::Json(200, running()))]);
    assert_eq!(values(&stand.attestor("docker_version = \"1.23\"")).await.len(), 5);
    assert!(!stand.requests().iter().any(|it| it.contains("_ping")));
}

/// By then the name may mean another image than the one that runs.
#[tokio::test]
async fn the_digest_is_of_the_image_that_runs_not_of_its_name() {
    let stand = Stand::new();
    let mut answers = usual();
    answers.push(image(OTHER_IMAGE, "team/app:1"));
    stand.serve("docker.sock", answers);
    assert_eq!(stand.values().await, expected());
    // A daemon that does not say which image runs is asked by name.
    let stand = Stand::new();
    let unsaid = running().replace(IMAGE, "");
    stand.serve(
        "docker.sock",
        vec![(container_path(), Reply::Json(200, unsaid)), image(OTHER_IMAGE, "team/app:1")],
    );
    let values = stand.values().await;
    assert_eq!(values.last().unwrap(), &format!("image_config_digest:{OTHER_IMAGE}"));
}

#[tokio::test]
async fn without_its_image_a_container_has_the_other_selectors() {
    let stand = Stand::new();
    stand.serve("docker.sock", vec![(container_path(), Reply::Json(200, running()))]);
    assert_eq!(stand.values().await, expected()[..5]);
    let stand = Stand::new();
    let bare = r#"{"Config":{"Image":"","Env":null,"Labels":null}}"#.to_owned();
    stand.serve("docker.sock", vec![(container_path(), Reply::Json(200, bare))]);
    assert_eq!(stand.values().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_process_in_no_container_asks_nobody() {
    let stand = Stand::new().with(PID, "0::/user.slice/user-1000.slice/session-1.scope\n");
    assert_eq!(stand.values().await, Vec::<String>::new());
    assert_eq!(stand.attestor("").attest(9999).await.unwrap(), []);
}

#[tokio::test]
async fn failures_are_tried_again_three_times() {
    let stand = Stand::new();
    let fails = (container_path(), Reply::Json(500, r#"{"message":"not now"}"#.to_owned()));
    let mut answers = vec![fails.clone(), fails.clone(), fails];
    answers.extend(usual());
    stand.serve("docker.sock", answers);
    let begun = tokio::time::Instant::now();
    assert_eq!(stand.values().await, expected());
    assert!(begun.elapsed() >= Duration::from_millis(700));
}

#[tokio::test]
async fn each_failure_says_what_it_is() {
    async fn of(reply: Reply) -> PluginError {
        let stand = Stand::new();
        stand.serve("docker.sock", vec![(container_path(), reply)]);
        let attestor = stand.attestor("");
        attestor.attest(PID).await.unwrap_err()
    }
    let prefix = "workloadattestor(docker): ";
    let json = |status, body: &str| Reply::Json(status, body.to_owned());
    for (reply, expected) in [
        (
            json(404, r#"{"message":"No such container: x"}"#),
            "Error response from daemon: No such container: x",
        ),
        (
            json(500, "{}"),
            "Error response from daemon: API returned a 500 (Internal Server Error) but provided \
             no error-message",
        ),
        (json(200, "{}"), "the docker API's answer about the container has no Config"),
        (json(200, "[1]"), "the docker API's answer about the container cannot be read: "),
        (
            Reply::Raw(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno\n".to_vec()),
            "Error response from daemon: no",
        ),
        (
            Reply::Raw(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()),
            "error during connect: the docker API at",
        ),
        (Reply::Endless, "the docker API's answer is larger than 8388608 bytes"),
    ] {
        let error = of(reply).await;
        assert!(error.message.starts_with(&format!("{prefix}{expected}")), "{error}");
        assert_eq!(error.code, Code::Unknown);
        assert!(error.message.len() < 600);
    }
    let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(15_000));
    assert!(of(json(500, &long)).await.message.len() < 400);
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_told_by_its_address() {
    let stand = Stand::new();
    let (socket, path) = (stand.socket("docker.sock"), stand.folder.path().join("docker.sock"));
    let expected = format!(
        "workloadattestor(docker): failed to connect to the docker API at {socket}; check if the \
         path is correct and if the daemon is running: dial unix {}: connect: no such file or \
         directory",
        path.display()
    );
    assert_eq!(stand.failure().await.message, expected);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert_eq!(
        stand.failure().await.message,
        format!(
            "workloadattestor(docker): Cannot connect to the Docker daemon at {socket}. Is the \
             docker daemon running?"
        )
    );
}

#[tokio::test]
async fn a_daemon_that_hangs_costs_one_deadline_and_no_more() {
    let stand = Stand::new();
    let mut answers = vec![(container_path(), Reply::Silence), (container_path(), Reply::Silence)];
    answers.extend(usual());
    stand.serve("docker.sock", answers);
    let mut attestor = stand.attestor("");
    // So long that whoever comes in its beginning comes in time on a busy machine, too.
    attestor.deadline = Duration::from_secs(2);
    let attestor = Arc::new(attestor);
    let error = attestor.attest(PID).await.unwrap_err();
    assert_eq!(error.code, Code::DeadlineExceeded);
    assert!(error.message.ends_with("within 2s"), "{error}");
    // While one tries again, nobody else waits.
    let (probe, other) = tokio::join!(attestor.attest(PID), async {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        attestor.attest(PID).await
    });
    assert_eq!(probe.unwrap_err().code, Code::DeadlineExceeded);
    assert_eq!(other.unwrap_err().code, Code::Unavailable);
    // And when it answers again, it is asked again.
    assert_eq!(values(&attestor).await, expected());
}

#[tokio::test]
async fn a_name_that_another_made_is_no_membership() {
    for forged in [
        "0::/user.slice/user-1000.slice/user@1000.service/docker-<id>.scope\n",
        "0::/docker/fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210/<id>\n",
        "1:cpu:/x/<id>\n0::/docker/<id>\n",
    ] {
        let stand = Stand::new().with(FIRST, "1:cpu:/docker/<id>\n0::/docker/<id>\n");
        let stand = stand.with(PID, forged);
        stand.serve("docker.sock", usual());
        let error = stand.failure().await;
        assert_eq!(error.code, Code::PermissionDenied, "{forged}");
        let text = format!(
            "workloadattestor(docker): process {PID} is not in container {ID}, whose name its \
             cgroups or mounts bear"
        );
        assert_eq!(error.message, text);
    }
}

#[tokio::test]
async fn a_name_in_users_hands_has_to_be_proven() {
    // The container's first process is not to be seen, as after its end.
    let gone = container(r#"{"Running":true,"Pid":31337}"#);
    let answers = || vec![(container_path(), Reply::Json(200, gone.clone()))];
    let user = Stand::new().with(PID, "0::/user.slice/user-1000.slice/docker-<id>.scope\n");
    user.serve("docker.sock", answers());
    let error = user.failure().await;
    assert_eq!(error.code, Code::PermissionDenied);
    assert!(error.message.contains("it cannot be verified that process 123 is in"), "{error}");
    // Where only root may name groups, the name has to do.
    let root = Stand::new();
    root.serve("docker.sock", answers());
    assert_eq!(root.values().await.len(), 5);
}

#[tokio::test]
async fn a_container_that_does_not_run_has_no_processes() {
    let stand = Stand::new();
    let ended = container(r#"{"Running":false,"Pid":0}"#);
    let answers = vec![(container_path(), Reply::Json(200, ended.clone()))];
    stand.serve("docker.sock", answers);
    let error = stand.failure().await;
    assert_eq!(error.code, Code::FailedPrecondition);
    assert_eq!(error.message, format!("workloadattestor(docker): container {ID} is not running"));
    // One that is only starting does so in a moment.
    let stand = Stand::new();
    let mut answers = vec![(container_path(), Reply::Json(200, ended))];
    answers.extend(usual());
    stand.serve("docker.sock", answers);
    assert_eq!(stand.values().await, expected());
}

#[tokio::test]
async fn mounts_that_name_a_container_have_to_be_the_containers() {
    let stand = Stand::new().with(PID, "0::/\n");
    let process = |pid: i32| stand.folder.path().join("proc").join(pid.to_string());
    let mount = format!("1 2 0:30 /docker/{ID} /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
    fs::write(process(PID).join("mountinfo"), mount).unwrap();
    let namespaces = |pid: &str, user: u32, mount: u32| {
        let ns = stand.folder.path().join("proc").join(pid).join("ns");
        let _ = fs::remove_dir_all(&ns);
        fs::create_dir_all(&ns).unwrap();
        std::os::unix::fs::symlink(format!("user:[{user}]"), ns.join("user")).unwrap();
        std::os::unix::fs::symlink(format!("mnt:[{mount}]"), ns.join("mnt")).unwrap();
    };
    stand.serve("docker.sock", usual());
    namespaces("self", 1, 1);
    namespaces("123", 1, 7);
    namespaces("100", 1, 7);
    assert_eq!(stand.values().await, expected());
    namespaces("123", 1, 8);
    assert_eq!(stand.failure().await.code, Code::PermissionDenied);
    // Who makes himself a user namespace is not even asked about.
    namespaces("123", 2, 7);
    assert_eq!(stand.values().await, Vec::<String>::new());
}

#[tokio::test]
async fn podmans_are_asked_about_their_containers() {
    let stand = Stand::new().with(PID, "0::/machine.slice/libpod-<id>.scope/container\n");
    let stand = stand.with(FIRST, "0::/machine.slice/libpod-<id>.scope/container\n");
    stand.serve("podman.sock", usual());
    let rootful = format!("podman_socket_path = \"{}\"", stand.socket("podman.sock"));
    assert_eq!(values(&stand.attestor(&rootful)).await, expected());

    let slice = "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-<id>.scope\n";
    let stand = stand.with(PID, slice).with(FIRST, slice);
    stand.serve("user-1000.sock", usual());
    let template = format!("podman_socket_path_template = \"{}\"", stand.socket("user-%d.sock"));
    assert_eq!(values(&stand.attestor(&template)).await, expected());
    let wary = format!("{template}\ndisable_rootless_podman = true");
    assert_eq!(values(&stand.attestor(&wary)).await, Vec::<String>::new());

    let broken = stand.attestor("podman_socket_path_template = \"%d\"");
    let error = broken.attest(PID).await.unwrap_err();
    assert_eq!(
        error.message,
        "workloadattestor(docker): unable to create Podman client for socket \"1000\": unable to \
         parse docker host `1000`"
    );
}

#[tokio::test]
async fn patterns_of_the_operators_find_containers() {
    let stand = Stand::new().with(PID, "0::/my.slice/c-7/x\n").with(FIRST, "0::/my.slice/c-7\n");
    let path = "/v1.41/containers/c-7/json".to_owned();
    stand.serve("docker.sock", vec![(path, Reply::Json(200, running())), image(IMAGE, IMAGE)]);
    let settings = "use_new_container_locator = false\n\
                    container_id_cgroup_matchers = [\"/my.slice/<id>/*\"]";
    let attestor = stand.attestor(settings);
    assert_eq!(values(&attestor).await, expected());
    let error = attestor.attest(9999).await.unwrap_err();
    let expected = "workloadattestor(docker): open proc/9999/cgroup: no such file or directory";
    assert_eq!((error.code, &*error.message), (Code::Unknown, expected));
}

#[tokio::test]
async fn a_daemon_is_found_again_after_its_restart() {
    let stand = Stand::new();
    stand.serve("docker.sock", usual());
    let attestor = stand.attestor("");
    assert_eq!(values(&attestor).await, expected());
    let path = stand.folder.path().join("docker.sock");
    fs::remove_file(&path).unwrap();
    assert!(attestor.attest(PID).await.is_err());
    stand.serve("docker.sock", usual());
    assert_eq!(values(&attestor).await, expected());
}

fn refusal(settings: &str) -> String {
    let error = check(Some(&Block::parse(settings).unwrap())).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    error.message.strip_prefix("workloadattestor(docker): ").unwrap().to_owned()
}

#[test]
fn wrong_settings_are_refused_in_spires_words() {
    for (settings, expected) in [
        ("invalid2 = 1\ninvalid1 = 2", "unknown configurations detected: invalid1,invalid2"),
        ("experimental { sigstore {} }", "unknown configurations detected: experimental"),
        ("docker_host = \"x\"", "unknown configurations detected: docker_host"),
        ("sigstore {}", "sigstore is not available yet in this version of Steeple"),
        (
            "container_id_cgroup_matchers = [\"/docker/<id>\"]",
            "the new container locator and custom cgroup matchers cannot both be used; please \
             open an issue if the new container locator fails to locate workload containers in \
             your environment; to continue using custom matchers set \
             use_new_container_locator=false",
        ),
        (
            "use_new_container_locator = false\ncontainer_id_cgroup_matchers = [\"/docker/\"]",
            "pattern \"/docker/\" must contain the container id token \"<id>\" exactly once",
        ),
        (
            "podman_socket_path_template = \"unix:///run/user/%s/x\"",
            "invalid podman_socket_path_template: template only supports escaped %% or the %d \
             UID placeholder",
        ),
        ("docker_socket_path = \"/x\"", "unable to parse docker host `/x`"),
        ("docker_version = \"1\"", "invalid API version (1): must be formatted <major>.<minor>"),
    ] {
        assert_eq!(refusal(settings), expected, "{settings}");
    }
    assert!(refusal("docker_socket_path = []").starts_with("unable to decode configuration: "));
}

#[test]
fn the_locator_is_remarked() {
    let notes = |settings: &str| check(Some(&Block::parse(settings).unwrap())).unwrap();
    assert_eq!(notes("docker_version = \"1.23\""), ["Using the new container locator"]);
    assert_eq!(notes("use_new_container_locator = false"), ["Using the new container locator"]);
    let legacy = "use_new_container_locator = false\n\
                  container_id_cgroup_matchers = [\"/docker/<id>\"]";
    assert_eq!(notes(legacy), [settings::LEGACY_LOCATOR]);
    assert_eq!(check(None).unwrap(), ["Using the new container locator"]);
}

/// A container that is removed between the two questions leaves an error, not half an answer.
#[tokio::test]
async fn a_container_that_goes_away_has_no_selectors() {
    let stand = Stand::new();
    let gone = Reply::Json(404, r#"{"message":"No such container"}"#.to_owned());
    stand.serve("docker.sock", vec![(container_path(), gone)]);
    fs::remove_dir_all(stand.folder.path().join("proc/100")).unwrap();
    let error = stand.failure().await;
    assert!(error.message.ends_with("Error response from daemon: No such container"));
}
