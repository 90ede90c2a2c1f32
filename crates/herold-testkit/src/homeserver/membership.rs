//! Who may join, invite, leave, kick and ban.

use serde_json::{Map, Value, json};

use super::HomeServer;
use super::http::{Answer, ApiError, Call, need_text, text};
use super::ids::is_user_id;
use super::model::{Requester, Room};
use super::room_send::NewEvent;

/// What a client asked for. A kick, an unban and leaving all end in `leave`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Join,
    Invite,
    Leave,
    Kick,
    Ban,
    Unban,
}

impl Action {
    pub(super) fn membership(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Ban => "ban",
            Self::Leave | Self::Kick | Self::Unban => "leave",
        }
    }
}

impl HomeServer {
    /// `POST rooms/{id}/join|leave|invite|kick|ban|unban|forget`.
    pub(super) fn membership_call(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        room_id: &str,
        action: Action,
    ) -> Answer {
        let body = call.object_or_empty()?;
        let target = match action {
            Action::Join | Action::Leave => requester.user.clone(),
            _ => need_text(&body, "user_id")?.to_owned(),
        };
        let mut content = Map::new();
        if let Some(reason) = text(&body, "reason") {
            content.insert("reason".to_owned(), json!(reason));
        }
        self.change_membership(call.now_ms, room_id, &requester.user, &target, action, content)?;
        Ok(if action == Action::Join { json!({ "room_id": room_id }) } else { json!({}) })
    }

    pub(super) fn join_by_name(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        name: &str,
    ) -> Answer {
        let room_id = if name.starts_with('#') {
            let known = self.aliases.get(name).cloned();
            known.ok_or_else(|| ApiError::not_found(&format!("Room alias {name} not found")))?
        } else {
            name.to_owned()
        };
        self.membership_call(call, requester, &room_id, Action::Join)
    }

    pub(super) fn forget(&mut self, requester: &Requester, room_id: &str) -> Answer {
        let room = self.rooms.get_mut(room_id).ok_or_else(unknown_room)?;
        if matches!(room.membership(&requester.user), "join" | "invite") {
            let error = format!("User {} in room {room_id}", requester.user);
            return Err(ApiError::new(400, "M_UNKNOWN", &error));
        }
        room.forgotten.insert(requester.user.clone());
        Ok(json!({}))
    }

    /// Checks the rules and appends the membership event; the id of the old one if nothing
    /// changes.
    pub(super) fn change_membership(
        &mut self,
        now_ms: u64,
        room_id: &str,
        sender: &str,
        target: &str,
        action: Action,
        mut content: Map<String, Value>,
    ) -> Result<String, ApiError> {
        if !is_user_id(target) {
            return Err(ApiError::invalid("Invalid user ID"));
        }
        let room = self.rooms.get(room_id).ok_or_else(unknown_room)?;
        self.check_membership(room, sender, target, action)?;
        content.insert("membership".to_owned(), json!(action.membership()));
        if matches!(action, Action::Join | Action::Invite)
            && let Some(user) = self.users.get(target)
        {
            let profile = [("displayname", &user.display_name), ("avatar_url", &user.avatar_url)];
            for (name, value) in profile {
                if let (Some(value), false) = (value, content.contains_key(name)) {
                    content.insert(name.to_owned(), json!(value));
                }
            }
        }
        let content = Value::Object(content);
        let old = room.state_now("m.room.member", target);
        if let Some(old) = old
            && room.membership(target) == action.membership()
            && (action == Action::Leave || old.value.get("content") == Some(&content))
        {
            return Ok(old.id().to_owned());
        }
        if let Some(room) = self.rooms.get_mut(room_id) {
            room.forgotten.remove(target);
        }
        let event = NewEvent::state(sender, "m.room.member", target, content);
        Ok(self.append_event(now_ms, room_id, event))
    }

    fn check_membership(
        &self,
        room: &Room,
        sender: &str,
        target: &str,
        action: Action,
    ) -> Result<(), ApiError> {
        let now = room.membership(target);
        let refuse = |error: &str| Err(ApiError::forbidden(error));
        match action {
            Action::Join if sender != target => {
                return refuse("Cannot force another user to join.");
            }
            Action::Join => {
                return match now {
                    "ban" => refuse("You are banned from this room"),
                    "join" | "invite" => Ok(()),
                    _ if self.may_join_unasked(room, sender) => Ok(()),
                    _ => refuse("You are not invited to this room."),
                };
            }
            Action::Leave => {
                return match now {
                    "ban" => refuse("You have been banned from this room"),
                    "" => refuse("User not in room"),
                    _ => Ok(()),
                };
            }
            _ => {}
        }
        if room.membership(sender) != "join" {
            return refuse(&format!("{sender} not in room."));
        }
        let own = room.user_level(sender);
        let needs = |name: &str| {
            if own < room.action_level(name) {
                refuse(&format!("You don't have permission to {name}"))
            } else {
                Ok(())
            }
        };
        let outranks = || {
            if sender != target && own <= room.user_level(target) {
                refuse(&format!("You cannot act on user {target}."))
            } else {
                Ok(())
            }
        };
        match action {
            Action::Invite => {
                needs("invite")?;
                match now {
                    "ban" => refuse(&format!("{target} is banned from the room")),
                    "join" => refuse(&format!("{target} is already in the room.")),
                    _ => Ok(()),
                }
            }
            Action::Kick => {
                needs("kick")?;
                outranks()?;
                match now {
                    "join" | "invite" | "knock" => Ok(()),
                    "ban" => refuse("Cannot kick: the user is banned"),
                    _ => refuse("The target user is not in the room"),
                }
            }
            Action::Ban => {
                needs("ban")?;
                outranks()
            }
            Action::Unban => {
                needs("ban")?;
                outranks()?;
                if now == "ban" { Ok(()) } else { refuse("Cannot unban: the user is not banned") }
            }
            Action::Join | Action::Leave => Ok(()),
        }
    }

    fn may_join_unasked(&self, room: &Room, user: &str) -> bool {
        let Some(rules) = room.state_now("m.room.join_rules", "") else { return false };
        match rules.content("join_rule").and_then(Value::as_str) {
            Some("public") => true,
            Some("restricted" | "knock_restricted") => {
                let allow = rules.content("allow").and_then(Value::as_array);
                allow.into_iter().flatten().any(|rule| {
                    let other = rule.get("room_id").and_then(Value::as_str).unwrap_or_default();
                    self.rooms.get(other).is_some_and(|other| other.membership(user) == "join")
                })
            }
            _ => false,
        }
    }
}

pub(super) fn unknown_room() -> ApiError {
    ApiError::not_found("Unknown room")
}
