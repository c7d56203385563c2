//! The scenarios. Each measures one deployment once and adds its samples.

pub mod entries;
pub mod fetch;
pub mod fill;
pub mod idle;
pub mod many;
pub mod mint;
pub mod propagation;
pub mod restart;
pub mod sds;
pub mod streams;

use crate::args::Args;
use crate::deployment::Deployment;
use crate::error::Result;
use crate::figures::Samples;

/// What a scenario works with.
pub struct Context<'a> {
    pub args: &'a Args,
    pub samples: &'a mut Samples,
    /// The index of the folder that is measured.
    pub bin: usize,
}

impl Context<'_> {
    /// Adds a sample.
    pub fn add(&mut self, id: &'static str, value: f64) {
        self.samples.add(self.bin, id, value);
    }
}

/// Whether the answer to call `number` is to be verified fully: the first, and one of so many.
pub fn fully(number: u64, every: u64) -> bool {
    number.is_multiple_of(every)
}

/// Runs `scenario` once.
///
/// # Errors
/// When a call fails or an answer is wrong.
pub async fn run(
    scenario: &str,
    deployment: &mut Deployment,
    context: &mut Context<'_>,
) -> Result<()> {
    match scenario {
        "idle" => idle::run(deployment, context).await?,
        "streams" => streams::run(deployment, context).await?,
        "mint" => mint::run(deployment, context).await?,
        "fetch" => fetch::run(deployment, context).await?,
        "propagation" => propagation::run(deployment, context).await?,
        "entries" => entries::run(deployment, context).await?,
        "many" => many::run(deployment, context).await?,
        "sds" => sds::run(deployment, context).await?,
        "restart" => restart::run(deployment, context).await?,
        "fill" => fill::run(deployment, context).await?,
        _ => unreachable!("scenarios were checked when they were read"),
    }
    deployment.alive()
}
