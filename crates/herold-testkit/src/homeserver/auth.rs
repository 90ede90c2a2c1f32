//! Registration, login, logout and user-interactive authentication.

use serde_json::{Map, Value, json};

use super::HomeServer;
use super::http::{Answer, ApiError, Call, ServerRequest, need_text, text};
use super::ids::is_user_id;
use super::model::{Device, Requester, User};

/// A session of user-interactive authentication belongs to one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UiaSession {
    method: String,
    path: String,
    user: Option<String>,
}

impl HomeServer {
    /// Creates a user without logging in and returns the user id. A full user id is taken as it
    /// is, so that one model can host users of several server names. An existing user only gets
    /// the new password.
    pub fn register(&mut self, localpart: &str, password: &str) -> String {
        let user_id = self.full_user_id(localpart);
        let user = self.users.entry(user_id.clone()).or_insert_with(|| User {
            display_name: Some(localpart_of(&user_id).to_owned()),
            ..User::default()
        });
        password.clone_into(&mut user.password);
        user_id
    }

    pub(super) fn full_user_id(&self, name: &str) -> String {
        if is_user_id(name) { name.to_owned() } else { format!("@{name}:{}", self.name) }
    }

    /// Who sent this request.
    pub(super) fn requester(&self, request: &ServerRequest) -> Result<Requester, ApiError> {
        let in_query = request.query.iter().find(|(key, _)| key == "access_token");
        let token = request.access_token.as_ref().or(in_query.map(|(_, value)| value));
        let Some(token) = token else {
            return Err(ApiError::new(401, "M_MISSING_TOKEN", "Missing access token"));
        };
        self.tokens.get(token).cloned().ok_or_else(|| ApiError {
            status: 401,
            body: json!({
                "errcode": "M_UNKNOWN_TOKEN",
                "error": "Invalid access token passed.",
                "soft_logout": self.soft_tokens.contains(token),
            }),
        })
    }

    pub(super) fn login_flows() -> Value {
        json!({ "flows": [{ "type": "m.login.password" }] })
    }

    pub(super) fn login(&mut self, call: &Call<'_>) -> Answer {
        let body = call.object()?;
        match text(&body, "type") {
            Some("m.login.password") => {}
            Some(_) => return Err(ApiError::new(400, "M_UNKNOWN", "Unknown login type")),
            None => return Err(ApiError::new(400, "M_MISSING_PARAM", "Missing 'type'")),
        }
        let user_id = self.full_user_id(
            named_user(&body)
                .ok_or_else(|| ApiError::new(400, "M_MISSING_PARAM", "Missing user identifier"))?,
        );
        let password = need_text(&body, "password")?;
        if self.users.get(&user_id).is_none_or(|user| user.password != password) {
            return Err(ApiError::forbidden("Invalid username or password"));
        }
        Ok(self.open_device(call.now_ms, &user_id, &body))
    }

    /// Makes or reuses a device and gives it a new token; an older token of it ends.
    fn open_device(&mut self, now_ms: u64, user_id: &str, body: &Map<String, Value>) -> Value {
        let device_id = match text(body, "device_id") {
            Some(device) if !device.is_empty() => device.to_owned(),
            _ => self.letters("device", 10, true),
        };
        let device = Requester { user: user_id.to_owned(), device: device_id.clone() };
        self.tokens.retain(|_, holder| *holder != device);
        let token = format!("syt_{}", self.secret("token"));
        self.tokens.insert(token.clone(), device);
        let mut created = false;
        if let Some(user) = self.users.get_mut(user_id) {
            let device = user.devices.entry(device_id.clone()).or_insert_with(|| {
                created = true;
                Device {
                    display_name: text(body, "initial_device_display_name").map(str::to_owned),
                    ..Device::default()
                }
            });
            device.last_seen_ms = Some(now_ms);
        }
        if created {
            self.note_device_change(user_id);
        }
        json!({
            "user_id": user_id,
            "access_token": token,
            "device_id": device_id,
            "home_server": super::ids::server_of(user_id),
        })
    }

    pub(super) fn logout(&mut self, requester: &Requester) -> Value {
        self.drop_device(&requester.user, &requester.device);
        json!({})
    }

    pub(super) fn logout_all(&mut self, requester: &Requester) -> Value {
        let devices: Vec<String> = self
            .users
            .get(&requester.user)
            .map(|user| user.devices.keys().cloned().collect())
            .unwrap_or_default();
        for device in devices {
            self.drop_device(&requester.user, &device);
        }
        json!({})
    }

    pub(super) fn register_available(&self, call: &Call<'_>) -> Answer {
        let name = call.query("username").unwrap_or_default();
        self.check_new_name(name)?;
        Ok(json!({ "available": true }))
    }

    fn check_new_name(&self, name: &str) -> Result<String, ApiError> {
        let local = if is_user_id(name) { localpart_of(name) } else { name };
        let allowed = |letter: char| {
            letter.is_ascii_lowercase() || letter.is_ascii_digit() || "._=-/+".contains(letter)
        };
        if local.is_empty() || !local.chars().all(allowed) {
            return Err(ApiError::new(400, "M_INVALID_USERNAME", "User ID has a bad character"));
        }
        let user_id = self.full_user_id(name);
        if self.users.contains_key(&user_id) {
            return Err(ApiError::new(400, "M_USER_IN_USE", "User ID already taken."));
        }
        Ok(user_id)
    }

    pub(super) fn register_call(&mut self, call: &Call<'_>) -> Answer {
        if call.query("kind") == Some("guest") {
            return Err(ApiError::new(403, "M_GUEST_ACCESS_FORBIDDEN", "No guests here"));
        }
        let body = call.object()?;
        let name = match text(&body, "username") {
            Some(name) => {
                self.check_new_name(name)?;
                name.to_owned()
            }
            None => self.letters("user", 12, false),
        };
        let auth = body.get("auth").and_then(Value::as_object);
        if auth.and_then(|auth| text(auth, "type")) != Some("m.login.dummy") {
            return Err(self.uia_challenge(call, None, "m.login.dummy", None));
        }
        self.check_session(call, None, auth)?;
        let user_id = self.register(&name, text(&body, "password").unwrap_or_default());
        if body.get("inhibit_login").and_then(Value::as_bool) == Some(true) {
            return Ok(json!({ "user_id": user_id, "home_server": self.name }));
        }
        Ok(self.open_device(call.now_ms, &user_id, &body))
    }

    /// Asks for the password once more, in a session that belongs to this operation.
    pub(super) fn need_password(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        body: &Map<String, Value>,
    ) -> Result<(), ApiError> {
        let stage = "m.login.password";
        let user = Some(requester.user.as_str());
        let Some(auth) = body.get("auth").and_then(Value::as_object) else {
            return Err(self.uia_challenge(call, user, stage, None));
        };
        self.check_session(call, user, Some(auth))?;
        if text(auth, "type") != Some(stage) {
            return Err(self.uia_challenge(call, user, stage, text(auth, "session")));
        }
        let named = named_user(auth).map(|name| self.full_user_id(name));
        let password = self.users.get(&requester.user).map(|user| user.password.as_str());
        if named.as_ref() == Some(&requester.user) && text(auth, "password") == password {
            if let Some(session) = text(auth, "session") {
                self.uia.remove(session);
            }
            return Ok(());
        }
        let mut error = self.uia_challenge(call, user, stage, text(auth, "session"));
        if let Some(map) = error.body.as_object_mut() {
            map.insert("errcode".to_owned(), json!("M_FORBIDDEN"));
            map.insert("error".to_owned(), json!("Invalid username or password"));
            map.insert("completed".to_owned(), json!([]));
        }
        Err(error)
    }

    fn check_session(
        &self,
        call: &Call<'_>,
        user: Option<&str>,
        auth: Option<&Map<String, Value>>,
    ) -> Result<(), ApiError> {
        let Some(session) = auth.and_then(|auth| text(auth, "session")) else { return Ok(()) };
        let here = operation(call, user);
        match self.uia.get(session) {
            None => Err(ApiError::new(400, "M_UNKNOWN", "Unknown session ID")),
            Some(known) if *known != here => Err(ApiError::new(
                403,
                "M_UNKNOWN",
                "Requested operation has changed during the UI authentication session.",
            )),
            Some(_) => Ok(()),
        }
    }

    fn uia_challenge(
        &mut self,
        call: &Call<'_>,
        user: Option<&str>,
        stage: &str,
        session: Option<&str>,
    ) -> ApiError {
        let session = match session {
            Some(session) => session.to_owned(),
            None => {
                let session = self.secret("uia");
                self.uia.insert(session.clone(), operation(call, user));
                session
            }
        };
        ApiError {
            status: 401,
            body: json!({
                "flows": [{ "stages": [stage] }],
                "params": {},
                "session": session,
            }),
        }
    }
}

fn operation(call: &Call<'_>, user: Option<&str>) -> UiaSession {
    UiaSession {
        method: call.request.method.clone(),
        path: call.request.path.clone(),
        user: user.map(str::to_owned),
    }
}

/// The user of a password login: an `m.id.user` identifier, or the `user` of old clients.
fn named_user(body: &Map<String, Value>) -> Option<&str> {
    match body.get("identifier").and_then(Value::as_object) {
        Some(identifier) if text(identifier, "type") == Some("m.id.user") => {
            text(identifier, "user")
        }
        Some(_) => None,
        None => text(body, "user"),
    }
}

pub(super) fn localpart_of(user_id: &str) -> &str {
    user_id.trim_start_matches('@').split(':').next().unwrap_or_default()
}
