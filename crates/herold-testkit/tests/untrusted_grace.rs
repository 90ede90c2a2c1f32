//! The policy between "cross-signed devices only" and "verified users only": a device that is not cross-signed
//! gets no key, is told of once, and closes its rooms after a time.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;
mod behaviour_common;

use std::time::Duration;

use attacks_common::{CrossSigning, rows};
use behaviour_common::{block, clean, log_length, log_out, sent_to, session, turn_back};
use herold::{
    DecryptTrust, DeviceId, Notice, OwnedDeviceId, OwnedRoomId, OwnedTransactionId, Policy,
    QueueState, Recipients,
};
use herold_testkit::{Attacker, Disk, World, kill_at_each_commit, open_policy};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn policy() -> Policy {
    Policy { recipients: Recipients::IdentityBasedThenStrict, ..open_policy() }
}

/// Alice under the policy; Bob with a signed device and one that is not, in her room.
struct Scene {
    world: World,
    alice: usize,
    bob: usize,
    unsigned: usize,
    identity: CrossSigning,
    room: OwnedRoomId,
}

fn scene(seed: u64) -> Scene {
    let mut world = World::new(seed);
    let alice = world.add_device_with("alice", policy());
    let bob = world.add_device("bob");
    world.settle();
    let identity = CrossSigning::upload(&mut world, bob);
    identity.sign_device(&mut world, bob);
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "before");
    let unsigned = world.add_device("bob");
    world.settle();
    Scene { world, alice, bob, unsigned, identity, room }
}

fn told(world: &World, device: usize) -> Vec<(OwnedDeviceId, u64)> {
    world
        .notices(device)
        .into_iter()
        .filter_map(|notice| match notice {
            Notice::UntrustedDevice { device_id, strict_at, .. } => {
                Some((device_id, strict_at.as_millis()))
            }
            _ => None,
        })
        .collect()
}

fn try_send(
    world: &mut World,
    from: usize,
    room: &OwnedRoomId,
    text: &str,
) -> Result<String, String> {
    let txn = world.queue(from, room, text);
    world.settle();
    outcome(world, from, room, &txn)
}

/// The session of an event that was sent, or why it was refused, as the queue has it.
fn outcome(
    world: &mut World,
    from: usize,
    room: &OwnedRoomId,
    txn: &OwnedTransactionId,
) -> Result<String, String> {
    if let Some(event) = world.sent(from, txn) {
        return Ok(session(world, room, &event));
    }
    let queue =
        world.command(from, |engine| engine.read(|machine, snapshot| machine.queue(snapshot)));
    let row = queue.expect("it lives").into_iter().find(|(_, row)| row.txn_id == *txn);
    match row.map(|(_, row)| row.state) {
        Some(QueueState::Failed { errcode }) => Err(errcode),
        state => Err(format!("{state:?}")),
    }
}

fn retry(world: &mut World, from: usize, txn: &OwnedTransactionId) {
    world.command(from, |engine| {
        engine.step(|machine, snapshot, cx| machine.retry_queued(snapshot, cx, txn))
    });
    world.settle();
}

const STRICT: Result<String, &str> = Err("UNTRUSTED_DEVICES");

fn is_strict(sent: &Result<String, String>) -> bool {
    sent.as_ref().map_err(String::as_str) == STRICT.as_ref().map_err(|code| *code)
}

#[test]
fn a_device_that_is_not_cross_signed_is_left_out_told_of_once_and_then_closes_the_room() {
    let Scene { mut world, alice, bob, unsigned, room, .. } = scene(901);
    let start = log_length(&world);
    let first_seen = world.clock.millis();
    let first = try_send(&mut world, alice, &room, "within the time").unwrap();
    let name: &DeviceId = world.devices[unsigned].device_id.as_str().into();
    let expected = vec![(name.to_owned(), first_seen + 7 * 86_400_000)];
    assert_eq!(told(&world, alice), expected);
    assert!(sent_to(&world, unsigned, "m.room.encrypted", start).is_empty());
    let withheld = sent_to(&world, unsigned, "m.room_key.withheld", start);
    assert_eq!(withheld.len(), 1);
    assert_eq!(withheld[0].content["code"], "m.unverified");
    world.restart(alice);
    world.clock.advance(6 * DAY);
    let second = try_send(&mut world, alice, &room, "on the sixth day").unwrap();
    assert_eq!(first, second);
    assert_eq!(world.texts(bob, &room).len(), 3);
    world.clock.advance(DAY + Duration::from_secs(1));
    // The time passes whatever is cached, and whether or not a session is due anyway.
    let late = try_send(&mut world, alice, &room, "on the eighth");
    assert!(is_strict(&late), "{late:?}");
    world.restart(alice);
    assert!(is_strict(&try_send(&mut world, alice, &room, "again")));
    assert_eq!(told(&world, alice), expected, "told once");
    assert_eq!(world.texts(bob, &room).len(), 3);
    clean(&world);
}

#[test]
fn a_room_opens_again_when_the_device_is_signed_removed_or_blocked() {
    for way in ["signed", "removed", "blocked", "gone from the room"] {
        let Scene { mut world, alice, bob, unsigned, identity, room } = scene(902);
        let carol = world.add_device("carol");
        world.settle();
        try_send(&mut world, alice, &room, "within the time").unwrap();
        world.clock.advance(8 * DAY);
        let txn = world.queue(alice, &room, "held");
        world.settle();
        assert!(is_strict(&outcome(&mut world, alice, &room, &txn)), "{way}");
        // Another room is no affair of that device.
        let other = world.make_room(&[alice]);
        try_send(&mut world, alice, &other, "alone").unwrap();
        match way {
            "signed" => identity.sign_device(&mut world, unsigned),
            "removed" => log_out(&mut world, unsigned),
            "blocked" => block(&mut world, alice, unsigned, true),
            _ => world.leave(bob, &room),
        }
        world.settle();
        retry(&mut world, alice, &txn);
        assert!(outcome(&mut world, alice, &room, &txn).is_ok(), "{way}");
        let reads = world.texts(unsigned, &room).contains(&"held".to_owned());
        assert_eq!(reads, way == "signed", "{way}");
        let _ = carol;
        clean(&world);
    }
}

/// Behaviour 40, and the way out: another identity is a doubt that the app's user can lift.
#[test]
fn a_changed_identity_counts_until_it_is_accepted() {
    let Scene { mut world, alice, bob, unsigned, room, .. } = scene(909);
    log_out(&mut world, unsigned);
    world.settle();
    let user = world.devices[bob].user_id.clone();
    try_send(&mut world, alice, &room, "as it was").unwrap();
    let other = CrossSigning::new(user.as_str());
    world.server.override_cross_signing_key(user.as_str(), "master", Some(other.master_key()));
    let key = Some(other.self_signing_key());
    world.server.override_cross_signing_key(user.as_str(), "self_signing", key);
    let id = world.devices[bob].device_id.clone();
    let keys = attacks_common::published(&mut world, bob, user.as_str(), &id);
    world.server.override_device_keys(user.as_str(), &id, other.sign(keys));
    world.settle();
    assert_eq!(behaviour_common::notices(&world, alice, "identity_changed").len(), 1);
    let start = log_length(&world);
    try_send(&mut world, alice, &room, "not for the other").unwrap();
    assert!(sent_to(&world, bob, "m.room.encrypted", start).is_empty());
    assert_eq!(told(&world, alice).len(), 1);
    world.clock.advance(8 * DAY);
    let txn = world.queue(alice, &room, "held");
    world.settle();
    assert!(is_strict(&outcome(&mut world, alice, &room, &txn)));
    let pinned = world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| machine.pin_identity(snapshot, cx, &user))
    });
    assert!(pinned.is_some());
    retry(&mut world, alice, &txn);
    assert!(outcome(&mut world, alice, &room, &txn).is_ok());
    assert!(world.texts(bob, &room).contains(&"held".to_owned()));
    let nobody: herold::OwnedUserId = "@nobody:world.test".try_into().unwrap();
    let pinned = world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| machine.pin_identity(snapshot, cx, &nobody))
    });
    assert!(pinned.is_none());
    clean(&world);
}

#[test]
fn a_device_that_hides_and_comes_back_gains_no_time() {
    let Scene { mut world, alice, unsigned, room, .. } = scene(903);
    let (user, id) =
        (world.devices[unsigned].user_id.to_string(), world.devices[unsigned].device_id.clone());
    try_send(&mut world, alice, &room, "seen").unwrap();
    for day in 0..6 {
        let hidden = serde_json::Value::Null;
        world.server.override_device_keys(&user, &id, hidden);
        world.settle();
        try_send(&mut world, alice, &room, "hidden").unwrap();
        world.server.restore_device_keys(&user, &id);
        world.clock.advance(DAY);
        world.settle();
        assert!(try_send(&mut world, alice, &room, "back").is_ok(), "day {day}");
    }
    world.clock.advance(DAY);
    assert!(is_strict(&try_send(&mut world, alice, &room, "the eighth day")));
    assert_eq!(told(&world, alice).len(), 1);
    clean(&world);
}

/// A user can have a device after the other: what is noted of those that have gone is bounded, and takes no
/// older note away.
#[test]
fn a_crowd_of_devices_that_come_and_go_fills_nothing_and_gains_nobody_time() {
    let Scene { mut world, alice, bob, room, .. } = scene(906);
    let bob_id = world.devices[bob].user_id.to_string();
    for round in 0..12 {
        let ids: Vec<String> = (0..50).map(|n| format!("R{round}N{n}")).collect();
        for id in &ids {
            let keys = Attacker::unlisted(&bob_id, id).device_keys();
            world.server.add_device_keys(&bob_id, id, keys);
        }
        world.settle();
        try_send(&mut world, alice, &room, "told").unwrap();
        for id in &ids {
            world.server.override_device_keys(&bob_id, id, serde_json::Value::Null);
        }
        world.settle();
        world.clock.advance(Duration::from_secs(60));
    }
    assert_eq!(told(&world, alice).len(), 601);
    let rows = rows(&world, alice, herold_store::Table::UntrustedDevice);
    assert!(rows <= 550, "{rows} notes of devices that have gone");
    // The first, which is still there, counts from when it was first seen.
    world.clock.advance(7 * DAY - Duration::from_secs(60));
    let late = try_send(&mut world, alice, &room, "too late");
    assert!(is_strict(&late), "{late:?}");
    clean(&world);
}

#[test]
fn a_clock_that_jumps_is_harmless() {
    let Scene { mut world, alice, room, .. } = scene(904);
    // Ten years ahead when the device is first seen: its time counts from when the clock is right again.
    let wrong = 3650 * DAY;
    world.clock.advance(wrong);
    try_send(&mut world, alice, &room, "seen").unwrap();
    turn_back(&world, wrong);
    try_send(&mut world, alice, &room, "right again").unwrap();
    world.clock.advance(6 * DAY);
    try_send(&mut world, alice, &room, "the sixth day").unwrap();
    world.clock.advance(2 * DAY);
    assert!(is_strict(&try_send(&mut world, alice, &room, "the eighth day")));
    // A jump ahead closes early, which the way back mends; one back closes late by no more than it was.
    let Scene { mut world, alice, room, .. } = scene(905);
    try_send(&mut world, alice, &room, "seen").unwrap();
    world.clock.advance(30 * DAY);
    let txn = world.queue(alice, &room, "too early");
    world.settle();
    assert!(is_strict(&outcome(&mut world, alice, &room, &txn)));
    turn_back(&world, 30 * DAY);
    retry(&mut world, alice, &txn);
    assert!(outcome(&mut world, alice, &room, &txn).is_ok());
    turn_back(&world, 30 * DAY);
    try_send(&mut world, alice, &room, "long ago").unwrap();
    world.clock.advance(8 * DAY);
    assert!(is_strict(&try_send(&mut world, alice, &room, "eight days later")));
    clean(&world);
}

#[test]
fn the_floor_holds_it_in_its_place() {
    let mut world = World::new(906);
    let floor = herold::PolicyFloor {
        recipients: Recipients::IdentityBasedThenStrict,
        decrypt_trust: DecryptTrust::Any,
    };
    let alice = world.add_device_with("alice", Policy { floor, ..policy() });
    for (recipients, allowed) in [
        (Recipients::AllDevices, false),
        (Recipients::IdentityBased, false),
        (Recipients::IdentityBasedThenStrict, true),
        (Recipients::OnlyTrusted, true),
        (Recipients::IdentityBasedThenStrict, true),
    ] {
        let set = world.command(alice, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.set_policy(snapshot, cx, recipients, DecryptTrust::Any)
            })
        });
        assert_eq!(set.is_some(), allowed, "{recipients:?}");
    }
}

#[test]
fn under_the_other_policies_nobody_is_told_and_nothing_closes() {
    let Scene { mut world, alice, room, .. } = scene(907);
    world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| {
            machine.set_policy(snapshot, cx, Recipients::IdentityBased, DecryptTrust::Any)
        })
    });
    world.clock.advance(30 * DAY);
    try_send(&mut world, alice, &room, "as ever").unwrap();
    assert!(told(&world, alice).is_empty());
    // The time begins with the policy.
    world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| {
            machine.set_policy(snapshot, cx, Recipients::IdentityBasedThenStrict, DecryptTrust::Any)
        })
    });
    try_send(&mut world, alice, &room, "and now").unwrap();
    assert_eq!(told(&world, alice).len(), 1);
    clean(&world);
}

#[test]
fn what_is_counted_survives_a_kill_at_each_commit() {
    fn story(world: &mut World, disks: &[Disk]) {
        let alice = world.add_device_on("alice", policy(), disks[0].clone());
        let bob = world.add_device("bob");
        world.settle();
        let identity = CrossSigning::upload(world, bob);
        identity.sign_device(world, bob);
        let unsigned = world.add_device("bob");
        let room = world.make_room(&[alice, bob]);
        try_send(world, alice, &room, "within the time").unwrap();
        assert_eq!(told(world, alice).len(), 1);
        world.clock.advance(8 * DAY);
        let txn = world.queue(alice, &room, "held");
        world.settle();
        assert!(is_strict(&outcome(world, alice, &room, &txn)));
        identity.sign_device(world, unsigned);
        world.settle();
        retry(world, alice, &txn);
        if outcome(world, alice, &room, &txn).is_err() {
            retry(world, alice, &txn); // it died over the first
        }
        assert_eq!(world.texts(bob, &room), ["within the time", "held"]);
        assert_eq!(told(world, alice).len(), 1);
    }
    let kills = kill_at_each_commit(908, 1, story);
    assert!(kills > 20, "only {kills} kills");
}
