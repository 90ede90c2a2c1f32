//! Who may see an event, and how the event looks to them.

use serde_json::{Value, json};

use super::model::{Event, NOW, Requester, Room};

impl Room {
    fn visibility_at(&self, pos: u64) -> &str {
        self.state_at("m.room.history_visibility", "", pos)
            .and_then(|event| event.content("history_visibility"))
            .and_then(Value::as_str)
            .unwrap_or("shared")
    }

    /// History visibility, as it was when the event was sent.
    pub(super) fn visible(&self, event: &Event, user: &str) -> bool {
        if event.kind() == "m.room.member" && event.state_key() == Some(user) {
            return true;
        }
        let membership = self.membership_at(user, event.pos);
        if membership == "join" {
            return true;
        }
        let allows = |visibility: &str| match visibility {
            "world_readable" => true,
            "shared" => self.membership_log(user, event.pos).iter().any(|(_, now)| *now == "join"),
            "invited" => membership == "invite",
            _ => false,
        };
        // A change of the visibility counts with whatever shows more.
        allows(self.visibility_at(event.pos))
            || (event.kind() == "m.room.history_visibility"
                && allows(self.visibility_at(event.pos.saturating_sub(1))))
    }

    /// Up to which position this user sees the room; `None` for a stranger.
    pub(super) fn horizon(&self, user: &str) -> Option<u64> {
        if self.membership(user) == "join" || self.visibility_at(NOW) == "world_readable" {
            return Some(NOW);
        }
        if self.forgotten.contains(user) {
            return None;
        }
        let log = self.membership_log(user, 0);
        let joined = log.iter().rposition(|(_, now)| *now == "join")?;
        log.get(joined + 1).map(|(pos, _)| *pos)
    }

    /// The event as a client gets it.
    pub(super) fn serve(&self, event: &Event, viewer: &Requester, now_ms: u64) -> Value {
        let mut out = event.value.clone();
        let Some(map) = out.as_object_mut() else { return out };
        let mut unsigned = match map.remove("unsigned") {
            Some(Value::Object(unsigned)) => unsigned,
            _ => serde_json::Map::new(),
        };
        if let Some(sent) = map.get("origin_server_ts").and_then(Value::as_u64) {
            unsigned.insert("age".to_owned(), json!(now_ms.saturating_sub(sent)));
        }
        if let Some((origin, txn)) = &event.origin
            && origin == viewer
        {
            unsigned.insert("transaction_id".to_owned(), json!(txn));
        }
        if let Some(old) = event.replaces.and_then(|index| self.event(index)) {
            let content = old.value.get("content").cloned().unwrap_or_default();
            unsigned.insert("prev_content".to_owned(), content);
            unsigned.insert("prev_sender".to_owned(), json!(old.sender()));
            unsigned.insert("replaces_state".to_owned(), json!(old.id()));
        }
        let membership = match self.membership_at(&viewer.user, event.pos) {
            "" => "leave",
            membership => membership,
        };
        unsigned.insert("membership".to_owned(), json!(membership));
        if let Some(redaction) = event.redacted_by.and_then(|index| self.event(index)) {
            unsigned.insert("redacted_by".to_owned(), json!(redaction.id()));
            unsigned.insert("redacted_because".to_owned(), redaction.value.clone());
        }
        map.insert("unsigned".to_owned(), Value::Object(unsigned));
        out
    }

    /// The event as it stands in a sync response: the room is known from where it stands.
    pub(super) fn serve_in_sync(&self, event: &Event, viewer: &Requester, now_ms: u64) -> Value {
        let mut out = self.serve(event, viewer, now_ms);
        if let Some(map) = out.as_object_mut() {
            map.remove("room_id");
        }
        out
    }
}

/// The four fields of stripped state.
pub(super) fn stripped(event: &Event) -> Value {
    json!({
        "type": event.kind(),
        "state_key": event.state_key(),
        "sender": event.sender(),
        "content": event.value.get("content"),
    })
}
