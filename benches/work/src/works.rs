//! The works: what is done, how it is prepared, and how it is known that it was done.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Value, json};

use crate::{
    Directory as _, People, Side,
    measure::{Effort, measure, measure_once, timed},
    side::{DEVICE, TEXT, USER},
};

/// Messages of one session that are decrypted as one batch: as many as a session serves by default.
pub(crate) const BATCH: usize = 100;
/// Room keys in one sync.
pub(crate) const KEYS: usize = 500;
/// Devices they come from.
pub(crate) const KEY_SENDERS: usize = 50;

/// Sessions of a backlog.
const BACKLOG_SESSIONS: usize = 200;
/// Events of a backlog that are taken at once.
const BACKLOG_PAGE: usize = 500;
/// Cold processes that open the same store.
const COLD_STARTS: usize = 10;

/// As many messages are encrypted with one session.
const LIFE: usize = 5000;

/// All works. Those that take the opponent minutes are last.
pub const WORKS: &[&str] = &[
    "encrypt/1",
    "encrypt/1000",
    "encrypt/3000",
    "send/1",
    "send/1000",
    "decrypt",
    "sync/500",
    "backlog/10000",
    "backlog1/10000",
    "share/1",
    "share/100",
    "share/1000",
    "members/50",
    "share/10000",
    "members/50000",
    "import/100000",
    "restore/100000",
    "open/100000",
];

/// Works of which one turn is enough: no two calls of the same program differ by much beside what they take, or nothing is
/// asked of them.
pub const ONE_TURN: &[&str] = &[
    "encrypt/3000",
    "send/1",
    "send/1000",
    "backlog/10000",
    "backlog1/10000",
    "share/1",
    "share/100",
    "share/1000",
    "members/50",
    "share/10000",
    "members/50000",
    "import/100000",
    "restore/100000",
    "open/100000",
];

/// How long each is measured in one turn.
pub(crate) fn effort(work: &str) -> Effort {
    match work {
        "share/1000" | "sync/500" => Effort::Samples { samples: 10, seconds: 2 },
        "decrypt" => Effort::Samples { samples: 10, seconds: 3 },
        "share/10000" => Effort::Calls(2),
        "backlog/10000" | "backlog1/10000" => Effort::Calls(2),
        // The first call is the measured one: the second would find the keys there.
        "import/100000" | "restore/100000" => Effort::Calls(1),
        // The opponent looks at each member for each message.
        "members/50000" => Effort::Calls(3),
        _ => Effort::Samples { samples: 20, seconds: 2 },
    }
}

/// Measures one work.
pub(crate) fn run<S: Side>(work: &str, folder: &Path) -> Value {
    let (kind, size) = work.split_once('/').unwrap_or((work, "1"));
    let size: usize = size.parse().expect("a number");
    let devices = match kind {
        "decrypt" | "members" | "import" | "restore" | "open" => 1,
        "sync" | "backlog" | "backlog1" => KEY_SENDERS,
        _ => size,
    };
    let mut people = People::new(devices);
    if kind == "members" {
        people.add_silent(size - 1);
    }
    let mut side = S::open(&folder.join("store"), USER, DEVICE);
    people.learn(&side.upload());
    side.enter(&people);
    let shared = side.share(&people, TEXT);
    side.accepted();
    assert_eq!(people.deliver(&shared.to_device), devices, "everybody gets the first key");
    assert_eq!(people.read(&parse(&shared.first), devices), TEXT);
    // An answer of everybody's: from here on the channels are established ones.
    for first in (0..devices).step_by(KEYS) {
        let keys: Vec<Value> =
            (first..devices.min(first + KEYS)).map(|peer| people.own_room_key(peer)).collect();
        let response = side.response(&keys);
        side.sync(&response);
    }
    assert_eq!(side.room_keys(), devices, "everybody's first key was taken");
    let criterion = folder.join("criterion");
    let effort = effort(work);
    match kind {
        "encrypt" => encrypt(&mut side, &mut people, &criterion, &effort, S::encrypt),
        "send" | "members" => encrypt(&mut side, &mut people, &criterion, &effort, S::send),
        "decrypt" => decrypt(&mut side, &mut people, &criterion, &effort),
        "share" => share(&mut side, &mut people, &criterion, &effort),
        "sync" => sync(&mut side, &mut people, &criterion, &effort),
        "backlog" => backlog(&mut side, &mut people, &criterion, &effort, size),
        "backlog1" => {
            side.use_one_core();
            backlog(&mut side, &mut people, &criterion, &effort, size)
        }
        "import" => import(&mut side, &mut people, folder, size),
        "restore" => restore(&mut side, &mut people, folder, size),
        "open" => open(side, &mut people, folder, size),
        _ => panic!("not a work: {work}"),
    }
}

fn encrypt<S: Side>(
    side: &mut S,
    people: &mut People,
    criterion: &Path,
    effort: &Effort,
    encrypt: impl Fn(&mut S, &str) -> String,
) -> Value {
    let mut contents = BTreeSet::new();
    let mut calls = 0;
    let report = measure(criterion, effort, 1, || {
        let text = format!("{TEXT} {calls}");
        if calls % LIFE == LIFE - 1 {
            let shared = side.share(people, TEXT);
            side.accepted();
            people.deliver(&shared.to_device);
        }
        calls += 1;
        let (cost, content) = timed(|| encrypt(side, &text));
        side.accepted();
        let content = parse(&content);
        // Ten people read each twentieth; the others are at least not the same.
        if calls % 20 == 1 {
            assert_eq!(people.read(&content, 10), text);
        }
        let ciphertext = content["ciphertext"].as_str().expect("a ciphertext").to_owned();
        assert!(contents.insert(ciphertext), "no ciphertext twice");
        cost
    });
    assert_eq!(contents.len(), calls);
    report
}

fn decrypt<S: Side>(side: &mut S, people: &mut People, criterion: &Path, effort: &Effort) -> Value {
    let mut counter = 0;
    measure(criterion, effort, BATCH as u64, || {
        let key = people.own_room_key(0);
        let response = side.response(&[key]);
        side.sync(&response);
        let events = people.messages(0, BATCH);
        let batch = S::batch(&events);
        let (cost, ()) = timed(|| side.decrypt(&batch));
        let texts = side.texts(&batch);
        assert_eq!(texts.len(), BATCH, "each message was decrypted");
        for text in texts {
            counter += 1;
            assert_eq!(text, format!("{TEXT} {counter}"));
        }
        cost
    })
}

fn share<S: Side>(side: &mut S, people: &mut People, criterion: &Path, effort: &Effort) -> Value {
    let devices = people.peers.len();
    let mut calls = 0;
    measure(criterion, effort, 1, || {
        let text = format!("{TEXT} {calls}");
        calls += 1;
        let (cost, shared) = timed(|| side.share(people, &text));
        side.accepted();
        assert_eq!(people.deliver(&shared.to_device), devices, "everybody gets each key");
        assert_eq!(people.read(&parse(&shared.first), devices), text);
        cost
    })
}

fn sync<S: Side>(side: &mut S, people: &mut People, criterion: &Path, effort: &Effort) -> Value {
    let mut known = side.room_keys();
    let mut report = measure(criterion, effort, 1, || {
        let keys = people.room_keys(KEYS);
        let response = side.response(&keys);
        let (cost, ()) = timed(|| side.sync(&response));
        let now = side.room_keys();
        assert_eq!(now, known + KEYS, "each key was taken");
        known = now;
        cost
    });
    report["users"] = json!(people.users().len());
    report
}

/// Events of many sessions that have piled up, their keys known.
fn backlog<S: Side>(
    side: &mut S,
    people: &mut People,
    criterion: &Path,
    effort: &Effort,
    events: usize,
) -> Value {
    measure(criterion, effort, events as u64, || {
        let (keys, events) = people.backlog(BACKLOG_SESSIONS, events / BACKLOG_SESSIONS);
        let response = side.response(&keys);
        side.sync(&response);
        let pages: Vec<S::Batch> = events.chunks(BACKLOG_PAGE).map(S::batch).collect();
        let (cost, ()) = timed(|| {
            for page in &pages {
                side.decrypt(page);
            }
        });
        let last = pages.last().expect("a page");
        assert_eq!(side.texts(last).len(), BACKLOG_PAGE, "each message was decrypted");
        cost
    })
}

/// Room keys out of an export.
fn import<S: Side>(side: &mut S, people: &mut People, folder: &Path, keys: usize) -> Value {
    let known = side.room_keys();
    let export = people.export(keys);
    let report = measure_once(keys as u64, || timed(|| side.import(&export)).0);
    assert_eq!(side.room_keys(), known + keys, "each key was taken");
    with_disk(report, folder)
}

/// Room keys out of a key backup.
fn restore<S: Side>(side: &mut S, people: &mut People, folder: &Path, keys: usize) -> Value {
    let known = side.room_keys();
    let (secret, body) = people.backup(keys);
    let report = measure_once(keys as u64, || timed(|| side.restore(&secret, &body)).0);
    assert_eq!(side.room_keys(), known + keys, "each key was taken");
    with_disk(report, folder)
}

/// A process that has just begun opens the store, with so many room keys in it, and decrypts one event.
fn open<S: Side>(mut side: S, people: &mut People, folder: &Path, keys: usize) -> Value {
    let export = people.export(keys);
    side.import(&export);
    drop(export);
    side.close();
    let program = std::env::current_exe().expect("this program");
    let mut reports = Vec::new();
    for number in 0..COLD_STARTS {
        let event = folder.join(format!("event{number}.json"));
        let text = Value::Array(people.messages(0, 1)).to_string();
        std::fs::write(&event, text).expect("the folder can be written to");
        let report = folder.join(format!("cold{number}.json"));
        let status = std::process::Command::new(&program)
            .arg("cold")
            .args([&folder.join("store"), &event, &report])
            .status()
            .expect("it can be started");
        assert!(status.success(), "the message was decrypted");
        reports.push(parse(&std::fs::read_to_string(report).expect("a report")));
    }
    let number = |report: &Value, name: &str| report[name].as_f64().expect("a number");
    let mean =
        |name| reports.iter().map(|report| number(report, name)).sum::<f64>() / COLD_STARTS as f64;
    let report = json!({
        "nanoseconds": reports.iter().map(|report| number(report, "time")).collect::<Vec<_>>(),
        "calls": COLD_STARTS,
        "cpu": mean("cpu"),
        "written": mean("written"),
        "peak": reports.iter().map(|report| number(report, "peak")).fold(0.0, f64::max),
    });
    with_disk(report, folder)
}

/// What the cold process of [`open`] does.
pub(crate) fn cold<S: Side>(store: &Path, event: &Path) -> Value {
    let events = parse(&std::fs::read_to_string(event).expect("the file can be read"));
    let batch = S::batch(events.as_array().expect("a list"));
    let (cost, mut side) = timed(|| {
        let mut side = S::open(store, USER, DEVICE);
        side.decrypt(&batch);
        side
    });
    assert_eq!(side.texts(&batch).len(), 1);
    cost.report()
}

/// What the store takes on the medium, beside the report.
fn with_disk(mut report: Value, folder: &Path) -> Value {
    let files = std::fs::read_dir(folder.join("store")).expect("the store is a folder");
    let sizes = files.map(|file| file.and_then(|file| file.metadata()).expect("a file").len());
    report["disk"] = json!(sizes.sum::<u64>());
    report
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}
