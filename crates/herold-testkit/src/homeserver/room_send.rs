//! Sending messages and state, and redacting.

use serde_json::{Map, Value, json};

use super::HomeServer;
use super::http::{Answer, ApiError, Call, text};
use super::membership::{Action, unknown_room};
use super::model::{Event, Requester, empty};

/// An event before the server gives it an id and a position.
pub(super) struct NewEvent<'a> {
    pub(super) sender: &'a str,
    pub(super) kind: &'a str,
    pub(super) state_key: Option<&'a str>,
    pub(super) content: Value,
    pub(super) redacts: Option<&'a str>,
    pub(super) origin: Option<(Requester, String)>,
}

impl<'a> NewEvent<'a> {
    pub(super) fn state(sender: &'a str, kind: &'a str, key: &'a str, content: Value) -> Self {
        Self { sender, kind, state_key: Some(key), content, redacts: None, origin: None }
    }
}

impl HomeServer {
    /// Appends without any check and returns the event id.
    pub(super) fn append_event(&mut self, now_ms: u64, room: &str, new: NewEvent<'_>) -> String {
        let mut value = json!({
            "type": new.kind,
            "room_id": room,
            "sender": new.sender,
            "content": new.content,
            "origin_server_ts": now_ms,
        });
        if let Some(key) = new.state_key {
            value["state_key"] = json!(key);
        }
        if let Some(redacts) = new.redacts {
            value["redacts"] = json!(redacts);
        }
        let id = self.event_id(value.to_string().as_bytes());
        value["event_id"] = json!(id);
        let pos = self.next_pos();
        if let Some(room) = self.rooms.get_mut(room) {
            let origin = new.origin;
            room.append(Event { pos, value, redacted_by: None, replaces: None, origin });
        }
        id
    }

    fn known_txn(&self, requester: &Requester, room: &str, txn: &str) -> Option<Value> {
        let device = self.device(&requester.user, &requester.device)?;
        let id = device.event_txns.get(&(room.to_owned(), txn.to_owned()))?;
        Some(json!({ "event_id": id }))
    }

    fn note_txn(&mut self, requester: &Requester, room: &str, txn: &str, event_id: &str) {
        if let Some(device) = self.device_mut(&requester.user, &requester.device) {
            device.event_txns.insert((room.to_owned(), txn.to_owned()), event_id.to_owned());
        }
    }

    pub(super) fn send_event(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        room_id: &str,
        kind: &str,
        txn: &str,
    ) -> Answer {
        if kind == "m.room.redaction" {
            let target = text(&call.object()?, "redacts").map(str::to_owned);
            let target = target.ok_or_else(|| ApiError::bad_json("Missing 'redacts'"))?;
            return self.redact(call, requester, room_id, &target, txn);
        }
        let content = Value::Object(call.object()?);
        if let Some(known) = self.known_txn(requester, room_id, txn) {
            return Ok(known);
        }
        let room = self.rooms.get(room_id).ok_or_else(|| not_in_room(requester))?;
        room.check_send(&requester.user, kind, None)?;
        let id = self.append_event(
            call.now_ms,
            room_id,
            NewEvent {
                sender: &requester.user,
                kind,
                state_key: None,
                content,
                redacts: None,
                origin: Some((requester.clone(), txn.to_owned())),
            },
        );
        self.note_txn(requester, room_id, txn, &id);
        Ok(json!({ "event_id": id }))
    }

    pub(super) fn put_state(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        room_id: &str,
        kind: &str,
        key: &str,
    ) -> Answer {
        let content = call.object()?;
        let id =
            self.set_state(call.now_ms, room_id, &requester.user, kind, key, content.clone())?;
        Ok(json!({ "event_id": id }))
    }

    pub(super) fn set_state(
        &mut self,
        now_ms: u64,
        room_id: &str,
        sender: &str,
        kind: &str,
        key: &str,
        content: Map<String, Value>,
    ) -> Result<String, ApiError> {
        let room = self.rooms.get(room_id).ok_or_else(unknown_room)?;
        if kind == "m.room.member" {
            let action = match text(&content, "membership") {
                Some("join") => Action::Join,
                Some("invite") => Action::Invite,
                Some("ban") => Action::Ban,
                Some("leave") if key == sender => Action::Leave,
                Some("leave") if room.membership(key) == "ban" => Action::Unban,
                Some("leave") => Action::Kick,
                _ => return Err(ApiError::bad_json("Invalid membership")),
            };
            return self.change_membership(now_ms, room_id, sender, key, action, content);
        }
        room.check_send(sender, kind, Some(key))?;
        if kind == "m.room.create" {
            return Err(ApiError::forbidden("A room is created only once"));
        }
        if kind == "m.room.power_levels" {
            room.check_power_change(sender, &content)?;
        }
        let content = Value::Object(content);
        if let Some(old) = room.state_now(kind, key)
            && old.sender() == sender
            && old.value.get("content") == Some(&content)
        {
            return Ok(old.id().to_owned());
        }
        Ok(self.append_event(now_ms, room_id, NewEvent::state(sender, kind, key, content)))
    }

    pub(super) fn redact(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        room_id: &str,
        target: &str,
        txn: &str,
    ) -> Answer {
        let mut content = call.object_or_empty()?;
        content.remove("redacts");
        if let Some(known) = self.known_txn(requester, room_id, txn) {
            return Ok(known);
        }
        let room = self.rooms.get(room_id).ok_or_else(|| not_in_room(requester))?;
        room.check_send(&requester.user, "m.room.redaction", None)?;
        let index = *room.by_id.get(target).ok_or_else(|| ApiError::not_found("No such event"))?;
        let own = room.event(index).is_some_and(|event| event.sender() == requester.user);
        if !own && room.user_level(&requester.user) < room.action_level("redact") {
            return Err(ApiError::forbidden("You don't have permission to redact events"));
        }
        let id = self.append_event(
            call.now_ms,
            room_id,
            NewEvent {
                sender: &requester.user,
                kind: "m.room.redaction",
                state_key: None,
                content: Value::Object(content),
                redacts: Some(target),
                origin: Some((requester.clone(), txn.to_owned())),
            },
        );
        self.note_txn(requester, room_id, txn, &id);
        if let Some(room) = self.rooms.get_mut(room_id) {
            let redaction = room.events.len().saturating_sub(1);
            if let Some(event) = room.events.get_mut(index) {
                event.value["content"] = kept_content(event);
                event.redacted_by = Some(redaction);
            }
        }
        Ok(json!({ "event_id": id }))
    }
}

/// What a redaction leaves of a content in a room of version 10.
fn kept_content(event: &Event) -> Value {
    let kept: &[&str] = match event.kind() {
        "m.room.member" => &["membership", "join_authorised_via_users_server"],
        "m.room.create" => &["creator"],
        "m.room.join_rules" => &["join_rule", "allow"],
        "m.room.history_visibility" => &["history_visibility"],
        "m.room.power_levels" => &[
            "ban",
            "events",
            "events_default",
            "kick",
            "redact",
            "state_default",
            "users",
            "users_default",
        ],
        _ => &[],
    };
    let mut out = empty();
    for key in kept {
        if let Some(value) = event.content(key) {
            out[*key] = value.clone();
        }
    }
    out
}

pub(super) fn not_in_room(requester: &Requester) -> ApiError {
    ApiError::forbidden(&format!("User {} not in room", requester.user))
}
