//! Two engines on one store, taking turns: what they may both do, and what each forgets of the other's doing.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use herold_crypto::SeededEntropy;
use herold_store::{
    SnapshotExt as _,
    records::{Only, SyncRecord},
};
use herold_store_sqlite::{SqliteStore, StoreKey, StoreOptions};
use ruma::{RoomId, room_id};
use serde_json::{Value, json};

use super::*;
use crate::{Body, SyncMode, SystemClock, test_support::joined_room};

const ROOM_ID: &str = "!r:example.org";

fn room() -> &'static RoomId {
    room_id!("!r:example.org")
}

fn store(folder: &Path) -> Box<dyn Store + Send> {
    let options =
        StoreOptions { shared: true, patience: Duration::from_secs(20), ..StoreOptions::default() };
    let path = folder.join("store");
    Box::new(SqliteStore::open_or_create(path, &StoreKey::raw([3; 32]), &options).unwrap())
}

fn load(folder: &Path, seed: u64) -> Engine {
    let entropy = Box::new(SeededEntropy::new(seed));
    let mut engine = Engine::load(store(folder), Arc::new(SystemClock), entropy).unwrap();
    engine.let_go().unwrap();
    engine
}

/// An account in an encrypted room of its own, and two engines that have let go of the store.
fn pair(folder: &Path) -> [Engine; 2] {
    let mut app = Engine::create(
        store(folder),
        "@alice:example.org".try_into().unwrap(),
        "ALICEPHONE".into(),
        Policy { recipients: herold_trust::Recipients::AllDevices, ..Policy::default() },
        None,
        Arc::new(SystemClock),
        Box::new(SeededEntropy::new(1)),
    )
    .unwrap();
    sync(&mut app, &joined_room("s1", true));
    pump(&mut app);
    app.let_go().unwrap();
    [app, load(folder, 2)]
}

fn sync(engine: &mut Engine, body: &Value) {
    let body = body.to_string();
    engine
        .step(|machine, snapshot, cx| machine.handle_sync(snapshot, cx, body.as_bytes()))
        .unwrap();
}

/// Answers everything that is due. The contents of the events that were sent.
fn pump(engine: &mut Engine) -> Vec<Value> {
    let mut sent = Vec::new();
    for round in 0.. {
        let due = engine.due_requests().unwrap().reply;
        if due.is_empty() {
            return sent;
        }
        assert!(round < 20, "it never ends: {due:?}");
        for request in due {
            let path = &request.http.path;
            let body = if path.contains("/send/") {
                if let Body::Json(text) = &request.http.body {
                    sent.push(serde_json::from_str(text).unwrap());
                }
                json!({ "event_id": format!("${}", path.rsplit('/').next().unwrap()) })
            } else if path.ends_with("/members") {
                json!({ "chunk": joined_room("", true)["rooms"]["join"][ROOM_ID]["state"]["events"] })
            } else if path.ends_with("/keys/query") {
                json!({ "device_keys": {} })
            } else if path.ends_with("/keys/upload") {
                json!({ "one_time_key_counts": { "signed_curve25519": 50 } })
            } else {
                json!({})
            };
            let body = body.to_string();
            let answer =
                Answer::Response { status: 200, retry_after_ms: None, body: body.as_bytes() };
            engine.answer(&request, answer).unwrap();
        }
    }
    sent
}

/// Sends a message.
fn send(engine: &mut Engine, text: &str) -> Value {
    let content = json!({ "msgtype": "m.text", "body": text });
    let queued = engine.step(|machine, snapshot, cx| {
        machine.queue_event(snapshot, cx, room(), "m.room.message", &content, None)
    });
    queued.unwrap();
    pump(engine).pop().expect("it is sent")
}

/// Sends a message, takes it back from a sync, and lets go of the store: what it was encrypted with.
fn say(engine: &mut Engine, text: &str) -> (String, u32) {
    let content = send(engine, text);
    show(engine, text, &content);
    engine.let_go().unwrap();
    (content["session_id"].as_str().unwrap().to_owned(), index(&content))
}

/// The event comes in a sync and is read.
fn show(engine: &mut Engine, text: &str, content: &Value) {
    let event_id = format!("$shown_{text}_{}", engine.now().as_millis());
    let next = format!("{event_id}_next");
    let event = json!({
        "type": "m.room.encrypted", "sender": "@alice:example.org", "event_id": event_id,
        "origin_server_ts": 5, "content": content,
    });
    sync(
        engine,
        &json!({ "next_batch": next, "rooms": { "join": { ROOM_ID: {
            "timeline": { "events": [event], "limited": false },
        } } } }),
    );
    let event_id = ruma::EventId::parse(&event_id).unwrap();
    let event = engine.read(|machine, snapshot| machine.room_event(snapshot, room(), &event_id));
    assert!(event.unwrap().unwrap().body.unwrap().content.contains(text));
}

/// The message index: the first field of a Megolm message, after its version.
fn index(content: &Value) -> u32 {
    let text = content["ciphertext"].as_str().unwrap();
    let digit = |byte: u8| {
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        u32::try_from(digits.iter().position(|digit| *digit == byte).unwrap()).unwrap()
    };
    let mut bytes = Vec::new();
    for four in text.as_bytes()[..16].chunks(4) {
        let word = four.iter().fold(0, |word, byte| word << 6 | digit(*byte));
        bytes.extend_from_slice(&word.to_be_bytes()[1..]);
    }
    assert_eq!(bytes[..2], [3, 8]);
    let mut index = 0;
    for (place, byte) in bytes[2..7].iter().enumerate() {
        index |= u32::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            break;
        }
    }
    index
}

#[test]
fn two_processes_that_take_turns_never_use_an_index_twice() {
    let folder = tempfile::tempdir().unwrap();
    let [mut app, mut other] = pair(folder.path());
    let mut used = BTreeSet::new();
    for round in 0..6 {
        assert!(used.insert(say(&mut app, &format!("app {round}"))));
        assert!(used.insert(say(&mut app, &format!("app again {round}"))));
        assert!(used.insert(say(&mut other, &format!("other {round}"))));
    }
    // Past everything that one of them had reserved.
    for round in 0..600 {
        let engine = if round % 300 == 299 { &mut other } else { &mut app };
        let content = send(engine, "more");
        engine.let_go().unwrap();
        let session = content["session_id"].as_str().unwrap().to_owned();
        assert!(used.insert((session, index(&content))), "round {round}");
    }
}

#[test]
fn what_another_process_did_not_touch_stays_cached_and_the_rest_goes() {
    let folder = tempfile::tempdir().unwrap();
    let [mut app, mut other] = pair(folder.path());
    let first = say(&mut app, "one");
    let before = app.machine().restored_room_keys();
    let unseen = send(&mut app, "two");
    app.let_go().unwrap();
    assert_eq!(app.machine().restored_room_keys(), before, "everything is at hand");
    // The other one does something else: it makes a new room key, and reads by it.
    let discarded =
        other.step(|machine, snapshot, cx| machine.discard_room_key(snapshot, cx, room()));
    discarded.unwrap();
    let second = say(&mut other, "three");
    assert_ne!(first.0, second.0);
    app.hold().unwrap();
    assert!(app.take_news().touches_table(herold_store::Table::OutboundSession));
    // An event under the old key needs nothing to be made again.
    show(&mut app, "two", &unseen);
    assert_eq!(app.machine().restored_room_keys(), before);
    // To send, it takes the new key, from where the other has reserved it to, and reads by it.
    let third = say(&mut app, "four");
    assert_eq!((third.0, third.1 > second.1), (second.0, true));
    assert_eq!(app.machine().restored_room_keys(), before + 2);
}

#[test]
fn an_account_that_another_process_has_changed_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let [mut app, mut other] = pair(folder.path());
    // The server says that keys were used up; each makes new ones in turn, under new ids.
    let mut seen = BTreeSet::new();
    for round in 0..4_u64 {
        for engine in [&mut app, &mut other] {
            engine.advance_clock(Duration::from_secs(60 * (round + 1)));
            sync(
                engine,
                &json!({ "next_batch": format!("k{round}"),
                    "device_one_time_keys_count": { "signed_curve25519": 40 } }),
            );
            let due = engine.due_requests().unwrap().reply;
            let upload = due.iter().find(|request| request.kind() == "keys_upload");
            let Body::Json(body) = &upload.expect("an upload").http.body else { panic!("no body") };
            let body: Value = serde_json::from_str(body).unwrap();
            for id in body["one_time_keys"].as_object().unwrap().keys() {
                assert!(seen.insert(id.clone()), "{id} was given out twice");
            }
            due.iter().for_each(|request| engine.abandon(&request.id));
            engine.advance_clock(Duration::from_secs(60));
            pump(engine);
            engine.let_go().unwrap();
        }
    }
}

#[test]
fn a_response_from_a_position_that_is_not_the_stored_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [mut app, mut other] = pair(folder.path());
    app.hold().unwrap();
    let asked =
        app.read(|machine, snapshot| machine.sync_position(snapshot, SyncMode::V2)).unwrap();
    app.let_go().unwrap();
    sync(&mut other, &json!({ "next_batch": "s7" }));
    other.let_go().unwrap();
    let take = |engine: &mut Engine, asked| {
        let body = joined_room("s2", false).to_string();
        engine.step(|machine, snapshot, cx| {
            machine.handle_response(snapshot, cx, asked, body.as_bytes())
        })
    };
    let outputs = take(&mut app, &asked).unwrap();
    assert!(outputs.reply.is_none() && !outputs.changed && outputs.events.is_empty());
    let token = || app.snapshot().load::<SyncRecord>(&Only).unwrap().unwrap().next_batch.unwrap();
    assert_eq!(token(), "s7");
    let asked =
        app.read(|machine, snapshot| machine.sync_position(snapshot, SyncMode::V2)).unwrap();
    assert_eq!(take(&mut app, &asked).unwrap().reply.unwrap().next_batch, "s2");
}

#[test]
fn an_upload_under_way_is_left_to_whoever_makes_it() {
    let folder = tempfile::tempdir().unwrap();
    let [mut app, mut other] = pair(folder.path());
    app.advance_clock(Duration::from_secs(60));
    other.advance_clock(Duration::from_secs(60));
    sync(
        &mut app,
        &json!({ "next_batch": "k", "device_one_time_keys_count": { "signed_curve25519": 4 } }),
    );
    let is_upload = |request: &&Outgoing| request.kind() == "keys_upload";
    let mine = app.due_requests().unwrap().reply;
    let first = mine.iter().find(is_upload).expect("it is due").clone();
    app.let_go().unwrap();
    assert!(!other.due_requests().unwrap().reply.iter().any(|request| is_upload(&request)));
    // Whoever made it may be gone.
    other.advance_clock(Duration::from_secs(11));
    let theirs = other.due_requests().unwrap().reply;
    let second = theirs.iter().find(is_upload).expect("it is due again").clone();
    let body = json!({ "one_time_key_counts": { "signed_curve25519": 10 } }).to_string();
    let answer = Answer::Response { status: 200, retry_after_ms: None, body: body.as_bytes() };
    other.advance_clock(Duration::from_secs(60));
    other.answer(&second, answer).unwrap();
    other.advance_clock(Duration::from_secs(60));
    let few = json!({ "signed_curve25519": 10 });
    sync(&mut other, &json!({ "next_batch": "l", "device_one_time_keys_count": few }));
    // There are newer keys now; an answer about the old ones says nothing of them.
    let newer = other.due_requests().unwrap().reply;
    assert!(newer.iter().any(|request| is_upload(&request)), "10 are too few");
    other.let_go().unwrap();
    app.answer(&first, answer).unwrap();
    app.advance_clock(Duration::from_secs(600));
    let due = app.due_requests().unwrap().reply;
    assert!(due.iter().any(|request| is_upload(&request)), "it is still to be uploaded");
}
