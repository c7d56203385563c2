//! From the samples to a picture of each scenario.

use std::path::Path;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::figures::{Figure, Samples};
use crate::floors::Floors;
use crate::machine;
use crate::report::short;
use crate::scenario::{self, Scenario};
use crate::stats::{median, range};
use crate::svg::{Bar, Group, Picture};

/// Draws every scenario that has samples into `folder`, as `NAME.svg`.
///
/// # Errors
/// When a file cannot be written.
pub fn draw(folder: &Path, args: &Args, floors: &Floors, samples: &Samples) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder.display().to_string()))?;
    for scenario in scenario::ALL {
        if let Some(picture) = picture(scenario, args, floors, samples) {
            let path = folder.join(format!("{}.svg", scenario.name));
            let written = std::fs::write(&path, picture.svg());
            written.map_err(Error::io(path.display().to_string()))?;
        }
    }
    Ok(())
}

fn picture(
    scenario: &Scenario,
    args: &Args,
    floors: &Floors,
    samples: &Samples,
) -> Option<Picture> {
    let groups: Vec<Group> =
        scenario.figures.iter().filter_map(|it| group(it, args, floors, samples)).collect();
    (!groups.is_empty()).then(|| Picture {
        title: format!("{}: {}", scenario.name, scenario.about),
        subtitle: format!(
            "Median, with the range of the rounds. Each figure has a scale of its own. {}",
            machine::description()
        ),
        legend: args.bins.iter().map(|bin| bin.label.clone()).collect(),
        groups,
    })
}

fn group(figure: &Figure, args: &Args, floors: &Floors, samples: &Samples) -> Option<Group> {
    let bars: Vec<Option<Bar>> = (0..args.bins.len())
        .map(|bin| {
            let values = samples.of(figure.id, bin);
            let ((least, greatest), median) = (range(values), median(values));
            let bar = Bar { median, least, greatest, text: short(median) };
            (!values.is_empty()).then_some(bar)
        })
        .collect();
    let arrow = if figure.is_lower_better() { "less is better" } else { "more is better" };
    bars.iter().any(Option::is_some).then(|| Group {
        label: format!("{} ({arrow})", figure.label),
        unit: figure.unit.to_owned(),
        limit: figure.limit_in(floors),
        bars,
    })
}
