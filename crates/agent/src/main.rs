//! The `spire-agent` program.

fn main() -> std::process::ExitCode {
    steeple_agent::main()
}
