//! `cargo xtask test`: everything that can fail.

use std::process::Stdio;
use std::time::Instant;

use crate::bindings;
use crate::cargo;
use crate::error::Result;
use crate::interop;
use crate::tally::Tally;

/// Runs the workspace's tests, then the interoperability and the bindings, whatever the former say, and
/// prints the sum as the last line.
///
/// # Errors
///
/// Something could not be built or installed.
pub fn run() -> Result<Tally> {
    let began = Instant::now();
    let mut all = workspace()?;
    println!("workspace tests: {all}; {} s", began.elapsed().as_secs());
    // With the packages and targets of the tests, so that the dependencies' features are the same and
    // nothing is built a second time.
    let mut options = interop::Options::default();
    options.build = vec!["--workspace", "--tests"];
    all += interop::run(&options)?;
    all += bindings::python(&["--workspace", "--tests"])?;
    println!("\nworkspace, interoperability and bindings, {} s:\n{all}", began.elapsed().as_secs());
    Ok(all)
}

fn workspace() -> Result<Tally> {
    let nextest = cargo::cargo()
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?
        .success();
    if !nextest {
        return cargo::count(cargo::cargo().args(["test", "--workspace", "--no-fail-fast"]));
    }
    let options = [
        "nextest",
        "run",
        "--workspace",
        "--no-fail-fast",
        "--color=never",
        "--config-file=xtask/nextest.toml",
    ];
    let mut tally = cargo::count(cargo::cargo().args(options))?;
    tally += cargo::count(cargo::cargo().args(["test", "--workspace", "--doc", "--no-fail-fast"]))?;
    Ok(tally)
}
