//! Facts of the model; each test is named after what a client can rely on.

mod accounts;
mod device_lists;
mod keys;
mod rooms;
mod timelines;
mod to_device;

use serde_json::{Value, json};

use super::{HomeServer, ServerRequest, ServerResponse};

/// One logged-in device.
#[derive(Clone)]
struct Client {
    user: String,
    device: String,
    token: String,
}

fn request(method: &str, path: &str, token: Option<&str>, body: &Value) -> ServerRequest {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let query = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    ServerRequest {
        method: method.to_owned(),
        path: format!("/_matrix/client/v3/{path}"),
        query,
        access_token: token.map(str::to_owned),
        content_type: Some("application/json".to_owned()),
        body: if body.is_null() { Vec::new() } else { body.to_string().into_bytes() },
    }
}

fn read(response: &ServerResponse) -> (u16, Value) {
    (response.status, serde_json::from_slice(&response.body).unwrap())
}

impl Client {
    fn new(server: &mut HomeServer, name: &str, device: &str) -> Self {
        let user = server.register(name, "secret");
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": user },
            "password": "secret",
            "device_id": device,
            "initial_device_display_name": format!("{device} of {name}"),
        });
        let (status, answer) = read(&server.handle(0, &request("POST", "login", None, &body)));
        assert_eq!(status, 200, "{answer}");
        let text = |key: &str| answer[key].as_str().unwrap().to_owned();
        Self { user: text("user_id"), device: text("device_id"), token: text("access_token") }
    }

    fn call(&self, server: &mut HomeServer, method: &str, path: &str, body: Value) -> (u16, Value) {
        read(&server.handle(1000, &request(method, path, Some(&self.token), &body)))
    }

    fn ok(&self, server: &mut HomeServer, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(server, method, path, body);
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    fn get(&self, server: &mut HomeServer, path: &str) -> Value {
        self.ok(server, "GET", path, Value::Null)
    }

    fn sync(&self, server: &mut HomeServer, since: &str) -> Value {
        self.get(server, &format!("sync?timeout=0&since={since}"))
    }

    /// Syncs and returns the new token.
    fn catch_up(&self, server: &mut HomeServer) -> String {
        next(&self.sync(server, ""))
    }

    fn room(&self, server: &mut HomeServer, preset: &str, invite: &[&Client]) -> String {
        let invite: Vec<&str> = invite.iter().map(|client| client.user.as_str()).collect();
        let body = json!({ "preset": preset, "invite": invite });
        let answer = self.ok(server, "POST", "createRoom", body);
        answer["room_id"].as_str().unwrap().to_owned()
    }

    fn join(&self, server: &mut HomeServer, room: &str) {
        self.ok(server, "POST", &format!("join/{room}"), json!({}));
    }

    fn say(&self, server: &mut HomeServer, room: &str, txn: &str) -> String {
        let path = format!("rooms/{room}/send/m.room.message/{txn}");
        let answer = self.ok(server, "PUT", &path, json!({ "body": txn }));
        answer["event_id"].as_str().unwrap().to_owned()
    }
}

fn next(sync: &Value) -> String {
    sync["next_batch"].as_str().unwrap().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn errcode(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["errcode"].as_str().unwrap_or_default())
}

fn server() -> HomeServer {
    HomeServer::new("one.test", 1)
}
