//! `cargo xtask layers`: no crate uses one of its own level or above.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Compares `layers.toml` with `cargo metadata`.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    let rules = std::fs::read_to_string(root.join("layers.toml"))
        .map_err(|error| format!("layers.toml: {error}"))?;
    let rules: Rules = Rules::parse(&rules)?;
    let metadata = metadata(root)?;
    let mut problems = check(&rules, &metadata);
    for name in &rules.never {
        if is_built(root, name)? {
            problems.push(format!("{name} is in the dependency tree and must not be"));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(format!("the layers are broken:\n  {}", problems.join("\n  ")))
}

struct Rules {
    levels: BTreeMap<String, i64>,
    only: BTreeMap<String, Vec<String>>,
    never: Vec<String>,
}

impl Rules {
    fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = text.parse().map_err(|error| format!("layers.toml: {error}"))?;
        let section = |name: &str| {
            table
                .get(name)
                .and_then(toml::Value::as_table)
                .ok_or_else(|| format!("layers.toml: no [{name}]"))
        };
        let names = |value: &toml::Value| -> Vec<String> {
            value
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect()
        };
        Ok(Self {
            levels: section("levels")?
                .iter()
                .filter_map(|(name, level)| Some((name.clone(), level.as_integer()?)))
                .collect(),
            only: section("only")?
                .iter()
                .map(|(name, crates)| (name.clone(), names(crates)))
                .collect(),
            never: section("never")?.get("crates").map(names).unwrap_or_default(),
        })
    }
}

fn metadata(root: &Path) -> Result<Value, String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))
}

/// Whether a build of the workspace contains the crate. The lock file does not
/// tell: it also holds what no enabled feature asks for.
fn is_built(root: &Path, name: &str) -> Result<bool, String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--locked", "--edges", "normal,build", "--invert", name])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo tree: {error}"))?;
    Ok(output.status.success() && !output.stdout.is_empty())
}

fn check(rules: &Rules, metadata: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let members: Vec<&str> = metadata["workspace_members"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        if !package["id"].as_str().is_some_and(|id| members.contains(&id)) {
            continue;
        }
        let Some(&level) = rules.levels.get(name) else {
            problems.push(format!("{name} has no level"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if !dependency["kind"].is_null() {
                continue;
            }
            let used = dependency["name"].as_str().unwrap_or_default();
            if let Some(&below) = rules.levels.get(used)
                && below >= level
            {
                problems.push(format!("{name} (level {level}) uses {used} (level {below})"));
            }
            if let Some(allowed) = rules.only.get(used)
                && !allowed.iter().any(|allowed| allowed == name)
            {
                problems.push(format!("{name} names {used}, which is left to {allowed:?}"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Value {
        let dependencies: Vec<Value> = dependencies
            .iter()
            .map(|name| serde_json::json!({"name": name, "kind": null}))
            .collect();
        serde_json::json!({"name": name, "id": name, "dependencies": dependencies})
    }

    #[test]
    fn finds_edges_that_point_upward_or_sideways() {
        let rules = Rules::parse(
            "[levels]\na = 0\nb = 1\nc = 1\n[only]\nx = [\"b\"]\n[never]\ncrates = [\"bad\"]",
        )
        .unwrap();
        let metadata = serde_json::json!({
            "workspace_members": ["a", "b", "c", "d"],
            "packages": [
                package("a", &["b"]), package("b", &["a", "x"]), package("c", &["b", "x"]),
                package("d", &[]),
            ],
        });
        assert_eq!(
            check(&rules, &metadata),
            [
                "a (level 0) uses b (level 1)",
                "c (level 1) uses b (level 1)",
                "c names x, which is left to [\"b\"]",
                "d has no level",
            ]
        );
    }
}
