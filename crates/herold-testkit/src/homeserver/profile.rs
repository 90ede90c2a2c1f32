//! Profiles, and the membership events that carry them.

use serde_json::{Value, json};

use super::HomeServer;
use super::http::{Answer, ApiError, Call};
use super::model::Requester;
use super::room_send::NewEvent;

impl HomeServer {
    pub(super) fn get_profile(&self, user: &str, field: Option<&str>) -> Answer {
        let missing = || ApiError::not_found("Profile was not found");
        let user = self.users.get(user).ok_or_else(missing)?;
        let mut out = json!({});
        for (name, value) in [("displayname", &user.display_name), ("avatar_url", &user.avatar_url)]
        {
            if let (Some(value), true) = (value, field.is_none_or(|field| field == name)) {
                out[name] = json!(value);
            }
        }
        Ok(out)
    }

    /// Every joined room hears of the new profile.
    pub(super) fn put_profile(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        user_id: &str,
        field: &str,
    ) -> Answer {
        if requester.user != user_id {
            return Err(ApiError::forbidden("Cannot set another user's profile"));
        }
        let body = call.object()?;
        let value = match body.get(field) {
            Some(Value::String(value)) => Some(value.clone()).filter(|value| !value.is_empty()),
            Some(Value::Null) => None,
            _ => return Err(ApiError::bad_json(&format!("'{field}' must be a string"))),
        };
        let Some(user) = self.users.get_mut(user_id) else {
            return Err(ApiError::not_found("User not found"));
        };
        if field == "displayname" {
            user.display_name = value;
        } else {
            user.avatar_url = value;
        }
        let content = self.join_content(user_id);
        let rooms: Vec<String> = self
            .rooms
            .iter()
            .filter(|(_, room)| {
                let member = room.state_now("m.room.member", user_id);
                room.membership(user_id) == "join"
                    && member.and_then(|member| member.value.get("content")) != Some(&content)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for room in rooms {
            let event = NewEvent::state(user_id, "m.room.member", user_id, content.clone());
            self.append_event(call.now_ms, &room, event);
        }
        Ok(json!({}))
    }
}
