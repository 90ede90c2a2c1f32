//! What the server remembers: users, devices, rooms and events.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

/// Who sent an authenticated request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Requester {
    pub(super) user: String,
    pub(super) device: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct User {
    pub(super) password: String,
    pub(super) display_name: Option<String>,
    pub(super) avatar_url: Option<String>,
    pub(super) devices: BTreeMap<String, Device>,
    /// Type to (stream position, content).
    pub(super) account_data: BTreeMap<String, (u64, Value)>,
    /// (Room, type) to (stream position, content).
    pub(super) room_account_data: BTreeMap<(String, String), (u64, Value)>,
    pub(super) filters: Vec<Value>,
    /// `master`, `self_signing` and `user_signing`.
    pub(super) cross_signing: BTreeMap<String, Value>,
    /// What a hostile server says in their place.
    pub(super) cross_signing_override: BTreeMap<String, Value>,
    /// Signatures that this user uploaded: (target user, target key or device) to
    /// (key id of the signer to signature).
    pub(super) signatures: BTreeMap<(String, String), BTreeMap<String, Value>>,
    /// (Stream position, device): this user's self-signing key has signed it; no device: it is another key.
    pub(super) signing_log: Vec<(u64, Option<String>)>,
    pub(super) backups: BTreeMap<u64, super::backup::Backup>,
    pub(super) last_backup: u64,
    /// The id and the data of the dehydrated device.
    pub(super) dehydrated: Option<(String, Value)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Device {
    pub(super) display_name: Option<String>,
    pub(super) last_seen_ms: Option<u64>,
    pub(super) keys: Option<Value>,
    pub(super) keys_override: Option<Value>,
    /// Full key id (`signed_curve25519:AAAA`) to (upload order, key).
    pub(super) one_time_keys: BTreeMap<String, (u64, Value)>,
    /// Algorithm to fallback key.
    pub(super) fallback_keys: BTreeMap<String, FallbackKey>,
    pub(super) count_override: Option<Value>,
    /// Messages that were not acknowledged, with their stream positions.
    pub(super) inbox: Vec<(u64, Value)>,
    /// (Room, transaction) to event id.
    pub(super) event_txns: BTreeMap<(String, String), String>,
    /// (Type, transaction) of to-device messages.
    pub(super) to_device_txns: std::collections::BTreeSet<(String, String)>,
}

#[derive(Clone, Debug)]
pub(super) struct FallbackKey {
    pub(super) key_id: String,
    pub(super) key: Value,
    pub(super) used: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) pos: u64,
    pub(super) value: Value,
    /// Index of the redaction.
    pub(super) redacted_by: Option<usize>,
    /// Index of the state event that this one replaced.
    pub(super) replaces: Option<usize>,
    /// The device that sent it, and its transaction.
    pub(super) origin: Option<(Requester, String)>,
}

impl Event {
    pub(super) fn kind(&self) -> &str {
        self.value.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn state_key(&self) -> Option<&str> {
        self.value.get("state_key").and_then(Value::as_str)
    }

    pub(super) fn sender(&self) -> &str {
        self.value.get("sender").and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn id(&self) -> &str {
        self.value.get("event_id").and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn content(&self, key: &str) -> Option<&Value> {
        self.value.get("content").and_then(|content| content.get(key))
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    pub(super) events: Vec<Event>,
    pub(super) by_id: BTreeMap<String, usize>,
    /// (Type, state key) to the indexes of its events, oldest first.
    pub(super) state: BTreeMap<(String, String), Vec<usize>>,
    /// A sync from before this position sees a gap.
    pub(super) gap: u64,
    pub(super) forgotten: std::collections::BTreeSet<String>,
}

/// The end of the stream.
pub(super) const NOW: u64 = u64::MAX;

impl Room {
    pub(super) fn event(&self, index: usize) -> Option<&Event> {
        self.events.get(index)
    }

    /// The state event of this type and key as it was at a stream position (inclusive).
    pub(super) fn state_at(&self, kind: &str, key: &str, pos: u64) -> Option<&Event> {
        let log = self.state.get(&(kind.to_owned(), key.to_owned()))?;
        log.iter().rev().filter_map(|index| self.event(*index)).find(|event| event.pos <= pos)
    }

    pub(super) fn state_now(&self, kind: &str, key: &str) -> Option<&Event> {
        self.state_at(kind, key, NOW)
    }

    /// The index of every state event that held at a position.
    pub(super) fn state_indexes(&self, pos: u64) -> Vec<usize> {
        let mut out: Vec<usize> = self
            .state
            .values()
            .filter_map(|log| {
                log.iter()
                    .rev()
                    .find(|index| self.event(**index).is_some_and(|event| event.pos <= pos))
                    .copied()
            })
            .collect();
        out.sort_unstable();
        out
    }

    /// `join`, `invite`, `leave`, `ban` or, for a stranger, the empty string.
    pub(super) fn membership_at(&self, user: &str, pos: u64) -> &str {
        self.state_at("m.room.member", user, pos)
            .and_then(|event| event.content("membership"))
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    pub(super) fn membership(&self, user: &str) -> &str {
        self.membership_at(user, NOW)
    }

    /// Everyone with this membership at a position.
    pub(super) fn members_at<'a>(&'a self, membership: &'a str, pos: u64) -> Vec<&'a str> {
        self.state
            .keys()
            .filter(|(kind, _)| kind == "m.room.member")
            .map(|(_, user)| user.as_str())
            .filter(|user| self.membership_at(user, pos) == membership)
            .collect()
    }

    /// The membership events of one user after a position, as (position, membership).
    pub(super) fn membership_log(&self, user: &str, after: u64) -> Vec<(u64, &str)> {
        let key = ("m.room.member".to_owned(), user.to_owned());
        self.state
            .get(&key)
            .into_iter()
            .flatten()
            .filter_map(|index| self.event(*index))
            .filter(|event| event.pos > after)
            .map(|event| {
                let membership = event.content("membership").and_then(Value::as_str);
                (event.pos, membership.unwrap_or_default())
            })
            .collect()
    }

    /// The first index whose position is after `pos`.
    pub(super) fn first_after(&self, pos: u64) -> usize {
        self.events.partition_point(|event| event.pos <= pos)
    }

    pub(super) fn append(&mut self, mut event: Event) {
        let index = self.events.len();
        if let (Some(key), false) = (event.state_key(), event.kind().is_empty()) {
            let log = self.state.entry((event.kind().to_owned(), key.to_owned())).or_default();
            event.replaces = log.last().copied();
            log.push(index);
        }
        if !event.id().is_empty() {
            self.by_id.entry(event.id().to_owned()).or_insert(index);
        }
        self.events.push(event);
    }
}

/// One request that the server answered.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// The time of the request.
    pub now_ms: u64,
    /// The HTTP method.
    pub method: String,
    /// The percent-encoded path.
    pub path: String,
    /// The decoded query.
    pub query: Vec<(String, String)>,
    /// The user of the access token, if it was valid.
    pub user: Option<String>,
    /// The device of the access token, if it was valid.
    pub device: Option<String>,
    /// The body as it was sent.
    pub body: Arc<[u8]>,
    /// The status of the answer.
    pub status: u16,
}

/// One to-device message on its way to one device.
#[derive(Clone, Debug, PartialEq)]
pub struct SentToDevice {
    /// The time at which it was sent.
    pub now_ms: u64,
    /// The user who sent it.
    pub sender: String,
    /// The device that sent it; `None` if a test injected it.
    pub sender_device: Option<String>,
    /// The user it is for.
    pub recipient: String,
    /// The device it is for (`*` is already spread out).
    pub recipient_device: String,
    /// The event type.
    pub event_type: String,
    /// The content as the server stored it.
    pub content: Value,
    /// Whether the recipient device existed; a message to an unknown device is dropped.
    pub delivered: bool,
}

/// An empty JSON object.
pub(super) fn empty() -> Value {
    json!({})
}
