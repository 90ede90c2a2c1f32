//! `cargo xtask fuzz`: the fuzz targets in `fuzz/`: everything found before once more, then something new.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo;
use crate::error::{Context, Error, Result, ensure, fail};
use crate::setup;

/// The cargo-fuzz that this is written for.
const VERSION: &str = "0.13.2";
/// The longest input that is made up, in bytes.
const MAX_LENGTH: u32 = 20_000;
/// One input may take so many seconds...
const TIMEOUT: u32 = 25;
/// ...and so much memory, in MB: all of the process, and one allocation.
const MEMORY: (u32, u32) = (2048, 512);

/// What to run.
#[derive(Debug)]
pub struct Options {
    targets: Vec<String>,
    seconds: u64,
    sanitizer: String,
    input: Option<PathBuf>,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    ///
    /// It is not understood.
    pub fn parse(arguments: &[String]) -> Result<Self> {
        let mut options =
            Self { targets: Vec::new(), seconds: 10, sanitizer: "none".to_owned(), input: None };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value =
                || words.next().ok_or_else(|| Error::Failed(format!("{word} needs a value")));
            match word.as_str() {
                "--seconds" => {
                    options.seconds =
                        value()?.parse().map_err(|_| Error::Failed("--seconds N".to_owned()))?
                }
                "--sanitizer" => options.sanitizer.clone_from(value()?),
                "--input" => options.input = Some(std::path::absolute(value()?)?),
                _ if word.starts_with('-') => return fail(format!("what is {word}?")),
                _ => options.targets.push(word.clone()),
            }
        }
        let known = known_targets()?;
        if let Some(target) = options.targets.iter().find(|target| !known.contains(target)) {
            return fail(format!("there is no target {target}, but {}", known.join(", ")));
        }
        ensure(options.input.is_none() || options.targets.len() == 1, || {
            "--input needs its target".to_owned()
        })?;
        if options.targets.is_empty() {
            options.targets = known;
        }
        Ok(options)
    }
}

/// The folder with the targets.
fn folder() -> PathBuf {
    cargo::root().join("fuzz")
}

fn known_targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder().join("fuzz_targets"))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Builds the targets; replays each one's corpus, and runs it for a time. `false` if one has found
/// something.
///
/// # Errors
///
/// Something could not be installed, built or started.
pub fn run(options: &Options) -> Result<bool> {
    let binaries = build(options)?;
    if let (Some(input), [target]) = (&options.input, options.targets.as_slice()) {
        // The steps of a story are told while it goes on.
        return cargo::status(
            Command::new(binaries.join(target)).arg(input).env("HEROLD_FUZZ_TELL", "1"),
        );
    }
    let mut good = true;
    for target in &options.targets {
        let fuzzed = Target::new(&binaries, target)?;
        let replayed = fuzzed.replay()?;
        let found = if replayed.good { fuzzed.fuzz(options.seconds)? } else { replayed };
        found.tell(target);
        good &= found.good;
    }
    Ok(good)
}

/// Builds all targets that are asked for. Answers the folder they are in.
fn build(options: &Options) -> Result<PathBuf> {
    let tool = installed()?;
    let mut command = Command::new(tool);
    // Signatures count: under `cfg(fuzzing)` vodozemac checks none. Every check of a debug build does too.
    command.current_dir(folder()).args(["build", "--release", "--debug-assertions"]);
    command.args(["--no-cfg-fuzzing", "--codegen-units", "16"]);
    command.args(["--sanitizer", &options.sanitizer]);
    if let [target] = options.targets.as_slice() {
        command.arg(target);
    }
    // The compiler's options for coverage are not stable; keys come from the input alone.
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    command.env("RUSTFLAGS", format!("{flags} --cfg getrandom_backend=\"custom\""));
    command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_INCREMENTAL", "0");
    cargo::run(&mut command)?;
    let version = cargo::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or_else(|| Error::Failed("rustc does not name its host".to_owned()))?;
    let built = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let built = built.unwrap_or_else(|| folder().join("target"));
    Ok(std::path::absolute(built)?.join(host).join("release"))
}

/// cargo-fuzz, in the cache folder.
fn installed() -> Result<PathBuf> {
    let folder = setup::installed("cargo-fuzz", &[VERSION.as_bytes()], |folder| {
        let target = folder.join("target");
        let mut install = cargo::cargo();
        install.args(["install", "cargo-fuzz", "--locked", "--quiet", "--version", VERSION]);
        install.arg("--root").arg(folder).env("CARGO_TARGET_DIR", &target);
        // It starts other programs and waits for them: compile it quickly.
        install.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
        cargo::run(&mut install)?;
        Ok(fs::remove_dir_all(target)?)
    })?;
    Ok(folder.join("bin/cargo-fuzz"))
}

/// A target on this machine.
struct Target {
    binary: PathBuf,
    /// The seeds, and what was found: part of the repository.
    corpus: PathBuf,
    /// Inputs that reach something new, kept from run to run.
    own: PathBuf,
    findings: PathBuf,
}

impl Target {
    fn new(binaries: &Path, name: &str) -> Result<Self> {
        let base = setup::cache()?.join("fuzz");
        let this = Self {
            binary: binaries.join(name),
            corpus: folder().join("corpus").join(name),
            own: base.join("corpus").join(name),
            findings: base.join("findings").join(name),
        };
        fs::create_dir_all(&this.own)?;
        fs::create_dir_all(&this.findings)?;
        Ok(this)
    }

    fn replay(&self) -> Result<Outcome> {
        let mut command = self.command();
        self.outcome(command.arg("-runs=0").arg(&self.corpus))
    }

    fn fuzz(&self, seconds: u64) -> Result<Outcome> {
        let mut command = self.command();
        command.arg(format!("-max_total_time={seconds}")).arg(&self.own).arg(&self.corpus);
        self.outcome(&mut command)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg(format!("-max_len={MAX_LENGTH}")).arg("-len_control=0");
        command.arg(format!("-timeout={TIMEOUT}"));
        command.arg(format!("-rss_limit_mb={}", MEMORY.0));
        command.arg(format!("-malloc_limit_mb={}", MEMORY.1));
        command.arg("-print_final_stats=1");
        command.arg(format!("-artifact_prefix={}/", self.findings.display()));
        command
    }

    fn outcome(&self, command: &mut Command) -> Result<Outcome> {
        let log = self.findings.join("log");
        let file = File::create(&log)?;
        command.stdout(file.try_clone()?).stderr(file);
        let status = command.status().context(self.binary.display())?;
        let log = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        Ok(Outcome::read(status.success(), log))
    }
}

/// What came of a run.
struct Outcome {
    good: bool,
    log: String,
    figures: BTreeMap<String, String>,
}

impl Outcome {
    /// Reads libFuzzer's log: `stat::NAME: FIGURE` at its end, `cov: FIGURE` in its progress.
    fn read(good: bool, log: String) -> Self {
        let mut figures = BTreeMap::new();
        for line in log.lines() {
            if let Some((name, figure)) =
                line.strip_prefix("stat::").and_then(|l| l.split_once(':'))
            {
                figures.insert(name.to_owned(), figure.trim().to_owned());
            }
            let mut words = line.split_whitespace().skip_while(|word| *word != "cov:").skip(1);
            if let (true, Some(figure)) = (line.starts_with('#'), words.next()) {
                figures.insert("coverage".to_owned(), figure.to_owned());
            }
        }
        Self { good, log, figures }
    }

    fn tell(&self, target: &str) {
        let figure = |name: &str| self.figures.get(name).map_or("?", String::as_str);
        let verdict = if self.good { "no finding" } else { "A FINDING" };
        println!(
            "{target:<18} {:>9} executions {:>6}/s  coverage {:>6}  {:>4} MB  {verdict}",
            figure("number_of_executed_units"),
            figure("average_exec_per_sec"),
            figure("coverage"),
            figure("peak_rss_mb"),
        );
        if self.good {
            return;
        }
        let lines: Vec<&str> = self.log.lines().collect();
        let told = |line: &&&str| {
            line.contains("panicked")
                || line.contains("ERROR: libFuzzer")
                || line.contains("SUMMARY")
        };
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| told(line)) {
            println!("    {line}");
            let next = lines.get(at + 1).filter(|_| line.contains("panicked"));
            next.iter().for_each(|next| println!("    {next}"));
        }
        let written = self.log.lines().find_map(|l| l.split_once("Test unit written to "));
        match written {
            Some((_, path)) => println!("    again: cargo xtask fuzz --input {path} {target}"),
            // A replay writes none: the input is one of the corpus.
            None => println!("    again: cargo xtask fuzz {target}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    #[test]
    fn the_figures_are_read_from_the_log() {
        let log = "INFO: x\n#1\tINITED cov: 7 ft: 9\n#90\tNEW    cov: 12 ft: 3 corp: 1/1b\n\
                   Done\nstat::number_of_executed_units: 90\nstat::peak_rss_mb:     36\n";
        let outcome = Outcome::read(true, log.to_owned());
        assert_eq!(outcome.figures["coverage"], "12");
        assert_eq!(outcome.figures["number_of_executed_units"], "90");
        assert_eq!(outcome.figures["peak_rss_mb"], "36");
    }
}
