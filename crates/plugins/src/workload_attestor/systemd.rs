//! `systemd`: the unit that a process belongs to, by systemd's word over D-Bus.
//!
//! One connection to the system's bus is kept and made anew when it is gone; a call that met one
//! on its way out is made once more.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, PluginError, WorkloadAttestor};
use steeple_spiffe::Selector;
use tokio::sync::Mutex;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, connection};

use super::container::shorten;
use super::patience::Patience;
use steeple_plugin::settings::refuse_any;

/// The plugin's name in configuration, and the type of its selectors.
pub const NAME: &str = "systemd";

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "/org/freedesktop/systemd1";
const SYSTEM_BUS: &str = "unix:path=/var/run/dbus/system_bus_socket";
/// For all that is asked about one caller.
const DEADLINE: Duration = Duration::from_secs(10);

/// The attestor.
struct Systemd {
    address: String,
    connection: Mutex<Option<Connection>>,
    patience: Patience,
    deadline: Duration,
}

/// Why a process has no unit.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("failed to open dbus connection: {}", reason(.0))]
    Connect(#[source] zbus::Error),
    #[error("failed to get unit by pid {pid}: {}", reason(error))]
    Unit { pid: u32, error: zbus::Error },
    #[error("error getting value for {property}: {}", reason(error))]
    Property { property: &'static str, error: zbus::Error },
    #[error("Returned value for {0} was not a string")]
    NoString(&'static str),
}

/// The attestor; it takes no settings. Whoever is asked first connects.
///
/// # Errors
/// When it is given some.
pub fn from_config(
    data: Option<&Block>,
    _: &HostContext,
) -> Result<Arc<dyn WorkloadAttestor>, PluginError> {
    check(data)?;
    // What every D-Bus library goes by.
    let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok().filter(|it| !it.is_empty());
    Ok(Arc::new(Systemd::new(address.unwrap_or_else(|| SYSTEM_BUS.to_owned()))))
}

pub(crate) fn check(data: Option<&Block>) -> Result<(), PluginError> {
    refuse_any(Kind::WorkloadAttestor, NAME, data)
}

impl Systemd {
    fn new(address: String) -> Self {
        let (connection, patience) = (Mutex::default(), Patience::default());
        Self { address, connection, patience, deadline: DEADLINE }
    }

    async fn values(&self, pid: u32) -> Result<Vec<String>, Failure> {
        let (connection, kept) = self.connection().await?;
        match ask(&connection, pid).await {
            Err(failure) if failure.is_broken() => {
                self.forget(&connection).await;
                if !kept {
                    return Err(failure);
                }
                let (connection, _) = self.connection().await?;
                ask(&connection, pid).await
            }
            answer => answer,
        }
    }

    /// A connection, and whether it is an old one.
    async fn connection(&self) -> Result<(Connection, bool), Failure> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok((connection.clone(), true));
        }
        let made = connection::Builder::address(&*self.address).build().await;
        let made = made.map_err(Failure::Connect)?;
        *kept = Some(made.clone());
        Ok((made, false))
    }

    /// Lets go of a connection, unless there is a newer one already.
    async fn forget(&self, broken: &Connection) {
        let mut kept = self.connection.lock().await;
        if kept.as_ref().is_some_and(|it| it.unique_name() == broken.unique_name()) {
            *kept = None;
        }
    }
}

async fn ask(connection: &Connection, pid: u32) -> Result<Vec<String>, Failure> {
    let manager = format!("{SYSTEMD}.Manager");
    let call =
        connection.call_method(Some(SYSTEMD), MANAGER, Some(&*manager), "GetUnitByPID", &pid);
    let unit = async { call.await?.body().deserialize::<OwnedObjectPath>() }
        .await
        .map_err(|error| Failure::Unit { pid, error })?;
    let id = property(connection, &unit, "Id").await?;
    let fragment_path = property(connection, &unit, "FragmentPath").await?;
    Ok(vec![format!("id:{id}"), format!("fragment_path:{fragment_path}")])
}

async fn property(
    connection: &Connection,
    unit: &OwnedObjectPath,
    property: &'static str,
) -> Result<String, Failure> {
    let body = (format!("{SYSTEMD}.Unit"), property);
    let properties = Some("org.freedesktop.DBus.Properties");
    let call = connection.call_method(Some(SYSTEMD), unit, properties, "Get", &body);
    let value = async { call.await?.body().deserialize::<OwnedVariant>() }
        .await
        .map_err(|error| Failure::Property { property, error })?;
    String::try_from(value).map_err(|_| Failure::NoString(property))
}

#[async_trait]
impl WorkloadAttestor for Systemd {
    fn name(&self) -> &str {
        NAME
    }

    async fn attest(&self, pid: i32) -> Result<Vec<Selector>, PluginError> {
        let failed =
            |code, text: String| PluginError::new(Kind::WorkloadAttestor, NAME, code, text);
        let pid = u32::try_from(pid)
            .map_err(|_| failed(Code::Unknown, format!("invalid value for PID: {pid}")))?;
        let Some(turn) = self.patience.turn(&self.address) else {
            let text = "systemd does not answer; another attestation is waiting for it";
            return Err(failed(Code::Unavailable, text.to_owned()));
        };
        match tokio::time::timeout(self.deadline, self.values(pid)).await {
            Ok(answer) => {
                turn.answered();
                let values = answer.map_err(|error| failed(Code::Internal, error.to_string()))?;
                Ok(values.iter().map(|value| Selector::new(NAME, value)).collect())
            }
            Err(_) => {
                turn.hung();
                // Whatever its state is, the next one gets a new one.
                if let Ok(mut kept) = self.connection.try_lock() {
                    *kept = None;
                }
                let text = format!("no answer from systemd over D-Bus within {:?}", self.deadline);
                Err(failed(Code::DeadlineExceeded, text))
            }
        }
    }
}

impl Failure {
    /// Whether the connection is of no more use.
    fn is_broken(&self) -> bool {
        match self {
            Self::Connect(error) | Self::Unit { error, .. } | Self::Property { error, .. } => {
                !matches!(error, zbus::Error::MethodError(..) | zbus::Error::FDO(_))
            }
            Self::NoString(_) => false,
        }
    }
}

/// What the other side said, or what the system says of the connection, in Go's words.
fn reason(error: &zbus::Error) -> String {
    let text = match error {
        zbus::Error::MethodError(name, None, _) => name.to_string(),
        zbus::Error::MethodError(_, Some(said), _) => said.clone(),
        // The well-known errors put their name in front.
        zbus::Error::FDO(error) => match error.to_string().split_once(": ") {
            Some((name, said)) if name.starts_with("org.") => said.to_owned(),
            _ => error.to_string(),
        },
        zbus::Error::InputOutput(error) => steeple_runtime::gotext::system(error),
        other => other.to_string(),
    };
    shorten(&text).to_owned()
}
