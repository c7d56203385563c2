//! `api fetch` and `api fetch x509`.

use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use steeple_pki::pem;
use steeple_pki::x509::Certificate;
use steeple_proto::workload::X509svidRequest;
use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use steeple_runtime::fsx;
use tonic::Status;

use super::SOCKET;
use super::identity::{self, Identity};
use crate::dispatch::{Failure, Verb};
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) struct Fetch {
    pub(super) path: &'static str,
}

/// How long the verbs of `api` wait by default.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

#[async_trait]
impl Verb for Fetch {
    fn path(&self) -> &'static str {
        self.path
    }

    fn usage_name(&self) -> &'static str {
        "fetch x509"
    }

    fn synopsis(&self) -> &'static str {
        "Fetches X509 SVIDs from the Workload API"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        flags.duration_value("timeout", TIMEOUT, "Time to wait for a response");
        flags.switch("silent", "Print nothing to standard output");
        flags.text(
            "write",
            "",
            "Directory to write SVIDs, keys and bundles to (pretty output only)",
        );
    }

    fn describe(&self, failure: &Failure) -> String {
        format!("{}\n", failure.0)
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let start = Instant::now();
        let mut client = SpiffeWorkloadApiClient::new(SOCKET.channel(flags, env)?);
        let response = identity::within(flags.dur("timeout"), async {
            let request = identity::request(X509svidRequest {});
            let mut stream = client.fetch_x509svid(request).await?.into_inner();
            stream.message().await?.ok_or_else(|| Status::unknown("EOF"))
        })
        .await?;
        let after = start.elapsed();
        if Output::of(flags).is_json() {
            env.out(&proto_line(&Named("X509SVIDResponse", &response))?);
            return Ok(());
        }
        let identities = identity::parse(&response)?;
        if !flags.is_set("silent") {
            env.out(&identity::text(&identities, after));
        }
        match flags.str("write") {
            "" => Ok(()),
            directory => write(env, Path::new(directory), &identities),
        }
    }
}

fn write(env: &mut Env, directory: &Path, identities: &[Identity]) -> Result<(), Failure> {
    let mut save = |name: String, what: String, content: &[u8], mode: u32| {
        let path = directory.join(name);
        env.out(&format!("Writing {what} to file {}.\n", path.display()));
        fsx::write_atomic(&path, content, mode).map_err(|error| {
            let told = error.to_string();
            match told.strip_prefix("create ").and_then(|told| told.rsplit_once(": ")) {
                // The name of the temporary file says nothing to anybody.
                Some((_, why)) => Failure(format!("open {}: {why}", path.display())),
                None => Failure(told),
            }
        })
    };
    for (index, identity) in identities.iter().enumerate() {
        let chain = certificates(&identity.chain);
        save(format!("svid.{index}.pem"), format!("SVID #{index}"), chain.as_bytes(), 0o644)?;
        let key = identity.key.to_pkcs8_pem();
        save(format!("svid.{index}.key"), format!("key #{index}"), key.as_bytes(), 0o600)?;
        let bundle = certificates(&identity.bundle);
        save(format!("bundle.{index}.pem"), format!("bundle #{index}"), bundle.as_bytes(), 0o644)?;
        for (number, (domain, roots)) in identity.federated.iter().enumerate() {
            let what = format!("federated bundle #{number} for trust domain {domain}");
            let name = format!("federated_bundle.{index}.{number}.pem");
            save(name, what, certificates(roots).as_bytes(), 0o644)?;
        }
    }
    Ok(())
}

fn certificates(certificates: &[Certificate]) -> String {
    certificates.iter().map(|certificate| pem::encode("CERTIFICATE", certificate.der())).collect()
}
