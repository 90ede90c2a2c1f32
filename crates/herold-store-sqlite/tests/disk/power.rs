//! Power loss, which is harder than a kill: a medium that forgets what was not synchronised.
//!
//! A child works on a store while a recorder below it notes every change of a file or a name and every
//! synchronisation (`power/recorder.c`). From the notes come the states that a power loss could have left at each
//! instant (`power/medium.rs`), and on each of them the store has to open and hold a prefix of the commits, with
//! none missing that had returned as fully durable. Some histories begin in such a state.
//!
//! Linux only: it takes `LD_PRELOAD` and the system's C compiler.

mod medium;
mod record;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use herold_store_sqlite::SqliteStore;
use tempfile::TempDir;

use self::{
    medium::{Image, Medium},
    record::{Event, Start},
};
use crate::{
    random::{Random, long},
    work::{self, Model, Promise},
};

/// Where a child finds its work; only a child has it.
const CHILD: &str = "HEROLD_TEST_POWER";

/// A folder in memory where there is one: the states are written and synchronised thousands of times.
fn fast_folder() -> TempDir {
    let shared = Path::new("/dev/shm");
    let made = if shared.is_dir() { TempDir::new_in(shared) } else { TempDir::new() };
    made.or_else(|_| TempDir::new()).unwrap()
}

/// The recorder, compiled once.
fn recorder() -> &'static Path {
    static BUILT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/disk/power/recorder.c");
        let built = folder.path().join("recorder.so");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&built, &source])
            .status()
            .expect("a C compiler");
        assert!(status.success());
        (folder, built)
    });
    path
}

fn write_image(folder: &Path, image: &Image) {
    let store = folder.join("store");
    let _ = fs::remove_dir_all(&store);
    if let Some(files) = image {
        fs::create_dir(&store).unwrap();
        for (name, bytes) in files {
            fs::write(store.join(name), bytes).unwrap();
        }
    }
}

/// Runs a child on what is there at the start, and reads what it did. Some are killed where names change, and another
/// goes on: what the first had not synchronised may get lost even so.
fn record(start: &Start, seed: u64, mut sealed: u64) -> Vec<Event> {
    let folder = fast_folder();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    write_image(&root, &start.files);
    let notes = folder.path().join("notes");
    let marks = folder.path().join("marks");
    let mut random = Random::new(seed);
    let mut kills = random.below(3);
    loop {
        let kill = if kills > 0 { 1 + random.below(60) } else { 0 };
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "power::child_that_works", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{} {sealed} {}", random.next(), root.display()))
            .env("LD_PRELOAD", recorder())
            .env("HEROLD_RECORD_ROOT", &root)
            .env("HEROLD_RECORD_LOG", &notes)
            .env("HEROLD_RECORD_MARKS", &marks)
            .env("HEROLD_RECORD_KILL", kill.to_string())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if output.status.success() {
            break;
        }
        assert!(
            kill > 0 && output.status.code().is_none(),
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        kills -= 1;
        let said = fs::read_to_string(&marks).unwrap_or_default();
        let raised = said.lines().filter_map(|mark| mark.strip_prefix("sealed ")?.parse().ok());
        sealed = raised.fold(sealed, u64::max);
    }
    let events = record::read(&notes, &root, start);
    let last = events.iter().rev().find_map(|event| match event {
        Event::Mark(text) => Some(text.as_str()),
        _ => None,
    });
    assert_eq!(last, Some("end 0"), "the recorder missed the end");
    events
}

#[test]
fn child_that_works() {
    let Ok(child) = std::env::var(CHILD) else { return };
    let [seed, sealed, root] = child.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
    let (seed, sealed) = (seed.parse().unwrap(), sealed.parse().unwrap());
    let root = PathBuf::from(root);
    work::work(&root.join("store"), &root.with_file_name("marks"), seed, sealed, 25);
}

/// What was looked at, for the last line.
#[derive(Default)]
struct Tally {
    histories: usize,
    states: usize,
    not_made: usize,
    behind: usize,
    rekeyed: usize,
}

/// Goes through a history and looks at states that a power loss could have left. Returns one of them to go on from.
fn examine(
    start: &Start,
    before: &Promise,
    events: &[Event],
    chances: usize,
    random: &mut Random,
    tally: &mut Tally,
) -> Option<(Start, Promise)> {
    let folder = fast_folder();
    let mut medium = Medium::new(start);
    let mut promise = before.clone();
    let mut kept = None;
    for (at, event) in events.iter().enumerate() {
        medium.take(event);
        if let Event::Mark(text) = event {
            promise.take(text);
        }
        // Where the order matters most: at synchronisations, and where names change.
        // Few things happen while a store is made, and each of them counts.
        let chances = if promise.made { chances } else { 4 * chances };
        let weight = match event {
            Event::Written { .. } | Event::Mark(_) => chances / 2,
            Event::Synchronised { .. } | Event::Length { .. } => chances * 2,
            Event::Made { .. } | Event::Removed { .. } => chances * 15,
            Event::Renamed { .. } => chances * 60,
        };
        for _ in 0..weight / 100 + usize::from(random.percent(weight % 100)) {
            let image = medium.after_power_loss(random);
            write_image(folder.path(), &image);
            let what = format!("after event {at}: {event:?}");
            let found = look(&folder.path().join("store"), &promise, random, tally, &what);
            tally.states += 1;
            if random.below(20) == 0 {
                kept = Some((Start { files: image }, promise.after(found)));
            }
        }
    }
    assert!(medium.is_settled() || !events.is_empty());
    kept
}

/// Looks at one state; now and then goes on with it. Returns the last commit in it and its key.
fn look(
    store: &Path,
    promise: &Promise,
    random: &mut Random,
    tally: &mut Tally,
    what: &str,
) -> Option<(usize, u8)> {
    let Some((mut opened, found, key)) = work::look(store, promise, what) else {
        tally.not_made += 1;
        // What is left of the making does not stand in the way of the next.
        let made = SqliteStore::open_or_create(store, &crate::raw(1), &crate::cheap());
        made.unwrap_or_else(|error| panic!("{error:?} {what}")).close().unwrap();
        return None;
    };
    tally.behind += usize::from(found < promise.most);
    tally.rekeyed += usize::from(key > 1);
    if random.below(8) == 0 {
        work::commit(&mut opened, found + 1);
        if random.percent(50) {
            opened.integrity_check().unwrap_or_else(|error| panic!("{error:?} {what}"));
        }
        drop(opened);
        let opened = work::open(store, key, promise.sealed);
        let opened = opened.unwrap_or_else(|error| panic!("{error:?} {what}"));
        Model::of(found + 1).compare(&opened).unwrap_or_else(|what| panic!("{what}"));
    }
    Some((found, key))
}

#[test]
fn a_power_loss_at_any_instant_loses_no_durable_commit() {
    let mut random = Random::new(0x5eed);
    let mut tally = Tally::default();
    let began = Instant::now();
    let (limit, enough) = if long() { (600, 50_000) } else { (12, 1_500) };
    let limit = Duration::from_secs(limit);
    let mut seed = 0;
    while tally.states < enough || began.elapsed() < limit {
        let mut start = Start::default();
        let mut promise = Promise::default();
        // A store is made, and its history goes on from power loss to power loss.
        for _ in 0..3 {
            seed += 1;
            let events = record(&start, seed, promise.sealed);
            tally.histories += 1;
            let chances = if long() { 100 } else { 8 };
            let kept = examine(&start, &promise, &events, chances, &mut random, &mut tally);
            let Some((next, left)) = kept else { break };
            (start, promise) = (next, left);
        }
    }
    println!(
        "{} states in {} histories ({:.0} s): {} behind the last commit, {} before the store was made, {} under a later key",
        tally.states,
        tally.histories,
        began.elapsed().as_secs_f64(),
        tally.behind,
        tally.not_made,
        tally.rekeyed
    );
    assert!(tally.behind > 50 && tally.not_made > 5);
}

/// A seed of a history without a kill.
const UNDISTURBED: u64 = 7;

/// The recorder has to see all that reaches the files: what it notes, applied whole, is what is there.
#[test]
fn the_notes_make_the_same_files() {
    let start = Start::default();
    let folder = fast_folder();
    let events = record(&start, UNDISTURBED, 0);
    let mut medium = Medium::new(&start);
    for event in &events {
        medium.take(event);
    }
    // A kill keeps everything; ask until the medium has.
    let mut random = Random::new(1);
    let all: BTreeMap<usize, Image> = (0..200)
        .map(|_| medium.after_power_loss(&mut random))
        .map(|image| (image.as_ref().map_or(0, |files| files.values().map(Vec::len).sum()), image))
        .collect();
    let (_, most) = all.into_iter().next_back().unwrap();
    write_image(folder.path(), &most);
    let mut promise = Promise::default();
    for event in &events {
        if let Event::Mark(text) = event {
            promise.take(text);
        }
    }
    let found =
        look(&folder.path().join("store"), &promise, &mut random, &mut Tally::default(), "");
    assert_eq!(found.map(|(number, _)| number), Some(promise.most));
}
