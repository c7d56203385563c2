//! Built-in node attestors.

pub mod composite;
mod files;
mod forms;
pub mod http_challenge;
pub mod join_token;
pub mod k8s_psat;
pub mod sshpop;
pub mod tpm;
pub mod tpm_devid;
pub mod x509pop;
