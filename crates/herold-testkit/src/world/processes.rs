//! More than one process: two that share a device's store and take turns, and a copy of a store beside the first.

use std::collections::BTreeSet;

use super::{SimDevice, World};
use crate::Disk;

impl World {
    /// The process that has a device's store lets go of it, and another one goes on: a second one that is started the first
    /// time, and from then on whichever had it before. If `frozen`, the first is suspended altogether, as an app is in the
    /// background. Answers under way are for the process that asked: they are lost with its turn.
    pub fn take_turns(&mut self, device: usize, frozen: bool) {
        let late = std::mem::take(&mut self.late);
        let (given_up, late) = late.into_iter().partition(|(of, ..)| *of == device);
        self.late = late;
        let sim = &mut self.devices[device];
        sim.disk.share();
        if let Some(engine) = &mut sim.engine {
            let given_up: Vec<_> = given_up;
            for (_, outgoing, _) in given_up {
                engine.abandon(&outgoing.id);
            }
            let gone = if frozen { engine.suspend() } else { engine.let_go() };
            gone.expect("a store can always be let go of");
        }
        std::mem::swap(&mut sim.engine, &mut sim.other);
        sim.disk.revive();
        if let Some(engine) = &mut sim.engine {
            engine.resume();
            engine.hold().expect("nobody else has it");
        }
    }

    /// A copy of a device's store is started beside it, on another machine: the same log-in and the same keys twice. The
    /// copy's number.
    pub fn copy_device(&mut self, device: usize) -> usize {
        let disk = Disk::new();
        let sim = &self.devices[device];
        disk.restore(sim.disk.image());
        self.oracle.excuse(sim.user_id.as_str(), &sim.device_id);
        let copy = SimDevice {
            user_id: sim.user_id.clone(),
            device_id: sim.device_id.clone(),
            disk,
            events: sim.events.clone(),
            deaths: 0,
            published: sim.published,
            sliding: sim.sliding,
            token: sim.token.clone(),
            acknowledged: sim.acknowledged,
            engine: None,
            other: None,
            online: true,
            waiting: BTreeSet::new(),
        };
        self.devices.push(copy);
        self.devices.len() - 1
    }
}
