//! The simulation's profile with identities, some seeds of it; and the older profiles' schedules, which stay what they are.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use herold_testkit::{
    World,
    sim::{Profile, run, schedule},
};

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A seed is a name: what it has been played for, and found, must not become something else.
#[test]
fn the_seeds_of_the_older_profiles_keep_their_schedules() {
    let hashes =
        [Profile::Honest, Profile::Faulty, Profile::Hostile, Profile::Soak].map(|profile| {
            let all: Vec<_> = (0..50).map(|seed| schedule(seed, profile, 200)).collect();
            hash(&format!("{all:?}"))
        });
    assert_eq!(
        hashes,
        [
            178_951_652_644_593_255,
            13_144_733_979_244_836_453,
            9_462_220_564_258_469_983,
            2_776_605_151_233_268_685
        ]
    );
}

#[test]
fn identities_verification_backup_and_history_survive_faults() {
    let (mut restored, mut shared) = (0, 0);
    for seed in 0..12 {
        match run(seed, Profile::Identity, &schedule(seed, Profile::Identity, 150)) {
            Ok(report) => {
                restored += report.restored;
                shared += report.shared;
            }
            Err(failure) => panic!("seed {seed}: {failure}"),
        }
    }
    assert!(restored > 20 && shared > 2, "{restored} messages restored, {shared} histories shared");
}

/// An app and its notification process on one store, in turns: each goes on where the other was.
#[test]
fn two_processes_take_turns() {
    let mut world = World::new(1);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    for n in 0..12 {
        let text = format!("hers {n}");
        let sent = world.send(alice, &room, &text);
        world.take_turns(alice, n % 3 == 0);
        // The other has been told of everything, and uses nothing twice (W1 and W2).
        assert_eq!(world.text(alice, &room, &sent).as_deref(), Ok(text.as_str()));
        assert_eq!(world.text(bob, &room, &sent), Ok(text));
        let text = format!("his {n}");
        let sent = world.send(bob, &room, &text);
        assert_eq!(world.text(alice, &room, &sent), Ok(text));
        if n == 6 {
            world.lose_power(alice);
        }
    }
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// A store that runs twice is nobody else's loss.
#[test]
fn a_copy_of_a_store_takes_nothing_from_the_others() {
    let mut world = World::new(2);
    let (alice, bob, carol) =
        (world.add_device("alice"), world.add_device("bob"), world.add_device("carol"));
    let room = world.make_room(&[alice, bob, carol]);
    world.send(bob, &room, "before");
    let copy = world.copy_device(bob);
    for n in 0..4 {
        for device in [bob, copy] {
            let text = format!("{device} {n}");
            world.queue(device, &room, &text);
            world.settle();
        }
        let text = format!("hers {n}");
        let sent = world.send(alice, &room, &text);
        assert_eq!(world.text(carol, &room, &sent), Ok(text));
    }
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}
