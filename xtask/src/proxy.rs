//! A recording proxy between the peers and their server.
//!
//! It learns from the answers to `/login` which device each request comes from, so a scenario can ask
//! who was given room keys without believing any client's word. It also holds each device to what
//! must be true of everything on the wire: nothing clear in an encrypted room (all rooms here are),
//! no clear key material, no request in a loop.

use std::collections::HashMap;
use std::io::{self, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::Result;
use crate::http::Message;

/// The same request more often than this within [`LOOP_WINDOW`] is a loop.
const LOOP_LIMIT: usize = 30;
const LOOP_WINDOW: Duration = Duration::from_secs(3);

/// Event types that carry keys and must never be sent to a device in the clear.
const KEY_MATERIAL: [&str; 4] =
    ["m.room_key", "m.forwarded_room_key", "m.secret.send", "m.room_key_bundle"];

/// A user's device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Device {
    pub user: String,
    pub id: String,
}

/// One accepted `/sendToDevice`.
struct Sent {
    at: Instant,
    sender: Device,
    kind: String,
    targets: Vec<Device>,
}

#[derive(Default)]
struct Record {
    devices: HashMap<String, Device>,
    sent: Vec<Sent>,
    fallback_keys: HashMap<Device, usize>,
    sliding_syncs: HashMap<Device, usize>,
    recent: HashMap<(Device, String), Vec<Instant>>,
    offences: Vec<(Device, String)>,
}

/// The proxy; it serves until the process ends.
pub struct Proxy {
    /// Where the peers find it.
    pub address: SocketAddr,
    record: Arc<Mutex<Record>>,
}

impl Proxy {
    /// Listens on a free port of the loopback interface, for a server that may not be there yet.
    ///
    /// # Errors
    ///
    /// No port to listen on.
    pub fn start(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let record = Arc::new(Mutex::new(Record::default()));
        let shared = Arc::clone(&record);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let record = Arc::clone(&shared);
                // A client that went away in the middle is nothing to report.
                thread::spawn(move || forward(client, upstream, &record));
            }
        });
        Ok(Self { address, record })
    }

    /// The base URL for peers.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether `sender` has sent an encrypted to-device message to `target` since then.
    pub fn sent_key(&self, sender: &str, target: &Device, since: Instant) -> bool {
        lock(&self.record).sent.iter().any(|s| {
            let reaches = |t: &Device| t.user == target.user && (t.id == target.id || t.id == "*");
            s.at >= since
                && s.sender.user == sender
                && s.kind == "m.room.encrypted"
                && s.targets.iter().any(reaches)
        })
    }

    /// How many times the device has uploaded a fallback key.
    pub fn fallback_keys(&self, device: &Device) -> usize {
        lock(&self.record).fallback_keys.get(device).copied().unwrap_or_default()
    }

    /// How many responses of sliding sync the device has got.
    pub fn sliding_syncs(&self, device: &Device) -> usize {
        lock(&self.record).sliding_syncs.get(device).copied().unwrap_or_default()
    }

    /// What the devices of this user have put on the wire and must not have.
    pub fn offences(&self, user: &str) -> Vec<String> {
        let record = lock(&self.record);
        record
            .offences
            .iter()
            .filter(|(d, _)| d.user == user)
            .map(|(_, what)| what.clone())
            .collect()
    }

    /// The access tokens of this user's devices.
    pub fn tokens(&self, user: &str) -> Vec<String> {
        let record = lock(&self.record);
        record.devices.iter().filter(|(_, d)| d.user == user).map(|(t, _)| t.clone()).collect()
    }
}

/// A panic elsewhere leaves the record usable.
fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one connection: one request, one answer.
fn forward(mut client: TcpStream, upstream: SocketAddr, record: &Mutex<Record>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let Some(request) = Message::read(&mut BufReader::new(&client))? else { return Ok(()) };
    let at = Instant::now();
    let answer = request.exchange(upstream)?;
    lock(record).note(at, &request, &answer);
    answer.write(&mut client)
}

impl Record {
    fn note(&mut self, at: Instant, request: &Message, answer: &Message) {
        let Some((method, target)) = request.request_line() else { return };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parts: Vec<&str> = path.split('/').skip(4).collect();
        let accepted = answer.status() == 200;

        if accepted && method == "POST" && parts == ["login"] {
            let got = parse(&answer.body);
            if let (Some(user), Some(id), Some(token)) =
                (text(&got["user_id"]), text(&got["device_id"]), text(&got["access_token"]))
            {
                self.devices.insert(token, Device { user, id });
            }
            return;
        }
        let bearer = request.field("authorization").and_then(|v| v.strip_prefix("Bearer "));
        let token =
            bearer.or_else(|| query.split('&').find_map(|p| p.strip_prefix("access_token=")));
        let Some(sender) = token.and_then(|t| self.devices.get(t)).cloned() else { return };

        self.watch_for_loops(at, &sender, format!("{method} {target}"));
        match (method, &parts[..]) {
            ("PUT", ["rooms", _, "send", kind, _]) if *kind != "m.room.encrypted" => {
                self.offences.push((sender, format!("{kind} sent in the clear")));
            }
            ("PUT", ["sendToDevice", kind, _]) => {
                if KEY_MATERIAL.contains(kind) {
                    self.offences
                        .push((sender.clone(), format!("{kind} sent to devices in the clear")));
                }
                if accepted {
                    let targets = targets(&parse(&request.body));
                    self.sent.push(Sent { at, sender, kind: (*kind).to_owned(), targets });
                }
            }
            ("POST", ["org.matrix.simplified_msc3575", "sync"]) if accepted => {
                *self.sliding_syncs.entry(sender).or_default() += 1;
            }
            ("POST", ["keys", "upload", ..]) if accepted => {
                let body = parse(&request.body);
                let has = |name: &str| body[name].as_object().is_some_and(|keys| !keys.is_empty());
                if has("fallback_keys") || has("org.matrix.msc2732.fallback_keys") {
                    *self.fallback_keys.entry(sender).or_default() += 1;
                }
            }
            _ => {}
        }
    }

    fn watch_for_loops(&mut self, at: Instant, sender: &Device, request: String) {
        let times = self.recent.entry((sender.clone(), request.clone())).or_default();
        times.retain(|&t| at.saturating_duration_since(t) < LOOP_WINDOW);
        times.push(at);
        if times.len() == LOOP_LIMIT {
            let what = format!("a loop: {LOOP_LIMIT} times within 3 s: {request}");
            self.offences.push((sender.clone(), what));
        }
    }
}

fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Whom the content of a `/sendToDevice` is for.
fn targets(body: &Value) -> Vec<Device> {
    let users = body["messages"].as_object().into_iter().flatten();
    users
        .flat_map(|(user, devices)| {
            let ids = devices.as_object().into_iter().flat_map(|d| d.keys());
            ids.map(|id| Device { user: user.clone(), id: id.clone() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::{LOOP_LIMIT, Record};
    use crate::http::Message;

    fn request(line: &str, body: &serde_json::Value) -> Message {
        let fields = vec![("Authorization".to_owned(), "Bearer t".to_owned())];
        Message { start: format!("{line} HTTP/1.1"), fields, body: body.to_string().into_bytes() }
    }

    fn answer(body: &serde_json::Value) -> Message {
        let start = "HTTP/1.1 200 OK".to_owned();
        Message { start, fields: Vec::new(), body: body.to_string().into_bytes() }
    }

    fn logged_in() -> Record {
        let mut record = Record::default();
        let login = json!({"user_id": "@a:x", "device_id": "D", "access_token": "t"});
        record.note(
            Instant::now(),
            &request("POST /_matrix/client/v3/login", &json!({})),
            &answer(&login),
        );
        record
    }

    #[test]
    fn the_recipients_of_keys_are_known() {
        let mut record = logged_in();
        let body = json!({"messages": {"@b:x": {"E": {}, "F": {}}}});
        let line = "PUT /_matrix/client/v3/sendToDevice/m.room.encrypted/1";
        record.note(Instant::now(), &request(line, &body), &answer(&json!({})));
        assert_eq!(record.sent.len(), 1);
        assert_eq!(record.sent[0].sender.id, "D");
        assert_eq!(
            record.sent[0].targets.iter().map(|t| &t.id[..]).collect::<Vec<_>>(),
            ["E", "F"]
        );
        assert!(record.offences.is_empty());
    }

    #[test]
    fn clear_content_clear_keys_and_loops_are_offences() {
        let mut record = logged_in();
        let lines = [
            "PUT /_matrix/client/v3/rooms/!r/send/m.room.message/1",
            "PUT /_matrix/client/v3/sendToDevice/m.room_key/2",
        ];
        for line in lines {
            record.note(
                Instant::now(),
                &request(line, &json!({"messages": {}})),
                &answer(&json!({})),
            );
        }
        assert_eq!(record.offences.len(), 2);
        for _ in 0..LOOP_LIMIT + 5 {
            let line = "POST /_matrix/client/v3/keys/query";
            record.note(Instant::now(), &request(line, &json!({})), &answer(&json!({})));
        }
        assert_eq!(record.offences.len(), 3);
    }
}
