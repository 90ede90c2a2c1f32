//! What a test can see and do behind the back of the clients.

use serde_json::Value;

use super::HomeServer;
use super::model::{Device, Event, SeenRequest, SentToDevice};

impl HomeServer {
    /// Every request that was answered, oldest first (see [`Self::keep_requests`]).
    #[must_use]
    pub fn requests(&self) -> &[SeenRequest] {
        &self.requests
    }

    /// Every to-device message that clients sent, one entry per recipient device.
    #[must_use]
    pub fn to_device_log(&self) -> &[SentToDevice] {
        &self.to_device_log
    }

    /// Keeps about this many of the newest requests and to-device messages (between one and two
    /// times as many), none at all for `Some(0)`, all of them for `None`, which is the default.
    pub fn keep_requests(&mut self, keep: Option<usize>) {
        self.keep = keep;
        if keep == Some(0) {
            self.requests.clear();
            self.to_device_log.clear();
        }
        self.trim_logs();
    }

    /// Every event of a room as the server has it now, oldest first.
    #[must_use]
    pub fn events(&self, room_id: &str) -> Vec<Value> {
        let room = self.rooms.get(room_id);
        room.map(|room| room.events.iter().map(|event| event.value.clone()).collect())
            .unwrap_or_default()
    }

    /// The ids of all rooms.
    #[must_use]
    pub fn room_ids(&self) -> Vec<String> {
        self.rooms.keys().cloned().collect()
    }

    /// The users with this membership (`join`, `invite`, `leave`, `ban`) in a room.
    #[must_use]
    pub fn members_of(&self, room_id: &str, membership: &str) -> Vec<String> {
        let room = self.rooms.get(room_id);
        room.map(|room| room.members_at(membership, super::model::NOW))
            .unwrap_or_default()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    /// The last position of the stream.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.pos
    }

    /// The stream position that a sync token stands for.
    #[must_use]
    pub fn position_of(token: &str) -> Option<u64> {
        super::sync::parse_token(token).ok().map(|token| token.pos)
    }

    /// Whether a user was to read along at some position of the span, and whether at all of them: joined, or
    /// invited where the history is not for those who have joined only. A client learns of an invitation that it
    /// makes before the sync that tells what else has changed: for the first answer it is enough that there was an
    /// invitation, and that the history was for the invited, not that both were at once.
    #[must_use]
    pub fn reads_along(
        &self,
        room_id: &str,
        user: &str,
        span: std::ops::RangeInclusive<u64>,
    ) -> (bool, bool) {
        let Some(room) = self.rooms.get(room_id) else { return (false, false) };
        let changes = room.events.iter().filter(|event| {
            span.contains(&event.pos)
                && (event.kind() == "m.room.history_visibility"
                    || event.kind() == "m.room.member" && event.state_key() == Some(user))
        });
        let (mut ever, mut always) = (false, true);
        let (mut ever_invited, mut ever_open) = (false, false);
        for pos in changes.map(|event| event.pos).chain([*span.start()]) {
            let visibility = room
                .state_at("m.room.history_visibility", "", pos)
                .and_then(|event| event.content("history_visibility"))
                .and_then(Value::as_str);
            let open = visibility != Some("joined");
            let (joined, invited) = match room.membership_at(user, pos) {
                "join" => (true, false),
                "invite" => (false, true),
                _ => (false, false),
            };
            ever_invited |= invited;
            ever_open |= open;
            ever |= joined;
            always &= joined || invited && open;
        }
        (ever || ever_invited && ever_open, always)
    }

    /// Since when a user had been invited at a position without having joined, if that was so.
    #[must_use]
    pub fn invited_since(&self, room_id: &str, user: &str, position: u64) -> Option<u64> {
        let event = self.rooms.get(room_id)?.state_at("m.room.member", user, position)?;
        let membership = event.content("membership").and_then(Value::as_str);
        (membership == Some("invite")).then_some(event.pos)
    }

    /// Whether a device has published its identity keys.
    #[must_use]
    pub fn has_device_keys(&self, user: &str, device: &str) -> bool {
        self.device(user, device).is_some_and(|device| device.keys.is_some())
    }

    /// From which positions of the stream, and up to which, a device was signed with its owner's self-signing key.
    #[must_use]
    pub fn signed_spans(&self, user: &str, device: &str) -> Vec<(u64, Option<u64>)> {
        let mut spans: Vec<(u64, Option<u64>)> = Vec::new();
        let log = self.users.get(user).map(|user| user.signing_log.as_slice()).unwrap_or_default();
        for (pos, signed) in log {
            let open = spans.last_mut().filter(|(_, end)| end.is_none());
            match (signed.as_deref(), open) {
                (None, Some((_, end))) => *end = Some(*pos),
                (Some(id), None) if id == device => spans.push((*pos, None)),
                _ => {}
            }
        }
        spans
    }

    /// The positions at which a user has published another self-signing key; the first is not another.
    #[must_use]
    pub fn identity_changes(&self, user: &str) -> Vec<u64> {
        let log = self.users.get(user).map(|user| user.signing_log.as_slice()).unwrap_or_default();
        log.iter().filter(|(_, signed)| signed.is_none()).map(|(pos, _)| *pos).skip(1).collect()
    }

    /// Whether the history of a room was open to later members at some position of the span.
    #[must_use]
    pub fn open_history(&self, room_id: &str, span: std::ops::RangeInclusive<u64>) -> bool {
        let Some(room) = self.rooms.get(room_id) else { return false };
        let changes = room.events.iter().filter(|event| {
            span.contains(&event.pos) && event.kind() == "m.room.history_visibility"
        });
        changes.map(|event| event.pos).chain([*span.start()]).any(|pos| {
            let visibility = room.state_at("m.room.history_visibility", "", pos);
            let visibility = visibility
                .and_then(|event| event.content("history_visibility"))
                .and_then(Value::as_str);
            visibility.is_none_or(|visibility| matches!(visibility, "shared" | "world_readable"))
        })
    }

    /// Whether the server has accepted an event of a device under this transaction id.
    #[must_use]
    pub fn has_event_of(&self, user: &str, device: &str, room_id: &str, txn_id: &str) -> bool {
        let key = (room_id.to_owned(), txn_id.to_owned());
        self.device(user, device).is_some_and(|device| device.event_txns.contains_key(&key))
    }

    /// The device ids of a user.
    #[must_use]
    pub fn device_ids(&self, user: &str) -> Vec<String> {
        let user = self.users.get(user);
        user.map(|user| user.devices.keys().cloned().collect()).unwrap_or_default()
    }

    /// The to-device messages that a device did not acknowledge.
    #[must_use]
    pub fn inbox(&self, user: &str, device: &str) -> Vec<Value> {
        let device = self.device(user, device);
        device
            .map(|device| device.inbox.iter().map(|(_, event)| event.clone()).collect())
            .unwrap_or_default()
    }

    /// The full ids of the one-time keys that are left of a device.
    #[must_use]
    pub fn one_time_key_ids(&self, user: &str, device: &str) -> Vec<String> {
        let device = self.device(user, device);
        device.map(|device| device.one_time_keys.keys().cloned().collect()).unwrap_or_default()
    }

    /// Puts an event into the inbox of a device as it is; false if there is no such device.
    pub fn inject_to_device(&mut self, user: &str, device: &str, event: Value) -> bool {
        self.put_in_inbox(user, device, event)
    }

    /// Appends an event to a room as it is and without any check; one with a `state_key` becomes
    /// the state. False if there is no such room.
    pub fn inject_timeline(&mut self, room_id: &str, event: Value) -> bool {
        let pos = self.pos + 1;
        let Some(room) = self.rooms.get_mut(room_id) else { return false };
        room.append(Event { pos, value: event, redacted_by: None, replaces: None, origin: None });
        self.pos = pos;
        true
    }

    /// Makes `keys/query` answer this for a device, whatever it uploaded or uploads, and tells
    /// everyone that the devices changed. `Value::Null` hides the device. A device that does not
    /// exist is made up.
    pub fn override_device_keys(&mut self, user: &str, device: &str, keys: Value) {
        self.users
            .entry(user.to_owned())
            .or_default()
            .devices
            .entry(device.to_owned())
            .or_default()
            .keys_override = Some(keys);
        self.note_device_change(user);
    }

    /// Ends [`Self::override_device_keys`].
    pub fn restore_device_keys(&mut self, user: &str, device: &str) {
        if let Some(device) = self.device_mut(user, device) {
            device.keys_override = None;
        }
        self.note_device_change(user);
    }

    /// Gives a user one more device with these keys, without a login: a device that the server
    /// made up.
    pub fn add_device_keys(&mut self, user: &str, device: &str, keys: Value) {
        let added = Device { keys: Some(keys), ..Device::default() };
        let user_entry = self.users.entry(user.to_owned()).or_default();
        user_entry.devices.insert(device.to_owned(), added);
        self.note_device_change(user);
    }

    /// Adds one-time keys (full key id to key) to a device as if it had uploaded them.
    pub fn add_one_time_keys(&mut self, user: &str, device: &str, keys: Vec<(String, Value)>) {
        let order = self.next_pos();
        if let Some(device) = self.device_mut(user, device) {
            for (id, key) in keys {
                device.one_time_keys.insert(id, (order, key));
            }
        }
    }

    /// Throws away all one-time keys of a device.
    pub fn drop_one_time_keys(&mut self, user: &str, device: &str) {
        if let Some(device) = self.device_mut(user, device) {
            device.one_time_keys.clear();
        }
    }

    /// Makes `keys/query` answer this as a cross-signing key (`master`, `self_signing` or
    /// `user_signing`), `Value::Null` hides it, `None` ends the override.
    pub fn override_cross_signing_key(&mut self, user: &str, usage: &str, key: Option<Value>) {
        if let Some(user) = self.users.get_mut(user) {
            match key {
                Some(key) => user.cross_signing_override.insert(usage.to_owned(), key),
                None => user.cross_signing_override.remove(usage),
            };
        }
        self.note_device_change(user);
    }

    /// Tells everyone who shares a room that the devices of a user changed.
    pub fn announce_devices(&mut self, user: &str) {
        self.note_device_change(user);
    }

    /// Makes the next incremental sync of everyone limited: what they did not see yet of this
    /// room falls into the gap.
    pub fn force_gap(&mut self, room_id: &str) {
        let pos = self.next_pos();
        if let Some(room) = self.rooms.get_mut(room_id) {
            room.gap = pos;
        }
    }

    /// Reports this instead of the count of one-time keys; `Value::Null` leaves the field out.
    pub fn set_one_time_key_count_override(
        &mut self,
        user: &str,
        device: &str,
        counts: Option<Value>,
    ) {
        if let Some(device) = self.device_mut(user, device) {
            device.count_override = counts;
        }
    }

    /// The users of these servers end in `failures` of `keys/query` and `keys/claim`; replaces
    /// the servers of an earlier call.
    pub fn fail_servers(&mut self, servers: Vec<String>) {
        self.failing = servers.into_iter().collect();
    }

    /// Answers the next requests with 429.
    pub fn limit_requests(&mut self, count: u32, retry_after_ms: u64) {
        self.limited = count;
        self.limited_ms = retry_after_ms;
    }

    /// Whether media can be had without a token, through the old paths; true at first.
    pub fn serve_legacy_media(&mut self, serve: bool) {
        self.legacy_media = serve;
    }

    /// Ends the access token of a device. With `soft`, the device and its keys stay and the
    /// client is told that it may log in again; without, the device goes, as in a logout.
    pub fn end_token(&mut self, user: &str, device: &str, soft: bool) {
        if !soft {
            self.drop_device(user, device);
            return;
        }
        let of_device = |holder: &super::Requester| holder.user == user && holder.device == device;
        let ended = self.tokens.iter().filter(|(_, holder)| of_device(holder));
        let ended: Vec<String> = ended.map(|(token, _)| token.clone()).collect();
        for token in ended {
            self.tokens.remove(&token);
            self.soft_tokens.insert(token);
        }
    }

    /// The access token of a device that is logged in.
    #[must_use]
    pub fn token_of(&self, user: &str, device: &str) -> Option<&str> {
        let mut tokens = self.tokens.iter();
        tokens
            .find(|(_, holder)| holder.user == user && holder.device == device)
            .map(|(token, _)| token.as_str())
    }
}
