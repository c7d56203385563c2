//! `agent-data.json` in the data directory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use steeple_agent_core::storage::AgentData;
use steeple_pki::Certificate;
use steeple_runtime::fsx;

use crate::error::AgentError;

/// The file, and what it holds.
pub(crate) struct DataFile {
    path: PathBuf,
    data: Mutex<AgentData>,
}

impl DataFile {
    /// Reads the file in `directory`, which is made if it is missing; a
    /// missing file is an empty one.
    pub(crate) fn open(directory: &Path) -> Result<Self, AgentError> {
        let failed = |what| {
            move |source: io::Error| AgentError::File { what, path: directory.to_owned(), source }
        };
        fsx::create_dir_all(directory, 0o755).map_err(failed("failed to create data directory"))?;
        let path = directory.join("agent-data.json");
        let data = match fsx::read_limited(&path, MAX_SIZE) {
            Ok(Some(json)) => AgentData::parse(&json)?,
            Ok(None) => AgentData::default(),
            Err(source) => {
                return Err(AgentError::File { what: "failed to read data:", path, source });
            }
        };
        Ok(Self { path, data: Mutex::new(data) })
    }

    /// A copy of what is held.
    pub(crate) fn read(&self) -> AgentData {
        self.lock().clone()
    }

    /// Changes it, on disk first: when writing fails nothing has changed.
    pub(crate) fn update(&self, change: impl FnOnce(&mut AgentData)) -> Result<(), AgentError> {
        let mut held = self.lock();
        let mut data = held.clone();
        change(&mut data);
        fsx::write_atomic(&self.path, &data.to_json(), 0o600).map_err(|source| {
            AgentError::File { what: "failed to write data file:", path: self.path.clone(), source }
        })?;
        *held = data;
        Ok(())
    }

    /// Records the trust bundle; a failure is logged, for the agent can go on.
    pub(crate) fn store_bundle(&self, authorities: Vec<Certificate>) {
        if let Err(error) = self.update(|data| data.bundle = authorities) {
            tracing::error!(subsystem_name = "manager", %error, "Could not store bundle");
        }
    }

    /// Records the agent's SVID, likewise.
    pub(crate) fn store_svid(&self, svid: Vec<Certificate>, reattestable: bool) {
        let stored = self.update(|data| {
            data.svid = svid;
            data.reattestable = reattestable;
        });
        if let Err(error) = stored {
            tracing::warn!(subsystem_name = "manager", %error, "Could not store SVID");
        }
    }

    /// Forgets the agent's SVID: the server will have no more of it.
    pub(crate) fn delete_svid(&self) {
        let deleted = self.update(|data| {
            data.svid.clear();
            data.reattestable = false;
        });
        if let Err(error) = deleted {
            tracing::error!(subsystem_name = "manager", %error, "Failed to remove SVID");
        }
    }

    fn lock(&self) -> MutexGuard<'_, AgentData> {
        self.data.lock().expect("no code panics while it holds the agent's data")
    }
}

const MAX_SIZE: u64 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_private_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = DataFile::open(&directory.path().join("new")).unwrap();
        file.update(|data| data.connection_attempts = 7).unwrap();
        let path = directory.path().join("new/agent-data.json");
        assert_eq!(fsx::mode(&path).unwrap() & 0o777, 0o600);
        let again = DataFile::open(&directory.path().join("new")).unwrap();
        assert_eq!(again.read().connection_attempts, 7);
    }

    #[test]
    fn a_broken_file_stops_the_agent_rather_than_its_identity() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("agent-data.json"), "{\"svid\":").unwrap();
        let error = DataFile::open(directory.path()).err().unwrap().to_string();
        assert!(error.starts_with("failed to open storage: failed to unmarshal data: "), "{error}");
    }
}
