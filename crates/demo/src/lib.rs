//! The demonstration behind `make run`: a server, an agent, an entry, and what comes of it.
//!
//! It starts the real programs as child processes, talks to them by their command line and to the
//! Workload API as any workload would, and shows what they answer. Nothing that is shown is made
//! up here: what a scene tells comes out of a program, a certificate or a token.
//!
//! Not here: anything that the server or the agent needs.
//!
//! Invariant: whatever ends the demonstration, also kill -9, ends its children.
//!
//! Start at [`main`], then `story`, which plays the scenes in order.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admin;
mod args;
mod daemon;
mod error;
mod event;
mod guard;
mod place;
mod render;
mod scenes;
mod screen;
mod story;
mod terminal;
mod workload;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use args::Command;
use terminal::Foreground;

/// Runs the demonstration, or the part of it that `arguments` (without the program's name) ask for.
///
/// Exits with 0 when it ran to its end or was interrupted while waiting, 1 when something failed,
/// 2 for arguments that it does not know, 130 when `--once` was interrupted.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match args::parse(arguments) {
        Ok(Command::Help) => {
            // Nobody is left to be told when this fails.
            let _ = std::io::stdout().write_all(args::HELP.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Command::Demo(options)) => {
            let _foreground = Foreground::take();
            story::main(&options)
        }
        Ok(Command::Workload(role)) => workload::main(role),
        Ok(Command::Guard { parent, program, arguments }) => {
            guard::main(parent, &program, &arguments)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "steeple-demo: {error}\n\n{}", args::HELP);
            ExitCode::from(2)
        }
    }
}
