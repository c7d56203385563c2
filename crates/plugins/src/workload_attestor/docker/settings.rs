//! The settings, and what they come to.

use serde::Deserialize;
use steeple_hcl::Block;
use steeple_plugin::{Code, Kind, PluginError};

use super::NAME;
use super::container::Matchers;
use super::daemon::Version;
use super::endpoint::Endpoint;
use super::podman::Podman;
use steeple_plugin::settings::decode_strictly;

const DEFAULT_DOCKER: &str = "unix:///var/run/docker.sock";
const NEW_LOCATOR: &str = "Using the new container locator";
pub(super) const LEGACY_LOCATOR: &str = "Using the legacy container locator with custom cgroup \
                                         matchers. This feature will be removed in a future \
                                         release.";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    docker_socket_path: String,
    docker_version: String,
    podman_socket_path: String,
    podman_socket_path_template: String,
    container_id_cgroup_matchers: Vec<String>,
    use_new_container_locator: Option<bool>,
    verbose_container_locator_logs: bool,
    disable_rootless_podman: bool,
    sigstore: Option<Block>,
}

/// What the plugin works by.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) docker: Endpoint,
    pub(super) version: Option<Version>,
    pub(super) podman: Podman,
    /// None for the new locator.
    pub(super) matchers: Option<Matchers>,
    pub(super) verbose: bool,
}

impl Settings {
    /// Reads the settings; with them comes what there is to remark.
    pub(super) fn read(data: Option<&Block>) -> Result<(Self, Vec<String>), PluginError> {
        let raw: Raw = decode_strictly(Kind::WorkloadAttestor, NAME, data)?;
        if raw.sigstore.is_some() {
            // Images whose signatures nobody looks at would pass for verified ones.
            return Err(invalid("sigstore is not available yet in this version of Steeple"));
        }
        let (matchers, note) = matchers(&raw)?;
        let podman = Podman::new(
            &raw.podman_socket_path,
            &raw.podman_socket_path_template,
            !raw.disable_rootless_podman,
        )
        .map_err(|reason| invalid(format!("invalid podman_socket_path_template: {reason}")))?;
        let host = Some(&*raw.docker_socket_path).filter(|it| !it.is_empty());
        let docker = Endpoint::parse(host.unwrap_or(DEFAULT_DOCKER))
            .map_err(|error| invalid(error.to_string()))?;
        let version = match raw.docker_version.trim() {
            "" | "v" => None,
            text => Some(Version::parse(text).map_err(|reason| {
                invalid(format!("invalid API version ({}): {reason}", super::shorten(text)))
            })?),
        };
        let verbose = raw.verbose_container_locator_logs;
        Ok((Self { docker, version, podman, matchers, verbose }, vec![note.to_owned()]))
    }
}

fn matchers(raw: &Raw) -> Result<(Option<Matchers>, &'static str), PluginError> {
    if raw.container_id_cgroup_matchers.is_empty() {
        return Ok((None, NEW_LOCATOR));
    }
    if raw.use_new_container_locator.unwrap_or(true) {
        return Err(invalid(
            "the new container locator and custom cgroup matchers cannot both be used; please \
             open an issue if the new container locator fails to locate workload containers in \
             your environment; to continue using custom matchers set \
             use_new_container_locator=false",
        ));
    }
    let matchers = Matchers::new(&raw.container_id_cgroup_matchers);
    Ok((Some(matchers.map_err(|error| invalid(error.to_string()))?), LEGACY_LOCATOR))
}

fn invalid(message: impl Into<String>) -> PluginError {
    PluginError::new(Kind::WorkloadAttestor, NAME, Code::InvalidArgument, message.into())
}
