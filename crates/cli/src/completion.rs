//! `completion bash|zsh|fish`: a script that completes verbs and flags. Ours;
//! the tables behind it are the verbs themselves, so it cannot go stale.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::Env;
use crate::dispatch::Commands;

/// Prints the script for the shell in `args`.
pub(crate) fn main(commands: &Commands, args: &[String], env: &mut Env) -> i32 {
    let words = words(commands);
    let script = match args.first().map(String::as_str) {
        Some("bash") => bash(commands.name, &words),
        Some("zsh") => format!(
            "#compdef {}\nautoload -U +X bashcompinit && bashcompinit\n{}",
            commands.name,
            bash(commands.name, &words)
        ),
        Some("fish") => fish(commands.name, &words),
        _ => {
            env.err(&format!(
                "Usage: {0} completion bash|zsh|fish\n\nFor example: source <({0} completion bash)\n",
                commands.name
            ));
            return 1;
        }
    };
    env.out(&script);
    0
}

/// What may follow each sequence of words.
fn words(commands: &Commands) -> BTreeMap<String, Vec<String>> {
    let mut next: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, _) in commands.paths() {
        let mut before = String::new();
        for word in path.split(' ') {
            let followers = next.entry(before.clone()).or_default();
            if !followers.iter().any(|known| known == word) {
                followers.push(word.to_owned());
            }
            before = if before.is_empty() { word.to_owned() } else { format!("{before} {word}") };
        }
        let flags = commands.flag_set(path);
        next.entry(before).or_default().extend(flags.names().map(|name| format!("-{name}")));
    }
    next
}

fn bash(program: &str, words: &BTreeMap<String, Vec<String>>) -> String {
    let function = format!("_{}", program.replace('-', "_"));
    let mut cases = String::new();
    for (before, followers) in words {
        let _ = writeln!(cases, "    '{before}') words='{}' ;;", followers.join(" "));
    }
    format!(
        "{function}() {{\n  local path='' word words=''\n  \
         for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n    \
         [[ $word == -* ]] && break\n    path=\"${{path:+$path }}$word\"\n  done\n  \
         case \"$path\" in\n{cases}  esac\n  \
         COMPREPLY=($(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))\n}}\n\
         complete -o default -F {function} {program}\n"
    )
}

fn fish(program: &str, words: &BTreeMap<String, Vec<String>>) -> String {
    let mut script = format!("complete -c {program} -f\n");
    for (before, followers) in words {
        let condition = if before.is_empty() {
            "__fish_use_subcommand".to_owned()
        } else {
            let seen: Vec<String> = before
                .split(' ')
                .map(|word| format!("__fish_seen_subcommand_from {word}"))
                .collect();
            seen.join("; and ")
        };
        for follower in followers {
            let _ = match follower.strip_prefix('-') {
                Some(flag) => writeln!(script, "complete -c {program} -n '{condition}' -o {flag}"),
                None => writeln!(script, "complete -c {program} -n '{condition}' -a {follower}"),
            };
        }
    }
    script
}
