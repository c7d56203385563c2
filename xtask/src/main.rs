//! Tasks of the repository itself: `cargo xtask <task>`.
#![cfg_attr(test, allow(clippy::unwrap_used))]
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a command line tool")]

mod codegen;
mod layers;
mod tidy;
mod unit;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let task = std::env::args().nth(1);
    let result = match task.as_deref() {
        Some("codegen") => codegen::run(&root()),
        Some("layers") => layers::run(&root()).map_err(Into::into),
        Some("tidy") => tidy::run(&root()).map_err(Into::into),
        Some("unit") => unit::run(),
        _ => {
            eprintln!("usage: cargo xtask codegen|layers|tidy|unit");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The top of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}
