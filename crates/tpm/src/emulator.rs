//! For tests: `swtpm`, a TPM in software, with a state of its own.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Device;

/// A software TPM that ends when it is dropped.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    folder: tempfile::TempDir,
}

impl Emulator {
    /// Starts a TPM that nobody has used before. `None`, after a word about it, where there is no
    /// `swtpm`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let child = match launch(folder.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Past the capturing of tests' output, as this is for who looks at a run.
                let _ = writeln!(io::stderr(), "skipped: swtpm is not installed");
                return None;
            }
            child => child.expect("swtpm starts"),
        };
        let emulator = Self { child, folder };
        emulator.wait();
        Some(emulator)
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("tpm.sock")
    }

    /// Ends it and starts it again with the same state: a reboot.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.stop();
        self.child = launch(self.folder.path()).expect("swtpm starts");
        self.wait();
    }

    /// Puts another TPM at the same place.
    ///
    /// # Panics
    /// When it does not start.
    pub fn swap(&mut self) {
        self.stop();
        for entry in self.folder.path().read_dir().expect("the folder is there").flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        self.child = launch(self.folder.path()).expect("swtpm starts");
        self.wait();
    }

    /// Ends it; its socket stays behind, as after a crash.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn wait(&self) {
        let patience = Instant::now() + Duration::from_secs(20);
        loop {
            let soon = Instant::now() + Duration::from_secs(5);
            let asked =
                Device::open(&self.path()).and_then(|mut tpm| tpm.command(&SELF_TEST, soon));
            match asked {
                Ok(_) => return,
                Err(error) => assert!(Instant::now() < patience, "swtpm does not answer: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop();
    }
}

fn launch(folder: &Path) -> io::Result<Child> {
    let socket = folder.join("tpm.sock");
    let _ = std::fs::remove_file(&socket);
    Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
        .arg(format!("dir={}", folder.display()))
        .arg("--server")
        .arg(format!("type=unixio,path={}", socket.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// TPM2_GetTestResult.
const SELF_TEST: [u8; 10] = [0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x7c];
