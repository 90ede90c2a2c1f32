//! N40 and N41: what anybody can send a thousand times, and a server that counts wrong, cost nothing that
//! lasts.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;

use std::time::Duration;

use attacks_common::*;
use herold_crypto::Account;
use herold_machine::DropReason;
use herold_store::{
    SnapshotExt as _, Table,
    records::{AccountRecord, Only},
};
use herold_testkit::{Attacker, World};
use serde_json::{Value, json};

const BOB: &str = "@bob:world.test";

fn requests(world: &World, device: usize, path: &str) -> usize {
    let id = Some(id(world, device));
    let seen = world.server.requests().iter();
    seen.filter(|seen| seen.device == id && seen.path.ends_with(path)).count()
}

/// The claims for keys of Bob's devices. (The attacker's own go out under the victim's token.)
fn claims_of_bob(world: &World) -> usize {
    let seen = world.server.requests().iter().filter(|seen| seen.path.ends_with("/keys/claim"));
    seen.filter(|seen| String::from_utf8_lossy(&seen.body).contains(BOB)).count()
}

fn one_time_keys(world: &World, device: usize) -> usize {
    world.server.one_time_key_ids(&user(world, device), &id(world, device)).len()
}

/// N40.
#[test]
fn n40_no_olm_notes_dummies_and_garbage_cause_one_claim_an_hour() {
    let (mut world, alice, bob, room) = two(1);
    let mut second = Attacker::ghost(&mut world, BOB, "SECOND");
    world.send(alice, &room, "to the second too");
    let (claims, keys) = (claims_of_bob(&world), one_time_keys(&world, alice));
    let rows_of = |world: &World| {
        let tables = Table::ALL.iter().filter(|table| **table != Table::OlmHash);
        tables.map(|table| rows(world, alice, *table)).sum::<usize>()
    };
    let before = rows_of(&world);
    let sender_key = second.keys().curve25519.to_base64();
    for n in 0..1000 {
        let no_olm = json!({ "algorithm": MEGOLM, "sender_key": sender_key, "code": "m.no_olm" });
        inject_clear(&mut world, alice, BOB, "m.room_key.withheld", no_olm);
        inject_clear(&mut world, alice, BOB, "m.dummy", json!({}));
        if n % 20 == 0 {
            // What looks like a message of a session that does not work.
            let mut garbage = second.encrypt(&mut world, alice, "{}");
            for (_, message) in garbage["ciphertext"].as_object_mut().unwrap() {
                let mut body: Vec<char> = message["body"].as_str().unwrap().chars().collect();
                let middle = body.len() - 30;
                body[middle] = if body[middle] == 'A' { 'B' } else { 'A' };
                message["body"] = json!(body.into_iter().collect::<String>());
            }
            inject_clear(&mut world, alice, BOB, "m.room.encrypted", garbage);
        }
        if n % 100 == 0 {
            world.settle();
        }
    }
    world.settle();
    assert!(dropped(&world, alice, DropReason::Undecryptable) >= 40);
    assert_eq!(claims_of_bob(&world), claims + 1);
    assert!(one_time_keys(&world, alice) + 1 >= keys, "they are used up");
    let after = rows_of(&world);
    assert!(after <= before + 8, "{before} rows before, {after} after");
    // Genuine ones too: each says that keys were lost, and gets them once an hour.
    let sent = olm_messages(&world, BOB, "SECOND");
    for _ in 0..100 {
        second.send(&mut world, alice, "m.dummy", &json!({}));
    }
    world.settle();
    let again = olm_messages(&world, BOB, "SECOND") - sent;
    assert!(again <= 2, "{again} messages for a hundred dummies");
    let last = world.send(alice, &room, "as ever");
    assert_eq!(world.text(bob, &room, &last).as_deref(), Ok("as ever"));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N41: another nonsense in each of two hundred syncs.
#[test]
fn n41_wrong_counts_of_one_time_keys_cost_bounded_keys_and_requests() {
    let mut world = World::new(2);
    let alice = world.add_device("alice");
    world.settle();
    let (user, device) = (user(&world, alice), id(&world, alice));
    let before = requests(&world, alice, "/keys/upload");
    let nonsense = [
        json!({ "signed_curve25519": 0 }),
        json!({ "signed_curve25519": -5 }),
        json!({ "signed_curve25519": 1 }),
        json!({ "signed_curve25519": "many" }),
        json!({ "signed_curve25519": u64::MAX }),
        json!({}),
        json!([1]),
        Value::Null,
    ];
    for n in 0..200 {
        let counts = nonsense[n % nonsense.len()].clone();
        world.server.set_one_time_key_count_override(&user, &device, Some(counts));
        inject_clear(&mut world, alice, &user, "org.example.nudge", json!({}));
        world.clock.advance(Duration::from_secs(1));
        world.sync(alice);
        world.pump(alice);
    }
    let uploads = requests(&world, alice, "/keys/upload") - before;
    assert!(uploads <= 100, "{uploads} uploads in 200 seconds");
    let record: AccountRecord = world.devices[alice].disk.image().load(&Only).unwrap().unwrap();
    let account = Account::from_record(record.pickle.as_slice()).unwrap();
    let private = account.stored_one_time_key_count();
    assert!(private <= 5000, "{private} private keys");
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}
