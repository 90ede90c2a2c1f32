//! Power levels.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::http::ApiError;
use super::model::Room;

impl Room {
    fn levels(&self) -> Option<&Map<String, Value>> {
        self.state_now("m.room.power_levels", "")?.value.get("content")?.as_object()
    }

    pub(super) fn user_level(&self, user: &str) -> i64 {
        let Some(levels) = self.levels() else {
            let create = self.state_now("m.room.create", "");
            return if create.is_some_and(|create| create.sender() == user) { 100 } else { 0 };
        };
        user_in(levels, user)
    }

    /// `invite`, `kick`, `ban` or `redact`.
    pub(super) fn action_level(&self, action: &str) -> i64 {
        let fallback = if action == "invite" { 0 } else { 50 };
        self.levels().and_then(|levels| levels.get(action)?.as_i64()).unwrap_or(fallback)
    }

    fn event_level(&self, kind: &str, is_state: bool) -> i64 {
        let Some(levels) = self.levels() else { return 0 };
        let (name, fallback) = if is_state { ("state_default", 50) } else { ("events_default", 0) };
        levels
            .get("events")
            .and_then(|events| events.get(kind))
            .or_else(|| levels.get(name))
            .and_then(Value::as_i64)
            .unwrap_or(fallback)
    }

    /// Whether this member may send an event of this type.
    pub(super) fn check_send(
        &self,
        sender: &str,
        kind: &str,
        state_key: Option<&str>,
    ) -> Result<(), ApiError> {
        if self.membership(sender) != "join" {
            return Err(ApiError::forbidden(&format!("User {sender} not in room")));
        }
        let (has, needs) = (self.user_level(sender), self.event_level(kind, state_key.is_some()));
        if has < needs {
            let error = format!(
                "You don't have permission to post that to the room. user_level ({has}) < \
                 send_level ({needs})"
            );
            return Err(ApiError::forbidden(&error));
        }
        if state_key.is_some_and(|key| key.starts_with('@') && key != sender) {
            return Err(ApiError::forbidden("You are not allowed to set others state"));
        }
        Ok(())
    }

    /// Nobody gives, takes or keeps from others more than they have themselves.
    pub(super) fn check_power_change(
        &self,
        sender: &str,
        new: &Map<String, Value>,
    ) -> Result<(), ApiError> {
        let numbers = |map: Option<&Value>| -> bool {
            match map {
                None => true,
                Some(Value::Object(map)) => map.values().all(Value::is_i64),
                Some(_) => false,
            }
        };
        let plain = NAMES.iter().all(|name| new.get(*name).is_none_or(Value::is_i64));
        if !plain || !numbers(new.get("users")) || !numbers(new.get("events")) {
            return Err(ApiError::bad_json("Power levels must be whole numbers"));
        }
        let Some(old) = self.levels() else { return Ok(()) };
        let own = self.user_level(sender);
        let refused = || ApiError::forbidden("You don't have permission to change power levels");
        let too_high = |level: Option<i64>| level.is_some_and(|level| level > own);
        for name in NAMES {
            let (before, after) = (level(old, name), level(new, name));
            if before != after && (too_high(before) || too_high(after)) {
                return Err(refused());
            }
        }
        for section in ["events", "users"] {
            let part = |map: &Map<String, Value>, key: &str| -> Option<i64> {
                map.get(section).and_then(|map| map.get(key)?.as_i64())
            };
            for key in keys(old, section).union(&keys(new, section)) {
                let (before, after) = (part(old, key), part(new, key));
                if before == after {
                    continue;
                }
                let equal = section == "users" && key != sender && before == Some(own);
                if too_high(before) || too_high(after) || equal {
                    return Err(refused());
                }
            }
        }
        Ok(())
    }
}

const NAMES: [&str; 7] =
    ["users_default", "events_default", "state_default", "ban", "kick", "redact", "invite"];

fn level(levels: &Map<String, Value>, name: &str) -> Option<i64> {
    levels.get(name).and_then(Value::as_i64)
}

fn keys(levels: &Map<String, Value>, section: &str) -> BTreeSet<String> {
    let section = levels.get(section).and_then(Value::as_object);
    section.map(|section| section.keys().cloned().collect()).unwrap_or_default()
}

fn user_in(levels: &Map<String, Value>, user: &str) -> i64 {
    levels
        .get("users")
        .and_then(|users| users.get(user)?.as_i64())
        .or_else(|| level(levels, "users_default"))
        .unwrap_or(0)
}
