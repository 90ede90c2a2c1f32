//! `/keys/changes`: what changed in a stretch of time that no sync response covered.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use herold::OwnedUserId;
use herold_machine::Machine;
use herold_testkit::World;
use serde_json::Value;

/// Behaviour 33.
#[test]
fn a_stretch_without_sync_is_caught_up_by_keys_changes() {
    let mut world = World::new(5);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    world.make_room(&[alice, bob]);
    let bob_id: OwnedUserId = world.devices[bob].user_id.clone();
    let devices = |world: &mut World| {
        world
            .command(alice, |engine| {
                engine.read(|machine, snapshot| machine.devices(snapshot, &bob_id))
            })
            .expect("alice lives")
    };
    let request = world
        .command(alice, |engine| engine.read(|machine, snapshot| machine.sync_request(snapshot, 0)))
        .expect("alice lives");
    let from = request.query.iter().find(|(name, _)| name == "since").expect("a token").1.clone();
    assert!(!devices(&mut world).outdated);

    world.set_online(alice, false);
    world.add_device("bob");
    world.settle();
    let now = world.call(Some(alice), "GET", "/_matrix/client/v3/sync", Value::Null);
    let to = now["next_batch"].as_str().expect("a token").to_owned();
    let http = Machine::keys_changes_request(&from, &to);
    let answer = world.call_http(alice, &http);
    assert!(
        answer["changed"]
            .as_array()
            .is_some_and(|users| users.iter().any(|u| u == bob_id.as_str()))
    );
    world
        .command(alice, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.handle_keys_changes(snapshot, cx, answer.to_string().as_bytes())
            })
        })
        .expect("alice lives");
    assert!(devices(&mut world).outdated);
    world.set_online(alice, true);
    world.settle();
    assert_eq!(devices(&mut world).devices.len(), 2);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}
