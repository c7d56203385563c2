//! From the argument vector to a verb: `spire-server entry create -flag …`.

use std::fmt::Write as _;

use async_trait::async_trait;

use crate::Env;
use crate::client::Socket;
use crate::completion;
use crate::flags::{FlagError, FlagSet};

/// Why a verb failed, in words for standard error.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl Failure {
    /// Puts what was being done in front: `error fetching entries: …`.
    pub(crate) fn context(self, doing: &str) -> Self {
        Self(format!("{doing}: {}", self.0))
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl<T: std::error::Error + Told> From<T> for Failure {
    fn from(error: T) -> Self {
        Self(error.to_string())
    }
}

/// Errors whose own text is what the user should read.
pub(crate) trait Told {}
impl Told for steeple_spiffe::IdError {}
impl Told for serde_json::Error {}
impl Told for prost::DecodeError {}

/// One verb.
#[async_trait]
pub(crate) trait Verb: Send + Sync {
    /// The words that name it, as typed.
    fn path(&self) -> &'static str;
    /// The name in its usage text, where that differs from the path.
    fn usage_name(&self) -> &'static str {
        self.path()
    }
    /// One line for the list of commands.
    fn synopsis(&self) -> &'static str;
    /// Declares its flags.
    fn flags(&self, flags: &mut FlagSet);
    /// How the program words its failures (`Error: …`).
    fn describe(&self, failure: &Failure) -> String {
        format!("Error: {}\n", failure.0)
    }
    /// Does it.
    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure>;
}

/// A verb that the program itself carries out (`run`, `validate`): it gets the
/// parsed flags and answers with the exit code.
pub struct Program {
    /// Starts the daemon; returns when it has stopped.
    pub run: fn(&FlagSet, &mut Env) -> i32,
    /// Checks the configuration file.
    pub validate: fn(&FlagSet, &mut Env) -> i32,
}

/// Everything one program can do.
pub(crate) struct Commands {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) verbs: Vec<Box<dyn Verb>>,
    pub(crate) program: Program,
    /// The socket that all verbs share, if they do: it is found before a verb looks at its flags.
    pub(crate) socket: Option<&'static Socket>,
    pub(crate) run_flags: fn(&mut FlagSet),
    /// Synopses of `run` and `validate`.
    pub(crate) run_synopsis: [&'static str; 2],
}

impl Commands {
    /// Carries out one command line and returns the exit code.
    pub(crate) fn main(&self, args: &[String], env: &mut Env) -> i32 {
        let words = args.iter().take_while(|arg| !arg.starts_with('-')).count();
        let flags_begin = args.iter().position(|arg| arg == "--").unwrap_or(args.len());
        let wants =
            |names: [&str; 3]| args[..flags_begin].iter().any(|arg| names.contains(&arg.as_str()));
        let help = wants(["-h", "-help", "--help"]);
        if words == 0 && wants(["-v", "-version", "--version"]) {
            env.err(&format!("{}\n", self.version));
            return 0;
        }
        if args.first().map(String::as_str) == Some("completion") {
            return completion::main(self, &args[1..], env);
        }
        let Some(length) = (1..=words).rev().find(|&length| self.knows(&args[..length])) else {
            return self.no_such(&args[..words], help, env);
        };
        let path = args[..length].join(" ");
        let rest = &args[length..];
        let mut flags = self.flag_set(&path);
        if help {
            env.err(&format!("{}{}\n", flags.usage(), FlagError::Help));
            return 0;
        }
        match flags.parse(rest) {
            Ok(()) => self.perform(&path, &flags, env),
            Err(error @ FlagError::Help) => {
                env.err(&format!("{}{error}\n", flags.usage()));
                0
            }
            Err(error) => {
                env.err(&format!("{error}\n{}", flags.usage()));
                // SPIRE's flag set says it, and then some verbs do.
                match path.as_str() {
                    "run" => env.err(&format!("{error}\n")),
                    "validate" => {
                        let who = self.name.replacen("spire-", "SPIRE ", 1);
                        env.err(&format!("{who} configuration file is invalid: {error}\n"));
                    }
                    path if path.starts_with("api ") => env.err(&format!("{error}\n")),
                    _ => {}
                }
                1
            }
        }
    }

    fn perform(&self, path: &str, flags: &FlagSet, env: &mut Env) -> i32 {
        match path {
            "run" => return (self.program.run)(flags, env),
            "validate" => return (self.program.validate)(flags, env),
            _ => {}
        }
        let Some(verb) = self.verb(path) else { return 127 };
        if let Some(Err(failure)) = self.socket.map(|socket| socket.resolve(flags, env)) {
            env.err(&format!("Error: {}\n", failure.0));
            return 1;
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                env.err(&format!("Error: cannot start: {error}\n"));
                return 1;
            }
        };
        match runtime.block_on(verb.run(flags, env)) {
            Ok(()) => 0,
            Err(failure) => {
                env.err(&verb.describe(&failure));
                1
            }
        }
    }

    fn verb(&self, path: &str) -> Option<&dyn Verb> {
        self.verbs.iter().find(|verb| verb.path() == path).map(|verb| &**verb)
    }

    fn knows(&self, words: &[String]) -> bool {
        let path = words.join(" ");
        path == "run" || path == "validate" || self.verb(&path).is_some()
    }

    /// The flags of the verb at `path`, undefined ones if there is none.
    pub(crate) fn flag_set(&self, path: &str) -> FlagSet {
        match self.verb(path) {
            Some(verb) => {
                let mut flags = FlagSet::new(verb.usage_name());
                verb.flags(&mut flags);
                flags
            }
            None => {
                let mut flags = FlagSet::new(path);
                if path == "run" || path == "validate" {
                    (self.run_flags)(&mut flags);
                }
                flags
            }
        }
    }

    /// Every path with its synopsis, sorted.
    pub(crate) fn paths(&self) -> Vec<(&'static str, &'static str)> {
        let mut paths: Vec<_> =
            self.verbs.iter().map(|verb| (verb.path(), verb.synopsis())).collect();
        paths.push(("run", self.run_synopsis[0]));
        paths.push(("validate", self.run_synopsis[1]));
        paths.sort_unstable();
        paths
    }

    /// Help for a group (`entry`), or for the program.
    fn no_such(&self, words: &[String], help: bool, env: &mut Env) -> i32 {
        for length in (1..=words.len()).rev() {
            let prefix = format!("{} ", words[..length].join(" "));
            let members = self.children(&prefix);
            if !members.is_empty() {
                env.err(&format!(
                    "This command is accessed by using one of the subcommands below.\n\n\
                     Subcommands:\n{}",
                    columns(&members)
                ));
                return i32::from(!help);
            }
        }
        env.err(&format!(
            "Usage: {} [--version] [--help] <command> [<args>]\n\nAvailable commands are:\n{}\n",
            self.name,
            columns(&self.children(""))
        ));
        if help && words.is_empty() { 0 } else { 127 }
    }

    /// The next words after `prefix` with their synopses (empty for groups).
    fn children(&self, prefix: &str) -> Vec<(&'static str, &'static str)> {
        let mut found: Vec<(&str, &str)> = Vec::new();
        for (path, synopsis) in self.paths() {
            let Some(rest) = path.strip_prefix(prefix) else { continue };
            let (word, synopsis) = match rest.split_once(' ') {
                Some((word, _)) => (word, ""),
                None => (rest, synopsis),
            };
            if found.last().is_none_or(|(last, _)| *last != word) {
                found.push((word, synopsis));
            }
        }
        found
    }
}

fn columns(rows: &[(&str, &str)]) -> String {
    let width = rows.iter().map(|(word, _)| word.len()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (word, synopsis)| {
        let _ = writeln!(text, "    {word:width$}    {synopsis}");
        text
    })
}
