//! The file itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use steeple_hcl::{Block, Decoded, Error};

use crate::{
    Env,
    checks::quote,
    expand::expand_env,
    problem::{Problem, ProblemKind, Problems},
};

/// A configuration file, read and parsed.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    block: Block,
}

impl Source {
    pub(crate) fn read(
        path: Option<&Path>,
        default: &str,
        expand: bool,
        env: Env<'_>,
    ) -> Result<Self, Problems> {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        let path = path.unwrap_or_else(|| Path::new(default)).to_owned();
        let mut text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) => return Err(Problems::one(unreadable(path, &error))),
        };
        if expand {
            // What is not UTF-8 has no variables; the parser says where it is.
            text = String::from_utf8(text).map_or_else(
                |not_utf8| not_utf8.into_bytes(),
                |text| expand_env(&text, env).into_bytes(),
            );
        }
        match steeple_hcl::parse(&text) {
            Ok(block) => Ok(Self { path, block }),
            Err(error) => {
                let problem = malformed(&path, &error);
                Err(Problems::one(problem))
            }
        }
    }

    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<Decoded<T>, Vec<Problem>> {
        self.block
            .decode()
            .map_err(|errors| errors.iter().map(|error| malformed(&self.path, error)).collect())
    }
}

fn unreadable(path: PathBuf, error: &io::Error) -> Problem {
    let text = if error.kind() == io::ErrorKind::NotFound {
        let shown = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let shown = crate::checks::clean(&shown);
        format!("could not find config file {}: please use the -config flag", shown.display())
    } else {
        let shown = quote(&path.to_string_lossy());
        format!("unable to read configuration at {shown}: {}", describe("open", &path, error))
    };
    Problem { file: path, line: None, key: String::new(), text, kind: ProblemKind::Unreadable }
}

/// An error of the file system in Go's words, which scripts look for.
pub(crate) fn describe(action: &str, path: &Path, error: &io::Error) -> String {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => {
            return format!("read {}: is a directory", path.display());
        }
        _ => error.to_string(),
    };
    format!("{action} {}: {reason}", path.display())
}

fn malformed(path: &Path, error: &Error) -> Problem {
    Problem {
        file: path.to_owned(),
        line: error.position().map(|position| position.line),
        key: error.path().trim_start_matches("root").trim_start_matches('.').to_owned(),
        text: format!(
            "unable to decode configuration at {}: {error}",
            quote(&path.to_string_lossy())
        ),
        kind: ProblemKind::Malformed,
    }
}
