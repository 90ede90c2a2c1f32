//! `cargo xtask test`: everything that can fail.

use std::process::Stdio;
use std::time::Instant;

use crate::bindings;
use crate::cargo;
use crate::error::Result;
use crate::interop;
use crate::tally::Tally;

/// Runs the workspace's tests, then the interoperability and the bindings, whatever the former say, and
/// prints the sum as the last line. `long` lets those tests that can do more of the same take
/// their time.
///
/// # Errors
///
/// Something could not be built or installed.
pub fn run(long: bool) -> Result<Tally> {
    let began = Instant::now();
    let mut all = workspace(long)?;
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

fn workspace(long: bool) -> Result<Tally> {
    let cargo = || {
        let mut cargo = cargo::cargo();
        if long {
            cargo.env("HEROLD_LONG", "1");
        }
        cargo
    };
    let nextest = cargo()
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?
        .success();
    if !nextest {
        return cargo::count(cargo().args(["test", "--workspace", "--no-fail-fast"]));
    }
    let options = [
        "nextest",
        "run",
        "--workspace",
        "--no-fail-fast",
        "--color=never",
        "--config-file=xtask/nextest.toml",
    ];
    // Such a test does not hang: it has an hour.
    let profile = if long { "--profile=long" } else { "--profile=default" };
    let mut tally = cargo::count(cargo().args(options).arg(profile))?;
    tally += cargo::count(cargo().args(["test", "--workspace", "--doc", "--no-fail-fast"]))?;
    Ok(tally)
}
