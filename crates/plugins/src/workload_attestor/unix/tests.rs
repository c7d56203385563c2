use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use steeple_plugin::contract;
use steeple_spiffe::TrustDomain;

use super::*;

const NOBODY_KNOWS: u32 = u32::MAX - 7;

/// A process table of our own making.
struct Table(tempfile::TempDir);

impl Table {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(self, pid: i32, status: &str) -> Self {
        let dir = self.0.path().join(pid.to_string());
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("status"), status).unwrap();
        self
    }

    fn with_exe(self, pid: i32, contents: &str) -> Self {
        let exe = self.0.path().join("program");
        fs::write(&exe, contents).unwrap();
        symlink(exe, self.0.path().join(pid.to_string()).join("exe")).unwrap();
        self
    }

    fn attestor(&self, settings: &str) -> Arc<dyn WorkloadAttestor> {
        let host = host().with_proc_root(Some(self.0.path().to_owned()));
        from_config(Some(&Block::parse(settings).unwrap()), &host).unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.0.path().canonicalize().unwrap().join(name).display().to_string()
    }
}

fn host() -> HostContext {
    HostContext::new(TrustDomain::parse("example.org").unwrap())
}

async fn values(attestor: &dyn WorkloadAttestor, pid: i32) -> Vec<String> {
    let selectors = attestor.attest(pid).await.unwrap();
    selectors.iter().map(|selector| selector.value.to_string()).collect()
}

async fn failure(attestor: &dyn WorkloadAttestor, pid: i32) -> String {
    let error = attestor.attest(pid).await.unwrap_err();
    assert_eq!(error.code, Code::Internal);
    error.message
}

#[tokio::test]
async fn keeps_the_contract_of_workload_attestors() {
    let attestor = from_config(None, &host()).unwrap();
    let us = i32::try_from(std::process::id()).unwrap();
    contract::workload_attestor(&*attestor, us, i32::MAX).await;
}

#[tokio::test]
async fn selectors_are_in_spires_order_and_unknown_names_are_left_out() {
    let table = Table::new()
        .with(7, "Uid:\t1\t0\t1\t1\nGid:\t1\t0\t1\t1\nGroups:\t4294967288 0 \n")
        .with(8, &format!("Uid:\t{NOBODY_KNOWS}\nGid:\t{NOBODY_KNOWS}\n"));
    let attestor = table.attestor("");
    assert_eq!(
        values(&*attestor, 7).await,
        [
            "uid:0",
            "user:root",
            "gid:0",
            "group:root",
            "supplementary_gid:4294967288",
            "supplementary_gid:0",
            "supplementary_group:root",
        ]
    );
    assert_eq!(values(&*attestor, 8).await, ["uid:4294967288", "gid:4294967288"]);
}

#[tokio::test]
async fn what_is_remembered_of_an_owner_is_what_would_be_found() {
    let table = Table::new()
        .with(7, "Uid:\t0\nGid:\t0\nGroups:\t0 4294967288 \n")
        .with(8, "Uid:\t0\nGid:\t0\n");
    let attestor = table.attestor("");
    let first = values(&*attestor, 7).await;
    for _ in 0..3 {
        assert_eq!(values(&*attestor, 7).await, first);
        assert_eq!(values(&*table.attestor(""), 7).await, first, "one that remembers nothing");
        assert_eq!(values(&*attestor, 8).await, first[..4], "another owner");
    }
}

#[tokio::test]
async fn the_kernel_is_asked_about_every_caller_anew() {
    let table = Table::new().with(7, "Uid:\t0\nGid:\t0\n");
    let attestor = table.attestor("");
    let before = values(&*attestor, 7).await;
    let status = format!("Uid:\t{NOBODY_KNOWS}\nGid:\t0\n");
    fs::write(table.0.path().join("7/status"), status).unwrap();
    let after = values(&*attestor, 7).await;
    assert_eq!(after, ["uid:4294967288", "gid:0", "group:root"]);
    assert_eq!(before[..2], ["uid:0", "user:root"]);
    fs::remove_dir_all(table.0.path().join("7")).unwrap();
    assert!(failure(&*attestor, 7).await.ends_with("process does not exist"));
}

/// A lookup that fails is asked again, and what holds for so long goes with it.
#[test]
fn an_owner_is_remembered_for_no_longer_than_its_names() {
    let clock = steeple_runtime::ManualClock::default();
    let mut host = host();
    host.clock = Arc::new(clock.clone());
    let unix = Unix::new(Config::default(), &host);
    let owner = |uid| Owner { uid, gid: 0, supplementary_gids: Vec::new() };
    unix.shared.names.group(0).unwrap();
    clock.advance(Duration::from_secs(4));
    let found = unix.shared.look_up(owner(0));
    assert_eq!(unix.shared.known(&owner(0)), Some(found));
    assert_eq!(unix.shared.known(&owner(1)), None);
    clock.advance(Duration::from_secs(1));
    assert_eq!(unix.shared.known(&owner(0)), None, "the group's name is five seconds old");
}

#[tokio::test]
async fn failures_say_what_spire_says() {
    let table = Table::new().with(2, "Name:\tx\n").with(3, "Uid:\t1\nGid:\t1\n");
    fs::create_dir(table.0.path().join("4")).unwrap();
    let attestor = table.attestor("discover_workload_path = true");
    let text = async |pid| failure(&*attestor, pid).await;
    assert_eq!(text(2).await, "workloadattestor(unix): UIDs lookup: no UIDs for process");
    assert_eq!(
        text(5).await,
        "workloadattestor(unix): failed to get process: process does not exist"
    );
    assert_eq!(text(0).await, "workloadattestor(unix): failed to get process: invalid pid 0");
    let root = table.0.path().display();
    assert_eq!(
        text(3).await,
        format!(
            "workloadattestor(unix): path lookup: readlink {root}/3/exe: no such file or directory"
        )
    );
    assert_eq!(
        text(4).await,
        format!(
            "workloadattestor(unix): UIDs lookup: open {root}/4/status: no such file or directory"
        )
    );
}

#[tokio::test]
async fn the_program_is_told_by_path_and_digest_when_asked_for() {
    const STATUS: &str = "Uid:\t0\nGid:\t0\n";
    const OF_DATA: &str = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7";
    let table = Table::new().with(9, STATUS).with_exe(9, "data");
    let path = format!("path:{}", table.path("program"));
    let tail = async |settings| values(&*table.attestor(settings), 9).await.split_off(4);
    assert!(tail("").await.is_empty());
    let digest = format!("sha256:{OF_DATA}");
    assert_eq!(tail("discover_workload_path = true").await, [path.clone(), digest.clone()]);
    assert_eq!(
        tail("discover_workload_path = true\nworkload_size_limit = 4").await,
        [path.clone(), digest]
    );
    assert_eq!(tail("discover_workload_path = true\nworkload_size_limit = -1").await, [path]);
    let small = table.attestor("discover_workload_path = true\nworkload_size_limit = 2");
    let text = failure(&*small, 9).await;
    assert!(text.ends_with("/9/exe exceeds size limit (4 > 2)"), "{text}");
}

#[tokio::test]
async fn a_real_process_is_known_by_the_program_it_runs_even_when_that_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().canonicalize().unwrap().join("sleeper");
    fs::copy("/bin/sleep", &program).unwrap();
    let mut child = Command::new(&program).arg("60").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let settings = Block::parse("discover_workload_path = true").unwrap();
    let attestor = from_config(Some(&settings), &host()).unwrap();
    let before = values(&*attestor, pid).await;
    fs::remove_file(&program).unwrap();
    let after = values(&*attestor, pid).await;
    child.kill().unwrap();
    child.wait().unwrap();

    let last_two = |values: &[String]| values[values.len() - 2..].to_vec();
    let (before, after) = (last_two(&before), last_two(&after));
    assert_eq!(before[0], format!("path:{}", program.display()));
    assert_eq!(after[0], format!("path:{} (deleted)", program.display()));
    assert_eq!(before[1], after[1]);
    assert!(before[1].starts_with("sha256:") && before[1].len() == 71, "{}", before[1]);
}

#[tokio::test]
async fn a_flood_of_callers_is_answered() {
    let settings = Block::parse("discover_workload_path = true").unwrap();
    let attestor = from_config(Some(&settings), &host()).unwrap();
    let us = i32::try_from(std::process::id()).unwrap();
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let attestor = Arc::clone(&attestor);
        flood.spawn(async move { attestor.attest(us).await.unwrap() });
    }
    let answers = flood.join_all().await;
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn settings_of_the_wrong_type_are_refused_and_unknown_ones_are_not() {
    let refuse = |settings: &str| check(Some(&Block::parse(settings).unwrap()));
    let error = refuse("workload_size_limit = \"many\"").unwrap_err().to_string();
    let start = "workloadattestor(unix): failed to decode configuration: ";
    assert!(error.starts_with(start), "{error}");
    assert!(refuse("something = 1").is_ok());
    assert!(check(None).is_ok());
}
