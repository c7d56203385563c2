//! The `spire-server` program.

fn main() -> std::process::ExitCode {
    steeple_server::main()
}
