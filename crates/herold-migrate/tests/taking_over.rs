//! An account that was taken over goes on: it reads what it could read, and what was sent to it since.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{fs, time::Duration};

use common::{
    Device, FIXTURES, bytes, changed, copy, dry_run, members, open, store_key, world, write,
};
use herold::{Shield, ShieldReason, SqliteStore, StoreError, StoreOptions};
use herold_migrate::{Kind, MigrateError, Reason};
use serde_json::json;

fn count(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap()
}

#[test]
fn everything_in_the_store_is_taken_or_named() {
    for fixture in FIXTURES {
        let source = copy(fixture);
        let world = world(source.path());
        let report = dry_run(source.path(), fixture).unwrap();
        assert_eq!(report.user_id.as_str(), world["user_id"]);
        assert_eq!(report.device_id.as_str(), world["device_id"]);
        assert_eq!(report.ed25519, world["ed25519"]);
        assert_eq!(report.curve25519, world["curve25519"]);
        assert_eq!(report.source_encrypted, fixture != "none");
        let sessions = count(&world["inbound_sessions"]);
        assert_eq!(report.taken(Kind::RoomKey), sessions);
        assert_eq!(report.taken(Kind::RoomKeyBackedUp), count(&world["backed_up"]));
        // All but the imported one.
        assert_eq!(count(&world["imported"]), 1);
        assert_eq!(report.taken(Kind::RoomKeySender), sessions - 1, "{report:#?}");
        assert_eq!(report.left(Kind::RoomKeySender, Reason::NotAuthentic), 1);
        assert!(report.taken(Kind::OlmSession) >= 2);
        assert_eq!(report.taken(Kind::Device), 6);
        assert_eq!(report.taken(Kind::BlockedDevice), 1);
        assert_eq!(report.taken(Kind::Identity), 5);
        assert_eq!(report.taken(Kind::TrackedUser), 6);
        assert_eq!(report.taken(Kind::CrossSigningKey), 3);
        assert_eq!(report.taken(Kind::BackupKey), 1);
        assert_eq!(report.taken(Kind::BackupVersion), 1);
        assert_eq!(report.taken(Kind::EncryptedRoom), 2);
        // Bob's verification is proved anew, Carol's device was only marked.
        assert_eq!(report.taken(Kind::OwnVerification), 1);
        assert_eq!(report.taken(Kind::UserVerification), 1);
        let marked = report.left.iter().find(|left| left.kind == Kind::VerifiedDevice).unwrap();
        assert_eq!(marked.names, ["@carol:example.org CAROLDEV"]);
        assert_eq!(report.left(Kind::SyncToken, Reason::MadeAnew), 1);
        assert!(report.left(Kind::OutboundRoomKey, Reason::MadeAnew) > 0);
        assert!(report.left(Kind::OlmHash, Reason::NoCounterpart) > 0);
        for left in &report.left {
            let serious = matches!(
                left.reason,
                Reason::Damaged | Reason::Contradiction | Reason::Unreadable | Reason::Unsupported
            );
            assert!(!serious, "{left:?}");
        }
    }
}

#[test]
fn the_source_is_as_it_was() {
    for fixture in FIXTURES {
        let source = copy(fixture);
        let before = bytes(source.path());
        let place = tempfile::tempdir().unwrap();
        dry_run(source.path(), fixture).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        write(&open(source.path(), fixture).unwrap(), &place.path().join("new")).unwrap();
        assert!(bytes(source.path()) == before, "{fixture}");
    }
}

#[test]
fn what_is_in_the_log_alone_is_taken() {
    let with = copy("none");
    let without = copy("none");
    fs::remove_file(without.path().join("matrix-sdk-crypto.sqlite3-wal")).unwrap();
    let [with, without] =
        [with, without].map(|folder| dry_run(folder.path(), "none").unwrap().taken(Kind::RoomKey));
    assert_eq!(with, without + 1);
}

#[test]
fn a_dry_run_says_what_writing_does() {
    let source = copy("passphrase");
    let place = tempfile::tempdir().unwrap();
    let said = dry_run(source.path(), "passphrase").unwrap();
    let done =
        write(&open(source.path(), "passphrase").unwrap(), &place.path().join("new")).unwrap();
    assert_eq!(said, done);
}

#[test]
fn the_device_goes_on_as_the_same_device() {
    for fixture in FIXTURES {
        let source = copy(fixture);
        let world = world(source.path());
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("new");
        write(&open(source.path(), fixture).unwrap(), &target).unwrap();
        let mut device = Device::open(&target, world.clone());
        let keys = device.engine.machine().identity_keys();
        assert_eq!(keys.ed25519.to_base64(), world["ed25519"]);
        assert_eq!(device.engine.machine().device_id().as_str(), world["device_id"]);
        device.settle();
        // Its keys are on the server, so they are not published again.
        let uploads = device.asked.iter().filter(|(kind, _)| *kind == "keys_upload");
        assert!(uploads.clone().all(|(_, body)| body.get("device_keys").is_none()));
        // All lists count as outdated.
        let queried: Vec<&str> = device
            .asked
            .iter()
            .filter(|(kind, _)| *kind == "keys_query")
            .flat_map(|(_, body)| body["device_keys"].as_object().unwrap().keys())
            .map(String::as_str)
            .collect();
        for user in world["users"].as_array().unwrap() {
            assert!(queried.contains(&user.as_str().unwrap()), "{user}");
        }
        // What the backup does not have goes into it, and nothing else.
        let backed_up: usize = device
            .asked
            .iter()
            .filter(|(kind, _)| *kind == "backup_upload")
            .flat_map(|(_, body)| body["rooms"].as_object().unwrap().values())
            .map(|room| room["sessions"].as_object().unwrap().len())
            .sum();
        let due = count(&world["inbound_sessions"]) - count(&world["backed_up"]);
        assert_eq!(backed_up as u64, due);
        let status = device.engine.read(|machine, snapshot| machine.backup_status(snapshot));
        let status = status.unwrap();
        assert!(status.enabled && status.has_key);
        assert_eq!(status.version.as_deref(), Some("3"));
        let here = device.engine.read(|machine, snapshot| machine.identity_keys_here(snapshot));
        assert_eq!(here.unwrap(), [true; 3]);
    }
}

/// The old client notes whether the server has accepted its identity.
#[test]
fn an_identity_that_was_not_accepted_yet_is_offered_again() {
    for (shared, prepared) in [(false, true), (true, false)] {
        let source = changed("none", |connection| {
            let read = "SELECT value FROM kv WHERE key = 'identity'";
            let mut value: Vec<u8> = connection.query_row(read, (), |row| row.get(0)).unwrap();
            let name = b"shared";
            let at = value.windows(name.len()).position(|window| window == name).unwrap();
            // False and true in MessagePack.
            value[at + name.len()] = if shared { 0xc3 } else { 0xc2 };
            let write = "UPDATE kv SET value = ?1 WHERE key = 'identity'";
            connection.execute(write, [value]).unwrap();
        });
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("new");
        let report = write(&open(source.path(), "none").unwrap(), &target).unwrap();
        assert_eq!(report.taken(Kind::CrossSigningKey), 3);
        let device = Device::open(&target, world(source.path()));
        let here = device.engine.read(|machine, snapshot| machine.identity_keys_here(snapshot));
        assert_eq!(here.unwrap(), [true; 3]);
        let said = device.engine.read(|machine, snapshot| machine.identity_is_prepared(snapshot));
        assert_eq!(said.unwrap(), prepared);
    }
}

#[test]
fn old_messages_are_read_and_shown_as_what_they_are() {
    for fixture in FIXTURES {
        let source = copy(fixture);
        let world = world(source.path());
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("new");
        write(&open(source.path(), fixture).unwrap(), &target).unwrap();
        let mut device = Device::open(&target, world.clone());
        device.settle();
        let mut old: Vec<_> = world["old_messages"].as_array().unwrap().clone();
        old.push(world["in_the_log"].clone());
        old.push(world["from_dave"].clone());
        let events: Vec<_> = old.iter().map(|message| message["event"].clone()).collect();
        device.sync(&json!([]), world["room_id"].as_str().unwrap(), &events);
        for message in &old[..old.len() - 1] {
            assert_eq!(device.reads(message).shield, Shield::None, "{}", message["text"]);
        }
        // Dave has no identity that could have signed his device.
        assert_ne!(device.reads(&world["from_dave"]).shield, Shield::None);
        let imported = &world["imported_message"];
        device.sync(
            &json!([]),
            world["side_room_id"].as_str().unwrap(),
            std::slice::from_ref(&imported["event"]),
        );
        assert_eq!(
            device.reads(imported).shield,
            Shield::Grey(ShieldReason::AuthenticityNotGuaranteed)
        );
    }
}

#[test]
fn what_was_sent_since_is_read() {
    for fixture in FIXTURES {
        let source = copy(fixture);
        let world = world(source.path());
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("new");
        write(&open(source.path(), fixture).unwrap(), &target).unwrap();
        let mut device = Device::open(&target, world.clone());
        device.settle();
        for (keys, message, message_type) in [
            // Over the Olm session that was there, after both sides have used it.
            ("by_the_channel", "new_message", 1),
            // With a one-time key that the old client has published.
            ("by_a_one_time_key", "first_message", 0),
            // With its fallback key.
            ("by_the_fallback_key", "fallback_message", 0),
        ] {
            let curve25519 = world["curve25519"].as_str().unwrap();
            let sent = &world[keys][0]["content"]["ciphertext"][curve25519];
            assert_eq!(sent["type"], message_type, "{keys}");
            let message = &world[message];
            let event = &message["event"];
            let room = event["room_id"].as_str().unwrap();
            device.sync(&world[keys], room, std::slice::from_ref(event));
            assert_eq!(device.reads(message).shield, Shield::None, "{keys}");
        }
    }
}

#[test]
fn nothing_is_sent_through_a_channel_before_somebody_was_heard_on_it() {
    let source = copy("none");
    let world = world(source.path());
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("new");
    write(&open(source.path(), "none").unwrap(), &target).unwrap();
    let mut device = Device::open(&target, world.clone());
    device.settle();
    let room = world["room_id"].as_str().unwrap().to_owned();
    // Bob is heard over the channel, the others are not.
    device.sync(&world["by_the_channel"], &room, &members(&world));
    device.asked.clear();
    device
        .engine
        .step(|machine, snapshot, cx| {
            machine.queue_event(
                snapshot,
                cx,
                room.as_str().try_into().unwrap(),
                "m.room.message",
                &json!({ "msgtype": "m.text", "body": "hello" }),
                None,
            )
        })
        .unwrap();
    device.settle();
    let claimed: Vec<&str> = device
        .asked
        .iter()
        .filter(|(kind, _)| *kind == "keys_claim")
        .flat_map(|(_, body)| body["one_time_keys"].as_object().unwrap().keys())
        .map(String::as_str)
        .collect();
    assert!(claimed.contains(&"@carol:example.org"), "{claimed:?}");
    assert!(!claimed.contains(&"@bob:example.org"), "{claimed:?}");
    // Dave's device was blocked, and still is.
    assert!(!claimed.contains(&"@dave:example.org"), "{claimed:?}");
}

#[test]
fn a_room_stays_encrypted_whatever_the_server_leaves_out() {
    let source = copy("passphrase");
    let world = world(source.path());
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("new");
    write(&open(source.path(), "passphrase").unwrap(), &target).unwrap();
    let device = Device::open(&target, world.clone());
    let room = |name: &str| {
        let room_id = world[name].as_str().unwrap().try_into().unwrap();
        device.engine.read(|machine, snapshot| machine.room(snapshot, room_id)).unwrap().unwrap()
    };
    let settings = room("room_id").encryption.unwrap();
    assert_eq!(settings.rotation_messages, 77);
    let settings = room("side_room_id").encryption.unwrap();
    assert!(settings.is_supported());
    assert!(settings.rotation > Duration::ZERO);
}

#[test]
fn a_store_that_is_there_is_left_alone() {
    let source = copy("none");
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("new");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("somebody's"), "file").unwrap();
    let opened = open(source.path(), "none").unwrap();
    assert!(matches!(write(&opened, &target), Err(MigrateError::TargetExists)));
    assert_eq!(fs::read(target.join("somebody's")).unwrap(), b"file");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    // An empty folder is none.
    fs::remove_file(target.join("somebody's")).unwrap();
    write(&opened, &target).unwrap();
    assert!(matches!(write(&opened, &target), Err(MigrateError::TargetExists)));
}

#[test]
fn what_a_killed_migration_left_is_no_store_and_in_nobodys_way() {
    let source = copy("none");
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("new");
    let beside = place.path().join("new.migrating");
    let options = StoreOptions::default();
    // Killed after the rows were written: there is a store without an account, under another name.
    drop(SqliteStore::create(&beside, &store_key(), &options).unwrap());
    assert!(matches!(
        SqliteStore::open(&target, &store_key(), &options),
        Err(StoreError::NotFound)
    ));
    write(&open(source.path(), "none").unwrap(), &target).unwrap();
    assert!(!beside.exists());
    Device::open(&target, world(source.path()));
    // One that is under way is left alone.
    let other = place.path().join("other");
    let held =
        SqliteStore::create(place.path().join("other.migrating"), &store_key(), &options).unwrap();
    let refused = write(&open(source.path(), "none").unwrap(), &other);
    assert!(matches!(refused, Err(MigrateError::Store(StoreError::Locked { .. }))));
    drop(held);
}
