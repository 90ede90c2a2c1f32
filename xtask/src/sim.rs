//! `cargo xtask sim`: seeds of the simulated world, on every core.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cargo;
use crate::error::{Context, Error, Result, ensure, fail};

/// As many failures are told at once.
const TOLD: usize = 3;
/// Progress is told so often.
const PROGRESS: Duration = Duration::from_secs(10);

/// What to play.
#[derive(Clone, Debug)]
pub struct Options {
    /// `honest`, `faulty`, `hostile`, `soak` or `identity`.
    pub profile: String,
    /// The first seed.
    pub first: u64,
    /// How many seeds.
    pub seeds: u64,
    /// Actions of a schedule.
    pub steps: u64,
    /// Processes at a time.
    pub jobs: u64,
    /// Each schedule once for each commit, killed there.
    pub kill_points: bool,
    /// Stop at the first failure.
    pub first_failure: bool,
    /// How long a failing schedule is made shorter, in seconds.
    pub shrink: u64,
}

impl Default for Options {
    fn default() -> Self {
        let jobs = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
        Self {
            profile: "faulty".to_owned(),
            first: 0,
            seeds: 200,
            steps: 200,
            jobs,
            kill_points: false,
            first_failure: false,
            shrink: 30,
        }
    }
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    ///
    /// It is not understood.
    pub fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            if word == "--kill-points" {
                options.kill_points = true;
                continue;
            }
            let value =
                words.next().ok_or_else(|| Error::Failed(format!("{word} needs a value")))?;
            let number = || {
                value.parse::<u64>().map_err(|_| Error::Failed(format!("{word} takes a number")))
            };
            match word.as_str() {
                "--profile" => options.profile.clone_from(value),
                "--seeds" => options.seeds = number()?,
                "--first" => options.first = number()?,
                "--steps" => options.steps = number()?,
                "--jobs" => options.jobs = number()?.max(1),
                "--shrink" => options.shrink = number()?,
                _ => return fail(format!("what is {word}?")),
            }
        }
        ensure(
            ["honest", "faulty", "hostile", "soak", "identity"].contains(&options.profile.as_str()),
            || format!("there is no profile {}", options.profile),
        )?;
        Ok(options)
    }
}

/// Builds the player, plays, and tells. `false` if a seed has failed.
///
/// # Errors
///
/// It could not be built or started.
pub fn run(options: &Options) -> Result<bool> {
    let target = cargo::target_folder(&cargo::root())?.join("sim");
    let player = build(&cargo::root(), &target, &["--locked"])?;
    repeats(&player, options)?;
    let outcome = play(&player, options)?;
    outcome.tell(options);
    Ok(outcome.failures.is_empty())
}

/// The first seed does the same in two processes, byte by byte.
fn repeats(player: &Path, options: &Options) -> Result<()> {
    let trace = || -> Result<Value> {
        let mut command = Command::new(player);
        command.args([&options.profile, &options.first.to_string(), "1"]);
        command.args([&options.steps.to_string(), "--shrink", "0"]);
        let told: Value = serde_json::from_str(&cargo::output(&mut command)?)?;
        Ok(told["trace"].clone())
    };
    ensure(trace()? == trace()?, || "the same seed does not do the same twice".to_owned())
}

/// Builds the player of the workspace in `root`.
///
/// # Errors
///
/// It could not be built.
pub fn build(root: &Path, target: &Path, options: &[&str]) -> Result<PathBuf> {
    let mut command = cargo::cargo();
    command.current_dir(root).args(["build", "--quiet", "--profile", "sim"]).args(options);
    command.args(["-p", "herold-testkit", "--bin", "sim"]);
    // Keys come from the seed alone.
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    command.env("RUSTFLAGS", format!("{flags} --cfg getrandom_backend=\"custom\""));
    command.env("CARGO_TARGET_DIR", target);
    cargo::run(&mut command)?;
    Ok(target.join("sim/sim"))
}

/// What came of the seeds.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Seeds played.
    pub seeds: u64,
    /// (Seed, failure, test to paste).
    pub failures: Vec<(u64, String, String)>,
    sums: BTreeMap<String, u64>,
    took: Duration,
}

/// Plays the seeds in as many processes as asked for.
///
/// # Errors
///
/// A process could not be started, or died.
pub fn play(player: &Path, options: &Options) -> Result<Outcome> {
    let start = Instant::now();
    let (sender, lines) = mpsc::channel::<String>();
    let mut children = Vec::new();
    let share = options.seeds.div_ceil(options.jobs);
    for job in 0..options.jobs {
        let first = options.first + job * share;
        let end = (first + share).min(options.first + options.seeds);
        if first >= end {
            break;
        }
        let mut command = Command::new(player);
        command.arg(&options.profile).arg(first.to_string()).arg((end - first).to_string());
        command.arg(options.steps.to_string()).arg("--shrink").arg(options.shrink.to_string());
        if options.kill_points {
            command.arg("--kill-points");
        }
        let mut child = command.stdout(Stdio::piped()).spawn().context(player.display())?;
        let output = child.stdout.take().ok_or_else(|| Error::Failed("no output".to_owned()))?;
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        children.push(child);
    }
    drop(sender);
    let mut outcome = Outcome::default();
    let mut told = Instant::now();
    while let Ok(line) = lines.recv() {
        outcome.take(&line)?;
        if told.elapsed() > PROGRESS {
            told = Instant::now();
            let (done, all) = (outcome.seeds, options.seeds);
            eprintln!("{done} of {all} seeds, {} failed", outcome.failures.len());
        }
        if options.first_failure && !outcome.failures.is_empty() {
            break;
        }
    }
    for mut child in children {
        if options.first_failure && !outcome.failures.is_empty() {
            let _gone = child.kill();
            child.wait()?;
        } else {
            ensure(child.wait()?.success(), || "a player died".to_owned())?;
        }
    }
    outcome.took = start.elapsed();
    Ok(outcome)
}

impl Outcome {
    fn take(&mut self, line: &str) -> Result<()> {
        let told: Value = serde_json::from_str(line)?;
        self.seeds += 1;
        for (name, value) in told.as_object().into_iter().flatten() {
            if let Some(value) = value.as_u64().filter(|_| name != "seed" && name != "trace") {
                *self.sums.entry(name.clone()).or_default() += value;
            }
        }
        if let Some(failure) = told["failure"].as_str() {
            let seed = told["seed"].as_u64().unwrap_or_default();
            let test = told["test"].as_str().unwrap_or_default();
            self.failures.push((seed, failure.to_owned(), test.to_owned()));
        }
        Ok(())
    }

    fn tell(&self, options: &Options) {
        for (seed, failure, test) in self.failures.iter().take(TOLD) {
            println!("seed {seed}: {failure}\n{test}\n");
        }
        for (seed, failure, _) in self.failures.iter().skip(TOLD) {
            println!("seed {seed}: {failure}");
        }
        let sum = |name: &str| self.sums.get(name).copied().unwrap_or_default();
        let seconds = self.took.as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "a rate for a human")]
        let rate = sum("steps") as f64 / seconds / options.jobs as f64;
        println!("{} schedules of the {} profile, {seconds:.0} s", self.seeds, options.profile);
        println!(
            "  {} steps ({rate:.0} a second a core), {} commits",
            sum("steps"),
            sum("commits")
        );
        println!("  {} deaths at a commit or by power loss", sum("deaths"));
        println!("  {} faults injected, {} attacks made", sum("faults"), sum("attacks"));
        println!("  {} requests watched by the oracle", sum("requests"));
        println!("  {} messages", sum("messages"));
        println!("  {} (message, device) had to be read and were", sum("read"));
        println!("  {} must not be read and were not", sum("unread"));
        println!(
            "  {} could go either way (a fault that nobody can repair); {} were read",
            sum("open"),
            sum("open_read")
        );
        if options.kill_points {
            println!("  {} commits, each killed once", sum("kills"));
        }
        if options.profile == "identity" {
            println!(
                "  {} histories shared, {} verified, {} messages read by new devices out of a backup",
                sum("shared"),
                sum("verified"),
                sum("restored")
            );
        }
        println!("  {} failed", self.failures.len());
    }
}
