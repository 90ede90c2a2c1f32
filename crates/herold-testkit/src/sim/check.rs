//! What must hold when the world has healed.

use std::collections::{BTreeMap, BTreeSet};

use herold::{AppEvent, OwnedEventId, OwnedRoomId, RoomEvent, Shield};
use serde_json::Value;

use super::{Profile, model::Message, play::Sim};

/// Compares the world with the model.
pub(super) fn check(sim: &mut Sim) -> Result<(), String> {
    if let Some(violation) = sim.world.oracle.violations().first() {
        return Err(violation.clone());
    }
    sim.note_sent();
    all_sent(sim)?;
    in_order(sim)?;
    readable(sim)?;
    genuine(sim)?;
    if sim.profile.has_identities() {
        sim.finale()?;
    }
    sim.villains.check(&mut sim.world)
}

impl Sim {
    /// Which event each message has become.
    fn note_sent(&mut self) {
        for message in &mut self.messages {
            message.event_id = self.world.sent(message.device, &message.txn_id);
            message.failed = self.world.devices[message.device].events.iter().any(|event| {
                matches!(event, AppEvent::SendFailed { txn_id, .. } if *txn_id == message.txn_id)
            });
        }
    }

    /// Whether a device's user is in a room, so that it sends and is served.
    pub(super) fn joined(&self, device: usize, room: &OwnedRoomId) -> bool {
        let user = self.world.devices[device].user_id.to_string();
        self.world.server.members_of(room.as_str(), "join").contains(&user)
    }

    pub(super) fn excused(&self, device: usize) -> bool {
        self.states[device].rolled_back || self.states[device].copied
    }
}

/// Every message has gone out, unless its sender left the room or was logged out.
fn all_sent(sim: &Sim) -> Result<(), String> {
    for message in &sim.messages {
        let gone = sim.states[message.device].logged_out || sim.excused(message.device);
        let may_fail = message.failed && left_once(sim, message);
        if message.event_id.is_none() && !gone && !may_fail && !message.forgotten {
            return Err(format!(
                "{:?} of device {} was never sent ({})",
                message.body,
                message.device,
                if message.failed { "it failed" } else { "it waits" }
            ));
        }
    }
    Ok(())
}

/// Whether the sender of a message has been outside of the room at some time.
fn left_once(sim: &Sim, message: &Message) -> bool {
    let user = sim.world.devices[message.device].user_id.as_str();
    sim.world.server.events(message.room.as_str()).iter().any(|event| {
        event["type"] == "m.room.member"
            && event["state_key"] == user
            && matches!(event["content"]["membership"].as_str(), Some("leave" | "ban"))
    })
}

/// The messages of a device to a room stand there in the order of the queue, each once.
fn in_order(sim: &Sim) -> Result<(), String> {
    for room in &sim.rooms {
        let places: BTreeMap<String, usize> = sim
            .world
            .server
            .events(room.as_str())
            .iter()
            .enumerate()
            .filter_map(|(place, event)| Some((event["event_id"].as_str()?.to_owned(), place)))
            .collect();
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        for message in sim.messages.iter().filter(|message| message.room == *room) {
            let Some(event_id) = &message.event_id else { continue };
            if sim.excused(message.device) {
                continue;
            }
            let Some(place) = places.get(event_id.as_str()) else {
                return Err(format!("{:?} is not in its room", message.body));
            };
            if last.insert(message.device, *place).is_some_and(|before| before >= *place) {
                return Err(format!("{:?} is out of order, or twice", message.body));
            }
        }
    }
    Ok(())
}

/// Who must can, and who must not cannot.
fn readable(sim: &mut Sim) -> Result<(), String> {
    let allowed = sim.profile.has_identities().then(|| sim.allowed());
    for place in 0..sim.messages.len() {
        let message = &sim.messages[place];
        let (Some(event_id), Some(readers)) = (message.event_id.clone(), &message.readers) else {
            continue;
        };
        let (room, body, sender) = (message.room.clone(), message.body.clone(), message.device);
        let (may, must, unseen) =
            (readers.may.clone(), readers.must.clone(), readers.unseen.clone());
        let since = readers.position..=sim.world.server.position();
        for device in 0..sim.world.devices.len() {
            let there = if may.contains(&device) {
                fetch(sim, device, &room, &event_id)
            } else {
                hand_over(sim, device, &room, &event_id)
            };
            let text = sim.world.text(device, &room, &event_id);
            let clear = text.as_deref() == Ok(body.as_str());
            if let Ok(other) = &text
                && !clear
            {
                return Err(format!("device {device} shows {body:?} as {other:?}"));
            }
            let is_unseen = unseen.contains(sim.world.devices[device].user_id.as_str())
                && !sim.states[sender].ever_blocked.contains(&device);
            let allowed =
                allowed.as_ref().is_some_and(|allowed| allowed.contains(&(place, device)));
            if clear && !may.contains(&device) && !is_unseen && !allowed {
                return Err(format!(
                    "device {device} reads {body:?} of {sender}, which it may not"
                ));
            }
            // A device whose disk was put back may have used up what others have, and lost what it had.
            let excused = sim.excused(device) || sim.excused(sender);
            // Who could not be reached at first and is not to be any more has missed it.
            let stayed = |device: usize| {
                let user = sim.world.devices[device].user_id.as_str();
                sim.world.server.reads_along(room.as_str(), user, since.clone()).1
            };
            let missed = sim.states[sender].ever_blocked.contains(&device)
                || sim.profile.includes(Profile::Faulty) && !(stayed(device) && stayed(sender));
            let promised = must.contains(&device)
                && there
                && !missed
                && !sim.villains.copied(&event_id)
                && !sim.states[device].logged_out
                && !sim.states[sender].logged_out
                && !excused;
            if promised && !clear {
                return Err(format!(
                    "device {device} cannot read {body:?} of device {sender}: {}",
                    text.err().unwrap_or_default()
                ));
            }
            match (promised, may.contains(&device) || allowed) {
                (true, _) => sim.report.read += 1,
                (_, false) => sim.report.unread += 1,
                _ => {
                    sim.report.open.0 += 1;
                    sim.report.open.1 += u64::from(clear);
                }
            }
        }
    }
    Ok(())
}

/// Gives a device an event that it must not be able to read, member or not: who has the key needs only a
/// server that plays along. Whether it has it now.
pub(super) fn hand_over(
    sim: &mut Sim,
    device: usize,
    room: &OwnedRoomId,
    event_id: &OwnedEventId,
) -> bool {
    if sim.world.event(device, room, event_id).is_none() {
        let events = sim.world.server.events(room.as_str());
        let Some(event) = events.iter().find(|event| event["event_id"] == event_id.as_str()) else {
            return false;
        };
        take(sim, device, room, event_id, &event.to_string());
    }
    sim.world.event(device, room, event_id).is_some()
}

/// Has a device fetch an event that it does not have. Whether it has it now.
fn fetch(sim: &mut Sim, device: usize, room: &OwnedRoomId, event_id: &OwnedEventId) -> bool {
    if sim.world.event(device, room, event_id).is_some() {
        return true;
    }
    if sim.states[device].logged_out || !sim.joined(device, room) {
        return false;
    }
    let request = herold_machine::Machine::event_request(room, event_id);
    let body = sim.world.call_http(device, &request).to_string();
    take(sim, device, room, event_id, &body);
    sim.world.event(device, room, event_id).is_some()
}

fn take(sim: &mut Sim, device: usize, room: &OwnedRoomId, event_id: &OwnedEventId, event: &str) {
    sim.world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| {
            machine.handle_event(snapshot, cx, room, event_id, event.as_bytes())
        })
    });
}

/// Whatever is shown without a warning was said by the one it is shown of, once, in that room.
fn genuine(sim: &mut Sim) -> Result<(), String> {
    if !sim.profile.includes(Profile::Hostile) {
        return Ok(());
    }
    for device in 0..sim.world.devices.len() {
        for room in sim.rooms.clone() {
            let events: Vec<RoomEvent> = sim
                .world
                .command(device, |engine| {
                    engine.read(|machine, snapshot| machine.timeline(snapshot, &room, 10_000))
                })
                .unwrap_or_default();
            let mut shown = BTreeSet::new();
            for event in events {
                let Ok(clear) = &event.body else { continue };
                if clear.event_type != "m.room.message" || matches!(event.shield, Shield::Red(_)) {
                    continue;
                }
                let content: Value = serde_json::from_str(&clear.content).unwrap_or_default();
                let body = content["body"].as_str().unwrap_or_default();
                let said = sim.messages.iter().any(|message| {
                    message.body == body
                        && message.room == room
                        && message.event_id.as_ref().is_none_or(|id| {
                            // Of an event and its copy the one that comes first is the genuine one.
                            *id == event.event_id || sim.villains.copied(id)
                        })
                        && sim.world.devices[message.device].user_id == event.sender
                });
                if said && !shown.insert(body.to_owned()) {
                    return Err(format!("device {device} shows {body:?} twice"));
                }
                if !said && !sim.villains.said(&event.sender, body) {
                    return Err(format!(
                        "device {device} shows {body:?} of {} under {} with {:?}, which nobody said so",
                        event.sender, event.event_id, event.shield
                    ));
                }
            }
        }
    }
    Ok(())
}
