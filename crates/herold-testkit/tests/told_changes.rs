//! What an app is told of identities and devices as they change, without asking.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;
mod identity_common;

use behaviour_common::clean;
use herold::{AppEvent, IdentityState, OwnedUserId};
use herold_testkit::World;
use identity_common::bootstrap;
use serde_json::json;

/// What a device was told of identities and device lists since it was last asked.
fn told(world: &mut World, device: usize) -> Vec<AppEvent> {
    world.settle();
    let told =
        |event: &AppEvent| matches!(event, AppEvent::Identity { .. } | AppEvent::Devices { .. });
    std::mem::take(&mut world.devices[device].events).into_iter().filter(told).collect()
}

fn user(world: &World, device: usize) -> OwnedUserId {
    world.devices[device].user_id.clone()
}

#[test]
fn a_device_that_comes_or_goes_is_told_once_and_a_list_that_is_new_is_not() {
    let mut world = World::new(1201);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let _room = world.make_room(&[alice, bob]);
    assert_eq!(told(&mut world, alice), []);
    let (user_id, tablet) = (user(&world, bob), world.add_device("bob"));
    let device_id: herold::OwnedDeviceId = world.devices[tablet].device_id.as_str().into();
    let added = vec![device_id.clone()];
    let event = AppEvent::Devices { user_id: user_id.clone(), added, removed: vec![] };
    assert_eq!(told(&mut world, alice), std::slice::from_ref(&event));
    assert_eq!(told(&mut world, bob), [event], "its own other devices hear of it too");
    assert_eq!(told(&mut world, tablet), [], "not of itself");
    world.server.announce_devices(user_id.as_str());
    assert_eq!(told(&mut world, alice), [], "nothing is new");
    world.restart(alice);
    assert_eq!(told(&mut world, alice), []);
    world.call(Some(tablet), "POST", "/_matrix/client/v3/logout", json!({}));
    world.set_online(tablet, false);
    let event = AppEvent::Devices { user_id, added: vec![], removed: vec![device_id] };
    assert_eq!(told(&mut world, alice), std::slice::from_ref(&event));
    assert_eq!(told(&mut world, bob), [event]);
}

#[test]
fn an_identity_that_changes_is_told_with_how_it_stands() {
    let mut world = World::new(1202);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let _room = world.make_room(&[alice, bob]);
    told(&mut world, alice);
    told(&mut world, bob);
    bootstrap(&mut world, bob, false);
    let user_id = user(&world, bob);
    let event = |before, state, new_keys| AppEvent::Identity {
        user_id: user_id.clone(),
        before,
        state,
        new_keys,
    };
    assert_eq!(told(&mut world, alice), [], "it is seen for the first time");
    let own = told(&mut world, bob);
    assert!(
        matches!(own.last(), Some(AppEvent::Identity { state: IdentityState::Verified, .. })),
        "{own:?}"
    );
    bootstrap(&mut world, bob, true);
    let pinned = Some(IdentityState::Pinned);
    assert_eq!(told(&mut world, alice), [event(pinned, IdentityState::PinViolation, true)]);
    let own = told(&mut world, bob);
    assert!(
        own.iter().any(|event| matches!(event, AppEvent::Identity { new_keys: true, .. })),
        "{own:?}"
    );
    let pinned = world
        .command(alice, |engine| {
            engine.step(|machine, snapshot, cx| machine.pin_identity(snapshot, cx, &user_id))
        })
        .unwrap();
    let events: Vec<AppEvent> = pinned.events.into_iter().map(|(_, event)| event).collect();
    let violated = Some(IdentityState::PinViolation);
    assert_eq!(events, [event(violated, IdentityState::Pinned, false)]);
    clean(&world);
}
