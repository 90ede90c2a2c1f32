//! Key backups on the server.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::HomeServer;
use super::http::{Answer, ApiError, Call, need_text};
use super::model::{Requester, User};

/// One version of a backup.
#[derive(Clone, Debug)]
pub(super) struct Backup {
    algorithm: String,
    auth_data: Value,
    /// (Room, session) to the session as it was uploaded.
    sessions: BTreeMap<(String, String), Value>,
    etag: u64,
}

fn missing() -> ApiError {
    ApiError::not_found("No such backup")
}

fn parse_version(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| missing())
}

impl Backup {
    fn info(&self, version: u64) -> Value {
        json!({
            "version": version.to_string(),
            "algorithm": self.algorithm,
            "auth_data": self.auth_data,
            "count": self.sessions.len(),
            "etag": self.etag.to_string(),
        })
    }

    fn counts(&self) -> Value {
        json!({ "count": self.sessions.len(), "etag": self.etag.to_string() })
    }
}

/// Whether an uploaded session is better than the one that is there.
fn is_better(new: &Value, old: &Value) -> bool {
    let verified = |key: &Value| key.get("is_verified").and_then(Value::as_bool) == Some(true);
    let number = |key: &Value, name: &str| key.get(name).and_then(Value::as_u64).unwrap_or(0);
    if verified(new) != verified(old) {
        return verified(new);
    }
    let index = "first_message_index";
    let forwards = "forwarded_count";
    number(new, index) < number(old, index)
        || (number(new, index) == number(old, index)
            && number(new, forwards) < number(old, forwards))
}

impl HomeServer {
    fn backup_owner(&mut self, requester: &Requester) -> Result<&mut User, ApiError> {
        self.users.get_mut(&requester.user).ok_or_else(missing)
    }

    pub(super) fn backup_create(&mut self, call: &Call<'_>, requester: &Requester) -> Answer {
        let body = call.object()?;
        let algorithm = need_text(&body, "algorithm")?.to_owned();
        let auth_data = body.get("auth_data").cloned().unwrap_or_else(|| json!({}));
        let user = self.backup_owner(requester)?;
        user.last_backup += 1;
        let backup = Backup { algorithm, auth_data, sessions: BTreeMap::new(), etag: 0 };
        user.backups.insert(user.last_backup, backup);
        Ok(json!({ "version": user.last_backup.to_string() }))
    }

    pub(super) fn backup_info(&self, requester: &Requester, version: Option<&str>) -> Answer {
        let user = self.users.get(&requester.user).ok_or_else(missing)?;
        let found = match version {
            Some(version) => user.backups.get_key_value(&parse_version(version)?),
            None => user.backups.last_key_value(),
        };
        found.map(|(version, backup)| backup.info(*version)).ok_or_else(missing)
    }

    pub(super) fn backup_update(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        version: &str,
    ) -> Answer {
        let body = call.object()?;
        let number = parse_version(version)?;
        let user = self.backup_owner(requester)?;
        let backup = user.backups.get_mut(&number).ok_or_else(missing)?;
        if body.get("version").is_some_and(|named| named.as_str() != Some(version)) {
            return Err(ApiError::invalid("Version in body does not match"));
        }
        if need_text(&body, "algorithm")? != backup.algorithm {
            return Err(ApiError::invalid("Algorithm does not match"));
        }
        if let Some(auth_data) = body.get("auth_data") {
            backup.auth_data = auth_data.clone();
        }
        Ok(json!({}))
    }

    /// With the newest version gone, the one before is the newest again.
    pub(super) fn backup_delete(&mut self, requester: &Requester, version: &str) -> Answer {
        let number = parse_version(version)?;
        let user = self.backup_owner(requester)?;
        user.backups.remove(&number).map(|_| json!({})).ok_or_else(missing)
    }

    fn keys_version(call: &Call<'_>) -> Result<u64, ApiError> {
        let version = call.query("version");
        parse_version(
            version.ok_or_else(|| ApiError::new(400, "M_MISSING_PARAM", "Missing 'version'"))?,
        )
    }

    /// `GET room_keys/keys[/{room}[/{session}]]`.
    pub(super) fn backup_get(
        &self,
        call: &Call<'_>,
        requester: &Requester,
        room: Option<&str>,
        session: Option<&str>,
    ) -> Answer {
        let version = Self::keys_version(call)?;
        let user = self.users.get(&requester.user).ok_or_else(missing)?;
        let backup = user.backups.get(&version).ok_or_else(missing)?;
        if let (Some(room), Some(session)) = (room, session) {
            let key = (room.to_owned(), session.to_owned());
            return backup
                .sessions
                .get(&key)
                .cloned()
                .ok_or_else(|| ApiError::not_found("No room_keys found"));
        }
        let mut rooms = Map::new();
        for ((of, id), data) in &backup.sessions {
            if room.is_none_or(|room| room == of) {
                let entry = rooms.entry(of.clone()).or_insert_with(|| json!({ "sessions": {} }));
                entry["sessions"][id] = data.clone();
            }
        }
        match room {
            None => Ok(json!({ "rooms": rooms })),
            Some(room) => Ok(rooms.remove(room).unwrap_or_else(|| json!({ "sessions": {} }))),
        }
    }

    /// `PUT room_keys/keys[/{room}[/{session}]]`, to the newest version only.
    pub(super) fn backup_put(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        room: Option<&str>,
        session: Option<&str>,
    ) -> Answer {
        let version = Self::keys_version(call)?;
        let body = Value::Object(call.object()?);
        let rooms = match (room, session) {
            (Some(room), Some(session)) => json!({ room: { "sessions": { session: body } } }),
            (Some(room), None) => json!({ room: body }),
            _ => body.get("rooms").cloned().unwrap_or_default(),
        };
        let rooms = rooms.as_object().ok_or_else(|| ApiError::bad_json("Missing 'rooms'"))?;
        let user = self.backup_owner(requester)?;
        let newest = user.backups.keys().next_back().copied();
        let backup = user.backups.get_mut(&version).ok_or_else(missing)?;
        if newest != Some(version) {
            // Synapse names the version that was asked for, not the newest one.
            let mut error =
                ApiError::new(403, "M_WRONG_ROOM_KEYS_VERSION", "Wrong room_keys version");
            error.body["current_version"] = json!(version.to_string());
            return Err(error);
        }
        let mut changed = false;
        for (room, data) in rooms {
            let sessions = data.get("sessions").and_then(Value::as_object);
            for (session, new) in sessions.into_iter().flatten() {
                let key = (room.clone(), session.clone());
                if backup.sessions.get(&key).is_none_or(|old| is_better(new, old)) {
                    backup.sessions.insert(key, new.clone());
                    changed = true;
                }
            }
        }
        backup.etag += u64::from(changed);
        Ok(backup.counts())
    }

    /// `DELETE room_keys/keys[/{room}[/{session}]]`.
    pub(super) fn backup_delete_keys(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        room: Option<&str>,
        session: Option<&str>,
    ) -> Answer {
        let version = Self::keys_version(call)?;
        let user = self.backup_owner(requester)?;
        let backup = user.backups.get_mut(&version).ok_or_else(missing)?;
        backup.sessions.retain(|(of, id), _| {
            room.is_some_and(|room| room != of) || session.is_some_and(|session| session != id)
        });
        backup.etag += 1;
        Ok(backup.counts())
    }
}
