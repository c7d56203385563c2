//! Process tables in the forms that container runtimes give them. `interop/test_containers.py` has
//! real ones of Docker and Podman, as far as the machine's cgroups go.

use std::os::unix::fs::symlink;

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
const POD: &str = "00000000-1111-2222-3333-444444444444";

/// A process table with the process 123, and us beside it.
struct Table(tempfile::TempDir);

impl Table {
    fn new(cgroup: Option<&str>, mountinfo: Option<&str>) -> Self {
        let table = Self(tempfile::tempdir().unwrap());
        for (name, text) in [("cgroup", cgroup), ("mountinfo", mountinfo)] {
            fs::create_dir_all(table.process("123")).unwrap();
            let Some(text) = text else { continue };
            let text = text.replace("<id>", ID).replace("<other>", OTHER);
            fs::write(table.process("123").join(name), text).unwrap();
        }
        table.in_user_namespace("123", 1).in_user_namespace("self", 1)
    }

    fn in_user_namespace(self, process: &str, number: u32) -> Self {
        let ns = self.process(process).join("ns");
        fs::create_dir_all(&ns).unwrap();
        let _ = fs::remove_file(ns.join("user"));
        symlink(format!("user:[{number}]"), ns.join("user")).unwrap();
        self
    }

    fn process(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn locator(&self) -> Locator {
        Locator::new(self.0.path(), "docker")
    }

    fn locate(&self) -> Option<Container> {
        self.locator().with_pods().verbose(true).locate(123).unwrap()
    }

    fn failure(&self) -> String {
        self.locator().with_pods().locate(123).unwrap_err().to_string()
    }
}

fn groups(cgroup: &str) -> Table {
    Table::new(Some(cgroup), None)
}

fn mounts(mountinfo: &str) -> Table {
    Table::new(Some("0::/\n"), Some(mountinfo))
}

/// Every runtime that we know of, with both drivers and both versions.
#[test]
fn every_runtime_names_its_containers() {
    for (what, cgroup) in [
        ("docker, v1, cgroupfs", "12:pids:/docker/<id>\n11:memory:/docker/<id>\n"),
        ("docker, v1, systemd", "4:devices:/system.slice/docker-<id>.scope\n"),
        ("docker, v2, systemd", "0::/system.slice/docker-<id>.scope\n"),
        ("docker, v2, cgroupfs", "0::/docker/<id>\n"),
        ("docker, v2, from a container beside it", "0::/../docker-<id>.scope\n"),
        ("docker, v2, systemd inside", "0::/system.slice/docker-<id>.scope/init.scope\n"),
        (
            "docker in docker",
            "6:devices:/docker/<id>/docker/<id>/system.slice/containerd.service\n",
        ),
        ("docker, a parent of its own", "0::/my.slice/docker-<id>.scope\n"),
        ("podman, v2, systemd", "0::/machine.slice/libpod-<id>.scope/container\n"),
        ("podman, v1, systemd", "3:pids:/machine.slice/libpod-<id>.scope\n"),
        ("podman, cgroupfs", "3:pids:/libpod_parent/libpod-<id>\n"),
        ("podman, v2, cgroupfs", "0::/libpod_parent/<id>\n"),
        ("containerd with nerdctl", "0::/system.slice/nerdctl-<id>.scope\n"),
        ("containerd, cgroupfs", "0::/default/<id>\n"),
    ] {
        let found = groups(cgroup).locate().unwrap_or_else(|| panic!("{what}: not found"));
        assert_eq!((found.id.as_str(), found.pod_uid), (ID, None), "{what}");
        assert_eq!((found.source, found.user_slice), (Source::Cgroup, None), "{what}");
    }
}

#[test]
fn every_kubernetes_names_its_pods() {
    let uid = |mark: &str| POD.replace('-', mark);
    for (what, cgroup) in [
        ("cgroupfs", "8:cpu:/kubepods/burstable/pod<uid>/<id>\n"),
        ("v2, cgroupfs", "0::/kubepods/besteffort/pod<uid>/<id>\n"),
        (
            "systemd, containerd",
            "0::/kubepods.slice/kubepods-besteffort.slice/\
             kubepods-besteffort-pod<u_i_d>.slice/cri-containerd-<id>.scope\n",
        ),
        (
            "systemd, CRI-O",
            "0::/kubepods.slice/kubepods-pod<u_i_d>.slice/crio-<id>.scope/container\n",
        ),
        (
            "kind",
            "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod<u_i_d>.slice/\
             cri-containerd-<id>.scope\n",
        ),
        (
            "colons, in one segment",
            "11:memory:/system.slice/containerd.service/\
             kubepods-besteffort-pod<u_i_d>.slice:cri-containerd:<id>\n",
        ),
        ("from a pod beside it", "0::/../../pod<uid>/<id>\n"),
        (
            "kind whose node is a container",
            "1:cpuset:/docker/<other>/kubepods/besteffort/pod<uid>/<id>\n\
             0::/docker/<other>/system.slice/containerd.service\n",
        ),
        (
            "the same, told the other way round",
            "9:cpuset:/docker/<other>/system.slice/containerd.service\n\
             8:cpu:/docker/<other>/kubepods/besteffort/pod<uid>/<id>\n",
        ),
    ] {
        let cgroup = cgroup.replace("<uid>", POD).replace("<u_i_d>", &uid("_"));
        let found = groups(&cgroup).locate().unwrap_or_else(|| panic!("{what}: not found"));
        assert_eq!((found.id.as_str(), found.pod_uid.as_deref()), (ID, Some(POD)), "{what}");
        if !cgroup.contains("<other>") {
            let table = groups(&cgroup);
            let plain = table.locator().locate(123).unwrap().unwrap();
            assert_eq!((plain.id.as_str(), plain.pod_uid), (ID, None), "{what}, without pods");
        }
    }
}

#[test]
fn a_process_in_no_container_is_in_none() {
    for cgroup in [
        "",
        "0::/\n",
        "0::/user.slice/user-1000.slice/session-3.scope\n",
        "4:devices:/system.slice/docker.service\n",
        "0::/init.scope\n",
        // 63 and 65 digits, and such as have a neighbour.
        &format!("0::/{}\n", &ID[1..]),
        &format!("0::/{ID}a\n"),
        &format!("0::/docker_{ID}\n"),
        // Nothing is looked for before an empty segment.
        &format!("0::/{ID}/\n"),
        &format!("0::/{ID}//x\n"),
    ] {
        assert_eq!(groups(cgroup).locate(), None, "{cgroup}");
    }
    assert_eq!(Table::new(None, None).locate(), None);
}

#[test]
fn names_that_contradict_each_other_name_nothing() {
    let two = groups("2:cpu:/docker/<id>\n1:pids:/docker/<other>\n");
    assert_eq!(two.failure(), format!("multiple container IDs found ({ID:?}, {OTHER:?})"));
    let pods = groups(&format!("2:a:/pod{POD}/<id>\n1:b:/pod{}/<id>\n", POD.replace('4', "5")));
    assert!(pods.failure().starts_with(&format!("multiple pod UIDs found ({POD:?}, ")));
    let error = two.locator().locate(123).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
}

#[test]
fn mounts_are_asked_when_the_groups_say_nothing() {
    for mountinfo in [
        "2356 2355 0:30 /../<id> /sys/fs/cgroup ro,relatime - cgroup2 cgroup rw\n",
        "1 2 0:68 / /local rw,relatime - tmpfs  rw,size=8192k\n\
         3 2 0:30 / /mnt/cgroup ro - cgroup2 cgroup rw\n\
         4 2 0:33 /docker/<id> /sys/fs/cgroup/systemd ro master:11 - cgroup cgroup rw,xattr\n\
         5 2 0:34 /docker/<id> /sys/fs/cgroup/memory ro master:12 - cgroup cgroup rw,memory\n",
    ] {
        let found = mounts(mountinfo).locate().unwrap();
        assert_eq!((found.id.as_str(), found.source), (ID, Source::Mounts));
    }
    let none = "2356 2355 0:30 /../<id> /sys/fs/cgroup ro - ext4 cgroup rw\n\
                1 2 0:32 /not-a-match /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    assert_eq!(mounts(none).locate(), None);
    let two = "1 2 0:30 /../<id> /a ro - cgroup2 cgroup rw\n\
               1 2 0:30 /../<other> /b ro - cgroup2 cgroup rw\n";
    assert!(mounts(two).failure().starts_with("multiple container IDs found ("));
    let broken = mounts("1 2 0:30 nonsense\n");
    let path = broken.process("123").join("mountinfo");
    let expected = format!(
        "failed to parse mount info at {path:?}: missing separator in mountinfo line: 1 2 0:30 \
         nonsense"
    );
    assert_eq!(broken.failure(), expected);
    assert_eq!(broken.locator().locate(123).unwrap_err().code(), Code::Internal);
}

#[test]
fn mounts_do_not_outdo_the_groups() {
    let mountinfo = "1 2 0:32 /docker/<other> /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    let table = Table::new(Some("0::/../<id>\n"), Some(mountinfo));
    let found = table.locate().unwrap();
    assert_eq!((found.id.as_str(), found.source), (ID, Source::Cgroup));
}

#[test]
fn mounts_made_in_another_user_namespace_are_not_believed() {
    let mountinfo = "1 2 0:32 /docker/<id> /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    assert!(mounts(mountinfo).locate().is_some());
    assert_eq!(mounts(mountinfo).in_user_namespace("123", 2).locate(), None);
    let unknown = mounts(mountinfo);
    fs::remove_file(unknown.process("123").join("ns/user")).unwrap();
    assert_eq!(unknown.locate(), None);
}

#[test]
fn giant_tables_end_in_an_error() {
    let long = format!("1 2 0:1 /{} / rw - ext4 x rw\n", "x".repeat(70_000));
    assert!(mounts(&long).failure().ends_with("token too long"));
    let cgroup = format!("0::/{}\n", "x".repeat(2_000_000));
    assert!(groups(&cgroup).failure().contains("larger than"));
    let many = "1 2 0:1 /x / rw - ext4 x rw\n".repeat(100_000);
    assert_eq!(mounts(&many).locate(), None);
}

#[test]
fn a_container_in_a_users_slice_is_marked_by_the_first_user() {
    let found =
        groups("0::/user.slice/user-1000.slice/user@1000.service/user-0.slice/libpod-<id>.scope\n");
    assert_eq!(found.locate().unwrap().user_slice, Some(1000));
    assert_eq!(user_slice_of("/user.slice/user-4294967296.slice/x"), None);
}

fn user_slice_of(path: &str) -> Option<u32> {
    names::user_slice(path)
}

#[test]
fn the_legacy_rules_of_kubernetes_hold() {
    let found = |cgroup: &str| {
        let container = groups(cgroup).locator().locate_legacy(123).unwrap()?;
        assert_eq!(container.id, ID);
        Some(container.pod_uid.unwrap_or_default())
    };
    let compact = POD.replace('-', "");
    for (cgroup, pod) in [
        (format!("1:a:/kubepods/burstable/pod{POD}/<id>"), Some(POD)),
        (format!("0::/kubepods.slice/kubepods-pod{POD}.slice/docker-<id>.scope"), Some(POD)),
        (format!("0::/x-pod{}.slice:cri-containerd:<id>", POD.replace('-', "_")), Some(POD)),
        (format!("0::/../../pod{POD}/<id>"), Some(POD)),
        (format!("0::/kubepods-pod{compact}.slice/docker-<id>.scope"), Some(&*compact)),
        ("0::/../crio-<id>.scope".to_owned(), Some("")),
        (format!("0::/kubepods/pod{compact}.slice/crio-<id>"), Some(&*compact)),
        ("0::/docker/<id>".to_owned(), None),
        (format!("0::/pod{POD}//<id>"), None),
        (format!("0::/pod{POD}/<id>/x"), None),
        ("0::/short".to_owned(), None),
    ] {
        assert_eq!(found(&cgroup).as_deref(), pod, "{cgroup}");
    }
    let failure = |cgroup: &str| {
        let error = groups(cgroup).locator().locate_legacy(123).unwrap_err();
        (error.code(), error.to_string())
    };
    let two = format!("1:a:/pod{POD}/<id>\n1:a:/pod{POD}/<other>\n");
    let text = format!("multiple container IDs found in cgroups ({ID}, {OTHER})");
    assert_eq!(failure(&two), (Code::FailedPrecondition, text));
    let gone = Table::new(None, None).locator().locate_legacy(123).unwrap_err();
    assert_eq!(
        gone.to_string(),
        "unable to obtain cgroups: open proc/123/cgroup: no such file or directory"
    );
}

#[test]
fn patterns_find_what_stands_for_the_id() {
    let patterns =
        |list: &[&str]| Matchers::new(&list.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
    let group = |path: &str| Cgroup { hierarchy: "0".to_owned(), path: path.to_owned() };
    let find = |list: &[&str], paths: &[&str]| {
        let groups: Vec<_> = paths.iter().map(|path| group(path)).collect();
        patterns(list).unwrap().find(&groups).map_err(|error| error.to_string())
    };
    let long = ["/long.slice/*/*/<id>/*"];
    for (list, path, id) in [
        (&["/docker/<id>"][..], "/docker/foo", Some("foo")),
        (&["/docker/<id>"], "/docker/foo/", None),
        (&["/docker/<id>"], "/docker", None),
        (&["/docker/<id>"], "/dockerfoo", None),
        (&["/a.b/<id>"], "/aXb/foo", None),
        (&long, "/long.slice/foo/bar/baz/", Some("baz")),
        (&long, "/long.slice/foo/bar/baz/qux", Some("baz")),
        (&long, "/long.slice/foo/bar/baz", None),
        (&["/docker/*/<id>", "/docker/<id>"], "/docker/foo", Some("foo")),
    ] {
        assert_eq!(find(list, &[path]).unwrap().as_deref(), id, "{path}");
    }
    let prefix = "workloadattestor/docker: ";
    assert_eq!(
        find(&["/d/<id>"], &["/d/a", "/d/b"]).unwrap_err(),
        format!("{prefix}multiple container IDs found in cgroups (a, b)")
    );
    assert_eq!(
        find(&["/d/<id>"], &["/d/"]).unwrap_err(),
        format!("{prefix}a pattern matched, but no container id was found")
    );
    let refused = |list: &[&str]| patterns(list).unwrap_err().to_string();
    assert_eq!(
        refused(&["/noid"]),
        "pattern \"/noid\" must contain the container id token \"<id>\" exactly once"
    );
    assert!(refused(&["/<id>/<id>"]).starts_with("pattern \"/<id>/<id>\" must contain"));
    assert_eq!(
        refused(&["/docker/<id>", "/*/<id>"]),
        "dockerfinder: patterns must not be ambiguous: [\"/docker/<id>\" \"/*/<id>\"]"
    );
    assert_eq!(
        refused(&["/d/<id>", "/d/<id>"]),
        "dockerfinder: patterns must not be ambiguous: [\"/d/<id>\"]"
    );
}
