//! `bench model`: from what single things cost, what deployments of any size need.
//!
//! The costs are in one file, each with the day and the run that it was measured in; a report of
//! the benchmark renews those that it has. The tables of the page are made from them.

mod costs;
mod demand;
mod draw;
mod sizing;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::error::{Error, Result};
use costs::Book;

const HELP: &str = "\
Tells what deployments need, from what single things cost.

  bench model [options]

  --costs FILE    what things cost (model.json in the benchmark's folder)
  --take REPORT   take what a report of bench --json has of the costs, and its fleet, into that
                  file; folders labelled spire and steeple. May be given several times
  --source TEXT   what is said of where such figures are from (the report's machine)
  --page FILE     write the tables into this page, between its marks
  --svg FILE      draw cores by agents there

Without --page, the tables are printed.
";

struct Options {
    costs: PathBuf,
    reports: Vec<PathBuf>,
    source: Option<String>,
    page: Option<PathBuf>,
    svg: Option<PathBuf>,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let costs = concat!(env!("CARGO_MANIFEST_DIR"), "/model.json").into();
        let mut options = Self { costs, reports: Vec::new(), source: None, page: None, svg: None };
        while let Some(word) = words.next() {
            let mut value =
                || words.next().ok_or_else(|| Error::Usage(format!("{word} needs a value")));
            match word.as_str() {
                "-h" | "--help" => return Ok(None),
                "--costs" => options.costs = value()?.into(),
                "--take" => options.reports.push(value()?.into()),
                "--source" => options.source = Some(value()?),
                "--page" => options.page = Some(value()?.into()),
                "--svg" => options.svg = Some(value()?.into()),
                _ => return Err(Error::Usage(format!("unknown option {word:?}"))),
            }
        }
        Ok(Some(options))
    }
}

/// Runs `bench model`.
///
/// # Errors
/// When a file cannot be read or written, or is not what it should be.
pub fn main(words: impl Iterator<Item = String>) -> Result<()> {
    let Some(options) = Options::parse(words)? else {
        print!("{HELP}");
        return Ok(());
    };
    let mut book = Book::read(&options.costs)?;
    for report in &options.reports {
        let taken = take(&mut book, report, options.source.as_deref())?;
        eprintln!("{}: {taken} figures", report.display());
    }
    if !options.reports.is_empty() {
        book.write(&options.costs)?;
    }
    if let Some(path) = &options.svg {
        fs::write(path, draw::picture(&book)).map_err(Error::io(path.display().to_string()))?;
    }
    let parts = parts(&book);
    match &options.page {
        Some(path) => renew(path, &parts),
        None => {
            for (name, table) in parts {
                println!("{name}:\n\n{table}");
            }
            Ok(())
        }
    }
}

fn take(book: &mut Book, path: &Path, source: Option<&str>) -> Result<usize> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(Error::io(&name))?;
    let report: Value =
        serde_json::from_str(&text).map_err(|error| Error::Usage(format!("{name}: {error}")))?;
    let machine = report.pointer("/machine/description").and_then(Value::as_str);
    let source = source.or(machine).unwrap_or("a report").to_owned();
    let written = fs::metadata(path).and_then(|it| it.modified()).map_err(Error::io(&name))?;
    Ok(book.take(&report, &date(written), &source))
}

/// The parts of the page that are made, by the names of their marks.
fn parts(book: &Book) -> [(&'static str, String); 6] {
    let ours = book.costs("steeple");
    [
        ("sizing", tables::sizing(&ours)),
        ("breaks", tables::breaks(&ours)),
        ("growth", tables::growth(book)),
        ("topologies", tables::topologies(&ours)),
        ("checked", tables::checked(book)),
        ("costs", tables::costs(book)),
    ]
}

fn renew(path: &Path, parts: &[(&str, String)]) -> Result<()> {
    let name = path.display().to_string();
    let mut page = fs::read_to_string(path).map_err(Error::io(&name))?;
    for (part, table) in parts {
        page = renewed(&page, part, table)
            .ok_or_else(|| Error::Usage(format!("{name}: no mark {:?}", begin(part))))?;
    }
    fs::write(path, page).map_err(Error::io(&name))
}

/// The page with a part between its marks replaced; `None` if it has no such marks.
fn renewed(page: &str, part: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(&begin(part))?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{}\n\n{table}\n{END}{after}", begin(part)))
}

fn begin(part: &str) -> String {
    format!("<!-- bench model: {part} -->")
}

const END: &str = "<!-- end -->";

/// The day of a moment, in UTC, as `2026-11-22`.
fn date(at: SystemTime) -> String {
    let days = at.duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs() / 86_400) as i64;
    // Days since 1970 to the calendar, counted in 400 years from March of the year 0.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn days_have_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_795_305_600, "2026-11-22"),
            (1_798_675_200, "2026-12-31"),
        ] {
            assert_eq!(date(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn a_part_of_a_page_is_replaced_and_nothing_else() {
        let page = "a\n<!-- bench model: x -->\nold\n<!-- end -->\nb\n";
        let new = renewed(page, "x", "| new |\n").expect("it has the mark");
        assert_eq!(new, "a\n<!-- bench model: x -->\n\n| new |\n\n<!-- end -->\nb\n");
        assert_eq!(renewed(&new, "x", "| new |\n").as_ref(), Some(&new));
        assert_eq!(renewed(page, "y", ""), None);
    }

    #[test]
    fn the_costs_of_this_repository_can_be_read_and_its_page_has_every_mark() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let book = Book::read(&root.join("model.json")).expect("it is a file of costs");
        let page = fs::read_to_string(root.join("../docs/scale.md")).expect("there is a page");
        for (part, table) in parts(&book) {
            assert!(renewed(&page, part, &table).is_some(), "{part}");
        }
    }
}
