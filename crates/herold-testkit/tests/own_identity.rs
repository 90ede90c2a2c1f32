//! The user's own identity and the key backup: made, published, taken over, replaced, and what dies in between.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;
mod identity_common;

use behaviour_common::{clean, requests};
use herold::{IdentityState, Notice, SecretString};
use herold_machine::BackupStatus;
use herold_testkit::World;
use identity_common::{
    SECRETS, SIGNING_UPLOAD, bootstrap, download, identity_of, import, is_signed, make_backup,
    prepare, published, restore, secret, status, take_backup_key, with_password,
};
use serde_json::{Value, json};

#[test]
fn an_identity_is_made_once_and_its_device_is_signed() {
    let mut world = World::new(801);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let _room = world.make_room(&[alice, bob]);
    bootstrap(&mut world, alice, false);
    assert_eq!(identity_of(&mut world, alice, alice), IdentityState::Verified);
    assert!(is_signed(&mut world, alice, alice));
    assert_eq!(identity_of(&mut world, bob, alice), IdentityState::Pinned);
    assert!(is_signed(&mut world, bob, alice));
    assert_eq!(prepare(&mut world, alice, false), None);
    world.restart(alice);
    assert_eq!(identity_of(&mut world, alice, alice), IdentityState::Verified);
    clean(&world);
}

#[test]
fn the_same_keys_are_published_whatever_dies_before_they_are_accepted() {
    let mut world = World::new(802);
    let alice = world.add_device("alice");
    world.settle();
    let first = prepare(&mut world, alice, false).unwrap();
    world.restart(alice);
    world.lose_power(alice);
    assert_eq!(prepare(&mut world, alice, false).unwrap(), first);
    // It has been accepted, and nobody was left to hear of it.
    world.call(Some(alice), "POST", SIGNING_UPLOAD, with_password(&world, alice, &first));
    world.lose_power(alice);
    world.settle();
    assert_eq!(prepare(&mut world, alice, false).unwrap(), first);
    assert!(published(&mut world, alice));
    assert!(!published(&mut world, alice));
    world.settle();
    assert!(is_signed(&mut world, alice, alice));
    clean(&world);
}

/// Accepted, and nobody was left to hear of it: until the next device list the replaced identity is the one that is known, and a
/// call that means to replace nothing must not throw the accepted one's keys away.
#[test]
fn an_identity_that_was_replaced_unheard_keeps_its_keys_whoever_asks() {
    for own in [true, false] {
        let mut world = World::new(808);
        let first = world.add_device("alice");
        bootstrap(&mut world, first, false);
        let replacing = if own { first } else { world.add_device("alice") };
        world.settle();
        let body = prepare(&mut world, replacing, true).unwrap();
        let request = with_password(&world, replacing, &body);
        world.call(Some(replacing), "POST", SIGNING_UPLOAD, request);
        world.lose_power(replacing);
        // Whoever has the replaced one's keys has nothing to publish; whoever has not goes on with what was begun.
        let asked = prepare(&mut world, replacing, false);
        assert_eq!(asked, (!own).then(|| body.clone()));
        world.settle();
        assert_eq!(prepare(&mut world, replacing, false).unwrap(), body);
        assert!(published(&mut world, replacing));
        world.settle();
        assert!(is_signed(&mut world, replacing, replacing));
        clean(&world);
    }
}

/// A homeserver may show another identity and then the accepted one again: a second reset does not throw the first one's keys
/// away, either.
#[test]
fn a_replacement_that_is_asked_for_again_has_the_same_keys_whatever_was_shown_meanwhile() {
    let mut world = World::new(809);
    let (first, second) = (world.add_device("alice"), world.add_device("alice"));
    bootstrap(&mut world, first, false);
    let begun = prepare(&mut world, first, true).unwrap();
    bootstrap(&mut world, second, true);
    world.settle();
    assert_eq!(prepare(&mut world, first, true).unwrap(), begun);
    world.lose_power(first);
    assert_eq!(prepare(&mut world, first, true).unwrap(), begun);
    let request = with_password(&world, first, &begun);
    world.call(Some(first), "POST", SIGNING_UPLOAD, request);
    assert!(published(&mut world, first));
    world.settle();
    assert!(is_signed(&mut world, first, first));
    clean(&world);
}

/// Begun and not accepted, and then made on another device: what was begun must not take its place.
#[test]
fn an_identity_that_was_begun_gives_way_to_one_that_was_made_since() {
    let mut world = World::new(807);
    let (first, second) = (world.add_device("alice"), world.add_device("alice"));
    world.settle();
    let begun = prepare(&mut world, first, false).unwrap();
    bootstrap(&mut world, second, false);
    let is_prepared = |world: &mut World| {
        world.command(first, |engine| {
            engine.read(|machine, snapshot| machine.identity_is_prepared(snapshot))
        })
    };
    assert_eq!(is_prepared(&mut world), Some(false));
    for name in SECRETS {
        let secret = secret(&mut world, second, name).unwrap();
        assert!(import(&mut world, first, name, &secret));
    }
    assert_eq!(prepare(&mut world, first, false), None);
    // On purpose it can be replaced all the same.
    let other = prepare(&mut world, first, true).unwrap();
    assert_ne!(other, begun);
    assert_eq!(prepare(&mut world, first, true).unwrap(), other);
    clean(&world);
}

#[test]
fn a_second_device_takes_the_identity_over_by_its_private_keys_and_by_nothing_else() {
    let mut world = World::new(803);
    let first = world.add_device("alice");
    bootstrap(&mut world, first, false);
    let second = world.add_device("alice");
    world.settle();
    assert_eq!(identity_of(&mut world, second, first), IdentityState::Pinned);
    let secrets = SECRETS.map(|name| secret(&mut world, first, name).unwrap());
    // Attack N11: swapped, and made up.
    assert!(!import(&mut world, second, SECRETS[0], &secrets[1]));
    assert!(!import(&mut world, second, SECRETS[1], &secrets[0]));
    assert!(!import(&mut world, second, SECRETS[0], &SecretString::new("A".repeat(43))));
    assert!(!import(&mut world, second, "m.cross_signing.other", &secrets[0]));
    assert_eq!(secret(&mut world, second, SECRETS[0]), None);
    // The self-signing key alone makes nobody sure: a homeserver can sign it with a master key of its own.
    assert!(import(&mut world, second, SECRETS[1], &secrets[1]));
    world.settle();
    assert_eq!(identity_of(&mut world, second, first), IdentityState::Pinned);
    assert!(!is_signed(&mut world, first, second));
    assert!(import(&mut world, second, SECRETS[0], &secrets[0]));
    world.settle();
    assert_eq!(identity_of(&mut world, second, first), IdentityState::Verified);
    assert!(is_signed(&mut world, first, second));
    clean(&world);
}

/// Attack N03, on the own identity.
#[test]
fn another_identity_of_the_own_user_is_not_believed_and_takes_no_key_away() {
    let mut world = World::new(804);
    let (first, bob) = (world.add_device("alice"), world.add_device("bob"));
    let _room = world.make_room(&[first, bob]);
    bootstrap(&mut world, first, false);
    let second = world.add_device("alice");
    world.settle();
    bootstrap(&mut world, second, true);
    assert_eq!(identity_of(&mut world, second, first), IdentityState::Verified);
    assert_eq!(identity_of(&mut world, first, first), IdentityState::VerificationViolation);
    assert_eq!(identity_of(&mut world, bob, first), IdentityState::PinViolation);
    assert!(
        world.notices(first).iter().any(|notice| matches!(notice, Notice::IdentityChanged { .. }))
    );
    assert!(secret(&mut world, first, SECRETS[0]).is_some());
    // What it was cannot be had back by saying that one has seen it.
    let alice = world.devices[first].user_id.clone();
    world.command(first, |engine| {
        engine.step(|machine, snapshot, cx| machine.pin_identity(snapshot, cx, &alice))
    });
    assert_eq!(identity_of(&mut world, first, first), IdentityState::VerificationViolation);
    clean(&world);
}

/// Behaviours 36 and 38.
#[test]
fn a_new_device_reads_the_past_out_of_the_backup() {
    let mut world = World::new(805);
    let (first, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[first, bob]);
    let early = world.send(bob, &room, "before the backup");
    bootstrap(&mut world, first, false);
    let version = make_backup(&mut world, first);
    let late = world.send(first, &room, "after it");
    assert_eq!(
        status(&mut world, first),
        BackupStatus {
            known: true,
            version: Some(version.clone()),
            enabled: true,
            trusted: true,
            has_key: true,
            pending: 0
        }
    );
    let second = world.add_device("alice");
    world.settle();
    assert_eq!(status(&mut world, second), BackupStatus::default());
    // A wrong key imports nothing.
    assert!(!take_backup_key(&mut world, second, &SecretString::new("A".repeat(43))));
    let key = secret(&mut world, first, "m.megolm_backup.v1").unwrap();
    assert!(take_backup_key(&mut world, second, &key));
    let mut body = download(&mut world, second, &version);
    // One entry is damaged, and reported; the others are taken.
    let sessions = body["rooms"][room.as_str()]["sessions"].as_object_mut().unwrap();
    let some = sessions.values().next().unwrap().clone();
    sessions.insert("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(), some);
    sessions.insert("bad".to_owned(), json!({ "session_data": 7 }));
    let (imported, bad) = restore(&mut world, second, &body);
    assert_eq!((imported.new, imported.refused, bad), (2, 0, 2));
    for (event, text) in [(&early, "before the backup"), (&late, "after it")] {
        let request = herold_machine::Machine::event_request(&room, event);
        let body = world.call_http(second, &request).to_string();
        world.command(second, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.handle_event(snapshot, cx, &room, event, body.as_bytes())
            })
        });
        assert_eq!(world.text(second, &room, event).as_deref(), Ok(text));
        let shield = world.event(second, &room, event).unwrap().shield;
        assert_eq!(shield, herold::Shield::Grey(herold::ShieldReason::AuthenticityNotGuaranteed));
    }
    // Twice is as good as once.
    let (again, _) = restore(&mut world, second, &body);
    assert_eq!((again.new, again.known), (0, 2));
    clean(&world);
}

/// Behaviour 37, attack N09.
#[test]
fn a_backup_that_has_changed_gets_nothing_until_it_is_trusted() {
    let mut world = World::new(806);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    bootstrap(&mut world, alice, false);
    let version = make_backup(&mut world, alice);
    world.send(bob, &room, "one");
    // Somebody else's backup takes its place.
    let path = format!("/_matrix/client/v3/room_keys/version/{version}");
    world.call(Some(alice), "DELETE", &path, Value::Null);
    let foreign = json!({
        "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
        "auth_data": { "public_key": "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo" },
    });
    world.call(Some(alice), "POST", "/_matrix/client/v3/room_keys/version", foreign);
    let from = world.server.requests().len();
    behaviour_common::put_state(
        &mut world,
        alice,
        &room,
        "m.room.history_visibility",
        "",
        json!({ "history_visibility": "joined" }),
    );
    world.settle();
    world.send(bob, &room, "two");
    world.settle();
    let kinds: Vec<Notice> = world.notices(alice);
    assert!(kinds.iter().any(|notice| matches!(notice, Notice::BackupStopped { .. })));
    assert!(kinds.iter().any(|notice| matches!(notice, Notice::BackupRefused)));
    assert!(!status(&mut world, alice).enabled);
    let uploads = requests(&world, alice, "/room_keys/keys", from);
    assert_eq!(uploads.len(), 1, "one that was refused");
    // The user makes a new one: everything goes there.
    let version = make_backup(&mut world, alice);
    assert!(status(&mut world, alice).enabled);
    let body = download(&mut world, alice, &version);
    let sessions = body["rooms"][room.as_str()]["sessions"].as_object().unwrap();
    assert_eq!(sessions.len(), 2);
    clean(&world);
}
