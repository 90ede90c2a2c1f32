//! The two sides talk to each other, in processes of their own: what one has encrypted the other decrypts.

use std::path::Path;

use serde_json::{Value, json};

use crate::{Directory, Side, side::TEXT};

/// As many messages each way.
const MESSAGES: usize = 10;

/// What a side says of itself: the body of its `POST /keys/upload`.
pub(crate) fn introduce<S: Side>(user: &str, folder: &Path) -> Value {
    S::open(&folder.join("store"), user, "EXCHANGE").upload()
}

/// Gives the other a room key and says a few things.
pub(crate) fn talk<S: Side>(user: &str, folder: &Path, other: &Value) -> Value {
    let other = Other(other.clone());
    let mut side = S::open(&folder.join("store"), user, "EXCHANGE");
    side.enter(&other);
    let shared = side.share(&other, &text(user, 0));
    side.accepted();
    let mut contents: Vec<Value> = vec![parse(&shared.first)];
    for n in 1..MESSAGES {
        let content = side.encrypt(&text(user, n));
        contents.push(parse(&content));
        side.accepted();
    }
    let device = &other.0["device_keys"];
    let (to, device) = (device["user_id"].as_str(), device["device_id"].as_str());
    let (Some(to), Some(device)) = (to, device) else { panic!("who is the other?") };
    let keys: Vec<Value> = shared
        .to_device
        .iter()
        .map(|body| parse(body)["messages"][to][device].take())
        .filter(|content| content.is_object())
        .map(|content| json!({ "type": "m.room.encrypted", "sender": user, "content": content }))
        .collect();
    let events: Vec<Value> = contents
        .into_iter()
        .enumerate()
        .map(|(n, content)| {
            json!({
                "type": "m.room.encrypted",
                "sender": user,
                "event_id": format!("$from{}-{n}", user.len()),
                "origin_server_ts": 1_700_000_000_000_u64 + n as u64,
                "content": content,
            })
        })
        .collect();
    json!({ "user": user, "to_device": keys, "events": events })
}

/// Reads what the other has said.
pub(crate) fn listen<S: Side>(user: &str, folder: &Path, said: &Value) -> Value {
    let mut side = S::open(&folder.join("store"), user, "EXCHANGE");
    let list = |name: &str| said[name].as_array().expect("a list").clone();
    let response = side.response(&list("to_device"));
    side.sync(&response);
    let batch = S::batch(&list("events"));
    side.decrypt(&batch);
    let heard = side.texts(&batch);
    let other = said["user"].as_str().expect("who said it");
    let said: Vec<String> = (0..MESSAGES).map(|n| text(other, n)).collect();
    assert_eq!(heard, said, "{user} reads what {other} wrote");
    json!({ "read": heard.len() })
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn text(user: &str, n: usize) -> String {
    format!("{user} says: {TEXT} {n}")
}

/// The directory of a room of two.
struct Other(Value);

impl Other {
    fn place(&self) -> (&str, &str) {
        let keys = &self.0["device_keys"];
        let text = |name: &str| keys[name].as_str().expect("the upload says who it is of");
        (text("user_id"), text("device_id"))
    }
}

impl Directory for Other {
    fn users(&self) -> Vec<String> {
        vec![self.place().0.to_owned()]
    }

    fn keys_query(&self, body: &Value) -> Value {
        let (user, device) = self.place();
        let mut users = json!({});
        if body["device_keys"][user].is_array() {
            users = json!({ user: { device: self.0["device_keys"] } });
        }
        json!({ "device_keys": users, "failures": {} })
    }

    fn keys_claim(&self, body: &Value) -> Value {
        let (user, device) = self.place();
        let mut users = json!({});
        if body["one_time_keys"][user][device].is_string() {
            let keys = self.0["one_time_keys"].as_object().expect("one-time keys");
            let (id, key) = keys.iter().next().expect("a one-time key");
            users = json!({ user: { device: { id: key } } });
        }
        json!({ "one_time_keys": users, "failures": {} })
    }
}
