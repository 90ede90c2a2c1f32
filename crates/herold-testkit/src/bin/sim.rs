//! Plays seeds of the simulation: `sim PROFILE FIRST COUNT STEPS [--kill-points]`. What `cargo xtask sim` runs,
//! once a core. Progress and findings go to standard output, a line of JSON each.

use std::time::Duration;

use herold_testkit::{
    Kill,
    sim::{Action, Profile, Report, run, run_with_kill, schedule, shrink},
};
use serde_json::json;

/// What getrandom calls.
///
/// # Safety
/// `dest` is valid for writes of `len` bytes.
#[cfg(getrandom_backend = "custom")]
#[unsafe(no_mangle)]
#[allow(unsafe_code, reason = "getrandom's interface for a source of one's own")]
unsafe extern "Rust" fn __getrandom_v03_custom(
    dest: *mut u8,
    len: usize,
) -> Result<(), getrandom::Error> {
    // SAFETY: getrandom's contract for this function; the bytes are initialised first.
    let bytes = unsafe {
        std::ptr::write_bytes(dest, 0, len);
        std::slice::from_raw_parts_mut(dest, len)
    };
    herold_testkit::random::fill(bytes);
    Ok(())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize| arguments.get(place).and_then(|text| text.parse::<u64>().ok());
    let profile = arguments.first().and_then(|name| Profile::parse(name));
    let (Some(profile), Some(first), Some(count), Some(steps)) =
        (profile, number(1), number(2), number(3))
    else {
        eprintln!(
            "sim honest|faulty|hostile|soak|identity FIRST COUNT STEPS [--kill-points] [--shrink SECONDS]"
        );
        std::process::exit(2);
    };
    let kill_points = arguments.iter().any(|word| word == "--kill-points");
    let patience = arguments
        .iter()
        .position(|word| word == "--shrink")
        .and_then(|place| number(place + 1))
        .unwrap_or(60);
    // What breaks is caught and told in its place.
    std::panic::set_hook(Box::new(|_| {}));
    let steps = usize::try_from(steps).unwrap_or(200);
    for seed in first..first + count {
        let actions = schedule(seed, profile, steps);
        let (report, failure) = if kill_points {
            each_kill(seed, profile, &actions)
        } else {
            match run(seed, profile, &actions) {
                Ok(report) => (report, None),
                Err(failure) => (Report::default(), Some((failure, None))),
            }
        };
        let failure = failure.map(|(failure, kill)| {
            shortest(seed, profile, actions, &failure, kill, Duration::from_secs(patience))
        });
        println!("{}", line(seed, &report, failure));
    }
}

type Failure = (String, Option<(usize, Kill)>);

/// A schedule once for each commit of each device, killed there.
fn each_kill(seed: u64, profile: Profile, actions: &[Action]) -> (Report, Option<Failure>) {
    let mut report = Report::default();
    let commits = match run_with_kill(seed, profile, actions, None) {
        Ok((first, commits)) => {
            report.add(&first);
            commits
        }
        Err(failure) => return (report, Some((failure, None))),
    };
    for (device, commits) in commits.into_iter().enumerate() {
        for commit in commits {
            // Before it and after it is the same to the disk but for that one commit: they take turns.
            let kill = if (commit + seed).is_multiple_of(2) {
                Kill::Before(commit)
            } else {
                Kill::After(commit)
            };
            match run_with_kill(seed, profile, actions, Some((device, kill))) {
                Ok((one, _)) => {
                    report.add(&one);
                    report.kills += 1;
                }
                Err(failure) => return (report, Some((failure, Some((device, kill))))),
            }
        }
    }
    (report, None)
}

/// The shortest schedule that fails in the same way, as text.
fn shortest(
    seed: u64,
    profile: Profile,
    actions: Vec<Action>,
    failure: &str,
    kill: Option<(usize, Kill)>,
    patience: Duration,
) -> (String, String) {
    // The kind of failure stays; its numbers may be others.
    let kind = |text: &str| -> String { text.chars().filter(|c| !c.is_ascii_digit()).collect() };
    let wanted = kind(failure);
    let actions = shrink(actions, patience, &mut |shorter| {
        run_with_kill(seed, profile, shorter, kill).is_err_and(|failure| kind(&failure) == wanted)
    });
    let failure = match run_with_kill(seed, profile, &actions, kill) {
        Err(failure) => failure,
        Ok(_) => format!("{failure} (not when run again)"),
    };
    let kill = kill.map(|kill| format!("\n    // with the kill {kill:?}")).unwrap_or_default();
    let test = format!(
        "#[test]\nfn seed_{seed}_{}() {{\n    // {failure}{kill}\n    holds({seed}, Profile::{profile:?}, &{actions:?});\n}}",
        profile.name(),
    );
    (failure, test)
}

fn line(seed: u64, report: &Report, failure: Option<(String, String)>) -> serde_json::Value {
    let (failure, test) = failure.unzip();
    json!({
        "seed": seed, "failure": failure, "test": test,
        "steps": report.steps, "commits": report.commits, "deaths": report.deaths,
        "faults": report.faults, "attacks": report.attacks, "requests": report.requests,
        "messages": report.messages, "read": report.read, "unread": report.unread,
        "kills": report.kills, "shared": report.shared, "verified": report.verified, "restored": report.restored,
        "open": report.open.0, "open_read": report.open.1, "trace": report.trace,
    })
}
