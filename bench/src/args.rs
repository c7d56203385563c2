//! The command line.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::scenario::{self, Scenario};

/// What `--help` says, with the list of the scenarios.
pub fn help() -> String {
    let mut text = HELP.to_owned();
    for scenario in scenario::ALL {
        let by_hand = if scenario.by_hand { " (by hand: --only)" } else { "" };
        let _ = writeln!(text, "  {:<14}{}{by_hand}", scenario.name, scenario.about);
    }
    text
}

const HELP: &str = "\
Measures spire-server and spire-agent of one or more folders, in alternation.

  bench --bin [LABEL=]FOLDER [--bin [LABEL=]FOLDER ...] [options]
  bench push --help     how fast changes reach an open stream
  bench model --help    what deployments of any size need

  --bin [LABEL=]FOLDER  folder with spire-server and spire-agent; LABEL is the folder's
                        name when not given. The first one is what others are compared to
  --rounds N            times that everything is started and measured anew (5)
  --seconds S           length of one load measurement (3)
  --connections N       callers at once, a connection each (8)
  --streams N           open streams whose memory is measured (1000)
  --idle S              length of the idle measurement (10)
  --changes N           entries that are followed to an open stream, per round (3)
  --fill N              entries that the agent starts with in the scenario fill (5000)
  --agents N            simulated agents of the scenarios with a fleet (5000)
  --steady S            length of the measurement of a fleet at work (60)
  --only A,B            the scenarios of these names only (all but those by hand)
  --entries N           entries created one by one in the scenario entries (1000)
  --soak TIME           only the soak, so long for each folder: 3600, 60m or 1h
  --database postgres=URL
                        a PostgreSQL server on which each server gets a database, rather than
                        an SQLite file (statements are counted if it has pg_stat_statements)
  --svg FOLDER          draw a picture of each scenario there
  --json FILE           write every figure of every round there
  --limit S             give up after so many seconds (3600)
  --quick               one short round that checks every answer; its figures mean little

Scenarios:
";

/// One folder of binaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bin {
    pub label: String,
    pub folder: PathBuf,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Args {
    pub bins: Vec<Bin>,
    pub rounds: usize,
    pub load: Duration,
    pub connections: usize,
    pub streams: usize,
    pub idle: Duration,
    pub changes: usize,
    /// How many entries the agent starts with in `fill`.
    pub fill: usize,
    /// How many entries are created one by one in `entries`; seven times as many in all.
    pub entries: usize,
    /// With how many entries in its database the server starts in `start`, and in how many rounds
    /// it does with the second number.
    pub filled: [usize; 2],
    pub filled_rounds: usize,
    /// How often a command is run in `cli`.
    pub commands: usize,
    /// How long `soak` takes.
    pub soak: Duration,
    pub svg: Option<PathBuf>,
    /// The URL of a PostgreSQL server, if the servers are to have their data there.
    pub postgres: Option<String>,
    /// How many simulated agents a fleet has.
    pub agents: usize,
    /// How long a fleet at work is measured.
    pub steady: Duration,
    pub only: Vec<String>,
    pub json: Option<PathBuf>,
    pub limit: Duration,
    /// Of so many answers, one is verified to the last signature.
    pub verify_every: u64,
}

impl Args {
    /// Reads the command line; `None` when it asks for help.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut args = Self::full();
        let mut words = words;
        let mut bins = Vec::new();
        while let Some(word) = words.next() {
            let mut value =
                || words.next().ok_or_else(|| Error::Usage(format!("{word} needs a value")));
            match word.as_str() {
                "-h" | "--help" => return Ok(None),
                "--quick" => {
                    args = Self {
                        json: args.json,
                        svg: args.svg,
                        postgres: args.postgres,
                        only: args.only,
                        ..Self::quick()
                    }
                }
                "--bin" => bins.push(Bin::parse(&value()?)?),
                "--rounds" => args.rounds = number(&word, &value()?, 1, 100)?,
                "--seconds" => args.load = seconds(&word, &value()?, 60)?,
                "--connections" => args.connections = number(&word, &value()?, 1, 1000)?,
                "--streams" => args.streams = number(&word, &value()?, 1, 20_000)?,
                "--idle" => args.idle = seconds(&word, &value()?, 600)?,
                "--changes" => args.changes = number(&word, &value()?, 1, 100)?,
                "--fill" => args.fill = number(&word, &value()?, 1, 100_000)?,
                "--agents" => args.agents = number(&word, &value()?, 1, 20_000)?,
                "--steady" => args.steady = seconds(&word, &value()?, 3600)?,
                "--only" => args.only = scenarios(&value()?)?,
                "--entries" => args.entries = number(&word, &value()?, 50, 1_000_000)?,
                "--soak" => {
                    args.soak = seconds(&word, &value()?, 86_400)?;
                    args.only = vec!["soak".into()];
                    args.rounds = 1;
                    args.limit = args.soak * 10 + args.limit;
                }
                "--database" => args.postgres = Some(database(&value()?)?),
                "--svg" => args.svg = Some(value()?.into()),
                "--json" => args.json = Some(value()?.into()),
                "--limit" => args.limit = seconds(&word, &value()?, 86_400)?,
                _ => return Err(Error::Usage(format!("unknown option {word:?}"))),
            }
        }
        if bins.is_empty() {
            return Err(Error::Usage("no folder of binaries: --bin FOLDER".into()));
        }
        for (index, bin) in bins.iter().enumerate() {
            if bins[..index].iter().any(|it| it.label == bin.label) {
                let label = &bin.label;
                return Err(Error::Usage(format!(
                    "two folders called {label:?}: --bin LABEL=FOLDER"
                )));
            }
        }
        args.bins = bins;
        Ok(Some(args))
    }

    /// Whether `scenario` is wanted.
    pub fn wants(&self, scenario: &Scenario) -> bool {
        match &self.only[..] {
            // Each has a short form.
            [] => !scenario.by_hand || self.is_quick(),
            only => only.iter().any(|it| it == scenario.name),
        }
    }

    /// Whether this is about answers rather than figures.
    pub fn is_quick(&self) -> bool {
        self.verify_every == 1
    }

    fn full() -> Self {
        Self {
            bins: Vec::new(),
            rounds: 5,
            load: Duration::from_secs(3),
            connections: 8,
            streams: 1000,
            idle: Duration::from_secs(10),
            changes: 3,
            fill: 5000,
            entries: 1000,
            filled: [100_000, 1_000_000],
            filled_rounds: 1,
            commands: 20,
            soak: Duration::from_secs(3600),
            svg: None,
            postgres: None,
            agents: 5000,
            steady: Duration::from_secs(60),
            only: Vec::new(),
            json: None,
            limit: Duration::from_secs(3600),
            verify_every: 200,
        }
    }

    fn quick() -> Self {
        Self {
            rounds: 1,
            load: Duration::from_millis(500),
            connections: 4,
            streams: 50,
            idle: Duration::from_secs(1),
            changes: 1,
            fill: 200,
            entries: 50,
            filled: [300, 1000],
            commands: 2,
            soak: Duration::from_secs(2),
            agents: 20,
            steady: Duration::from_secs(2),
            limit: Duration::from_secs(1800),
            verify_every: 1,
            ..Self::full()
        }
    }
}

impl Bin {
    /// Reads `[LABEL=]FOLDER`.
    ///
    /// # Errors
    /// When the programs are not there.
    pub fn parse(text: &str) -> Result<Self> {
        let (label, folder) = match text.split_once('=') {
            Some((label, folder)) => (label.to_owned(), Path::new(folder)),
            None => {
                let folder = Path::new(text);
                let name = folder.file_name().map(|it| it.to_string_lossy().into_owned());
                (name.unwrap_or_else(|| text.to_owned()), folder)
            }
        };
        let folder = folder.canonicalize().map_err(Error::io(format!("--bin {text}")))?;
        for program in ["spire-server", "spire-agent"] {
            if !folder.join(program).is_file() {
                let folder = folder.display();
                return Err(Error::Usage(format!("--bin {text}: no {program} in {folder}")));
            }
        }
        Ok(Self { label, folder })
    }
}

fn number(option: &str, value: &str, least: usize, most: usize) -> Result<usize> {
    value.parse().ok().filter(|it| (least..=most).contains(it)).ok_or_else(|| {
        Error::Usage(format!("{option} takes a number from {least} to {most}, not {value:?}"))
    })
}

fn seconds(option: &str, value: &str, most: u32) -> Result<Duration> {
    let (digits, unit) = match value.as_bytes().last() {
        Some(b'h') => (&value[..value.len() - 1], 3600.0),
        Some(b'm') => (&value[..value.len() - 1], 60.0),
        Some(b's') => (&value[..value.len() - 1], 1.0),
        _ => (value, 1.0),
    };
    let number: Option<f64> = digits.parse().ok();
    number
        .map(|it| it * unit)
        .filter(|it| (0.1..=f64::from(most)).contains(it))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| {
            Error::Usage(format!("{option} takes seconds from 0.1 to {most}, not {value:?}"))
        })
}

fn database(value: &str) -> Result<String> {
    match value.split_once('=') {
        Some(("postgres", url)) if url.contains("://") => Ok(url.to_owned()),
        _ => Err(Error::Usage(format!("--database takes postgres=URL, not {value:?}"))),
    }
}

fn scenarios(value: &str) -> Result<Vec<String>> {
    let chosen: Vec<String> = value.split(',').map(str::to_owned).collect();
    let names: Vec<&str> = scenario::ALL.iter().map(|it| it.name).collect();
    match chosen.iter().find(|it| !names.contains(&it.as_str())) {
        Some(unknown) => {
            let names = names.join(", ");
            Err(Error::Usage(format!("no scenario {unknown:?}; there are {names}")))
        }
        None => Ok(chosen),
    }
}
