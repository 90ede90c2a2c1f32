//! The workspace's own commands; see [`USAGE`].

mod bench;
mod bindings;
mod cargo;
mod deny;
mod error;
mod fuzz;
mod http;
mod identity;
mod interop;
mod layering;
mod mutants;
mod peer;
mod proxy;
mod scenarios;
mod setup;
mod sim;
mod synapse;
mod tally;
mod test;
mod world;

use std::process::ExitCode;

use error::{Result, fail};

const USAGE: &str = "\
cargo xtask test [--long]         every test: the workspace's, then the interoperability with foreign
                                  clients over a real Synapse
    --long                        the store's tests against kills and power loss take their time: 500 kills,
                                  50,000 power losses, a million rows
cargo xtask interop [OPTIONS]     only the latter
    --only NAME[,NAME..]          these scenarios
    --pairs A:B[,A:B..]           these pairs of herold, js, nio
    --jobs N                      so many at a time (2)
    --release                     test the release build of herold
    --binary PATH                 test this binary
    --list                        print the scenarios
cargo xtask bindings [OPTIONS]    the library for other languages: Kotlin, Swift and its size compared with
                                  what is kept, Python's tests over a real Synapse
    --compare                     no tests
    --bless                       keep what there is now, no tests
cargo xtask setup                 install what the tests need (Synapse, matrix-js-sdk, matrix-nio, bindgen)
cargo xtask fuzz [OPTIONS] [TARGET..]  the fuzz targets: what was found before, then something new
    --seconds N                   for so long each (10)
    --sanitizer NAME              none (the default) or address
    --input FILE                  only this input, with one target
cargo xtask sim [OPTIONS]         whole conversations in the simulated world, a seed each
    --profile NAME                honest, faulty (the default), hostile, soak or identity
    --seeds N                     so many (200)
    --first N                     from this one on (0)
    --steps N                     actions of a schedule (200)
    --kill-points                 each schedule once for each commit, killed there
    --shrink N                    seconds to make a failing schedule shorter (30)
    --jobs N                      processes at a time (as many as there are cores)
cargo xtask mutants [OPTIONS]     planted faults, each of which the simulated world has to find
    --only NAME[,NAME..]          these
    --seeds N                     within so many seeds (2000)
cargo xtask bench [OPTIONS]       Herold, matrix-sdk-crypto and vodozemac at the same work
    --only WORK[,WORK..]          these works
    --write                       keep the figures in benches/README.md
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
        "bindings" => bindings::run(&bindings::Options::parse(rest)?).map(|tally| tally.good()),
        "bench" => bench::run(rest),
        "sim" => sim::run(&sim::Options::parse(rest)?),
        "mutants" => mutants::run(&mutants::Options::parse(rest)?),
        "fuzz" => fuzz::run(&fuzz::Options::parse(rest)?),
        "test" if rest == ["--long"] => test::run(true).map(|tally| tally.good()),
        _ if !rest.is_empty() => fail(format!("{command} takes no arguments\n{USAGE}")),
        "test" => test::run(false).map(|tally| tally.good()),
        "setup" => setup::everything().map(|()| true),
        "layering" => layering::check_workspace(),
        "deny" => deny::run(),
        "ci" => cargo::status(std::process::Command::new("bash").arg(".ci/run")),
        _ => fail(USAGE),
    }
}
