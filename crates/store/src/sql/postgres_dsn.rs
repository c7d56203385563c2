//! PostgreSQL connection strings as Go's driver takes them: `key=value` pairs or a URL (TD-02).

use std::time::Duration;

use sea_orm::sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use crate::error::{StoreError, excerpt};

/// A connection string, understood.
#[derive(Debug)]
pub(super) struct PostgresDsn {
    pub(super) options: PgConnectOptions,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) has_password: bool,
    pub(super) connect_timeout: Option<Duration>,
}

/// How much a connection string may say.
const MAX_LENGTH: usize = 8192;

pub(super) fn parse(connection_string: &str) -> Result<PostgresDsn, StoreError> {
    if connection_string.len() > MAX_LENGTH {
        return Err(invalid("connection_string is too long"));
    }
    let is_url = ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| connection_string.to_ascii_lowercase().starts_with(scheme));
    let pairs = if is_url { url_pairs(connection_string)? } else { pairs(connection_string)? };
    // Starts from the PG* variables of the environment, as Go's driver does.
    let options = PgConnectOptions::new_without_pgpass().extra_float_digits(None);
    let mut dsn = PostgresDsn {
        host: options.get_host().to_owned(),
        port: options.get_port(),
        user: options.get_username().to_owned(),
        has_password: std::env::var_os("PGPASSWORD").is_some(),
        connect_timeout: None,
        options,
    };
    if std::env::var_os("PGHOST").is_none() {
        // Not the socket of this machine, which other drivers take.
        "localhost".clone_into(&mut dsn.host);
        dsn.options = dsn.options.host("localhost");
    }
    if std::env::var_os("PGSSLMODE").is_none() {
        dsn.options = dsn.options.ssl_mode(PgSslMode::Require);
    }
    let (mut root, mut mode) = (false, None);
    let inline = pairs.iter().any(|(key, value)| key == "sslinline" && boolean(value));
    for (key, value) in pairs {
        match key.as_str() {
            "sslmode" => mode = Some(value),
            "sslrootcert" => {
                root = !value.is_empty();
                dsn.options = match (root, inline) {
                    (false, _) => dsn.options,
                    (true, true) => dsn.options.ssl_root_cert_from_pem(value.into_bytes()),
                    (true, false) => dsn.options.ssl_root_cert(value),
                };
            }
            "sslcert" | "sslkey" if value.is_empty() => {}
            "sslcert" if inline => dsn.options = dsn.options.ssl_client_cert_from_pem(value),
            "sslkey" if inline => dsn.options = dsn.options.ssl_client_key_from_pem(value),
            "sslcert" => dsn.options = dsn.options.ssl_client_cert(value),
            "sslkey" => dsn.options = dsn.options.ssl_client_key(value),
            _ => apply(&mut dsn, &key, &value)?,
        }
    }
    if let Some(mode) = mode {
        dsn.options = dsn.options.ssl_mode(ssl_mode(&mode, root)?);
    }
    if dsn.host.starts_with('/') {
        dsn.options = dsn.options.socket(&dsn.host).ssl_mode(PgSslMode::Disable);
    }
    Ok(dsn)
}

fn apply(dsn: &mut PostgresDsn, key: &str, value: &str) -> Result<(), StoreError> {
    let options = std::mem::take(&mut dsn.options);
    let wrong = || invalid(&format!("pq: wrong value for \"{}\"", excerpt(key)));
    dsn.options = match key {
        "host" | "hostaddr" if value.is_empty() => options,
        "host" | "hostaddr" => {
            if value.contains(',') {
                return Err(invalid("connection_string names several hosts; name one"));
            }
            value.clone_into(&mut dsn.host);
            options.host(value)
        }
        "port" if value.is_empty() => options,
        "port" => {
            dsn.port = value.parse().map_err(|_| wrong())?;
            options.port(dsn.port)
        }
        "user" => {
            value.clone_into(&mut dsn.user);
            options.username(value)
        }
        "password" => {
            dsn.has_password = !value.is_empty();
            options.password(value)
        }
        "dbname" => options.database(value),
        "application_name" | "fallback_application_name" => options.application_name(value),
        "connect_timeout" => {
            let seconds: u64 = value.parse().map_err(|_| wrong())?;
            dsn.connect_timeout = Some(Duration::from_secs(seconds)).filter(|it| !it.is_zero());
            options
        }
        "options" => options.options(command_line(value).ok_or_else(wrong)?),
        "client_encoding" if !["utf8", "utf-8"].contains(&value.to_ascii_lowercase().as_str()) => {
            return Err(invalid("pq: unsupported client_encoding: must be absent or \"UTF8\""));
        }
        // What has no meaning for this driver and does no harm.
        "client_encoding"
        | "sslinline"
        | "sslsni"
        | "sslnegotiation"
        | "binary_parameters"
        | "disable_prepared_binary_result"
        | "datestyle"
        | "tz"
        | "geqo"
        | "target_session_attrs"
        | "load_balance_hosts"
        | "min_protocol_version"
        | "max_protocol_version" => {
            tracing::debug!(subsystem_name = "sql", key, "Ignoring a key of connection_string");
            options
        }
        "passfile"
        | "service"
        | "krbsrvname"
        | "krbspn"
        | "ssl_min_protocol_version"
        | "ssl_max_protocol_version" => {
            let text = format!("connection_string has \"{key}\", which is not available");
            return Err(invalid(&text));
        }
        // Everything else is a setting of the server's, as in Go's driver.
        setting if setting.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b)) => {
            options.options([(setting, value)])
        }
        _ => return Err(invalid(&format!("pq: unknown setting \"{}\"", excerpt(key)))),
    };
    Ok(())
}

fn ssl_mode(mode: &str, has_root: bool) -> Result<PgSslMode, StoreError> {
    Ok(match mode {
        "disable" | "allow" => PgSslMode::Disable,
        "prefer" => PgSslMode::Prefer,
        // As libpq's: whoever names a root wants it to be looked at.
        "require" | "" if has_root => PgSslMode::VerifyCa,
        "require" | "" => PgSslMode::Require,
        "verify-ca" => PgSslMode::VerifyCa,
        "verify-full" => PgSslMode::VerifyFull,
        other => {
            return Err(invalid(&format!(
                "pq: wrong value for \"sslmode\": \"{}\" is not supported; supported values are \
                 disable, allow, prefer, require, verify-ca, verify-full",
                excerpt(other)
            )));
        }
    })
}

/// `-c name=value` pairs.
fn command_line(text: &str) -> Option<Vec<(String, String)>> {
    let mut words = text.split_whitespace();
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word {
            "-c" => words.next()?,
            word => word.strip_prefix("-c").or_else(|| word.strip_prefix("--"))?,
        };
        let (name, value) = setting.split_once('=')?;
        settings.push((name.to_owned(), value.to_owned()));
    }
    Some(settings)
}

fn url_pairs(text: &str) -> Result<Vec<(String, String)>, StoreError> {
    // The parser's own text would quote the password.
    let url = Url::parse(text).map_err(|_| invalid("connection_string is no valid URL"))?;
    let decode = |text: &str| {
        let text = text.replace('+', "%2B");
        let decoded = url::form_urlencoded::parse(text.as_bytes()).next();
        decoded.map(|(decoded, _)| decoded.into_owned()).unwrap_or_default()
    };
    let mut pairs = Vec::new();
    let mut add = |key: &str, value: String| {
        if !value.is_empty() {
            pairs.push((key.to_owned(), value));
        }
    };
    add("user", decode(url.username()));
    add("password", decode(url.password().unwrap_or_default()));
    let host = decode(url.host_str().unwrap_or_default());
    add("host", host.trim_start_matches('[').trim_end_matches(']').to_owned());
    add("port", url.port().map(|port| port.to_string()).unwrap_or_default());
    add("dbname", decode(url.path().trim_start_matches('/')));
    for (key, value) in url.query_pairs() {
        add(&key, value.into_owned());
    }
    Ok(pairs)
}

/// `key = value` pairs; a value may be in single quotes, and a backslash escapes a character.
fn pairs(text: &str) -> Result<Vec<(String, String)>, StoreError> {
    let mut pairs = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let mut key = String::new();
        while let Some(c) = rest.next_if(|c| !c.is_whitespace() && *c != '=') {
            key.push(c);
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        match rest.next() {
            None if key.is_empty() => return Ok(pairs),
            Some('=') if !key.is_empty() => {}
            _ => {
                let text = "pq: missing \"=\" in connection info string";
                return Err(invalid(text));
            }
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = rest.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match rest.next() {
                None if quoted => {
                    let text = "pq: unterminated quoted string literal in connection string";
                    return Err(invalid(text));
                }
                None => break,
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some('\\') => match rest.next() {
                    Some(c) => value.push(c),
                    None => return Err(invalid("pq: missing character after backslash")),
                },
                Some(c) => value.push(c),
            }
        }
        pairs.push((key, value));
    }
}

fn boolean(text: &str) -> bool {
    ["1", "t", "true", "yes", "on"].contains(&text.to_ascii_lowercase().as_str())
}

fn invalid(text: &str) -> StoreError {
    StoreError::Invalid(format!("datastore-sql: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(text: &str) -> (String, u16, String, Option<String>) {
        let dsn = parse(text).unwrap();
        let database = dsn.options.get_database().map(str::to_owned);
        (dsn.host, dsn.port, dsn.user, database)
    }

    #[test]
    fn both_forms_say_the_same() {
        let expected = ("db.example".into(), 5433, "fred".into(), Some("spire".into()));
        for text in [
            "host=db.example port=5433 user=fred password=s3cr3t dbname=spire sslmode=disable",
            " host = db.example  port='5433' user=fred password='a \\'b' dbname=spire ",
            "postgres://fred:p%40ss@db.example:5433/spire?sslmode=verify-full",
            "postgresql://fred@db.example:5433/spire",
        ] {
            assert_eq!(about(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_said_is_what_go_assumes() {
        let dsn = parse("user=fred dbname=spire").unwrap();
        assert_eq!((dsn.host.as_str(), dsn.port), ("localhost", 5432));
        assert!(matches!(dsn.options.get_ssl_mode(), PgSslMode::Require));
        let dsn = parse("host=/run/postgresql user=fred connect_timeout=7").unwrap();
        assert!(matches!(dsn.options.get_ssl_mode(), PgSslMode::Disable));
        assert_eq!(dsn.connect_timeout, Some(Duration::from_secs(7)));
        assert_eq!(dsn.options.get_socket().unwrap().to_str(), Some("/run/postgresql"));
    }

    #[test]
    fn a_root_makes_require_look_at_it() {
        for (text, expected) in [
            ("sslmode=require sslrootcert=/ca.pem", "VerifyCa"),
            ("sslmode=require", "Require"),
            ("sslmode=verify-ca", "VerifyCa"),
            ("sslmode=verify-full sslrootcert=/ca.pem", "VerifyFull"),
            ("sslmode=prefer", "Prefer"),
            ("sslmode=allow", "Disable"),
        ] {
            let dsn = parse(text).unwrap();
            assert_eq!(format!("{:?}", dsn.options.get_ssl_mode()), expected, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_the_password() {
        for text in [
            "host",
            "host=a b",
            "=x",
            "password='s3cr3t",
            "password=s3cr3t\\",
            "password=s3cr3t sslmode=sometimes",
            "password=s3cr3t port=http",
            "password=s3cr3t host=a,b",
            "password=s3cr3t bad-key=1",
            "postgres://u:s3cr3t@[::1",
            "postgres://u:s3cr3t@h:99999/d",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("datastore-sql: "), "{error}");
            assert!(!error.contains("s3cr3t"), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_no_password_is_repeated(
            head in "[a-z:@/' =\\\\?&%#\\[\\],\\PC]{0,30}",
            tail in "[a-z:@/' =\\\\?&%#\\[\\],\\PC]{0,30}",
        ) {
            for text in [
                format!("{head}{tail}"),
                format!("postgres://fred:pass-word{head}@db:5432/x?{tail}"),
                format!("user=fred {head} password='pass-word' {tail}"),
                format!("user=fred password=pass-word{head} {tail}"),
            ] {
                if let Err(error) = parse(&text) {
                    let error = error.to_string();
                    proptest::prop_assert!(error.chars().count() < 1000, "{error}");
                    proptest::prop_assert!(!error.contains("pass-word"), "{error}");
                }
            }
        }
    }
}
