//! Creating rooms, and their aliases.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::HomeServer;
use super::http::{Answer, ApiError, Call, text};
use super::ids::{is_user_id, server_of};
use super::membership::Action;
use super::model::{Requester, Room};
use super::room_send::NewEvent;

/// The room version that the model speaks.
const ROOM_VERSION: &str = "10";

impl HomeServer {
    pub(super) fn create_room(&mut self, call: &Call<'_>, requester: &Requester) -> Answer {
        let body = call.object()?;
        let sender = requester.user.as_str();
        let now_ms = call.now_ms;
        let listed = text(&body, "visibility") == Some("public");
        let fallback = if listed { "public_chat" } else { "private_chat" };
        let preset = text(&body, "preset").unwrap_or(fallback);
        if !matches!(preset, "private_chat" | "trusted_private_chat" | "public_chat") {
            return Err(ApiError::bad_json("Unknown preset"));
        }
        let public = preset == "public_chat";
        let invited = invitees(&body)?;
        let alias = match text(&body, "room_alias_name") {
            Some(name) => Some(self.new_alias(name)?),
            None => None,
        };

        let local = self.letters("room", 18, false);
        let room_id = format!("!{local}:{}", server_of(sender));
        self.rooms.insert(room_id.clone(), Room::default());

        let mut create = object(body.get("creation_content"));
        create.insert("room_version".to_owned(), json!(ROOM_VERSION));
        create.insert("creator".to_owned(), json!(sender));
        self.append_state(now_ms, &room_id, sender, "m.room.create", Value::Object(create));
        let join = NewEvent::state(sender, "m.room.member", sender, self.join_content(sender));
        self.append_event(now_ms, &room_id, join);

        let initial: Vec<&Map<String, Value>> = body
            .get("initial_state")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_object)
            .collect();
        let given: BTreeSet<&str> =
            initial.iter().filter_map(|event| text(event, "type")).collect();
        if !given.contains("m.room.power_levels") {
            let mut levels = default_levels(sender, public);
            if preset == "trusted_private_chat" {
                for user in &invited {
                    levels["users"][user] = json!(100);
                }
            }
            for (name, value) in object(body.get("power_level_content_override")) {
                levels[name] = value;
            }
            self.append_state(now_ms, &room_id, sender, "m.room.power_levels", levels);
        }
        if let Some(alias) = &alias {
            self.aliases.insert(alias.clone(), room_id.clone());
            let content = json!({ "alias": alias });
            self.append_state(now_ms, &room_id, sender, "m.room.canonical_alias", content);
        }
        let join_rule = if public { "public" } else { "invite" };
        let guests = if public { "forbidden" } else { "can_join" };
        for (kind, content) in [
            ("m.room.join_rules", json!({ "join_rule": join_rule })),
            ("m.room.history_visibility", json!({ "history_visibility": "shared" })),
            ("m.room.guest_access", json!({ "guest_access": guests })),
        ] {
            if !given.contains(kind) {
                self.append_state(now_ms, &room_id, sender, kind, content);
            }
        }
        for event in initial {
            let kind = text(event, "type").unwrap_or_default();
            let key = text(event, "state_key").unwrap_or_default();
            let content = Value::Object(object(event.get("content")));
            self.append_event(now_ms, &room_id, NewEvent::state(sender, kind, key, content));
        }
        for (name, kind) in [("name", "m.room.name"), ("topic", "m.room.topic")] {
            if let Some(value) = text(&body, name) {
                self.append_state(now_ms, &room_id, sender, kind, json!({ name: value }));
            }
        }
        let direct = body.get("is_direct").and_then(Value::as_bool) == Some(true);
        for user in invited {
            let mut content = Map::new();
            if direct {
                content.insert("is_direct".to_owned(), json!(true));
            }
            self.change_membership(now_ms, &room_id, sender, &user, Action::Invite, content)?;
        }
        let mut out = json!({ "room_id": room_id });
        if let Some(alias) = alias {
            out["room_alias"] = json!(alias);
        }
        Ok(out)
    }

    fn append_state(&mut self, now_ms: u64, room: &str, sender: &str, kind: &str, content: Value) {
        self.append_event(now_ms, room, NewEvent::state(sender, kind, "", content));
    }

    pub(super) fn join_content(&self, user_id: &str) -> Value {
        let mut content = json!({ "membership": "join" });
        if let Some(user) = self.users.get(user_id) {
            if let Some(name) = &user.display_name {
                content["displayname"] = json!(name);
            }
            if let Some(url) = &user.avatar_url {
                content["avatar_url"] = json!(url);
            }
        }
        content
    }

    fn new_alias(&self, name: &str) -> Result<String, ApiError> {
        let alias = format!("#{name}:{}", self.name);
        if self.aliases.contains_key(&alias) {
            return Err(ApiError::new(400, "M_ROOM_IN_USE", "Room alias already taken"));
        }
        Ok(alias)
    }

    pub(super) fn get_alias(&self, alias: &str) -> Answer {
        let room = self.aliases.get(alias);
        room.map(|room| json!({ "room_id": room, "servers": [server_of(room)] }))
            .ok_or_else(|| ApiError::not_found("Room alias not found"))
    }

    pub(super) fn put_alias(&mut self, call: &Call<'_>, alias: &str) -> Answer {
        let body = call.object()?;
        let room = super::http::need_text(&body, "room_id")?;
        if self.aliases.contains_key(alias) {
            return Err(ApiError::new(409, "M_UNKNOWN", "Room alias already exists"));
        }
        self.aliases.insert(alias.to_owned(), room.to_owned());
        Ok(json!({}))
    }
}

fn object(value: Option<&Value>) -> Map<String, Value> {
    value.and_then(Value::as_object).cloned().unwrap_or_default()
}

fn invitees(body: &Map<String, Value>) -> Result<Vec<String>, ApiError> {
    let list = body.get("invite").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .map(|user| match user.as_str() {
            Some(user) if is_user_id(user) => Ok(user.to_owned()),
            _ => Err(ApiError::invalid("Invalid user_id in 'invite'")),
        })
        .collect()
}

fn default_levels(creator: &str, public: bool) -> Value {
    json!({
        "users": { creator: 100 },
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.history_visibility": 100,
            "m.room.canonical_alias": 50,
            "m.room.avatar": 50,
            "m.room.tombstone": 100,
            "m.room.server_acl": 100,
            "m.room.encryption": 100,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": if public { 50 } else { 0 },
        "historical": 100,
    })
}
