//! [`kill_at_each_commit`]: a scenario again and again, each time with one device dying at another
//! commit. What the scenario asserts must hold every time, and so must the oracle.

use crate::{Disk, Kill, World};

/// A story: it makes its devices on the disks it is given, and asserts what must hold at its end.
pub type Scenario = fn(&mut World, &[Disk]);

/// Runs `scenario` without a kill, then once for each of the `devices` and each of its commits, dying
/// before it and after it. Answers how many kills there were.
///
/// # Panics
/// If the scenario fails, a device could not be killed, or the oracle saw a violation. The message names
/// the seed, the device and the kill.
pub fn kill_at_each_commit(seed: u64, devices: usize, scenario: Scenario) -> u64 {
    let disks = run(seed, devices, scenario, None);
    let mut kills = 0;
    for (device, disk) in disks.iter().enumerate() {
        for commit in 0..disk.commits() {
            for kill in [Kill::Before(commit), Kill::After(commit)] {
                run(seed, devices, scenario, Some((device, kill)));
                kills += 1;
            }
        }
    }
    kills
}

fn run(seed: u64, devices: usize, scenario: Scenario, kill: Option<(usize, Kill)>) -> Vec<Disk> {
    let disks: Vec<Disk> = (0..devices).map(|_| Disk::new()).collect();
    if let Some((device, kill)) = kill {
        disks[device].kill(kill);
    }
    let mut world = World::new(seed);
    let story = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        scenario(&mut world, &disks);
    }));
    if let Err(cause) = story {
        let text = cause
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        panic!("seed {seed}, {kill:?}: {text}");
    }
    assert!(
        world.oracle.violations().is_empty(),
        "seed {seed}, {kill:?}: {:?}",
        world.oracle.violations()
    );
    disks
}
