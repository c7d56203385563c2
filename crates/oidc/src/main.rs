//! The `oidc-discovery-provider` program.

fn main() -> std::process::ExitCode {
    steeple_oidc::main()
}
