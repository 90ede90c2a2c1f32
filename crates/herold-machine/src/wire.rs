//! The shapes of the client-server API that the machine reads, parsed part by part: a bad part is
//! dropped and named, the rest is used.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

/// Larger events are refused before they are parsed: the specification's limit for room events is
/// 65,536 bytes; to-device messages may be somewhat larger.
pub(crate) const MAX_EVENT_BYTES: usize = 262_144;

/// A map of unparsed JSON.
pub(crate) type RawMap = BTreeMap<String, Box<RawValue>>;

/// Parses `raw` if it is not too large.
pub(crate) fn parse<T: DeserializeOwned>(raw: &RawValue) -> Option<T> {
    if raw.get().len() > MAX_EVENT_BYTES {
        return None;
    }
    serde_json::from_str(raw.get()).ok()
}

/// Parses a section of any size.
pub(crate) fn parse_section<T: DeserializeOwned>(raw: &RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// The top level of a sync response.
#[derive(Deserialize)]
pub(crate) struct SyncBody {
    pub(crate) next_batch: String,
    #[serde(default)]
    pub(crate) rooms: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) account_data: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) to_device: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) device_lists: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) device_one_time_keys_count: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) device_unused_fallback_key_types: Option<Box<RawValue>>,
}

/// The top level of a response of simplified sliding sync.
#[derive(Deserialize)]
pub(crate) struct SlidingBody {
    pub(crate) pos: String,
    #[serde(default)]
    pub(crate) lists: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) rooms: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) extensions: Option<Box<RawValue>>,
}

/// `extensions` of sliding sync.
#[derive(Default, Deserialize)]
pub(crate) struct SlidingExtensions {
    #[serde(default)]
    pub(crate) to_device: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) e2ee: Option<Box<RawValue>>,
}

/// `extensions.to_device`.
#[derive(Default, Deserialize)]
pub(crate) struct SlidingToDevice {
    #[serde(default)]
    pub(crate) next_batch: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) events: Option<Box<RawValue>>,
}

/// `extensions.e2ee`.
#[derive(Default, Deserialize)]
pub(crate) struct SlidingE2ee {
    #[serde(default)]
    pub(crate) device_lists: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) device_one_time_keys_count: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) device_unused_fallback_key_types: Option<Box<RawValue>>,
}

/// A room of sliding sync.
#[derive(Default, Deserialize)]
pub(crate) struct SlidingRoom {
    #[serde(default)]
    pub(crate) membership: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) initial: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) limited: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) expanded_timeline: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) unstable_expanded_timeline: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) prev_batch: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) required_state: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) timeline: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) invite_state: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) stripped_state: Option<Box<RawValue>>,
}

/// The id of an event, whatever else it holds.
#[derive(Deserialize)]
pub(crate) struct EventIdOnly {
    pub(crate) event_id: String,
}

/// The room that an event says it is of. A sync leaves it out.
#[derive(Deserialize)]
struct RoomOnly {
    #[serde(default)]
    room_id: Option<serde_json::Value>,
}

/// Whether an event does not say that it is of another room.
pub(crate) fn may_be_of(raw: &RawValue, room_id: &ruma::RoomId) -> bool {
    parse::<RoomOnly>(raw).is_some_and(|event| {
        event.room_id.is_none_or(|named| named.as_str() == Some(room_id.as_str()))
    })
}

/// A section that holds events.
#[derive(Default, Deserialize)]
pub(crate) struct Events {
    #[serde(default)]
    pub(crate) events: Vec<Box<RawValue>>,
}

/// `device_lists`.
#[derive(Default, Deserialize)]
pub(crate) struct DeviceLists {
    #[serde(default)]
    pub(crate) changed: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) left: Option<Box<RawValue>>,
}

/// `rooms`.
#[derive(Default, Deserialize)]
pub(crate) struct Rooms {
    #[serde(default)]
    pub(crate) join: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) invite: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) leave: Option<Box<RawValue>>,
}

/// A joined or left room.
#[derive(Default, Deserialize)]
pub(crate) struct RoomSection {
    #[serde(default)]
    pub(crate) state: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) timeline: Option<Box<RawValue>>,
}

/// An invited room.
#[derive(Default, Deserialize)]
pub(crate) struct InviteSection {
    #[serde(default)]
    pub(crate) invite_state: Option<Box<RawValue>>,
}

/// A room's timeline.
#[derive(Default, Deserialize)]
pub(crate) struct Timeline {
    #[serde(default)]
    pub(crate) events: Vec<Box<RawValue>>,
    #[serde(default)]
    pub(crate) limited: Option<serde_json::Value>,
    #[serde(default)]
    pub(crate) prev_batch: Option<serde_json::Value>,
}

/// A to-device event.
#[derive(Deserialize)]
pub(crate) struct ToDeviceEvent {
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) sender: String,
    #[serde(default)]
    pub(crate) content: Option<Box<RawValue>>,
}

/// The content of an Olm-encrypted to-device event. Fields of the wrong type make it malformed, except
/// the algorithm, which is told apart first.
#[derive(Deserialize)]
pub(crate) struct OlmContent {
    pub(crate) algorithm: String,
    pub(crate) sender_key: String,
    pub(crate) ciphertext: BTreeMap<String, OlmCiphertext>,
}

/// One recipient's message.
#[derive(Deserialize)]
pub(crate) struct OlmCiphertext {
    #[serde(rename = "type")]
    pub(crate) message_type: u64,
    pub(crate) body: String,
}

/// The payload inside an Olm message.
#[derive(Deserialize)]
pub(crate) struct OlmPayload {
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) content: Box<RawValue>,
    pub(crate) sender: String,
    pub(crate) recipient: String,
    pub(crate) recipient_keys: OlmKeys,
    pub(crate) keys: OlmKeys,
    #[serde(default)]
    pub(crate) sender_device_keys: Option<Box<RawValue>>,
    #[serde(default, rename = "org.matrix.msc4147.device_keys")]
    pub(crate) unstable_sender_device_keys: Option<Box<RawValue>>,
}

/// The Ed25519 key named in a payload.
#[derive(Deserialize)]
pub(crate) struct OlmKeys {
    pub(crate) ed25519: String,
}

/// The content of `m.room_key`.
#[derive(Deserialize)]
pub(crate) struct RoomKeyContent {
    pub(crate) algorithm: String,
    pub(crate) room_id: String,
    pub(crate) session_id: String,
    pub(crate) session_key: zeroize::Zeroizing<String>,
    #[serde(default)]
    shared_history: Option<Box<RawValue>>,
    /// A name that matrix-sdk-crypto gives it.
    #[serde(default, rename = "m.shared_history")]
    other_shared_history: Option<Box<RawValue>>,
    /// The name before it entered the specification.
    #[serde(default, rename = "org.matrix.msc3061.shared_history")]
    unstable_shared_history: Option<Box<RawValue>>,
}

impl RoomKeyContent {
    /// Whether the key may be given to later members. What is no truth value counts as no.
    pub(crate) fn is_shared_history(&self) -> bool {
        [&self.shared_history, &self.other_shared_history, &self.unstable_shared_history]
            .into_iter()
            .flatten()
            .find_map(|raw| parse_section::<bool>(raw))
            .unwrap_or(false)
    }
}

/// The content of `m.forwarded_room_key`. Who made the session is the forwarder's word.
#[derive(Deserialize)]
pub(crate) struct ForwardedRoomKeyContent {
    pub(crate) algorithm: String,
    pub(crate) room_id: String,
    pub(crate) session_id: String,
    pub(crate) session_key: zeroize::Zeroizing<String>,
    pub(crate) sender_key: String,
    pub(crate) sender_claimed_ed25519_key: String,
    pub(crate) forwarding_curve25519_key_chain: Vec<String>,
}

/// The content of `m.room_key_request`.
#[derive(Deserialize)]
pub(crate) struct KeyRequestContent {
    pub(crate) action: String,
    pub(crate) requesting_device_id: String,
    pub(crate) request_id: String,
    #[serde(default)]
    pub(crate) body: Option<Box<RawValue>>,
}

/// The key that is asked for.
#[derive(Deserialize)]
pub(crate) struct RequestedKey {
    pub(crate) algorithm: String,
    pub(crate) room_id: String,
    pub(crate) session_id: String,
}

/// The content of `m.room_key.withheld`.
#[derive(Deserialize)]
pub(crate) struct WithheldContent {
    #[serde(default)]
    pub(crate) room_id: Option<String>,
    #[serde(default)]
    pub(crate) session_id: Option<String>,
    pub(crate) code: String,
}

/// What every room event has.
#[derive(Deserialize)]
pub(crate) struct EventHead {
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) sender: String,
    #[serde(default)]
    pub(crate) event_id: Option<String>,
    #[serde(default)]
    pub(crate) state_key: Option<String>,
    #[serde(default)]
    pub(crate) origin_server_ts: Option<serde_json::Value>,
    #[serde(default)]
    pub(crate) content: Option<Box<RawValue>>,
}

/// What a state event must have to be looked at.
#[derive(Deserialize)]
pub(crate) struct StateHead {
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) state_key: String,
    #[serde(default)]
    pub(crate) content: Option<Box<RawValue>>,
}

/// The content of `m.room.member`, as far as it is needed.
#[derive(Deserialize)]
pub(crate) struct MemberContent {
    pub(crate) membership: Box<RawValue>,
    #[serde(default)]
    pub(crate) displayname: Option<Box<RawValue>>,
}

/// The content of `m.room.encryption`, each field as it stands there.
#[derive(Default, Deserialize)]
pub(crate) struct EncryptionContent {
    #[serde(default)]
    algorithm: Option<Box<RawValue>>,
    #[serde(default)]
    rotation_period_ms: Option<Box<RawValue>>,
    #[serde(default)]
    rotation_period_msgs: Option<Box<RawValue>>,
}

impl EncryptionContent {
    /// The fields that can be read.
    pub(crate) fn to_value(&self) -> serde_json::Value {
        let read = |raw: &Option<Box<RawValue>>| -> serde_json::Value {
            raw.as_deref().and_then(parse_section).unwrap_or_default()
        };
        serde_json::json!({
            "algorithm": read(&self.algorithm),
            "rotation_period_ms": read(&self.rotation_period_ms),
            "rotation_period_msgs": read(&self.rotation_period_msgs),
        })
    }
}

/// The content of `m.room.history_visibility`.
#[derive(Deserialize)]
pub(crate) struct VisibilityContent {
    #[serde(default)]
    pub(crate) history_visibility: Option<Box<RawValue>>,
}

/// The content of `m.room.name`.
#[derive(Deserialize)]
pub(crate) struct NameContent {
    #[serde(default)]
    pub(crate) name: Option<Box<RawValue>>,
}

/// The content of a Megolm-encrypted room event.
#[derive(Deserialize)]
pub(crate) struct MegolmContent {
    pub(crate) algorithm: String,
    #[serde(default)]
    pub(crate) session_id: Option<String>,
    #[serde(default)]
    pub(crate) ciphertext: Option<String>,
    #[serde(default, rename = "m.relates_to")]
    pub(crate) relates_to: Option<serde_json::Value>,
}

/// The payload inside a Megolm message.
#[derive(Deserialize)]
pub(crate) struct MegolmPayload {
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) content: Box<RawValue>,
    pub(crate) room_id: String,
}

/// An answer of `/keys/query`.
#[derive(Default)]
pub(crate) struct KeysQueryBody {
    pub(crate) failures: RawMap,
    pub(crate) device_keys: RawMap,
    pub(crate) master_keys: RawMap,
    pub(crate) self_signing_keys: RawMap,
    pub(crate) user_signing_keys: RawMap,
}

impl KeysQueryBody {
    /// Reads the answer part by part; `None` if it is no JSON object, or says nothing of devices.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let parts: RawMap = serde_json::from_slice(body).ok()?;
        let part = |name: &str| parts.get(name).and_then(|raw| parse_section::<RawMap>(raw));
        Some(Self {
            device_keys: part("device_keys")?,
            failures: part("failures").unwrap_or_default(),
            master_keys: part("master_keys").unwrap_or_default(),
            self_signing_keys: part("self_signing_keys").unwrap_or_default(),
            user_signing_keys: part("user_signing_keys").unwrap_or_default(),
        })
    }
}

/// An answer of `/keys/claim`.
#[derive(Default, Deserialize)]
pub(crate) struct KeysClaimBody {
    #[serde(default)]
    pub(crate) one_time_keys: RawMap,
}

/// An answer of `/keys/upload`.
#[derive(Deserialize)]
pub(crate) struct KeysUploadBody {
    #[serde(default)]
    pub(crate) one_time_key_counts: BTreeMap<String, serde_json::Value>,
}

/// An answer with events: `/rooms/{}/members` and `/rooms/{}/messages`.
#[derive(Default, Deserialize)]
pub(crate) struct Chunk {
    #[serde(default)]
    pub(crate) chunk: Vec<Box<RawValue>>,
    #[serde(default)]
    pub(crate) end: Option<String>,
}
