//! `cargo xtask tidy`: what rustfmt and clippy do not see.

use std::fs;
use std::path::{Path, PathBuf};

/// Code lines of one file, its tests not counted.
const MOST_LINES: usize = 600;

/// Files that may be longer, each with its reason.
const LONGER: &[(&str, &str)] = &[];

/// Checks every source file of the workspace.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    let mut problems = Vec::new();
    let mut sizes = Vec::new();
    for top in ["crates", "xtask"] {
        for file in rust_files(&root.join(top)).map_err(|error| format!("{top}: {error}"))? {
            let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            if shown.contains("/gen/") {
                continue;
            }
            let text = fs::read_to_string(&file).map_err(|error| format!("{shown}: {error}"))?;
            check(&shown, &text, &mut problems);
            if !is_test(&shown) {
                sizes.push(code_lines(&text));
            }
        }
    }
    if !problems.is_empty() {
        return Err(format!("not tidy:\n  {}", problems.join("\n  ")));
    }
    sizes.sort_unstable();
    if let (Some(median), Some(most)) = (sizes.get(sizes.len() / 2), sizes.last()) {
        println!("{} files, code lines: median {median}, most {most}", sizes.len());
    }
    Ok(())
}

fn check(shown: &str, text: &str, problems: &mut Vec<String>) {
    let lines = code_lines(text);
    let excused = LONGER.iter().any(|(name, _)| *name == shown);
    if lines > MOST_LINES && !is_test(shown) && !excused {
        problems.push(format!("{shown}: {lines} lines of code, at most {MOST_LINES}"));
    }
    let is_root = ["src/lib.rs", "src/main.rs"].iter().any(|root| shown.ends_with(root));
    if is_root && !text.starts_with("//!") {
        problems.push(format!("{shown}: no crate header"));
    }
    if shown.ends_with("/mod.rs") {
        problems.push(format!("{shown}: name the file after its module"));
    }
    for (number, line) in text.lines().enumerate() {
        let at = || format!("{shown}:{}", number + 1);
        if line.contains(concat!("tokio::", "spawn("))
            && !is_test(shown)
            && !shown.starts_with("crates/runtime/")
            && number < lines_before_tests(text)
        {
            problems.push(format!("{}: tasks are spawned through runtime's Tasks", at()));
        }
        if line.ends_with([' ', '\t']) {
            problems.push(format!("{}: trailing space", at()));
        }
    }
}

fn is_test(shown: &str) -> bool {
    ["/tests/", "/testkit/", "/contract/"].iter().any(|folder| shown.contains(folder))
        || shown.ends_with("/tests.rs")
}

/// Lines before the in-file tests.
fn lines_before_tests(text: &str) -> usize {
    text.lines().position(|line| line.trim() == "#[cfg(test)]").unwrap_or(usize::MAX)
}

/// Lines that are neither empty, nor comments, nor tests.
fn code_lines(text: &str) -> usize {
    text.lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//"))
        .count()
}

fn rust_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_code_only() {
        assert_eq!(code_lines("//! x\n\nfn a() {}\n// b\n#[cfg(test)]\nmod tests {}\n"), 1);
    }

    #[test]
    fn finds_what_is_not_tidy() {
        let mut problems = Vec::new();
        check("crates/x/src/lib.rs", "fn a() {} \n", &mut problems);
        assert_eq!(
            problems,
            ["crates/x/src/lib.rs: no crate header", "crates/x/src/lib.rs:1: trailing space"]
        );
    }
}
