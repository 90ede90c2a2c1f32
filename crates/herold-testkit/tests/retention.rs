//! Forgetting on purpose: what is said, all of it, and nothing else; looked at first, and cut short by a kill.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;

use behaviour_common::{clean, contains_text, seconds, session};
use herold::{Engine, EngineError, MachineError, OwnedEventId, OwnedRoomId};
use herold_machine::{Forgotten, Retention, RetentionCursor};
use herold_store::{
    SnapshotExt as _, Table,
    records::{InboundSessionRecord, OlmSessionRecord},
};
use herold_testkit::{World, open_policy};
use herold_trust::{Lifetimes, Policy};
use serde_json::json;
use std::time::Duration;

const DAY: u64 = 24 * 3600;

fn days(n: u64) -> Duration {
    Duration::from_secs(n * DAY)
}

/// Alice and Bob, a session for each message.
fn talk(seed: u64) -> (World, usize, usize, OwnedRoomId) {
    let mut world = World::new(seed);
    let alice = world.add_device_with("alice", open_policy());
    let bob = world.add_device("bob");
    let rotation = json!({ "rotation_period_msgs": 1 });
    let room = world.make_room_with(&[alice, bob], rotation, "shared");
    (world, alice, bob, room)
}

fn lasting(lifetimes: Lifetimes) -> Retention {
    Retention { room_id: None, lifetimes }
}

#[test]
fn what_the_policy_wants_gone_goes_whatever_the_app_asks_for() {
    let mut world = World::new(8);
    let lifetimes = Lifetimes { room_keys: Some(days(30)), ..Lifetimes::default() };
    let alice = world.add_device_with("alice", open_policy());
    let bob = world.add_device_with("bob", Policy { lifetimes, ..open_policy() });
    let rotation = json!({ "rotation_period_msgs": 1 });
    let room = world.make_room_with(&[alice, bob], rotation, "shared");
    world.send(alice, &room, "old");
    world.clock.advance(days(31));
    assert_eq!(apply(&mut world, alice, &Retention::default()), Forgotten::default());
    assert_eq!(preview(&mut world, bob, &Retention::default()).room_keys, 1);
    // A longer time does not count, a shorter one does.
    let keep = lasting(Lifetimes { room_keys: Some(days(300)), ..Lifetimes::default() });
    assert_eq!(apply(&mut world, bob, &keep).room_keys, 1);
    world.send(alice, &room, "new");
    world.clock.advance(days(2));
    // A deployment that has become stricter reaches those who were there before.
    let stricter = Policy { lifetimes, ..open_policy() };
    world
        .command(alice, |engine| {
            engine.step(|machine, snapshot, cx| machine.raise_floor(snapshot, cx, &stricter))
        })
        .expect("the policy is raised");
    let found = world.command(alice, |engine| Ok(engine.machine().policy().lifetimes));
    assert_eq!(found, Some(lifetimes));
    let hurry = lasting(Lifetimes { room_keys: Some(days(1)), ..Lifetimes::default() });
    assert_eq!(apply(&mut world, bob, &hurry).room_keys, 1);
    clean(&world);
}

fn preview(world: &mut World, device: usize, retention: &Retention) -> Forgotten {
    all(world, device, |engine, cursor| {
        let now = engine.now();
        engine.read(|machine, snapshot| machine.preview_retention(snapshot, now, retention, cursor))
    })
}

fn apply(world: &mut World, device: usize, retention: &Retention) -> Forgotten {
    all(world, device, |engine, cursor| {
        let step = engine
            .step(|machine, snapshot, cx| machine.apply_retention(snapshot, cx, retention, cursor));
        step.map(|outputs| outputs.reply)
    })
}

type Answer = Result<(Forgotten, Option<RetentionCursor>), EngineError>;

fn all(
    world: &mut World,
    device: usize,
    step: impl Fn(&mut Engine, Option<&RetentionCursor>) -> Answer,
) -> Forgotten {
    let mut sum = Forgotten::default();
    let mut cursor = None;
    loop {
        let answer = world.command(device, |engine| step(engine, cursor.as_ref()));
        let (forgotten, next) = answer.expect("it can be forgotten");
        sum.add(&forgotten);
        let Some(next) = next else { return sum };
        cursor = Some(next);
    }
}

fn keys(world: &World, device: usize) -> usize {
    let image = world.devices[device].disk.image();
    image.list::<InboundSessionRecord>(&[], usize::MAX).expect("readable").len()
}

fn rows(world: &World, device: usize) -> usize {
    let image = world.devices[device].disk.image();
    let count = |table: &Table| {
        let mut rows = 0;
        herold_store::Snapshot::scan(&image, *table, &[], None, &mut |_, _| {
            rows += 1;
            std::ops::ControlFlow::Continue(())
        })
        .expect("readable");
        rows
    };
    Table::ALL.iter().map(count).sum()
}

#[test]
fn old_room_keys_go_and_what_they_have_decrypted_stays() {
    let (mut world, alice, bob, room) = talk(1);
    let old: Vec<OwnedEventId> =
        (0..3).map(|n| world.send(alice, &room, &format!("old {n}"))).collect();
    world.clock.advance(days(40));
    let new = world.send(alice, &room, "new");
    assert_eq!(world.text(bob, &room, &new).as_deref(), Ok("new"));
    assert_eq!(keys(&world, bob), 4);
    let retention = lasting(Lifetimes { room_keys: Some(days(30)), ..Lifetimes::default() });
    let planned = preview(&mut world, bob, &retention);
    assert_eq!(planned, Forgotten { room_keys: 3, ..Forgotten::default() });
    assert_eq!(keys(&world, bob), 4, "looking changes nothing");
    assert_eq!(apply(&mut world, bob, &retention), planned);
    assert_eq!(keys(&world, bob), 1);
    world.lose_power(bob);
    assert_eq!(keys(&world, bob), 1, "for good");
    for (n, event) in old.iter().enumerate() {
        assert_eq!(world.text(bob, &room, event), Ok(format!("old {n}")));
    }
    assert_eq!(apply(&mut world, bob, &retention), Forgotten::default());
    clean(&world);
}

#[test]
fn nothing_is_forgotten_by_default_and_one_room_alone_if_it_is_named() {
    let (mut world, alice, bob, room) = talk(2);
    let other = world.make_room(&[alice, bob]);
    world.send(alice, &room, "here");
    world.send(alice, &other, "there");
    world.clock.advance(days(400));
    let before = rows(&world, bob);
    assert_eq!(apply(&mut world, bob, &Retention::default()), Forgotten::default());
    assert_eq!(rows(&world, bob), before);
    let retention = Retention {
        room_id: Some(room.clone()),
        lifetimes: Lifetimes {
            room_keys: Some(days(1)),
            events: Some(days(1)),
            olm_sessions: Some(days(1)),
            ..Lifetimes::default()
        },
    };
    let forgotten = apply(&mut world, bob, &retention);
    assert_eq!((forgotten.room_keys, forgotten.olm_sessions), (1, 0));
    assert!(forgotten.events >= 1);
    assert_eq!(keys(&world, bob), 1);
    clean(&world);
}

#[test]
fn old_events_go_with_their_content_and_the_timeline_goes_on() {
    let (mut world, alice, bob, room) = talk(3);
    world.send(alice, &room, "a canary of old");
    world.clock.advance(days(40));
    world.send(alice, &room, "of today");
    let retention = lasting(Lifetimes { events: Some(days(30)), ..Lifetimes::default() });
    let image = |world: &World| world.devices[bob].disk.image();
    assert!(contains_text(&image(&world), "a canary of old"));
    let planned = preview(&mut world, bob, &retention);
    assert_eq!(apply(&mut world, bob, &retention), planned);
    assert!(planned.events > 0);
    assert!(!contains_text(&image(&world), "a canary of old"));
    let texts = world.texts(bob, &room);
    assert!(
        texts.contains(&"of today".to_owned()) && !texts.contains(&"a canary of old".to_owned())
    );
    world.restart(bob);
    let next = world.send(alice, &room, "of tomorrow");
    assert_eq!(world.text(bob, &room, &next).as_deref(), Ok("of tomorrow"));
    clean(&world);
}

#[test]
fn a_key_that_was_moved_on_does_not_decrypt_what_it_has_decrypted_and_decrypts_what_comes() {
    let mut world = World::new(4);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    let sent: Vec<OwnedEventId> =
        (0..3).map(|n| world.send(alice, &room, &format!("{n}"))).collect();
    world.clock.advance(days(2));
    let retention = lasting(Lifetimes { ratchet_forward: Some(days(1)), ..Lifetimes::default() });
    let planned = preview(&mut world, bob, &retention);
    assert_eq!(planned, Forgotten { ratcheted: 1, ..Forgotten::default() });
    assert_eq!(apply(&mut world, bob, &retention), planned);
    let records = world.devices[bob].disk.image().list::<InboundSessionRecord>(&[], 9).unwrap();
    let first: Vec<u32> = records.iter().map(|(_, record)| record.first_known_index).collect();
    assert_eq!(first, [3]);
    world.restart(bob);
    let next = world.send(alice, &room, "next");
    assert_eq!(session(&world, &room, &next), session(&world, &room, &sent[0]));
    assert_eq!(world.text(bob, &room, &next).as_deref(), Ok("next"));
    assert_eq!(world.text(bob, &room, &sent[0]).as_deref(), Ok("0"), "it is kept as text");
    // Once more: only behind what is new.
    world.clock.advance(days(2));
    assert_eq!(apply(&mut world, bob, &retention).ratcheted, 1);
    assert_eq!(apply(&mut world, bob, &retention).ratcheted, 0);
    clean(&world);
}

#[test]
fn a_room_is_forgotten_whole_once_it_was_left_and_no_sooner() {
    let (mut world, alice, bob, room) = talk(5);
    let other = world.make_room(&[alice, bob]);
    world.send(bob, &room, "a canary of Bob's");
    world.send(alice, &room, "a canary of Alice's");
    let kept = world.send(alice, &other, "kept");
    let forget = |world: &mut World| {
        let room = room.clone();
        let forgotten = world.command(bob, move |engine| {
            Ok(engine.step(|machine, snapshot, cx| machine.forget_room(snapshot, cx, &room)))
        });
        forgotten.expect("Bob's device is alive")
    };
    let before = rows(&world, bob);
    let refused = forget(&mut world);
    assert!(matches!(refused, Err(EngineError::Machine(MachineError::NotLeft))));
    assert_eq!(rows(&world, bob), before);
    world.leave(bob, &room);
    world.settle();
    let forgotten = forget(&mut world).expect("it was left").reply;
    assert_eq!(forgotten.room_keys, 2);
    let image = world.devices[bob].disk.image();
    for text in ["a canary of Bob's", "a canary of Alice's"] {
        assert!(!contains_text(&image, text), "{text}");
    }
    let mut naming = Vec::new();
    for table in Table::ALL {
        herold_store::Snapshot::scan(&image, *table, &[], None, &mut |key, _| {
            if key.windows(room.as_str().len()).any(|part| part == room.as_str().as_bytes()) {
                naming.push(table.name());
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    }
    assert_eq!(naming, [] as [&str; 0]);
    assert!(matches!(forget(&mut world), Err(EngineError::Machine(MachineError::UnknownRoom))));
    assert_eq!(world.text(bob, &other, &kept).as_deref(), Ok("kept"));
    // He may come back.
    world.invite(alice, &room, bob);
    world.join(bob, &room);
    world.settle();
    let again = world.send(alice, &room, "again");
    assert_eq!(world.text(bob, &room, &again).as_deref(), Ok("again"));
    clean(&world);
}

#[test]
fn olm_sessions_out_of_use_go_and_the_newest_stays() {
    let (mut world, alice, bob, room) = talk(6);
    world.send(alice, &room, "hello");
    world.send(bob, &room, "hello");
    let sessions = |world: &World| {
        let image = world.devices[bob].disk.image();
        image.list::<OlmSessionRecord>(&[], usize::MAX).expect("readable").len()
    };
    let before = sessions(&world);
    assert!(before >= 1);
    world.clock.advance(days(100));
    let retention = lasting(Lifetimes { olm_sessions: Some(days(90)), ..Lifetimes::default() });
    let gone = apply(&mut world, bob, &retention).olm_sessions;
    assert_eq!(sessions(&world) as u64, before as u64 - gone);
    assert!(sessions(&world) >= 1);
    let next = world.send(alice, &room, "next");
    assert_eq!(world.text(bob, &room, &next).as_deref(), Ok("next"));
    world.clock.advance(seconds(10));
    clean(&world);
}
