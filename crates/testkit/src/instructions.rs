//! How many instructions a path takes, counted by callgrind: a figure that does not depend on what
//! else the machine does, so that a test may hold it to a bound.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the process under callgrind writes what it counted; its being set tells it from others.
const FOLDER: &str = "STEEPLE_COUNT_INSTRUCTIONS";

/// The file with a line for each path, in order.
const PATHS: &str = "paths";

/// What callgrind writes, with `.1`, `.2` and so on for each time that it was told to.
const PROFILE: &str = "callgrind";

/// How the functions of the C library begin that does the cryptography.
const CRYPTO: &str = "aws_lc_";

/// One path's instructions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instructions {
    /// The path's name.
    pub name: String,
    /// For each time that it was taken, without `crypto`.
    pub own: u64,
    /// Spent in the C library that does the cryptography, and in what it calls.
    pub crypto: u64,
}

/// Takes paths, while callgrind counts.
pub struct InstructionCounter {
    paths: String,
}

impl InstructionCounter {
    /// Counts what `work` does: it is told how often to do it. It is done a few times before, so
    /// that what is made once for all is not counted.
    pub fn count(&mut self, name: &str, times: u32, mut work: impl FnMut(u32)) {
        const WARM: u32 = 3;
        work(WARM);
        instructions_count_from_here();
        work(times);
        instructions_count_up_to_here();
        self.paths.push_str(&format!("{times} {name}\n"));
    }
}

/// Counts the paths that `take` takes, in a process of its own under callgrind: the test `test` of
/// this program, which is to be the caller, and which is to do nothing more when this is `None`:
/// it is the one in that process, or callgrind is not there, which is said.
///
/// # Panics
/// When the process fails, or callgrind wrote something else than expected.
pub fn count_instructions(
    test: &str,
    take: impl FnOnce(&mut InstructionCounter),
) -> Option<Vec<Instructions>> {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let mut counter = InstructionCounter { paths: String::new() };
        take(&mut counter);
        fs::write(Path::new(&folder).join(PATHS), counter.paths).expect("the folder is there");
        return None;
    }
    if let Err(why) = callgrind_works() {
        #[expect(clippy::print_stdout, reason = "that a test is skipped is said where tests speak")]
        {
            println!("skipped: {why}");
        }
        return None;
    }
    let folder = crate::temp_dir();
    let program = std::env::current_exe().expect("a test knows its program");
    let done = callgrind(&folder.path().join(PROFILE))
        .args([
            "--dump-before=*instructions_count_from_here*",
            "--dump-before=*instructions_count_up_to_here*",
            "--compress-strings=no",
        ])
        .arg(program)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder.path())
        .output()
        .expect("valgrind was there a moment ago");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}\n{said}", String::from_utf8_lossy(&done.stdout));
    Some(read(folder.path()))
}

/// Says what was counted, and compares it with the most of its own that each path may take, by its
/// name: in unoptimised programs, as tests usually are. Of optimised ones it is only said.
///
/// # Panics
/// When a path took more, has no budget, or there is a budget without a path.
#[expect(clippy::print_stdout, reason = "it is what a new budget is made of")]
pub fn hold_instructions(counted: &[Instructions], budgets: &[(&str, u64)]) {
    for path in counted {
        println!("{}: {} instructions, and {} of cryptography", path.name, path.own, path.crypto);
    }
    assert_eq!(counted.len(), budgets.len(), "as many paths as budgets");
    for (path, (name, most)) in counted.iter().zip(budgets) {
        assert_eq!(path.name, *name);
        let within = !cfg!(debug_assertions) || path.own <= *most;
        assert!(within, "{name} took {} instructions, not {most}", path.own);
    }
}

/// What is before it is not counted. Named so that nothing else is called so.
#[inline(never)]
fn instructions_count_from_here() {
    black_box(1);
}

/// What comes after it is not counted. (Another number, lest a compiler make one of the two.)
#[inline(never)]
fn instructions_count_up_to_here() {
    black_box(2);
}

fn callgrind(profile: &Path) -> Command {
    let mut out = std::ffi::OsString::from("--callgrind-out-file=");
    out.push(profile);
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg(out);
    command
}

fn callgrind_works() -> Result<(), &'static str> {
    match callgrind(Path::new("/dev/null")).arg("true").output() {
        Ok(done) if done.status.success() => Ok(()),
        Ok(_) => Err("valgrind does not work here"),
        Err(_) => Err("valgrind is not installed"),
    }
}

fn read(folder: &Path) -> Vec<Instructions> {
    let paths = fs::read_to_string(folder.join(PATHS)).expect("the test counted something");
    let parts: Vec<String> = (1..)
        .map(|part| PathBuf::from(folder).join(format!("{PROFILE}.{part}")))
        .map_while(|part| fs::read_to_string(part).ok())
        .filter(|part| cause(part).is_some_and(|it| it.contains("up_to_here")))
        .collect();
    assert_eq!(paths.lines().count(), parts.len(), "a part for each path");
    let each = paths.lines().zip(&parts).map(|(path, part)| {
        let (times, name) = path.split_once(' ').expect("as it was written");
        let times: u64 = times.parse().expect("as it was written");
        let (all, crypto) = (total(part), crypto(part));
        Instructions { name: name.to_owned(), own: (all - crypto) / times, crypto: crypto / times }
    });
    each.collect()
}

/// Why callgrind wrote a part.
fn cause(part: &str) -> Option<&str> {
    part.lines().find_map(|line| line.strip_prefix("desc: Trigger: "))
}

fn total(part: &str) -> u64 {
    let line = part.lines().find_map(|line| line.strip_prefix("summary: "));
    line.and_then(|it| it.trim().parse().ok()).expect("a part has a summary")
}

/// What the calls of Rust into the cryptographic library cost: the format has a caller's name
/// (`fn=`), and for each call the callee's (`cfn=`), a line `calls=`, and one that ends with what
/// the calls cost.
fn crypto(part: &str) -> u64 {
    let (mut from_rust, mut into_crypto, mut sum) = (false, false, 0);
    let mut lines = part.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("fn=") {
            // C has no paths.
            from_rust = name.contains("::");
        } else if let Some(name) = line.strip_prefix("cfn=") {
            into_crypto = name.starts_with(CRYPTO) && !name.contains("::");
        } else if line.starts_with("calls=") {
            let cost = lines.next().and_then(|it| it.rsplit(' ').next()?.parse::<u64>().ok());
            if from_rust && into_crypto {
                sum += cost.expect("a call has a cost");
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rust_calls_of_the_cryptographic_library_is_told_apart() {
        let part = "desc: Trigger: --dump-before=x::instructions_count_up_to_here\n\
            summary: 1000\n\
            fn=a::rust\n+3 400\ncfn=aws_lc_1_sign\ncalls=2 0\n+5 300\n* 7\n\
            fn=aws_lc_1_sign\n0 200\ncfn=aws_lc_1_hash\ncalls=1 0\n* 100\n\
            fn=b::rust\ncfn=a::rust\ncalls=1 +9\n12 700\n\
            totals: 1000\n";
        assert_eq!((total(part), crypto(part)), (1000, 300));
        assert!(cause(part).is_some_and(|it| it.contains("up_to_here")));
    }

    #[test]
    fn the_instructions_of_a_loop_are_counted_for_each_turn() {
        let counted = count_instructions(
            "instructions::tests::the_instructions_of_a_loop_are_counted_for_each_turn",
            |counter| {
                for (name, turns) in [("ten", 10u64), ("a thousand", 1000)] {
                    counter.count(name, 100, |times| {
                        for _ in 0..times {
                            black_box((0..turns).fold(0, |sum, turn| black_box(sum ^ turn)));
                        }
                    });
                }
            },
        );
        let Some(counted) = counted else { return };
        let [ten, thousand] = &counted[..] else { panic!("{counted:?}") };
        assert_eq!((&*ten.name, &*thousand.name), ("ten", "a thousand"));
        assert!(thousand.own > 50 * ten.own, "{counted:?}");
        assert_eq!((ten.crypto, thousand.crypto), (0, 0));
    }
}
