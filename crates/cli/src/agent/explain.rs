//! `explain`: why a workload has the identities it has, or none. Ours.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use steeple_proto::spire::api::types::Selector;
use steeple_proto::steeple::agent::explain::v1::explain_client::ExplainClient;
use steeple_proto::steeple::agent::explain::v1::{
    Attestor, Entry, ExplainWorkloadRequest, ExplainWorkloadResponse, NearMiss,
};
use steeple_runtime::duration;
use tonic::Code;

use super::{ADMIN_SOCKET, admin_channel};
use crate::dispatch::{Failure, Verb};
use crate::gofmt::{plural, utc_seconds};
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) struct Explain;

#[async_trait]
impl Verb for Explain {
    fn path(&self) -> &'static str {
        "explain"
    }

    fn synopsis(&self) -> &'static str {
        "Explains which identities a workload gets, or why it gets none"
    }

    fn flags(&self, flags: &mut FlagSet) {
        super::declare_admin(flags);
        flags.integer("pid", 0, "The process to explain, as the agent sees it");
        flags.text("container", "", "The container to explain: its ID or the beginning of it");
        flags.repeated(
            "selector",
            "A type:value selector of a workload to explain. Can be used more than once",
        );
        flags.switch(
            "showSelectors",
            "Show all values of selectors, not only those that log_selectors lets the log show",
        );
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let request = request(flags)?;
        let path = match flags.str("socketPath") {
            "" => ADMIN_SOCKET,
            path => path.strip_prefix("unix://").unwrap_or(path),
        };
        if matches!(Path::new(path).try_exists(), Ok(false)) {
            return Err(format!(
                "there is no admin socket at {path}: set admin_socket_path in the agent's \
                 configuration (off by default), restart it, and name the path with -socketPath"
            )
            .into());
        }
        let mut client = ExplainClient::new(admin_channel(flags));
        let told = client.explain_workload(request).await.map_err(|status| {
            match status.code() {
            Code::Unimplemented => Failure(
                "this socket does not explain workloads: it is not the admin socket of a Steeple \
                 agent, or that agent is an older one"
                    .to_owned(),
            ),
            Code::NotFound | Code::InvalidArgument => Failure(status.message().to_owned()),
            _ => status.into(),
        }
        })?;
        let told = told.into_inner();
        if Output::of(flags).is_json() {
            let name = "steeple.agent.explain.v1.ExplainWorkloadResponse";
            env.out(&proto_line(&Named(name, &told))?);
            return Ok(());
        }
        env.out(&text(&told));
        Ok(())
    }
}

fn request(flags: &FlagSet) -> Result<ExplainWorkloadRequest, Failure> {
    let pid = i32::try_from(flags.int("pid")).ok().filter(|pid| *pid >= 0);
    let pid = pid.ok_or_else(|| Failure("-pid is no process ID".to_owned()))?;
    let (container, selectors) = (flags.str("container"), flags.list("selector"));
    let ways = [pid != 0, !container.is_empty(), !selectors.is_empty()];
    if ways.into_iter().filter(|way| *way).count() != 1 {
        return Err("exactly one of -pid, -container and -selector is required".into());
    }
    let selectors = selectors.iter().map(|text| match text.split_once(':') {
        Some((kind, value)) => Ok(Selector { r#type: kind.to_owned(), value: value.to_owned() }),
        None => Err(Failure(format!("selector \"{text}\" must be formatted as type:value"))),
    });
    Ok(ExplainWorkloadRequest {
        pid,
        container_id: container.to_owned(),
        selectors: selectors.collect::<Result<_, _>>()?,
        show_selectors: flags.is_set("showSelectors"),
    })
}

fn text(told: &ExplainWorkloadResponse) -> String {
    let mut out = format!("{}\n", told.verdict);
    for finding in &told.findings {
        let _ = writeln!(out, "  - {finding}");
    }
    if !told.attestors.is_empty() {
        let _ = writeln!(out, "\nProcess {} was attested by:", told.pid);
    }
    for attestor in &told.attestors {
        let _ = writeln!(out, "  {}", answer(attestor));
    }
    out.push_str("\nSelectors:\n");
    if told.selectors.is_empty() {
        out.push_str("  (none)\n");
    }
    for selector in &told.selectors {
        let _ = writeln!(out, "  {selector}");
    }
    let matched = plural(told.entries.len(), "entry matches", "entries match");
    let _ = writeln!(out, "\n{matched}:");
    for entry in &told.entries {
        out.push_str(&matching(entry));
    }
    if !told.near_misses.is_empty() {
        out.push_str("\nNearly:\n");
    }
    for miss in &told.near_misses {
        let _ = writeln!(out, "  {}", near(miss));
    }
    out.push_str(&around(told));
    out
}

fn answer(attestor: &Attestor) -> String {
    let took = u64::try_from(attestor.duration_microseconds).unwrap_or(0);
    let took = duration::format_go(Duration::from_micros(took));
    if attestor.error.is_empty() {
        let found = plural(attestor.selectors.len(), "selector", "selectors");
        format!("{}: {found} in {took}", attestor.name)
    } else {
        format!("{}: failed after {took}: {}", attestor.name, attestor.error)
    }
}

fn matching(entry: &Entry) -> String {
    let mut out = format!("  {} (entry {})\n", entry.spiffe_id, entry.id);
    let mut line = |label: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "    {label:12} {value}");
        }
    };
    line("State", &format!("{}: {}", entry.state, entry.reason));
    line("Hint", &entry.hint);
    line("Selectors", &entry.selectors.join(", "));
    if entry.x509_svid_expires_at != 0 {
        line("Serial", &entry.x509_svid_serial_number);
        line("Valid until", &utc_seconds(entry.x509_svid_expires_at));
        line("Renewed at", &utc_seconds(entry.x509_svid_renews_at));
    }
    line("Federates", &entry.federates_with.join(", "));
    out
}

fn near(miss: &NearMiss) -> String {
    let mut text = format!(
        "{} (entry {}) also wants {}",
        miss.spiffe_id,
        miss.entry_id,
        miss.missing.join(", ")
    );
    if !miss.instead.is_empty() {
        let _ = write!(text, "; the workload shows {}", miss.instead.join(", "));
    }
    text
}

fn around(told: &ExplainWorkloadResponse) -> String {
    let mut out = String::new();
    if let Some(agent) = &told.agent {
        let _ = write!(
            out,
            "\nAgent {}\n  authorized for {}, holds {}\n",
            agent.spiffe_id,
            plural(usize::try_from(agent.entries).unwrap_or(0), "entry", "entries"),
            plural(usize::try_from(agent.x509_svids).unwrap_or(0), "X509-SVID", "X509-SVIDs"),
        );
        let _ = writeln!(
            out,
            "  its own SVID is valid until {}, renewed at {}",
            utc_seconds(agent.svid_expires_at),
            utc_seconds(agent.svid_renews_at)
        );
    }
    if let Some(sync) = &told.sync {
        let last = match sync.last_success {
            0 => "(never)".to_owned(),
            at => utc_seconds(at),
        };
        let how = match sync.mode.as_str() {
            "push" => "the server tells of changes".to_owned(),
            _ => format!("polls every {}s", sync.interval_seconds),
        };
        let _ = writeln!(out, "  last sync {last}; {how}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(args: &[&str]) -> FlagSet {
        let mut flags = FlagSet::new("explain");
        Explain.flags(&mut flags);
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        flags.parse(&args).unwrap();
        flags
    }

    #[test]
    fn one_thing_is_asked_about() {
        for bad in [&[][..], &["-pid", "1", "-selector", "a:b"], &["-pid", "-4"]] {
            assert!(request(&flags(bad)).is_err(), "{bad:?}");
        }
        assert!(request(&flags(&["-selector", "a"])).is_err());
        let asked = request(&flags(&["-selector", "a:b:c", "-showSelectors"])).unwrap();
        assert_eq!((asked.selectors[0].value.as_str(), asked.show_selectors), ("b:c", true));
    }

    #[test]
    fn the_answer_comes_first() {
        let told = ExplainWorkloadResponse {
            verdict: "No identity.".to_owned(),
            findings: vec!["a finding".to_owned()],
            near_misses: vec![NearMiss {
                entry_id: "e".to_owned(),
                spiffe_id: "spiffe://td/w".to_owned(),
                missing: vec!["unix:uid:1".to_owned()],
                instead: vec!["unix:uid:2".to_owned()],
            }],
            ..ExplainWorkloadResponse::default()
        };
        assert_eq!(
            text(&told),
            "No identity.\n  - a finding\n\nSelectors:\n  (none)\n\n0 entries match:\n\nNearly:\n  \
             spiffe://td/w (entry e) also wants unix:uid:1; the workload shows unix:uid:2\n"
        );
    }
}
