use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use super::*;

/// An emulator that has `answer` for one caller, and then waits until told that it may go.
fn emulator(folder: &Path, answer: Vec<u8>) -> (PathBuf, JoinHandle<Vec<u8>>) {
    let path = folder.join("tpm.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut command = vec![0; 12];
        stream.read_exact(&mut command).unwrap();
        stream.write_all(&answer).unwrap();
        // Until the caller hangs up.
        let _ = stream.read(&mut [0]);
        command
    };
    (path, thread::spawn(serve))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

const STARTUP: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0];
const FINE: [u8; 10] = [0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0];

#[test]
fn a_command_goes_over_a_socket_and_its_answer_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let (path, emulator) = emulator(folder.path(), FINE.to_vec());
    let mut device = Device::open(&path).unwrap();
    assert!(!device.is_managed());
    assert_eq!(device.command(&STARTUP, soon()).unwrap(), FINE);
    assert_eq!(emulator.join().unwrap(), STARTUP);
}

#[test]
fn what_is_no_tpm_is_told_from_one_that_is_away() {
    let mut short = FINE.to_vec();
    short[5] = 9;
    let mut huge = FINE.to_vec();
    huge[2] = 0x7f;
    let mut web = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
    web.truncate(20);
    for answer in [short, huge, web] {
        let folder = tempfile::tempdir().unwrap();
        let (path, emulator) = emulator(folder.path(), answer);
        let error = Device::open(&path).unwrap().command(&STARTUP, soon()).unwrap_err();
        assert!(matches!(error, DeviceError::Garbage(_)), "{error}");
        emulator.join().unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, emulator) = emulator(folder.path(), FINE.to_vec());
    let mut device = Device::open(&path).unwrap();
    device.command(&STARTUP, soon()).unwrap();
    emulator.join().unwrap();
    let error = device.command(&STARTUP, soon()).unwrap_err();
    assert!(matches!(error, DeviceError::Lost { .. }), "{error}");
}

#[test]
fn nothing_is_waited_for_beyond_the_deadline() {
    for answer in [vec![], FINE[..7].to_vec()] {
        let folder = tempfile::tempdir().unwrap();
        let (path, emulator) = emulator(folder.path(), answer);
        let mut device = Device::open(&path).unwrap();
        let deadline = Instant::now() + Duration::from_millis(200);
        let error = device.command(&STARTUP, deadline).unwrap_err();
        assert!(matches!(error, DeviceError::Late(_)), "{error}");
        emulator.join().unwrap();
    }
    // Nobody accepts, and the queue is full.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tpm.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut device = Device::open(&path).unwrap();
    let error = device.command(&STARTUP, Instant::now() + Duration::from_millis(200)).unwrap_err();
    assert!(matches!(error, DeviceError::Late(_)), "{error}");
}

#[test]
fn a_path_without_a_tpm_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("tpmrm0");
    let error = Device::open(&missing).unwrap_err().to_string();
    assert_eq!(error, format!("stat {}: no such file or directory", missing.display()));
    let error = Device::open(folder.path()).unwrap_err();
    assert!(matches!(error, DeviceError::NotATpm(_)), "{error}");
}

#[test]
fn the_resource_manager_is_preferred_and_several_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let touch = |name: &str| File::create(folder.path().join(name)).map(drop).unwrap();
    assert!(matches!(autodetect(folder.path()), Err(AutodetectError::None)));
    touch("tpmx");
    touch("tpm0");
    assert_eq!(autodetect(folder.path()).unwrap(), folder.path().join("tpm0"));
    touch("tpmrm0");
    assert_eq!(autodetect(folder.path()).unwrap(), folder.path().join("tpmrm0"));
    touch("tpmrm1");
    assert!(matches!(autodetect(folder.path()), Err(AutodetectError::Several)));
}
