//! The works: what is done, how it is prepared, and how it is known that it was done.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Value, json};

use crate::{
    Directory as _, People, Side,
    measure::{Effort, measure, timed},
    side::{DEVICE, TEXT, USER},
};

/// Messages of one session that are decrypted as one batch: as many as a session serves by default.
pub(crate) const BATCH: usize = 100;
/// Room keys in one sync.
pub(crate) const KEYS: usize = 500;
/// Devices they come from.
pub(crate) const KEY_SENDERS: usize = 50;

/// As many messages are encrypted with one session.
const LIFE: usize = 5000;

/// All works. Those that take the opponent minutes are last.
pub const WORKS: &[&str] = &[
    "encrypt/1",
    "encrypt/1000",
    "send/1",
    "send/1000",
    "decrypt",
    "sync/500",
    "share/1",
    "share/100",
    "share/1000",
    "members/50",
    "share/10000",
    "members/50000",
];

/// Works of which one turn is enough: no two calls of the same program differ by much beside what they take.
pub const LARGE: &[&str] = &["share/10000", "members/50000"];

/// How long each is measured in one turn.
pub(crate) fn effort(work: &str) -> Effort {
    match work {
        "share/1000" | "sync/500" => Effort::Samples { samples: 10, seconds: 2 },
        "decrypt" => Effort::Samples { samples: 10, seconds: 3 },
        "share/10000" => Effort::Calls(3),
        // The opponent looks at each member for each message.
        "members/50000" => Effort::Calls(10),
        _ => Effort::Samples { samples: 20, seconds: 2 },
    }
}

/// Measures one work.
pub(crate) fn run<S: Side>(work: &str, folder: &Path) -> Value {
    let (kind, size) = work.split_once('/').unwrap_or((work, "1"));
    let size: usize = size.parse().expect("a number");
    let devices = match kind {
        "decrypt" | "members" => 1,
        "sync" => KEY_SENDERS,
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

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}
