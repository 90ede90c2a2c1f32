//! cargo-deny over all dependencies, by `deny.toml`.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::cargo;
use crate::error::Result;
use crate::setup;

/// The version that `deny.toml` is written for.
const VERSION: &str = "0.20.2";
/// How long the advisories' database may take to come.
const FETCH_LIMIT: Duration = Duration::from_secs(30);

/// Checks licences, bans and sources, and the advisories if their database can be had.
///
/// # Errors
///
/// cargo-deny could not be installed or started.
pub fn run() -> Result<bool> {
    let folder = setup::installed("cargo-deny", &[VERSION.as_bytes()], |folder| {
        let target = folder.join("target");
        let mut install = cargo::cargo();
        install.args([
            "install",
            "cargo-deny",
            "--locked",
            "--quiet",
            "--version",
            VERSION,
            "--root",
        ]);
        install.arg(folder).env("CARGO_TARGET_DIR", &target);
        // It runs for a second and compiles for minutes: compile it quickly.
        install.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
        install
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        cargo::run(&mut install)?;
        Ok(fs::remove_dir_all(target)?)
    })?;
    let deny = || {
        let mut command = Command::new(folder.join("bin/cargo-deny"));
        command.current_dir(cargo::root());
        command
    };
    let mut good = cargo::status(deny().args([
        "check",
        "--hide-inclusion-graph",
        "--allow",
        "unused-wrapper",
        "licenses",
        "bans",
        "sources",
    ]))?;
    if database_comes(deny().args(["fetch", "db"]))? {
        good &= cargo::status(deny().args(["check", "--disable-fetch", "advisories"]))?;
    } else {
        println!("advisories: NOT CHECKED, their database cannot be reached from here");
    }
    Ok(good)
}

/// Runs the fetch, with an end.
fn database_comes(fetch: &mut Command) -> Result<bool> {
    let mut child =
        fetch.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let limit = Instant::now() + FETCH_LIMIT;
    while Instant::now() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        thread::sleep(Duration::from_millis(100));
    }
    child.kill()?;
    child.wait()?;
    Ok(false)
}
