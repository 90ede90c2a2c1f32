//! Verification in the world: short strings and codes, own devices and other users, and what follows from it.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;
mod identity_common;

use behaviour_common::{clean, seconds};
use herold::{IdentityState, OwnedUserId};
use herold_machine::{VerificationAction, VerificationView};
use herold_testkit::World;
use herold_trust::{CancelCode, Methods, ShortAuthString, VerificationState};
use identity_common::{bootstrap, identity_of, is_signed, make_backup, secret, status};

fn view(world: &mut World, device: usize) -> VerificationView {
    let mut views = world
        .command(device, |engine| engine.read(|machine, snapshot| machine.verifications(snapshot)))
        .unwrap();
    assert_eq!(views.len(), 1, "verifications of device {device}");
    views.remove(0)
}

fn act(world: &mut World, device: usize, action: VerificationAction) {
    let view = view(world, device);
    let known = world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| {
            machine.act_on_verification(snapshot, cx, &view.user_id, &view.flow_id, action)
        })
    });
    assert!(known.unwrap().reply);
    world.settle();
}

fn request(world: &mut World, device: usize, user: &OwnedUserId) {
    world
        .command(device, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.request_verification(snapshot, cx, user, None, Methods::ALL)
            })
        })
        .unwrap();
    world.settle();
}

fn strings(world: &mut World, device: usize) -> ShortAuthString {
    match view(world, device).state {
        VerificationState::KeysExchanged(strings) => strings,
        state => panic!("device {device}: {state:?}"),
    }
}

fn compare(world: &mut World, a: usize, b: usize) {
    act(world, b, VerificationAction::Accept(Methods::ALL));
    act(world, a, VerificationAction::StartSas);
    let shown = strings(world, a);
    assert!(shown.emoji.is_some() && shown.decimals.is_some());
    assert!(shown == strings(world, b));
}

fn is_done(world: &mut World, device: usize) -> bool {
    matches!(view(world, device).state, VerificationState::Done { .. })
}

/// Behaviour 39.
#[test]
fn two_users_verify_each_other_in_a_room() {
    let mut world = World::new(901);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    bootstrap(&mut world, alice, false);
    bootstrap(&mut world, bob, false);
    let user = world.devices[bob].user_id.clone();
    world
        .command(alice, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.request_room_verification(snapshot, cx, &room, &user, None)
            })
        })
        .unwrap();
    world.settle();
    compare(&mut world, alice, bob);
    act(&mut world, alice, VerificationAction::Confirm);
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::Pinned);
    // A kill in the middle is no end.
    world.restart(bob);
    world.restart(alice);
    act(&mut world, bob, VerificationAction::Confirm);
    assert!(is_done(&mut world, alice) && is_done(&mut world, bob));
    world.settle();
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::Verified);
    assert_eq!(identity_of(&mut world, bob, alice), IdentityState::Verified);
    // Behaviour 40, attack N03: another identity is not the verified one, and nothing is sent to it.
    bootstrap(&mut world, bob, true);
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::VerificationViolation);
    let txn = world.queue(alice, &room, "held");
    world.settle();
    assert_eq!(world.sent(alice, &txn), None);
    world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| machine.withdraw_verification(snapshot, cx, &user))
    });
    world.settle();
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::Pinned);
    let event = world.sent(alice, &txn).expect("sent");
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("held"));
    clean(&world);
}

/// Behaviours 38 and 39.
#[test]
fn a_new_device_is_verified_and_given_the_secrets() {
    let mut world = World::new(902);
    let (first, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[first, bob]);
    bootstrap(&mut world, first, false);
    let version = make_backup(&mut world, first);
    world.send(bob, &room, "early");
    let second = world.add_device("alice");
    world.settle();
    let user = world.devices[first].user_id.clone();
    request(&mut world, second, &user);
    compare(&mut world, second, first);
    act(&mut world, first, VerificationAction::Confirm);
    assert!(secret(&mut world, second, "m.cross_signing.master").is_none());
    act(&mut world, second, VerificationAction::Confirm);
    assert!(is_done(&mut world, first) && is_done(&mut world, second));
    world.clock.advance(seconds(5));
    world.settle();
    assert_eq!(identity_of(&mut world, second, first), IdentityState::Verified);
    assert!(is_signed(&mut world, bob, second));
    for name in ["master", "self_signing", "user_signing"] {
        assert!(secret(&mut world, second, &format!("m.cross_signing.{name}")).is_some(), "{name}");
    }
    let backup = status(&mut world, second);
    assert_eq!(backup.version.as_deref(), Some(version.as_str()));
    assert!(backup.enabled && backup.has_key);
    clean(&world);
}

#[test]
fn a_code_that_is_scanned_verifies_both() {
    let mut world = World::new(903);
    let first = world.add_device("alice");
    bootstrap(&mut world, first, false);
    let second = world.add_device("alice");
    world.settle();
    let user = world.devices[first].user_id.clone();
    request(&mut world, first, &user);
    act(&mut world, second, VerificationAction::Accept(Methods::ALL));
    let shown = view(&mut world, first);
    let code = world
        .command(first, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.show_verification_code(snapshot, cx, &user, &shown.flow_id)
            })
        })
        .unwrap()
        .reply
        .expect("a code");
    let scan = |world: &mut World, code: &[u8]| {
        world
            .command(second, |engine| {
                engine.step(|machine, snapshot, cx| {
                    machine.scan_verification_code(snapshot, cx, &user, &shown.flow_id, code)
                })
            })
            .unwrap()
            .reply
    };
    assert!(!scan(&mut world, b"MATRIX"));
    assert!(scan(&mut world, code.as_slice()));
    world.settle();
    assert_eq!(view(&mut world, first).state, VerificationState::Scanned);
    act(&mut world, first, VerificationAction::Confirm);
    assert!(is_done(&mut world, first) && is_done(&mut world, second));
    world.clock.advance(seconds(5));
    world.settle();
    assert_eq!(identity_of(&mut world, second, first), IdentityState::Verified);
    assert!(is_signed(&mut world, first, second));
    assert!(secret(&mut world, second, "m.cross_signing.master").is_some());
    clean(&world);
}

fn code_of(world: &mut World, device: usize) -> CancelCode {
    match view(world, device).state {
        VerificationState::Cancelled { code, .. } => code,
        state => panic!("device {device}: {state:?}"),
    }
}

/// Behaviour 39: unhappy paths sign nothing and end on both sides with the right code.
#[test]
fn what_ends_badly_signs_nothing() {
    for (seed, action, code) in [
        (904, VerificationAction::Mismatch, CancelCode::MismatchedSas),
        (905, VerificationAction::Cancel, CancelCode::User),
    ] {
        let mut world = World::new(seed);
        let first = world.add_device("alice");
        bootstrap(&mut world, first, false);
        let second = world.add_device("alice");
        world.settle();
        let user = world.devices[first].user_id.clone();
        request(&mut world, second, &user);
        compare(&mut world, second, first);
        act(&mut world, first, VerificationAction::Confirm);
        act(&mut world, second, action);
        assert_eq!(code_of(&mut world, first), code);
        assert_eq!(code_of(&mut world, second), code);
        assert!(!is_signed(&mut world, first, second));
        assert_eq!(identity_of(&mut world, second, first), IdentityState::Pinned);
        assert!(secret(&mut world, second, "m.cross_signing.master").is_none());
        clean(&world);
    }
}

#[test]
fn a_request_that_nobody_answers_ends_in_time() {
    let mut world = World::new(906);
    let first = world.add_device("alice");
    bootstrap(&mut world, first, false);
    let second = world.add_device("alice");
    world.settle();
    let user = world.devices[first].user_id.clone();
    request(&mut world, second, &user);
    world.clock.advance(seconds(601));
    world.settle();
    assert_eq!(code_of(&mut world, second), CancelCode::Timeout);
    world.clock.advance(seconds(2 * 24 * 3600));
    world.settle();
    let left = world
        .command(second, |engine| engine.read(|machine, snapshot| machine.verifications(snapshot)))
        .unwrap();
    assert!(left.is_empty());
    clean(&world);
}

/// A new device asks before the others have heard of it.
#[test]
fn a_request_waits_for_the_device_list() {
    let mut world = World::new(907);
    let first = world.add_device("alice");
    bootstrap(&mut world, first, false);
    world.set_online(first, false);
    let second = world.add_device("alice");
    while world.pump(second) {}
    world.sync(second);
    while world.pump(second) {}
    let user = world.devices[first].user_id.clone();
    world
        .command(second, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.request_verification(snapshot, cx, &user, None, Methods::SAS)
            })
        })
        .unwrap();
    while world.pump(second) {}
    world.set_online(first, true);
    world.sync(first);
    world.settle();
    assert_eq!(view(&mut world, first).state, VerificationState::Requested { by_us: false });
    clean(&world);
}
