//! `cargo xtask interop`: Herold and foreign clients, in pairs, over a real Synapse.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::cargo;
use crate::error::{Error, Result, ensure, fail};
use crate::peer::Peer;
use crate::scenarios::{ALL, Scenario};
use crate::setup;
use crate::synapse::Synapse;
use crate::tally::Tally;
use crate::world::{Implementation, OURS, World};

/// The pairs that are run when none are named: each that Herold is in, but for those with matrix-rust-sdk (`sdk`), which takes
/// long to build.
const PAIRS: [(&str, &str); 5] =
    [(OURS, OURS), (OURS, "js"), ("js", OURS), (OURS, "nio"), ("nio", OURS)];
/// So many folders with logs are kept.
const KEPT_RUNS: usize = 5;

/// What to run.
pub struct Options {
    only: Option<Vec<String>>,
    pairs: Vec<(String, String)>,
    jobs: usize,
    list: bool,
    binary: Option<PathBuf>,
    /// Further arguments of `cargo build` for the `herold` binary.
    pub build: Vec<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        let pairs = PAIRS.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec();
        Self {
            only: None,
            pairs,
            jobs: 2,
            list: false,
            binary: None,
            build: vec!["--package", "herold-cli"],
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
            let mut value =
                || words.next().ok_or_else(|| Error::Failed(format!("{word} needs a value")));
            match word.as_str() {
                "--only" => options.only = Some(value()?.split(',').map(str::to_owned).collect()),
                "--pairs" => {
                    let pair =
                        |p: &str| p.split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned()));
                    let pairs: Option<Vec<_>> = value()?.split(',').map(pair).collect();
                    options.pairs =
                        pairs.ok_or_else(|| Error::Failed("a pair is A:B".to_owned()))?;
                }
                "--jobs" => {
                    options.jobs =
                        value()?.parse().map_err(|_| Error::Failed("--jobs N".to_owned()))?
                }
                "--binary" => options.binary = Some(std::path::absolute(value()?)?),
                "--release" => options.build.push("--release"),
                "--list" => options.list = true,
                _ => return fail(format!("what is {word}?")),
            }
        }
        Ok(options)
    }

    fn scenarios(&self) -> Result<Vec<&'static Scenario>> {
        let Some(names) = &self.only else { return Ok(ALL.iter().collect()) };
        let find = |name: &String| {
            let found = ALL.iter().find(|s| s.name == name);
            found.ok_or_else(|| Error::Failed(format!("there is no scenario {name}; see --list")))
        };
        names.iter().map(find).collect()
    }
}

/// How one scenario went for one pair.
struct Outcome {
    a: &'static str,
    b: &'static str,
    scenario: &'static str,
    verdict: Result<()>,
    took: Duration,
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self.verdict {
            Ok(()) => "pass",
            Err(Error::Unsupported(_)) => "-",
            Err(Error::Failed(_)) => "FAIL",
        }
    }

    fn line(&self, began: Instant) -> String {
        let (at, took) = (began.elapsed().as_secs_f32(), self.took.as_secs_f32());
        let pair = format!("{} -> {}", self.a, self.b);
        let why = self.verdict.as_ref().err().map(ToString::to_string).unwrap_or_default();
        format!("{at:6.1} s  {pair:16} {:15} {:4} {took:5.1} s  {why}", self.scenario, self.word())
    }
}

/// Runs the scenarios and prints a table and, as the last line, how many passed.
///
/// # Errors
///
/// They could not be run.
pub fn run(options: &Options) -> Result<Tally> {
    let scenarios = options.scenarios()?;
    if options.list {
        for scenario in scenarios {
            println!("{:15} {}", scenario.name, scenario.shows);
        }
        return Ok(Tally { passed: 1, ..Tally::default() });
    }
    let folder = run_folder()?;
    let implementations = implementations(options, &folder)?;
    let mut jobs = VecDeque::new();
    for scenario in &scenarios {
        for (a, b) in &options.pairs {
            jobs.push_back((*scenario, find(&implementations, a)?, find(&implementations, b)?));
        }
    }

    let began = Instant::now();
    let server = Synapse::start(&setup::synapse()?, &folder.join("synapse"))?;
    println!(
        "Synapse is ready after {:.1} s; logs are in {}",
        began.elapsed().as_secs_f32(),
        folder.display()
    );
    let jobs = Mutex::new(jobs);
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((scenario, a, b)) = job else { return };
                    let outcome = play(&server, scenario, a, b, &folder);
                    println!("{}", outcome.line(began));
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    drop(server);

    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let tally = count(&outcomes);
    println!("\n{}", table(&scenarios, &options.pairs, &outcomes));
    println!("interoperability, {:.0} s:\n{tally}", began.elapsed().as_secs_f32());
    if tally.failed == 0 {
        fs::remove_dir_all(folder)?;
    }
    Ok(tally)
}

/// A new folder for this run's files; old ones are removed.
pub fn run_folder() -> Result<PathBuf> {
    let runs = setup::cache()?.join("interop");
    fs::create_dir_all(&runs)?;
    let mut old: Vec<PathBuf> = fs::read_dir(&runs)?.flatten().map(|entry| entry.path()).collect();
    old.sort();
    for path in old.iter().rev().skip(KEPT_RUNS) {
        fs::remove_dir_all(path)?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let folder = runs.join(format!("{now}-{}", std::process::id()));
    fs::create_dir(&folder)?;
    Ok(folder)
}

/// Installs or builds the implementations that the pairs name, and asks what they can do.
fn implementations(options: &Options, folder: &Path) -> Result<Vec<Implementation>> {
    let names: BTreeSet<&str> =
        options.pairs.iter().flat_map(|(a, b)| [a.as_str(), b.as_str()]).collect();
    let mut all = Vec::new();
    for name in names {
        let (name, command) = match name {
            "herold" => {
                let given = options.binary.clone().map(Ok);
                let binary =
                    given.unwrap_or_else(|| cargo::build_binary(&options.build, "herold"))?;
                (OURS, vec![binary, "rpc".into()])
            }
            "js" => ("js", setup::js()?),
            "nio" => ("nio", setup::nio()?),
            "sdk" => ("sdk", setup::sdk()?),
            _ => return fail(format!("there is no peer {name}")),
        };
        let mut peer =
            Peer::start(name.to_owned(), &command, folder.join(format!("hello-{name}")))?;
        let hello = peer.call("hello", json!({}))?;
        peer.close()?;
        ensure(hello["protocol"] == 1, || format!("{name} speaks protocol {}", hello["protocol"]))?;
        let list = hello["features"].as_array().into_iter().flatten();
        let features = list.filter_map(|f| f.as_str().map(str::to_owned)).collect();
        println!("{name}: {} {}", hello["name"], hello["version"]);
        all.push(Implementation { name, command, features });
    }
    Ok(all)
}

fn find<'a>(all: &'a [Implementation], name: &str) -> Result<&'a Implementation> {
    all.iter()
        .find(|i| i.name == name)
        .ok_or_else(|| Error::Failed(format!("there is no peer {name}")))
}

fn play(
    server: &Synapse,
    scenario: &Scenario,
    a: &Implementation,
    b: &Implementation,
    folder: &Path,
) -> Outcome {
    let began = Instant::now();
    let able = |i: &Implementation, needs: &[&str]| {
        if needs.is_empty() || i.can(needs) {
            return Ok(());
        }
        Err(Error::Unsupported(format!("{} lacks {}", i.name, needs.join(" or "))))
    };
    let verdict =
        able(a, scenario.needs_of_a).and_then(|()| able(b, scenario.needs_of_b)).and_then(|()| {
            let folder = folder.join(format!("{}-{}-{}", scenario.name, a.name, b.name));
            let world = World::new(server, a, b, folder);
            (scenario.play)(&world)?;
            world.inspect()
        });
    Outcome { a: a.name, b: b.name, scenario: scenario.name, verdict, took: began.elapsed() }
}

fn count(outcomes: &[Outcome]) -> Tally {
    let mut tally = Tally::default();
    for outcome in outcomes {
        match outcome.verdict {
            Ok(()) => tally.passed += 1,
            Err(Error::Unsupported(_)) => tally.skipped += 1,
            Err(Error::Failed(_)) => tally.failed += 1,
        }
    }
    tally
}

/// A row for each scenario, a column for each pair.
fn table(scenarios: &[&Scenario], pairs: &[(String, String)], outcomes: &[Outcome]) -> String {
    let mut text = format!("{:15}", "");
    for (a, b) in pairs {
        text.push_str(&format!("{:>16}", format!("{a}->{b}")));
    }
    for scenario in scenarios {
        text.push_str(&format!("\n{:15}", scenario.name));
        for (a, b) in pairs {
            let cell =
                outcomes.iter().find(|o| o.scenario == scenario.name && o.a == a && o.b == b);
            text.push_str(&format!("{:>16}", cell.map_or("?", Outcome::word)));
        }
    }
    text
}
