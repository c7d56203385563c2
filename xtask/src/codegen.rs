//! `cargo xtask codegen`: Rust from the files in `proto/`, committed in `crates/proto/src/gen`.
//!
//! No protoc is needed. A test regenerates everything and compares, so that the committed code
//! cannot drift from the `.proto` files.

use std::fs;
use std::path::{Path, PathBuf};

use protox::Compiler;
use tonic_prost_build::Config;

type Error = Box<dyn std::error::Error>;

/// Messages that carry private keys, bearer tokens or evidence. Their `Debug` is written by hand
/// in `crates/proto/src/redact.rs` and shows no field.
const SECRETS: &[&str] = &[
    ".X509SVID",
    ".JWTSVID",
    ".WITSVID",
    ".ValidateJWTSVIDRequest",
    ".envoy.config.core.v3.DataSource",
    ".envoy.extensions.transport_sockets.tls.v3.Secret",
    ".envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
    ".envoy.service.discovery.v3.DeltaDiscoveryResponse",
    ".envoy.service.discovery.v3.DiscoveryResponse",
    ".envoy.service.discovery.v3.Resource",
    ".spiffe.broker.X509SVID",
    ".spiffe.broker.JWTSVID",
    ".spire.api.types.AttestationData",
    ".spire.api.types.JWTSVID",
    ".spire.api.types.WITSVID",
    ".spire.api.types.JoinToken",
    ".spire.api.server.agent.v1.CreateJoinTokenRequest",
    ".spire.api.server.agent.v1.AttestAgentRequest",
    ".spire.api.agent.delegatedidentity.v1.X509SVIDWithKey",
    ".steeple.agent.delegation.v1.SVIDWithKey",
    ".steeple.server.jointoken.v1.CreateJoinTokenResponse",
    ".spire.common.AttestationData",
    ".spire.hostservice.server.identityprovider.v1.X509Identity",
    ".spire.plugin.agent.nodeattestor.v1.PayloadOrChallengeResponse",
    ".spire.plugin.agent.svidstore.v1.X509SVID",
    ".spire.plugin.server.nodeattestor.v1.AttestRequest",
];

/// Two files have no package of their own; each is compiled by itself, into a module of this name.
const WITHOUT_PACKAGE: &[(&str, &str)] = &[
    ("spiffe/workload/workload.proto", "workload"),
    ("private/server/journal/journal.proto", "journal"),
];

/// Writes `crates/proto/src/gen` anew.
pub(crate) fn run(root: &Path) -> Result<(), Error> {
    let out = root.join("crates/proto/src/gen");
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    fs::create_dir_all(&out)?;
    generate(root, &out)
}

fn generate(root: &Path, out: &Path) -> Result<(), Error> {
    let proto = root.join("proto");
    let all = proto_files(&proto, &proto)?;
    let packaged: Vec<String> = all
        .iter()
        .filter(|file| WITHOUT_PACKAGE.iter().all(|(name, _)| name != file))
        .cloned()
        .collect();

    compile(&proto, &packaged, "unused", out)?;
    for (file, module) in WITHOUT_PACKAGE {
        compile(&proto, &[(*file).to_owned()], module, out)?;
    }
    fs::write(
        out.join("descriptors.bin"),
        descriptors(&proto, &all)?.encode_file_descriptor_set(),
    )?;
    Ok(())
}

fn compile(proto: &Path, files: &[String], module: &str, out: &Path) -> Result<(), Error> {
    let mut config = Config::new();
    config.default_package_filename(module);
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .skip_debug(SECRETS)
        .emit_rerun_if_changed(false)
        .out_dir(out)
        .compile_fds_with_config(descriptors(proto, files)?.file_descriptor_set(), config)?;
    Ok(())
}

fn descriptors(proto: &Path, files: &[String]) -> Result<Compiler, Error> {
    let mut compiler = Compiler::new([proto])?;
    compiler.include_imports(true).include_source_info(false).open_files(files)?;
    Ok(compiler)
}

/// Paths relative to `root`, with forward slashes, in a stable order.
fn proto_files(root: &Path, dir: &Path) -> Result<Vec<String>, Error> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_, Error>>()?;
    entries.sort();
    let mut files = Vec::new();
    for path in entries {
        if path.is_dir() {
            files.extend(proto_files(root, &path)?);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path.strip_prefix(root)?.to_string_lossy().replace('\\', "/"));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn committed_code_is_what_the_proto_files_generate() {
        let root = crate::root();
        let scratch = std::env::temp_dir().join(format!("steeple-codegen-{}", std::process::id()));
        fs::create_dir_all(&scratch).unwrap();
        generate(&root, &scratch).unwrap();
        let fresh = contents(&scratch);
        fs::remove_dir_all(&scratch).unwrap();
        let committed = contents(&root.join("crates/proto/src/gen"));

        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&fresh), names(&committed), "run `cargo xtask codegen`");
        for (name, bytes) in &fresh {
            assert!(bytes == &committed[name], "{name} is stale: run `cargo xtask codegen`");
        }
    }

    #[test]
    fn every_package_is_mounted_in_the_crate() {
        let root = crate::root();
        let lib = fs::read_to_string(root.join("crates/proto/src/lib.rs")).unwrap();
        for name in contents(&root.join("crates/proto/src/gen")).keys() {
            assert!(lib.contains(&format!("gen/{name}\"")), "lib.rs does not include {name}");
        }
    }

    fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
            })
            .collect()
    }
}
