//! `cargo xtask bench`: builds both sides of the benchmark, each in its own workspace, and starts the runner.

use std::path::PathBuf;
use std::process::Command;

use crate::cargo;
use crate::error::{Result, fail};

/// The file the figures are kept in.
const FIGURES: &str = "benches/README.md";

/// Runs the benchmark with these arguments; `false` if it failed.
///
/// # Errors
///
/// A side does not build.
pub fn run(arguments: &[String]) -> Result<bool> {
    let mut command = Command::new(build("benches", "bench")?);
    command.arg("--ours").arg(build("benches", "ours")?);
    command.arg("--opponent").arg(build("benches/opponent", "opponent")?);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.as_slice().first()) {
            ("--write", _) => {
                command.arg("--write").arg(cargo::root().join(FIGURES));
            }
            ("--only", Some(works)) => {
                command.arg("--only").arg(works);
                arguments.next();
            }
            _ => return fail(format!("bench does not know {argument}")),
        }
    }
    cargo::status(&mut command)
}

/// Builds a program of the workspace in this folder, optimised, and gives its path.
fn build(workspace: &str, name: &str) -> Result<PathBuf> {
    let folder = cargo::root().join(workspace);
    let mut build = cargo::cargo();
    build.current_dir(&folder).args(["build", "--release", "--locked", "--quiet", "--bin", name]);
    cargo::run(&mut build)?;
    Ok(cargo::target_folder(&folder)?.join("release").join(name))
}
