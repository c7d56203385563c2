//! `slurm`: which job and step of Slurm's a process belongs to, by the groups that `slurmstepd`
//! makes (cgroup version 2).
//!
//! Those lie right below `/system.slice`, which is root's. A user who may name groups does so
//! further down, in his own slice, and nothing is read there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, PluginError, WorkloadAttestor};
use steeple_spiffe::Selector;

use super::container::{Cgroup, cgroups, shorten};
use steeple_plugin::settings::refuse_any;

/// The plugin's name in configuration, and the type of its selectors.
pub const NAME: &str = "slurm";

/// The attestor.
struct Slurm {
    proc_root: PathBuf,
}

/// A job by the name of its group, and a step of it.
type Step<'a> = (&'a str, &'a str);

/// The attestor; it takes no settings.
///
/// # Errors
/// When it is given some.
pub fn from_config(
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn WorkloadAttestor>, PluginError> {
    check(data)?;
    Ok(Arc::new(Slurm { proc_root: host.proc_root.clone() }))
}

pub(crate) fn check(data: Option<&Block>) -> Result<(), PluginError> {
    refuse_any(Kind::WorkloadAttestor, NAME, data)
}

#[async_trait]
impl WorkloadAttestor for Slurm {
    fn name(&self) -> &str {
        NAME
    }

    async fn attest(&self, pid: i32) -> Result<Vec<Selector>, PluginError> {
        let values = values(&self.proc_root, pid)?;
        Ok(values.iter().map(|value| Selector::new(NAME, value)).collect())
    }
}

fn values(proc_root: &Path, pid: i32) -> Result<Vec<String>, PluginError> {
    let failed = |code, message| PluginError::new(Kind::WorkloadAttestor, NAME, code, message);
    let groups = cgroups(proc_root, pid)
        .map_err(|error| failed(Code::Internal, format!("unable to obtain cgroups: {error}")))?;
    let found = find(&groups).map_err(|((job, step), (other_job, other_step))| {
        let text = format!(
            "multiple Slurm jobs found in cgroups ({}/step_{}, {}/step_{})",
            shorten(job),
            shorten(step),
            shorten(other_job),
            shorten(other_step)
        );
        failed(Code::FailedPrecondition, text)
    })?;
    let Some((job, step)) = found else { return Ok(Vec::new()) };
    let job = match job.strip_prefix("job_") {
        Some(number) => format!("job_id:{number}"),
        None => format!("sluid:{job}"),
    };
    Ok(vec![job, format!("step:{step}")])
}

/// The step that all groups agree on; the two that do not, otherwise.
fn find(groups: &[Cgroup]) -> Result<Option<Step<'_>>, (Step<'_>, Step<'_>)> {
    let mut steps = groups.iter().filter_map(|group| step(&group.path));
    let Some(first) = steps.next() else { return Ok(None) };
    match steps.find(|other| *other != first) {
        Some(other) => Err((first, other)),
        None => Ok(Some(first)),
    }
}

/// `/system.slice/[<node>_]slurmstepd.scope/<job>/step_<step>…`
fn step(path: &str) -> Option<Step<'_>> {
    let mut segments = path.strip_prefix("/system.slice/")?.split('/');
    segments.next().filter(|scope| scope.ends_with("slurmstepd.scope"))?;
    let job = segments.next().filter(|job| is_job(job))?;
    let step = segments.next()?.strip_prefix("step_").filter(|step| !step.is_empty())?;
    Some((job, step))
}

/// `job_<number>`, or an id in Crockford's Base32 that begins with `s`.
fn is_job(name: &str) -> bool {
    let all =
        |text: &str, kind: fn(&u8) -> bool| !text.is_empty() && text.bytes().all(|b| kind(&b));
    match (name.strip_prefix("job_"), name.strip_prefix('s')) {
        (Some(number), _) => all(number, u8::is_ascii_digit),
        (None, Some(id)) => all(id, u8::is_ascii_alphanumeric),
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use steeple_plugin::contract;
    use steeple_spiffe::TrustDomain;

    use super::*;

    fn table(cgroup: &str) -> tempfile::TempDir {
        let table = tempfile::tempdir().unwrap();
        fs::create_dir(table.path().join("123")).unwrap();
        fs::write(table.path().join("123/cgroup"), cgroup).unwrap();
        table
    }

    fn found(cgroup: &str) -> Vec<String> {
        values(table(cgroup).path(), 123).unwrap()
    }

    #[test]
    fn jobs_and_steps_have_selectors() {
        let scope = "0::/system.slice/slurmstepd.scope";
        for (cgroup, expected) in [
            (
                format!("{scope}/s5K1KKYAYG5D00/step_0/user/task_0\n"),
                ["sluid:s5K1KKYAYG5D00", "step:0"],
            ),
            (format!("{scope}/job_3385/step_batch/slurm\n"), ["job_id:3385", "step:batch"]),
            (format!("{scope}/job_42/step_extern\n"), ["job_id:42", "step:extern"]),
            (
                "0::/system.slice/node1_slurmstepd.scope/job_100/step_1/slurm\n".to_owned(),
                ["job_id:100", "step:1"],
            ),
            (
                format!(
                    "1:a:/x\n{scope}/job_1/step_0\n2:b:/system.slice/slurmstepd.scope/job_1/step_0/y\n"
                ),
                ["job_id:1", "step:0"],
            ),
        ] {
            assert_eq!(found(&cgroup), expected, "{cgroup}");
        }
    }

    #[test]
    fn what_users_may_name_is_no_job() {
        let user = "0::/user.slice/user-1000.slice/user@1000.service";
        for cgroup in [
            "0::/user.slice/user-1000.slice/session-3.scope\n",
            &format!("{user}/slurmstepd.scope/job_999/step_0\n"),
            &format!("{user}/system.slice/slurmstepd.scope/job_999/step_0\n"),
            "0::/../system.slice/slurmstepd.scope/job_999/step_0\n",
            "0::/system.slice/x/slurmstepd.scope/job_999/step_0\n",
            "0::/system.slice/slurmstepd.scope/job_9x/step_0\n",
            "0::/system.slice/slurmstepd.scope/job_/step_0\n",
            "0::/system.slice/slurmstepd.scope/s/step_0\n",
            "0::/system.slice/slurmstepd.scope/x12/step_0\n",
            "0::/system.slice/slurmstepd.scope/job_1/step_/x\n",
            "0::/system.slice/slurmstepd.scope/job_1\n",
            "0::/system.slice/slurmstepd.scopes/job_1/step_0\n",
        ] {
            assert_eq!(found(cgroup), Vec::<String>::new(), "{cgroup}");
        }
    }

    #[test]
    fn a_process_has_one_step() {
        let scope = "0::/system.slice/slurmstepd.scope";
        let table = table(&format!("{scope}/job_1/step_0/slurm\n{scope}/job_2/step_0/slurm\n"));
        let error = values(table.path(), 123).unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition);
        assert_eq!(
            error.message,
            "workloadattestor(slurm): multiple Slurm jobs found in cgroups (job_1/step_0, \
             job_2/step_0)"
        );
        let gone = values(table.path(), 7).unwrap_err();
        let expected = "workloadattestor(slurm): unable to obtain cgroups: open proc/7/cgroup: no \
                        such file or directory";
        assert_eq!((gone.code, &*gone.message), (Code::Internal, expected));
    }

    #[tokio::test]
    async fn keeps_the_contract_of_workload_attestors() {
        let table = table("0::/system.slice/slurmstepd.scope/job_1/step_0\n");
        let host = HostContext::new(TrustDomain::parse("example.org").unwrap())
            .with_proc_root(Some(table.path().to_owned()));
        contract::workload_attestor(&*from_config(None, &host).unwrap(), 123, i32::MAX).await;
        assert!(from_config(Some(&Block::parse("a = 1").unwrap()), &host).is_err());
    }
}
