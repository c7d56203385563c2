//! MySQL connection strings as Go's driver takes them:
//! `user:password@tcp(host:port)/database?parseTime=true&…` (TD-02, TD-07).

use std::time::Duration;

use sea_orm::sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};

use super::zone::Zone;
use crate::config::TlsFiles;
use crate::error::{StoreError, excerpt};

/// A connection string, understood.
#[derive(Debug)]
pub(super) struct MySqlDsn {
    pub(super) options: MySqlConnectOptions,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) has_password: bool,
    pub(super) zone: Zone,
    pub(super) connect_timeout: Option<Duration>,
}

const MAX_LENGTH: usize = 8192;
const DEFAULT_PORT: u16 = 3306;

/// The parts between the separators.
struct Parts<'a> {
    user: &'a str,
    password: Option<&'a str>,
    network: &'a str,
    address: &'a str,
    database: &'a str,
    parameters: &'a str,
}

pub(super) fn parse(connection_string: &str, tls: &TlsFiles) -> Result<MySqlDsn, StoreError> {
    if connection_string.len() > MAX_LENGTH {
        return Err(invalid("connection_string is too long"));
    }
    let parts = split(connection_string)?;
    let mut dsn = MySqlDsn {
        options: MySqlConnectOptions::new()
            // The server's own mode and zone, as Go's driver leaves them.
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .timezone(None)
            .username(parts.user)
            .password(parts.password.unwrap_or_default())
            .database(&decode(parts.database)?)
            .ssl_mode(MySqlSslMode::Disabled),
        host: "127.0.0.1".into(),
        port: DEFAULT_PORT,
        user: parts.user.to_owned(),
        has_password: parts.password.is_some_and(|password| !password.is_empty()),
        zone: Zone::UTC,
        connect_timeout: None,
    };
    set_address(&mut dsn, parts.network, parts.address)?;
    let mut parse_time = false;
    for pair in parts.parameters.split('&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else { continue };
        if key == "parseTime" {
            parse_time = boolean(value).ok_or_else(|| invalid("invalid bool value: parseTime"))?;
        } else {
            apply(&mut dsn, key, &decode(value)?)?;
        }
    }
    if !parse_time {
        return Err(invalid(
            "invalid mysql config: missing parseTime=true param in connection_string",
        ));
    }
    set_tls(&mut dsn, tls)?;
    Ok(dsn)
}

fn split(text: &str) -> Result<Parts<'_>, StoreError> {
    // The password and a socket's path may have slashes, so it is the last one before the
    // parameters that counts; Go's driver takes the last of all.
    let Some((left, right)) = text.rsplit_once('/') else {
        return Err(invalid("invalid DSN: missing the slash separating the database name"));
    };
    let (account, rest) = left.rsplit_once('@').unwrap_or(("", left));
    let (user, password) = match account.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (account, None),
    };
    let (network, address) = match rest.split_once('(') {
        None => (rest, ""),
        Some((network, address)) => match address.strip_suffix(')') {
            Some(address) => (network, address),
            None => {
                return Err(invalid(
                    "invalid DSN: network address not terminated (missing closing brace)",
                ));
            }
        },
    };
    let (database, parameters) = right.split_once('?').unwrap_or((right, ""));
    Ok(Parts { user, password, network, address, database, parameters })
}

fn set_address(dsn: &mut MySqlDsn, network: &str, address: &str) -> Result<(), StoreError> {
    let options = std::mem::take(&mut dsn.options);
    dsn.options = match network {
        "unix" => options.socket(if address.is_empty() { "/tmp/mysql.sock" } else { address }),
        "" | "tcp" | "tcp4" | "tcp6" => {
            if !address.is_empty() {
                let bracketed = address.strip_prefix('[').and_then(|rest| rest.split_once(']'));
                let (host, port) = match bracketed {
                    Some((host, rest)) => (host, rest.strip_prefix(':')),
                    None => match address.rsplit_once(':') {
                        Some((host, port)) => (host, Some(port)),
                        None => (address, None),
                    },
                };
                host.clone_into(&mut dsn.host);
                if let Some(port) = port {
                    dsn.port = port.parse().map_err(|_| invalid("invalid DSN: no such port"))?;
                }
            }
            options.host(&dsn.host).port(dsn.port)
        }
        other => {
            // Without an `@`, this is the user and the password.
            let other = if other.contains(':') { "…".to_owned() } else { excerpt(other) };
            return Err(invalid(&format!("default addr for network '{other}' unknown")));
        }
    };
    Ok(())
}

fn apply(dsn: &mut MySqlDsn, key: &str, value: &str) -> Result<(), StoreError> {
    let options = std::mem::take(&mut dsn.options);
    let wrong = || invalid(&format!("invalid value for {}: {}", excerpt(key), excerpt(value)));
    dsn.options = match key {
        "tls" => options.ssl_mode(match value.to_ascii_lowercase().as_str() {
            "false" | "0" | "" => MySqlSslMode::Disabled,
            "true" | "1" => MySqlSslMode::VerifyIdentity,
            "skip-verify" => MySqlSslMode::Required,
            "preferred" => MySqlSslMode::Preferred,
            _ => {
                let text = format!("invalid value / unknown config name: {}", excerpt(value));
                return Err(invalid(&text));
            }
        }),
        "loc" => {
            dsn.zone = Zone::find(value).ok_or_else(wrong)?;
            options
        }
        "charset" => options.charset(value.split(',').next().unwrap_or("utf8mb4")),
        "collation" if value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
            options.collation(value)
        }
        "collation" => return Err(wrong()),
        "timeout" => {
            let timeout = steeple_runtime::duration::parse_go(value).map_err(|_| wrong())?;
            dsn.connect_timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
            options
        }
        "allowCleartextPasswords" => {
            options.enable_cleartext_plugin(boolean(value).ok_or_else(wrong)?)
        }
        // What has no meaning for this driver and does no harm.
        "allowAllFiles"
        | "allowFallbackToPlaintext"
        | "allowNativePasswords"
        | "allowOldPasswords"
        | "checkConnLiveness"
        | "clientFoundRows"
        | "columnsWithAlias"
        | "compress"
        | "interpolateParams"
        | "multiStatements"
        | "timeTruncate"
        | "readTimeout"
        | "writeTimeout"
        | "rejectReadOnly"
        | "serverPubKey"
        | "strict"
        | "maxAllowedPacket"
        | "connectionAttributes" => {
            tracing::debug!(subsystem_name = "sql", key, "Ignoring a key of connection_string");
            options
        }
        // Go's driver makes a variable of the session of each other one.
        _ => {
            return Err(invalid(&format!(
                "connection_string has \"{}\", which is not available",
                excerpt(key)
            )));
        }
    };
    Ok(())
}

/// The files of the configuration win over what the connection string says (TD-03).
fn set_tls(dsn: &mut MySqlDsn, tls: &TlsFiles) -> Result<(), StoreError> {
    let read = |path: &std::path::Path, text: &str| {
        std::fs::read(path).map_err(|_| invalid(&format!("invalid mysql config: {text}")))
    };
    if let Some(path) = &tls.root_ca {
        let pem = read(path, "cannot find Root CA defined in root_ca_path")?;
        let text = "failed to parse Root CA defined in root_ca_path";
        if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
            return Err(invalid(&format!("invalid mysql config: {text}")));
        }
        let options = std::mem::take(&mut dsn.options);
        dsn.options = options.ssl_ca_from_pem(pem).ssl_mode(MySqlSslMode::VerifyIdentity);
    }
    if let (Some(cert), Some(key)) = (&tls.client_cert, &tls.client_key) {
        let text =
            "failed to load client certificate defined in client_cert_path and client_key_path";
        let (cert, key) = (read(cert, text)?, read(key, text)?);
        let options = std::mem::take(&mut dsn.options);
        dsn.options = options
            .ssl_client_cert_from_pem(cert)
            .ssl_client_key_from_pem(key)
            .ssl_mode(MySqlSslMode::VerifyIdentity);
    }
    Ok(())
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "true" | "TRUE" | "True" => Some(true),
        "0" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn decode(text: &str) -> Result<String, StoreError> {
    let plus = text.replace('+', "%2B");
    if plus.contains(['&', '=']) {
        return Ok(text.to_owned());
    }
    let decoded = url::form_urlencoded::parse(plus.as_bytes()).next();
    Ok(decoded.map(|(decoded, _)| decoded.into_owned()).unwrap_or_default())
}

fn invalid(text: &str) -> StoreError {
    StoreError::Invalid(format!("datastore-sql: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dsn(text: &str) -> Result<MySqlDsn, StoreError> {
        parse(text, &TlsFiles::default())
    }

    #[test]
    fn the_forms_of_go_are_understood() {
        for (text, host, port, user, database) in [
            ("fred:pw@tcp(db:3307)/spire?parseTime=true", "db", 3307, "fred", "spire"),
            ("fred:p@/w:x@tcp(db)/spire?parseTime=true", "db", 3306, "fred", "spire"),
            ("fred@/spire?parseTime=1", "127.0.0.1", 3306, "fred", "spire"),
            ("fred@tcp([::1]:3307)/spire?parseTime=true", "::1", 3307, "fred", "spire"),
            ("fred@tcp/a%2Fb?parseTime=true&loc=UTC", "127.0.0.1", 3306, "fred", "a/b"),
        ] {
            let dsn = dsn(text).unwrap();
            assert_eq!((dsn.host.as_str(), dsn.port, dsn.user.as_str()), (host, port, user));
            assert_eq!(dsn.options.get_database(), Some(database), "{text}");
            assert!(matches!(dsn.options.get_ssl_mode(), MySqlSslMode::Disabled));
        }
        let unix = dsn("fred@unix(/run/my.sock)/spire?parseTime=true").unwrap();
        assert_eq!(unix.options.get_socket().unwrap().to_str(), Some("/run/my.sock"));
        let zone = dsn("/spire?parseTime=true&loc=Europe%2FBerlin&timeout=3s").unwrap();
        assert_eq!(zone.zone.offset_at(1_780_000_000), 7200);
        assert_eq!(zone.connect_timeout, Some(Duration::from_secs(3)));
    }

    #[test]
    fn tls_is_what_go_makes_of_it() {
        for (value, expected) in [
            ("true", "VerifyIdentity"),
            ("skip-verify", "Required"),
            ("preferred", "Preferred"),
            ("false", "Disabled"),
        ] {
            let dsn = dsn(&format!("/spire?tls={value}&parseTime=true")).unwrap();
            assert_eq!(format!("{:?}", dsn.options.get_ssl_mode()), expected);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_the_password() {
        for text in [
            "fred:s3cr3t@tcp(db)",
            "fred:s3cr3t@tcp(db/spire?parseTime=true",
            "fred:s3cr3t@tcp(db:http)/spire?parseTime=true",
            "fred:s3cr3t@carrier(db)/spire?parseTime=true",
            "fred:s3cr3t@tcp(db)/spire",
            "fred:s3cr3t@tcp(db)/spire?parseTime=false",
            "fred:s3cr3t@tcp(db)/spire?parseTime=true&tls=custom",
            "fred:s3cr3t@tcp(db)/spire?parseTime=true&loc=Nowhere",
        ] {
            let error = dsn(text).unwrap_err().to_string();
            assert!(error.starts_with("datastore-sql: "), "{error}");
            assert!(!error.contains("s3cr3t"), "{error}");
        }
        assert_eq!(
            dsn("/spire").unwrap_err().to_string(),
            "datastore-sql: invalid mysql config: missing parseTime=true param in connection_string"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_no_password_is_repeated(
            head in "[a-z:@/()?&=%#,\\PC]{0,30}",
            tail in "[a-z:@/()?&=%#,\\PC]{0,30}",
        ) {
            for text in [
                format!("{head}{tail}"),
                format!("fred:pass-word{head}(db)/x?parseTime=true{tail}"),
                format!("fred:pass-word{head}@tcp(db:1)/x?parseTime=true{tail}"),
                format!("fred:pass-word@{head}(db)/x?parseTime=true&{tail}"),
            ] {
                if let Err(error) = dsn(&text) {
                    let error = error.to_string();
                    proptest::prop_assert!(error.chars().count() < 1000, "{error}");
                    proptest::prop_assert!(!error.contains("pass-word"), "{error}");
                }
            }
        }
    }
}
