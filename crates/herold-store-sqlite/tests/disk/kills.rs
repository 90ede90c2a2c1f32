//! SIGKILL at random instants, with real files: in the middle of commits, checkpoints, closing, opening, changes of the
//! key and re-keying. A kill takes nothing that has returned. 25 of them, and 500 in the long mode.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Place,
    random::{Random, long},
    work::{self, Promise},
};

/// Where a child finds its work; only a child has it.
const CHILD: &str = "HEROLD_TEST_KILLS";

#[test]
fn child_that_works_until_it_is_killed() {
    let Ok(child) = std::env::var(CHILD) else { return };
    let [seed, sealed, root] = child.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
    let (seed, sealed) = (seed.parse().unwrap(), sealed.parse().unwrap());
    let root = PathBuf::from(root);
    work::work(&root.join("store"), &root.join("marks"), seed, sealed, usize::MAX >> 1);
}

/// Starts a child and kills it. Returns what it had said.
fn run_and_kill(root: &Path, seed: u64, sealed: u64, random: &mut Random) -> String {
    let marks = root.join("marks");
    let _ = fs::remove_file(&marks);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kills::child_that_works_until_it_is_killed", "--nocapture"])
        .arg("--test-threads=1")
        .env(CHILD, format!("{seed} {sealed} {}", root.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Some while it opens the store, most in the middle of its work.
    let opening = random.percent(15);
    let began = Instant::now();
    while !opening && fs::metadata(&marks).map_or(0, |marks| marks.len()) < 20 {
        assert!(child.try_wait().unwrap().is_none(), "the child has ended");
        assert!(began.elapsed() < Duration::from_secs(60), "the child does not begin");
        thread::sleep(Duration::from_micros(200));
    }
    thread::sleep(Duration::from_micros(random.next() % 60_000));
    assert!(child.try_wait().unwrap().is_none(), "the child has ended");
    child.kill().unwrap();
    child.wait().unwrap();
    fs::read_to_string(&marks).unwrap_or_default()
}

#[test]
fn a_kill_at_any_instant_loses_nothing_that_has_returned() {
    let mut random = Random::new(0x6b11);
    let began = Instant::now();
    let rounds = if long() { 500 } else { 25 };
    let (mut inside, mut keys) = (0, 0);
    let mut place = Place::new();
    let mut promise = Promise::default();
    for round in 0..rounds {
        // The keys are numbered in a byte.
        if round % 40 == 39 {
            (place, promise) = (Place::new(), Promise::default());
        }
        let root = place.directory.path();
        let said = run_and_kill(root, round, promise.sealed, &mut random);
        said.lines().for_each(|mark| promise.take(mark));
        promise = promise.after_kill();
        inside += usize::from(promise.least < promise.most);
        keys += usize::from(promise.keys().len() > 1);
        let found = work::look(&place.store(), &promise, &format!("kill {round}"));
        let found = found.map(|(mut store, number, key)| {
            if round % 8 == 7 {
                store.integrity_check().unwrap();
            }
            (number, key)
        });
        promise = promise.after(found);
    }
    println!(
        "{rounds} kills ({:.0} s), {inside} in the middle of a commit, {keys} of a change of keys",
        began.elapsed().as_secs_f64()
    );
    assert!(promise.least > 0);
}
