//! The agent's half: brings the evidence of every part, and hands each challenge to whose it is.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use steeple_pki::Signer;
use steeple_plugin::{Code, NodeEvidence, PluginError};

use super::payload::{Challenge, Payload};
use super::{NAME, error};

pub(super) struct Composite {
    parts: Vec<Arc<dyn NodeEvidence>>,
    progress: Mutex<Progress>,
}

/// How far the conversation that the last payload began has come.
#[derive(Clone, Copy, Default)]
struct Progress {
    part: usize,
    steps: u32,
}

impl Composite {
    pub(super) fn new(parts: Vec<Arc<dyn NodeEvidence>>) -> Self {
        Self { parts, progress: Mutex::default() }
    }

    fn begin(&self, parts: Vec<(String, Vec<u8>)>) -> Vec<u8> {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Progress::default();
        Payload { parts }.encode()
    }

    /// The part that a challenge is for, if it is its turn: a challenge to one part must never
    /// become the question that another one answers.
    fn turn(&self, challenge: &Challenge) -> Result<&Arc<dyn NodeEvidence>, PluginError> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.parts.iter().position(|part| part.name() == challenge.attestor);
        match at {
            Some(at) if at >= progress.part && challenge.step == progress.steps + 1 => {
                *progress = Progress { part: at, steps: challenge.step };
                Ok(&self.parts[at])
            }
            _ => Err(error(Code::Internal, "server issued unexpected challenge")),
        }
    }
}

#[async_trait]
impl NodeEvidence for Composite {
    fn name(&self) -> &str {
        NAME
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        let mut parts = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            parts.push((part.name().to_owned(), part.payload().await?));
        }
        Ok(self.begin(parts))
    }

    async fn payload_for(&self, key: &dyn Signer) -> Result<Vec<u8>, PluginError> {
        let mut parts = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            parts.push((part.name().to_owned(), part.payload_for(key).await?));
        }
        Ok(self.begin(parts))
    }

    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        let challenge = Challenge::decode(challenge)
            .ok_or_else(|| error(Code::Internal, "server issued unexpected challenge"))?;
        let part = self.turn(&challenge)?;
        let data = part.respond(&challenge.data).await?;
        Ok(Challenge { data, ..challenge }.encode())
    }

    async fn end(&self) {
        for part in &self.parts {
            part.end().await;
        }
    }
}
