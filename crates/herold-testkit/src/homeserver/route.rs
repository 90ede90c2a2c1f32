//! From a method and a path to a handler.

use serde_json::json;

use super::HomeServer;
use super::http::{Answer, ApiError, Call, ServerResponse, percent_decode};
use super::membership::Action;
use super::model::Requester;

/// What `/versions` names: the server stops before the specification does.
const VERSIONS: [&str; 22] = [
    "r0.0.1", "r0.1.0", "r0.2.0", "r0.3.0", "r0.4.0", "r0.5.0", "r0.6.0", "r0.6.1", "v1.1", "v1.2",
    "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12", "v1.14",
    "v1.15",
];

impl HomeServer {
    pub(super) fn dispatch(&mut self, call: &Call<'_>) -> Result<ServerResponse, ApiError> {
        let path = call.request.path.strip_prefix("/_matrix/");
        let decoded: Vec<String> =
            path.ok_or_else(ApiError::unrecognized)?.split('/').map(percent_decode).collect();
        let segments: Vec<&str> = decoded.iter().map(String::as_str).collect();
        let method = call.request.method.as_str();
        match segments.as_slice() {
            ["client", "versions"] if method == "GET" => {
                let body = json!({ "versions": VERSIONS, "unstable_features": {} });
                Ok(ServerResponse::json(200, &body))
            }
            ["client", "v1", "media", rest @ ..] => {
                let requester = self.requester(call.request)?;
                self.media_route(call, method, rest, Some(&requester))
            }
            ["media", "r0" | "v1" | "v3", rest @ ..] => {
                let legacy = matches!(rest.first(), Some(&("download" | "thumbnail")));
                if legacy && !self.legacy_media {
                    return Err(ApiError::not_found("Not found"));
                }
                let requester = if legacy { None } else { Some(self.requester(call.request)?) };
                self.media_route(call, method, rest, requester.as_ref())
            }
            ["client", "r0" | "v3" | "unstable", rest @ ..] => {
                self.client_route(call, method, rest)
            }
            _ => Err(ApiError::unrecognized()),
        }
    }

    fn media_route(
        &mut self,
        call: &Call<'_>,
        method: &str,
        path: &[&str],
        requester: Option<&Requester>,
    ) -> Result<ServerResponse, ApiError> {
        let answer = match (method, path, requester) {
            ("GET", ["download" | "thumbnail", server, id] | ["download", server, id, _], _) => {
                return self.download(server, id);
            }
            ("GET", ["config"], _) => Ok(Self::media_config()),
            ("POST", ["upload"], Some(requester)) => self.upload(call, requester),
            ("POST", ["create"], Some(requester)) => self.create_media(call, requester),
            ("PUT", ["upload", server, id], Some(requester)) => {
                self.upload_to(call, requester, server, id)
            }
            _ => Err(ApiError::unrecognized()),
        };
        answer.map(|body| ServerResponse::json(200, &body))
    }

    fn client_route(
        &mut self,
        call: &Call<'_>,
        method: &str,
        path: &[&str],
    ) -> Result<ServerResponse, ApiError> {
        let answer = match (method, path) {
            ("GET", ["login"]) => Ok(Self::login_flows()),
            ("POST", ["login"]) => self.login(call),
            ("POST", ["register"]) => self.register_call(call),
            ("GET", ["register", "available"]) => self.register_available(call),
            ("GET", ["profile", user]) => self.get_profile(user, None),
            ("GET", ["profile", user, field @ ("displayname" | "avatar_url")]) => {
                self.get_profile(user, Some(field))
            }
            ("GET", ["directory", "room", alias]) => self.get_alias(alias),
            _ => {
                let requester = self.requester(call.request)?;
                if (method, path) == ("GET", &["sync"]) {
                    return self.sync(call, &requester);
                }
                if method == "POST" && path == super::sliding::PATH {
                    return self.sliding_sync(call, &requester);
                }
                match path {
                    ["rooms", room, rest @ ..] => {
                        self.room_route(call, &requester, method, room, rest)
                    }
                    ["user", user, rest @ ..] => {
                        self.user_route(call, &requester, method, user, rest)
                    }
                    ["keys" | "sendToDevice", ..] => self.key_route(call, &requester, method, path),
                    ["org.matrix.msc3814.v1", rest @ ..] => {
                        self.dehydration_route(call, &requester, method, rest)
                    }
                    ["room_keys", rest @ ..] => self.backup_route(call, &requester, method, rest),
                    _ => self.account_route(call, &requester, method, path),
                }
            }
        };
        answer.map(|body| ServerResponse::json(200, &body))
    }

    fn account_route(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        method: &str,
        path: &[&str],
    ) -> Answer {
        match (method, path) {
            ("GET", ["account", "whoami"]) => Ok(json!({
                "user_id": requester.user,
                "device_id": requester.device,
                "is_guest": false,
            })),
            ("POST", ["logout"]) => Ok(self.logout(requester)),
            ("POST", ["logout", "all"]) => Ok(self.logout_all(requester)),
            ("GET", ["devices"]) => Ok(self.list_devices(requester)),
            ("GET", ["devices", device]) => self.get_device(requester, device),
            ("PUT", ["devices", device]) => self.put_device(call, requester, device),
            ("DELETE", ["devices", device]) => self.delete_device(call, requester, device),
            ("POST", ["delete_devices"]) => self.delete_devices(call, requester),
            ("POST", ["createRoom"]) => self.create_room(call, requester),
            ("POST", ["join", name]) => self.join_by_name(call, requester, name),
            ("GET", ["joined_rooms"]) => Ok(self.joined_rooms(requester)),
            ("PUT", ["profile", user, field @ ("displayname" | "avatar_url")]) => {
                self.put_profile(call, requester, user, field)
            }
            ("PUT", ["directory", "room", alias]) => self.put_alias(call, alias),
            ("PUT", ["presence", _, "status"]) => Ok(json!({})),
            ("GET", ["capabilities"]) => Ok(json!({ "capabilities": {
                "m.change_password": { "enabled": false },
                "m.room_versions": { "default": "10", "available": { "10": "stable" } },
            } })),
            ("GET", ["pushrules"] | ["pushrules", ""]) => Ok(json!({ "global": {
                "override": [], "content": [], "room": [], "sender": [], "underride": [],
            } })),
            _ => Err(ApiError::unrecognized()),
        }
    }

    fn key_route(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        method: &str,
        path: &[&str],
    ) -> Answer {
        match (method, path) {
            ("POST", ["keys", "upload"]) => self.keys_upload(call, requester, None),
            ("POST", ["keys", "upload", device]) => self.keys_upload(call, requester, Some(device)),
            ("POST", ["keys", "query"]) => self.keys_query(call, requester),
            ("POST", ["keys", "claim"]) => self.keys_claim(call),
            ("GET", ["keys", "changes"]) => self.keys_changes(call, requester),
            ("POST", ["keys", "device_signing", "upload"]) => {
                self.device_signing_upload(call, requester)
            }
            ("POST", ["keys", "signatures", "upload"]) => self.signatures_upload(call, requester),
            ("PUT", ["sendToDevice", kind, txn]) => self.send_to_device(call, requester, kind, txn),
            _ => Err(ApiError::unrecognized()),
        }
    }

    fn room_route(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        method: &str,
        room: &str,
        path: &[&str],
    ) -> Answer {
        let action = match path {
            ["join"] => Some(Action::Join),
            ["leave"] => Some(Action::Leave),
            ["invite"] => Some(Action::Invite),
            ["kick"] => Some(Action::Kick),
            ["ban"] => Some(Action::Ban),
            ["unban"] => Some(Action::Unban),
            _ => None,
        };
        if let ("POST", Some(action)) = (method, action) {
            return self.membership_call(call, requester, room, action);
        }
        match (method, path) {
            ("POST", ["forget"]) => self.forget(requester, room),
            ("PUT", ["send", kind, txn]) => self.send_event(call, requester, room, kind, txn),
            ("PUT", ["redact", event, txn]) => self.redact(call, requester, room, event, txn),
            ("GET", ["state"]) => self.get_state(call, requester, room),
            ("GET", ["state", kind]) => self.get_state_event(call, requester, room, kind, ""),
            ("GET", ["state", kind, key]) => self.get_state_event(call, requester, room, kind, key),
            ("PUT", ["state", kind]) => self.put_state(call, requester, room, kind, ""),
            ("PUT", ["state", kind, key]) => self.put_state(call, requester, room, kind, key),
            ("GET", ["members"]) => self.members(call, requester, room),
            ("GET", ["joined_members"]) => self.joined_members(requester, room),
            ("GET", ["messages"]) => self.messages(call, requester, room),
            ("GET", ["event", event]) => self.get_event(call, requester, room, event),
            ("GET", ["context", event]) => self.context(call, requester, room, event),
            ("POST", ["receipt", _, _] | ["read_markers"]) | ("PUT", ["typing", _]) => {
                Ok(json!({}))
            }
            _ => Err(ApiError::unrecognized()),
        }
    }

    fn user_route(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        method: &str,
        user: &str,
        path: &[&str],
    ) -> Answer {
        match (method, path) {
            ("GET", ["account_data", kind]) => self.get_account_data(requester, user, None, kind),
            ("PUT", ["account_data", kind]) => {
                self.put_account_data(call, requester, user, None, kind)
            }
            ("GET", ["rooms", room, "account_data", kind]) => {
                self.get_account_data(requester, user, Some(room), kind)
            }
            ("PUT", ["rooms", room, "account_data", kind]) => {
                self.put_account_data(call, requester, user, Some(room), kind)
            }
            ("POST", ["filter"]) => self.post_filter(call, requester, user),
            ("GET", ["filter", id]) => self.get_filter(requester, user, id),
            _ => Err(ApiError::unrecognized()),
        }
    }

    fn backup_route(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        method: &str,
        path: &[&str],
    ) -> Answer {
        match (method, path) {
            ("POST", ["version"]) => self.backup_create(call, requester),
            ("GET", ["version"]) => self.backup_info(requester, None),
            ("GET", ["version", version]) => self.backup_info(requester, Some(version)),
            ("PUT", ["version", version]) => self.backup_update(call, requester, version),
            ("DELETE", ["version", version]) => self.backup_delete(requester, version),
            (method, ["keys", rest @ ..]) if rest.len() <= 2 => {
                let room = rest.first().copied();
                let session = rest.get(1).copied();
                match method {
                    "GET" => self.backup_get(call, requester, room, session),
                    "PUT" => self.backup_put(call, requester, room, session),
                    "DELETE" => self.backup_delete_keys(call, requester, room, session),
                    _ => Err(ApiError::unrecognized()),
                }
            }
            _ => Err(ApiError::unrecognized()),
        }
    }
}
