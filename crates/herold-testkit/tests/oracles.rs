//! The oracle sees what it is there for, and nothing else. (What it says of W1 to W6 and W9 the planted faults
//! show.)

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use herold_store::Table;
use herold_testkit::Oracle;
use serde_json::{Value, json};

const USER: &str = "@alice:world.test";
const DEVICE: &str = "PHONE";
const SEND: &str = "/_matrix/client/v3/sendToDevice/m.room.encrypted/1";

fn list(devices: &[(&str, &str)]) -> Value {
    let devices: serde_json::Map<String, Value> = devices
        .iter()
        .map(|(id, key)| ((*id).to_owned(), json!({ "keys": { format!("curve25519:{id}"): key } })))
        .collect();
    json!({ "device_keys": { "@bob:world.test": devices } })
}

fn send(oracle: &mut Oracle, id: &str, key: &str, text: &str) {
    let content = json!({ "ciphertext": { key: { "type": 1, "body": text } } });
    let body = json!({ "messages": { "@bob:world.test": { id: content } } });
    oracle.watch(USER, DEVICE, SEND, body.to_string().as_bytes(), &|_| true);
}

/// The violations that name one invariant.
fn of(oracle: &Oracle, name: &str) -> usize {
    oracle.violations().iter().filter(|violation| violation.starts_with(name)).count()
}

fn takes(oracle: &mut Oracle, answer: &Value, encrypted: &[&str]) {
    oracle.got_devices(USER, DEVICE, answer);
    let asked = json!({ "device_keys": { "@bob:world.test": [] } });
    let gone = oracle.left_out(USER, DEVICE, &asked, answer);
    let encrypted: BTreeSet<String> = encrypted.iter().map(|text| (*text).to_owned()).collect();
    oracle.lost_devices(USER, DEVICE, gone, &encrypted);
}

#[test]
fn w7_an_olm_message_needs_its_device_in_the_list() {
    let mut oracle = Oracle::default();
    takes(&mut oracle, &list(&[("ONE", "key1"), ("TWO", "key2")]), &[]);
    send(&mut oracle, "ONE", "key1", "a");
    assert_eq!(of(&oracle, "W7"), 0);
    send(&mut oracle, "ONE", "key2", "b");
    send(&mut oracle, "THREE", "key3", "c");
    assert_eq!(of(&oracle, "W7"), 2);
    // Gone: what was encrypted before may still go out.
    takes(&mut oracle, &list(&[("ONE", "key1")]), &["d"]);
    send(&mut oracle, "TWO", "key2", "d");
    assert_eq!(of(&oracle, "W7"), 2);
    send(&mut oracle, "TWO", "key2", "e");
    assert_eq!(of(&oracle, "W7"), 3);
    // A power loss may have taken the answer away; and a device may come back.
    oracle.may_forget(USER, DEVICE);
    send(&mut oracle, "TWO", "key2", "f");
    takes(&mut oracle, &list(&[]), &[]);
    takes(&mut oracle, &list(&[("TWO", "key2")]), &[]);
    send(&mut oracle, "TWO", "key2", "g");
    assert_eq!(of(&oracle, "W7"), 3);
}

#[test]
fn w8_a_request_fails_a_few_times_at_a_moment_and_waits_as_long_as_it_is_told() {
    let mut oracle = Oracle::default();
    let end = |oracle: &mut Oracle, now, well, wait| {
        oracle.ended((USER, DEVICE), now, ("claim", "claim 1"), well, wait);
    };
    for now in [1, 2] {
        for _ in 0..5 {
            end(&mut oracle, now, false, None);
        }
    }
    end(&mut oracle, 2, true, None);
    end(&mut oracle, 2, false, None);
    assert_eq!(of(&oracle, "W8"), 0);
    for _ in 0..5 {
        end(&mut oracle, 2, false, None);
    }
    assert_eq!(of(&oracle, "W8"), 1);
    end(&mut oracle, 3, false, Some(100));
    oracle.asks(USER, DEVICE, 50, "claim", "claim 2");
    oracle.asks(USER, DEVICE, 103, "claim", "claim 1");
    assert_eq!(of(&oracle, "W8"), 1);
    oracle.asks(USER, DEVICE, 102, "claim", "claim 1");
    assert_eq!(of(&oracle, "W8"), 2);
}

#[test]
fn w10_tables_that_others_can_fill_are_bounded() {
    let mut oracle = Oracle::default();
    oracle.has_rows(DEVICE, Table::Withheld, 1000);
    oracle.has_rows(DEVICE, Table::Event, 1_000_000);
    assert_eq!(of(&oracle, "W10"), 0);
    oracle.has_rows(DEVICE, Table::Withheld, 1001);
    assert_eq!(of(&oracle, "W10"), 1);
}

/// A server that says when to come again is not asked before, not even if a device list changes meanwhile.
#[test]
fn w8_a_changed_list_is_not_asked_for_before_the_server_lets_us() {
    let mut world = herold_testkit::World::new(1);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    world.settle();
    world.make_room(&[alice, bob]);
    let bob_id = world.devices[bob].user_id.to_string();
    world.server.announce_devices(&bob_id);
    world.sync(alice);
    world.server.limit_requests(1, 30_000);
    world.pump(alice);
    world.server.announce_devices(&bob_id);
    world.sync(alice);
    world.pump(alice);
    assert_eq!(of(&world.oracle, "W8"), 0);
    world.settle();
    assert_eq!(of(&world.oracle, "W"), 0);
}
