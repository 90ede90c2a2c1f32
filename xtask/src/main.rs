//! The workspace's own commands; see [`USAGE`].

mod cargo;
mod deny;
mod error;
mod http;
mod interop;
mod layering;
mod peer;
mod proxy;
mod scenarios;
mod setup;
mod synapse;
mod tally;
mod test;
mod world;

use std::process::ExitCode;

use error::{Result, fail};

const USAGE: &str = "\
cargo xtask test                  every test: the workspace's, then the interoperability with foreign
                                  clients over a real Synapse
cargo xtask interop [OPTIONS]     only the latter
    --only NAME[,NAME..]          these scenarios
    --pairs A:B[,A:B..]           these pairs of herold, js, nio
    --jobs N                      so many at a time (2)
    --release                     test the release build of herold
    --binary PATH                 test this binary
    --list                        print the scenarios
cargo xtask setup                 install what the interoperability needs (Synapse, matrix-js-sdk, matrix-nio)
cargo xtask layering              compare the crates' dependencies with the architecture
cargo xtask deny                  licences, bans and sources of all dependencies; advisories where reachable
cargo xtask ci                    all that CI does";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one command; `false` if what it checked is not in order.
fn run(arguments: &[String]) -> Result<bool> {
    let Some((command, rest)) = arguments.split_first() else { return fail(USAGE) };
    match command.as_str() {
        "interop" => interop::run(&interop::Options::parse(rest)?).map(|tally| tally.good()),
        _ if !rest.is_empty() => fail(format!("{command} takes no arguments\n{USAGE}")),
        "test" => test::run().map(|tally| tally.good()),
        "setup" => setup::everything().map(|()| true),
        "layering" => layering::check_workspace(),
        "deny" => deny::run(),
        "ci" => cargo::status(std::process::Command::new("bash").arg(".ci/run")),
        _ => fail(USAGE),
    }
}
