//! The operator's files, as far as both halves of attestors read them; told of in Go's words.

use std::fs::File;
use std::io::{ErrorKind, Read as _};

use steeple_pki::Certificate;
use steeple_pki::pem;
use steeple_pki::x509::CertificateError;

/// The largest file that is looked at, in bytes.
const MAX_LEN: u64 = 4 * 1024 * 1024;

/// The text of a file.
pub(super) fn read(path: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => format!("open {path}: no such file or directory"),
        ErrorKind::PermissionDenied => format!("open {path}: permission denied"),
        _ => format!("open {path}: {error}"),
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(format!("open {path}: file too large"));
    }
    String::from_utf8(bytes).map_err(|_| format!("open {path}: not a text file"))
}

/// The certificates of a file; blocks of other types are passed over.
pub(super) fn certificates(path: &str) -> Result<Vec<Certificate>, String> {
    let text = read(path)?;
    let mut found = Vec::new();
    for (number, block) in pem::blocks(&text).enumerate() {
        let parsed = match block {
            Ok(block) if block.label == "CERTIFICATE" => Certificate::from_der(block.contents),
            Ok(_) => continue,
            Err(error) => Err(error.into()),
        };
        found.push(parsed.map_err(|error: CertificateError| {
            format!("unable to parse certificate in block {number}: {error}")
        })?);
    }
    if found.is_empty() {
        return Err("no certificates found in file".to_owned());
    }
    Ok(found)
}
