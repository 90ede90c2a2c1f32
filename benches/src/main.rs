//! The runner: takes the two sides in turn, checks that they did the same work, prints the table.
//!
//! `cargo xtask bench` builds everything and starts it with the paths of the two sides' programs.

mod exchange;
mod figures;
mod table;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::figures::Figures;

/// How often each side is measured, in turn.
const TURNS: usize = 2;
/// No single measurement takes longer, the opponent's share to 10,000 devices included.
const LIMIT: Duration = Duration::from_secs(900);

pub(crate) type Result<T> = std::result::Result<T, String>;

/// A side's program.
pub(crate) struct Program {
    name: &'static str,
    path: PathBuf,
}

impl Program {
    /// Runs it with these arguments and a place for its report, which it answers.
    pub(crate) fn run(&self, arguments: &[&str], folder: &Path) -> Result<Value> {
        let failed = |what: String| format!("{} {}: {what}", self.name, arguments.join(" "));
        let report = folder.join("report.json");
        let log = folder.join("log");
        let open = || std::fs::File::create(&log).map_err(|error| failed(error.to_string()));
        let mut child = Command::new(&self.path)
            .args(arguments)
            .arg(&report)
            .stdout(open()?)
            .stderr(open()?)
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|error| failed(error.to_string()))? {
                break status;
            }
            if start.elapsed() > LIMIT {
                child.kill().ok();
                child.wait().ok();
                return Err(failed(format!("not done after {LIMIT:?}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if !status.success() {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(failed(format!("{status}\n{log}")));
        }
        let report = std::fs::read_to_string(report).map_err(|error| failed(error.to_string()))?;
        serde_json::from_str(&report).map_err(|error| failed(error.to_string()))
    }
}

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the bench failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1).cloned()
    };
    let program = |name, option: Option<String>| match option {
        Some(path) => Ok(Program { name, path: path.into() }),
        None => Err("start me with `cargo xtask bench`".to_owned()),
    };
    let ours = program("herold", option("--ours"))?;
    let opponent = program("opponent", option("--opponent"))?;
    let wanted = option("--only");
    let works: Vec<&str> = bench_work::WORKS
        .iter()
        .copied()
        .filter(|work| wanted.as_ref().is_none_or(|wanted| wanted.split(',').any(|w| w == *work)))
        .collect();
    let start = Instant::now();

    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let read = exchange::check(&ours, &opponent, folder.path())?;
    println!("each side has decrypted {read} messages of the other");

    let mut figures: Vec<(&str, [Figures; 3])> =
        works.iter().map(|work| (*work, Default::default())).collect();
    for turn in 1..=TURNS {
        for (work, figures) in &mut figures {
            if turn > 1 && bench_work::ONE_TURN.contains(work) {
                continue;
            }
            eprintln!("turn {turn}/{TURNS}: {work} ({} s)", start.elapsed().as_secs());
            // Who is first changes with each turn.
            let mut order = [(0, &ours, "measure"), (1, &opponent, "measure"), (2, &ours, "alone")];
            if turn % 2 == 0 {
                order.reverse();
            }
            for (place, program, how) in order {
                let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
                let path = folder.path().to_str().ok_or("a path that is not text")?;
                figures[place].add(&program.run(&[how, work, path], folder.path())?)?;
            }
        }
    }
    let table = table::print(&figures);
    println!("\n{table}\n{} s", start.elapsed().as_secs());
    if let Some(path) = option("--write") {
        table::write(Path::new(&path), &table)?;
    }
    Ok(())
}
