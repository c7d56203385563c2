//! `steeple-demo`: what `make run` shows.

fn main() -> std::process::ExitCode {
    steeple_demo::main(std::env::args_os().skip(1))
}
