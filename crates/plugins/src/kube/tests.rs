use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::stand::{Answer, Ca, Stand, ok};
use super::*;

fn environment(folder: &tempfile::TempDir, name: &'static str, value: String) -> Environment {
    Environment::new(move |asked| (asked == name).then(|| value.clone()), folder.path())
}

async fn version(client: &Client) -> Result<Value, KubeError> {
    client.get("/version", Form::Whole).await
}

#[tokio::test]
async fn a_kubeconfig_says_where_and_who() {
    let ca = Ca::new();
    let stand = Stand::start(Some((&ca.leaf(&["kube.test"]), &ca)), |_| ok("{\"x\":1}")).await;
    let folder = tempfile::tempdir().unwrap();
    let user = ca.leaf(&["admin"]);
    std::fs::write(folder.path().join("client.key"), user.key_pem()).unwrap();
    let path = folder.path().join("config");
    let text = format!(
        "clusters:\n- name: c\n  cluster:\n    server: https://127.0.0.1:{}/base/\n    \
         tls-server-name: kube.test\n    certificate-authority-data: {}\ncontexts:\n- context:\n    \
         cluster: c\n    user: u\n  name: x\ncurrent-context: x\nusers:\n- name: u\n  user:\n    \
         token: abc\n    client-certificate-data: {}\n    client-key: client.key\n",
        stand.port,
        STANDARD.encode(&ca.pem),
        STANDARD.encode(&user.pem),
    );
    std::fs::write(&path, text).unwrap();
    let client = Client::new(environment(&folder, "KUBECONFIG", path.display().to_string()));
    assert_eq!(version(&client).await.unwrap(), json!({"x": 1}));
    let asked = stand.asked();
    assert_eq!(asked[0].target, "/base/version");
    assert_eq!(asked[0].authorization.as_deref(), Some("Bearer abc"));
    assert!(asked[0].certificate);
    std::fs::write(&path, "current-context: none").unwrap();
    let client = Client::new(environment(&folder, "KUBECONFIG", path.display().to_string()));
    let error = version(&client).await.unwrap_err().to_string();
    assert!(error.ends_with("the current context of the kubeconfig is not in it"), "{error}");
}

/// A kubeconfig whose user runs a shell script, and who it is run by.
fn by_program(folder: &tempfile::TempDir, port: u16, script: &str, more: &str) -> Client {
    let program = folder.path().join("credentials.sh");
    std::fs::write(&program, script).unwrap();
    let path = folder.path().join("config");
    let text = format!(
        "clusters:\n- name: c\n  cluster:\n    server: http://127.0.0.1:{port}\ncontexts:\n- \
         context:\n    cluster: c\n    user: u\n  name: x\ncurrent-context: x\nusers:\n- name: \
         u\n  user:\n    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      \
         command: sh\n      args:\n      - {}\n      - --region\n      env:\n      - name: WHO\n\
         \u{20}       value: me\n      interactiveMode: Never\n{more}",
        program.display(),
    );
    std::fs::write(&path, text).unwrap();
    Client::new(Environment::new(|_| None, folder.path()).only(Some(path)))
}

#[tokio::test]
async fn a_program_of_the_kubeconfig_makes_credentials_which_are_kept() {
    let stand = Stand::start(None, |_| ok("{\"x\":1}")).await;
    let folder = tempfile::tempdir().unwrap();
    let count = folder.path().join("count");
    let script = format!(
        "echo >> {0}\ncase \"$KUBERNETES_EXEC_INFO\" in *'\"server\":\"http://127.0.0.1'*) ;; *) exit \
         9 ;; esac\necho '{{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.\
         k8s.io/v1\",\"status\":{{\"token\":\"'$WHO$1'\",\"expirationTimestamp\":\
         \"2999-01-01T00:00:00Z\"}}}}'",
        count.display()
    );
    let client = by_program(&folder, stand.port, &script, "      provideClusterInfo: true\n");
    for _ in 0..3 {
        version(&client).await.unwrap();
    }
    let asked = stand.asked();
    assert!(asked.iter().all(|it| it.authorization.as_deref() == Some("Bearer me--region")));
    assert_eq!(std::fs::read_to_string(&count).unwrap().len(), 1, "it is run once");
    stand.answer(|_| Answer::Json(401, String::new()));
    version(&client).await.unwrap_err();
    assert_eq!(std::fs::read_to_string(&count).unwrap().len(), 1, "a refusal runs it not at once");

    // What is over is made anew each time.
    let stale = script.replace("2999", "1999");
    stand.answer(|_| ok("{}"));
    let client = by_program(&folder, stand.port, &stale, "      provideClusterInfo: true\n");
    version(&client).await.unwrap();
    let error = client.environment.cluster().unwrap();
    error.complete(&client.made, SystemTime::now()).await.unwrap();
    assert_eq!(std::fs::read_to_string(&count).unwrap().len(), 3);
}

#[tokio::test]
async fn a_program_that_makes_none_is_told_of_and_none_of_its_output() {
    let stand = Stand::start(None, |_| ok("{}")).await;
    let folder = tempfile::tempdir().unwrap();
    let printed = |version: &str, status: &str| {
        let kind = "\"kind\":\"ExecCredential\"";
        format!("echo '{{{kind},\"apiVersion\":\"{version}\",\"status\":{status}}}'")
    };
    let v1 = "client.authentication.k8s.io/v1";
    for (script, expected) in [
        ("echo no login >&2; exit 3".to_owned(), "executable sh failed with exit code 3: no login"),
        ("echo secret".to_owned(), "decoding stdout: it is no ExecCredential"),
        (printed("v2", "{}"), "plugin returned another kind or version than was asked for"),
        (printed(v1, "{}"), "exec plugin didn't return a token or cert/key pair"),
        (
            printed(v1, "{\"clientKeyData\":\"x\"}"),
            "plugin returned only certificate or key, not both",
        ),
        (
            printed(v1, "{\"token\":\"t\",\"expirationTimestamp\":\"soon\"}"),
            "the expirationTimestamp is not a time",
        ),
        ("head -c 9000000 /dev/zero".to_owned(), "decoding stdout: it is no ExecCredential"),
    ] {
        let client = by_program(&folder, stand.port, &script, "");
        let error = version(&client).await.unwrap_err().to_string();
        let prefix = "unable to load Kubernetes client config: getting credentials: exec: ";
        assert_eq!(error, format!("{prefix}{expected}"));
    }
    let path = folder.path().join("config");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, expected) in [
        ("command: sh", "command: not-there", "executable not-there not found"),
        ("command: sh", "command: ./none", "executable ./none not found"),
        ("io/v1\n", "io/v1alpha1\n", "its apiVersion is not supported"),
        ("Mode: Never", "Mode: Always", "the program wants to ask somebody, and nobody is here"),
    ] {
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let surroundings = Environment::new(|_| None, folder.path()).only(Some(path.clone()));
        let error = version(&Client::new(surroundings)).await.unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}");
    }
    assert!(stand.asked().is_empty());
}

#[tokio::test]
async fn without_a_cluster_the_caller_learns_so() {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::new(Environment::new(|_| None, folder.path()));
    let error = version(&client).await.unwrap_err().to_string();
    assert!(error.starts_with("unable to load Kubernetes client config: "), "{error}");
}

#[tokio::test]
async fn refusals_are_told_in_the_servers_words_or_in_those_of_gos_client() {
    let stand = Stand::start(None, |_| Answer::Hang).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let text = json!({
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{}", stand.port)}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": ""}}],
        "current-context": "x"
    });
    std::fs::write(&path, text.to_string()).unwrap();
    let client = Client::new(environment(&folder, "KUBECONFIG", path.display().to_string()));
    for (status, body, expected) in [
        (403, "{\"kind\":\"Status\",\"message\":\"no\"}", "no"),
        (404, "gone", "the server could not find the requested resource"),
        (401, "", "the server has asked for the client to provide credentials"),
        (
            418,
            "",
            "the server responded with the status code 418 but did not return more information",
        ),
        (200, "nonsense", "unable to decode the answer of the Kubernetes API server: "),
    ] {
        stand.answer(move |_| Answer::Json(status, body.to_owned()));
        let error = version(&client).await.unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(error.is_not_found(), status == 404);
    }
    stand.answer(|_| Answer::Endless("HTTP/1.1 200 OK\r\n\r\n".to_owned(), vec![b' '; 1 << 20]));
    let error = version(&client).await.unwrap_err().to_string();
    assert!(error.ends_with(&format!("the answer is larger than {MAX_ITEM} bytes")), "{error}");
}

#[test]
fn names_of_strangers_are_one_part_of_a_path_or_nothing() {
    assert_eq!(segment("blog-1.x").unwrap(), "blog-1.x");
    assert_eq!(segment("a b?c#d&e:f").unwrap(), "a%20b%3Fc%23d%26e%3Af");
    for name in ["", ".", "..", "a/b", "../x", "a%2fb", "a\nb", &"x".repeat(254)] {
        assert!(segment(name).is_err(), "{name}");
    }
}
