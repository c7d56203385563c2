use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use steeple_plugin::contract;
use steeple_spiffe::TrustDomain;
use zbus::OwnedObjectPath as UnitPath;

use super::*;

const PID: i32 = 123;

/// A real `dbus-daemon` on a socket of its own; none where there is no such program.
struct Bus {
    folder: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Bus {
    fn start() -> Option<Self> {
        let found = ["/usr/bin/dbus-daemon", "/bin/dbus-daemon"];
        if !found.iter().any(|path| Path::new(path).exists()) {
            let mut stderr = std::io::stderr();
            let _ = std::io::Write::write_all(&mut stderr, b"skipped: no dbus-daemon\n");
            return None;
        }
        let mut bus = Self { folder: tempfile::tempdir().unwrap(), daemon: None };
        bus.run();
        Some(bus)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("bus")
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.socket().display())
    }

    fn run(&mut self) {
        let config = self.folder.path().join("bus.conf");
        let text = format!(
            "<busconfig><listen>{}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\"/><allow receive_sender=\"*\"/>\
             <allow own=\"*\"/><allow user=\"*\"/></policy></busconfig>",
            self.address()
        );
        fs::write(&config, text).unwrap();
        let _ = fs::remove_file(self.socket());
        let daemon = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--nosyslog"])
            .arg(format!("--config-file={}", config.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.daemon = Some(daemon);
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "dbus-daemon does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    fn attestor(&self) -> Systemd {
        Systemd::new(self.address())
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A stand-in for systemd's manager, by its published interface.
struct Manager;

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    #[zbus(name = "GetUnitByPID")]
    async fn get_unit_by_pid(&self, pid: u32) -> Result<UnitPath, zbus::fdo::Error> {
        match i32::try_from(pid) {
            Ok(PID) => Ok(path("/org/freedesktop/systemd1/unit/nginx_2eservice")),
            Ok(77) => Ok(path("/org/freedesktop/systemd1/unit/gone_2eservice")),
            Ok(88) => std::future::pending().await,
            _ => {
                let text = format!("PID {pid} does not belong to any loaded unit.");
                Err(zbus::fdo::Error::Failed(text))
            }
        }
    }
}

struct Unit;

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    async fn id(&self) -> &str {
        "nginx.service"
    }

    #[zbus(property)]
    async fn fragment_path(&self) -> &str {
        "/lib/systemd/system/nginx.service"
    }
}

fn path(text: &str) -> UnitPath {
    text.try_into().unwrap()
}

async fn manager(bus: &Bus) -> Connection {
    let address = bus.address();
    let building = connection::Builder::address(&*address)
        .serve_at(MANAGER, Manager)
        .serve_at("/org/freedesktop/systemd1/unit/nginx_2eservice", Unit)
        .name(SYSTEMD)
        .build();
    tokio::time::timeout(Duration::from_secs(60), building).await.unwrap().unwrap()
}

async fn values(attestor: &Systemd) -> Vec<String> {
    let selectors = attestor.attest(PID).await.unwrap();
    selectors.iter().map(|selector| selector.to_string()).collect()
}

async fn failure(attestor: &Systemd, pid: i32) -> (Code, String) {
    let error = attestor.attest(pid).await.unwrap_err();
    (error.code, error.message.strip_prefix("workloadattestor(systemd): ").unwrap().to_owned())
}

const EXPECTED: [&str; 2] =
    ["systemd:id:nginx.service", "systemd:fragment_path:/lib/systemd/system/nginx.service"];

#[tokio::test]
async fn a_process_is_told_by_its_unit() {
    let Some(bus) = Bus::start() else { return };
    let _manager = manager(&bus).await;
    let attestor = bus.attestor();
    contract::workload_attestor(&attestor, PID, 9999).await;
    assert_eq!(values(&attestor).await, EXPECTED);
    let none = "failed to get unit by pid 9999: PID 9999 does not belong to any loaded unit.";
    assert_eq!(failure(&attestor, 9999).await, (Code::Internal, none.to_owned()));
    let (code, text) = failure(&attestor, 77).await;
    assert_eq!(code, Code::Internal);
    assert!(text.starts_with("error getting value for Id: "), "{text}");
    assert_eq!(failure(&attestor, -1).await.1, "invalid value for PID: -1");
}

#[tokio::test]
async fn the_connection_is_made_anew_after_a_restart_of_the_bus() {
    let Some(mut bus) = Bus::start() else { return };
    let first = manager(&bus).await;
    let attestor = bus.attestor();
    assert_eq!(values(&attestor).await, EXPECTED);
    drop(first);
    bus.kill();
    let (code, text) = failure(&attestor, PID).await;
    assert_eq!(code, Code::Internal);
    assert!(text.starts_with("failed to open dbus connection: "), "{text}");
    bus.run();
    let _second = manager(&bus).await;
    assert_eq!(values(&attestor).await, EXPECTED);
}

#[tokio::test]
async fn without_systemd_on_the_bus_there_is_an_error() {
    let Some(bus) = Bus::start() else { return };
    let (code, text) = failure(&bus.attestor(), PID).await;
    assert_eq!(code, Code::Internal);
    let expected = "failed to get unit by pid 123: The name org.freedesktop.systemd1 was not";
    assert!(text.starts_with(expected), "{text}");
}

#[tokio::test]
async fn a_systemd_that_hangs_costs_one_deadline_and_no_more() {
    let Some(bus) = Bus::start() else { return };
    let _manager = manager(&bus).await;
    let mut attestor = bus.attestor();
    assert_eq!(values(&attestor).await, EXPECTED);
    attestor.deadline = Duration::from_millis(200);
    let (code, text) = failure(&attestor, 88).await;
    assert_eq!(code, Code::DeadlineExceeded);
    assert_eq!(text, "no answer from systemd over D-Bus within 200ms");
    attestor.deadline = DEADLINE;
    assert_eq!(values(&attestor).await, EXPECTED);
}

#[tokio::test]
async fn there_are_no_settings() {
    let host = HostContext::new(TrustDomain::parse("example.org").unwrap());
    let error = from_config(Some(&Block::parse("a = 1").unwrap()), &host).err().unwrap();
    assert_eq!(
        error.message,
        "workloadattestor(systemd): no supported configuration interface found"
    );
    assert!(from_config(None, &host).is_ok());
}
