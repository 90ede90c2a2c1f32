//! Running cargo and other programs.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::error::{Context, Result, ensure, fail};
use crate::tally::Tally;

/// The workspace's root.
pub fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = here.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    here.parent().map(Path::to_path_buf).unwrap_or(here)
}

/// The cargo that runs this program, in the workspace's root.
///
/// What it has told this program of its package is not passed on: build scripts that look at it would
/// run again, and their crates be built again, each time when cargo is next called by hand.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| told.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command
}

/// Shows the command as one would type it.
pub fn show(command: &Command) {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    let line: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    eprintln!("$ {}", line.join(" "));
}

/// Runs a program with its output shown; whether it succeeded.
///
/// # Errors
///
/// It could not be started.
pub fn status(command: &mut Command) -> Result<bool> {
    show(command);
    let program = command.get_program().to_string_lossy().into_owned();
    Ok(command.status().context(program)?.success())
}

/// Runs a program that has to succeed, with its output shown.
///
/// # Errors
///
/// It did not.
pub fn run(command: &mut Command) -> Result<()> {
    show(command);
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().context(&program)?;
    ensure(status.success(), || format!("{program}: {status}"))
}

/// Runs a program that has to succeed, and gives what it printed.
///
/// # Errors
///
/// It did not.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command.stderr(Stdio::inherit()).output().context(&program)?;
    ensure(done.status.success(), || format!("{program}: {}", done.status))?;
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs a test runner with its output shown, and counts the tests by its closing lines.
///
/// # Errors
///
/// It failed without a test that failed: most likely something does not compile.
pub fn count(command: &mut Command) -> Result<Tally> {
    show(command);
    // Both streams through one pipe, in the order in which they were written.
    let (reader, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // The command holds the pipe's writing end; without it the end of the output is seen.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tally = Tally::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(counted) = Tally::from_line(&line) {
            tally += counted;
        }
    }
    let status = child.wait()?;
    ensure(status.success() || tally.failed > 0, || format!("the tests could not run: {status}"))?;
    Ok(tally)
}

/// Where cargo builds the workspace in this folder.
///
/// # Errors
///
/// Cargo does not say.
pub fn target_folder(workspace: &Path) -> Result<PathBuf> {
    let mut metadata = cargo();
    metadata.current_dir(workspace).args(["metadata", "--no-deps", "--format-version=1"]);
    let metadata: Value = serde_json::from_str(&output(&mut metadata)?)?;
    match metadata["target_directory"].as_str() {
        Some(target) => Ok(PathBuf::from(target)),
        None => fail("cargo metadata does not name the target directory"),
    }
}

/// Builds one binary of the workspace and gives its path.
///
/// # Errors
///
/// It does not build.
pub fn build_binary(arguments: &[&str], name: &str) -> Result<PathBuf> {
    let mut command = cargo();
    command
        .args(["build", "--bin", name, "--message-format=json-render-diagnostics"])
        .args(arguments);
    show(&command);
    let messages = output(&mut command)?;
    let executable = messages.lines().rev().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let target = &message["target"];
        let program = message["profile"]["test"] == false;
        let binary = program && target["name"] == name && target["kind"][0] == "bin";
        message["executable"].as_str().filter(|_| binary).map(PathBuf::from)
    });
    match executable {
        Some(path) => Ok(path),
        None => fail(format!("cargo build does not say where {name} is")),
    }
}
