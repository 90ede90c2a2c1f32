//! Who hears of whose devices.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::HomeServer;
use super::http::{Answer, ApiError, Call};
use super::model::{NOW, Requester, Room};
use super::sync::parse_token;

/// The difference between two stream positions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DeviceLists {
    pub(super) changed: BTreeSet<String>,
    pub(super) left: BTreeSet<String>,
}

impl DeviceLists {
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }

    pub(super) fn json(&self) -> Value {
        json!({ "changed": self.changed, "left": self.left })
    }
}

impl HomeServer {
    pub(super) fn note_device_change(&mut self, user_id: &str) {
        let pos = self.next_pos();
        self.device_changes.push((pos, user_id.to_owned()));
    }

    /// Whether two users are joined to one room at a position.
    fn shares(&self, user: &str, other: &str, pos: u64) -> bool {
        let joined = |room: &Room, user: &str| room.membership_at(user, pos) == "join";
        user == other || self.rooms.values().any(|room| joined(room, user) && joined(room, other))
    }

    /// As Synapse has it: `changed` also names whoever joined or was invited to a shared room,
    /// even if another room was shared already; `left` names only those who share none any more.
    pub(super) fn device_list_delta(&self, user: &str, from: u64, to: u64) -> DeviceLists {
        let mut out = DeviceLists::default();
        for room in self.rooms.values() {
            if room.events.last().is_some_and(|event| event.pos > from) {
                room_delta(room, user, from, to, &mut out);
            }
        }
        out.left.retain(|gone| !self.shares(user, gone, to));
        let recent = self.device_changes.partition_point(|(pos, _)| *pos <= from);
        for (pos, changed) in self.device_changes.iter().skip(recent) {
            if *pos <= to && !out.changed.contains(changed) && self.shares(user, changed, to) {
                out.changed.insert(changed.clone());
            }
        }
        let recent = self.signature_changes.partition_point(|(pos, ..)| *pos <= from);
        for (pos, signer, target) in self.signature_changes.iter().skip(recent) {
            if *pos <= to && signer == user {
                out.changed.insert(target.clone());
            }
        }
        let left = &out.left;
        out.changed.retain(|name| !left.contains(name));
        out
    }

    pub(super) fn keys_changes(&self, call: &Call<'_>, requester: &Requester) -> Answer {
        let token = |name: &str| -> Result<Option<u64>, ApiError> {
            call.query(name).map(|text| parse_token(text).map(|token| token.pos)).transpose()
        };
        let from = token("from")?
            .ok_or_else(|| ApiError::new(400, "M_MISSING_PARAM", "Missing 'from'"))?;
        let to = token("to")?.unwrap_or(NOW);
        Ok(self.device_list_delta(&requester.user, from, to).json())
    }
}

/// What one room adds; whoever is in `left` may still share another room.
fn room_delta(room: &Room, user: &str, from: u64, to: u64, out: &mut DeviceLists) {
    let joined = |pos: u64| room.members_at("join", pos).into_iter().map(str::to_owned);
    let mut own = room.membership_log(user, from);
    own.retain(|(pos, _)| *pos <= to);
    let before = room.membership_at(user, from);
    let after = room.membership_at(user, to);
    if after != "join" {
        let last_join = own.iter().rev().find(|(_, now)| *now == "join").map(|(pos, _)| *pos);
        if before == "join" || last_join.is_some() {
            let joined_at = last_join.unwrap_or(from);
            let end = own.iter().find(|(pos, now)| *pos > joined_at && *now != "join");
            out.left.extend(joined(end.map_or(joined_at, |(pos, _)| pos.saturating_sub(1))));
        }
        return;
    }
    if before != "join" || own.iter().any(|(_, now)| *now != "join") {
        out.changed.extend(joined(to));
    }
    for event in room.events.iter().skip(room.first_after(from)) {
        let (true, Some(target)) =
            (event.kind() == "m.room.member" && event.pos <= to, event.state_key())
        else {
            continue;
        };
        let membership = event.content("membership").and_then(Value::as_str);
        if matches!(membership, Some("join" | "invite")) {
            out.left.remove(target);
            out.changed.insert(target.to_owned());
        } else {
            out.changed.remove(target);
            if room.membership_at(target, event.pos.saturating_sub(1)) == "join" {
                out.left.insert(target.to_owned());
            }
        }
    }
}
