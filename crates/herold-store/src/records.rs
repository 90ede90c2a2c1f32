//! The typed records of each table, and their keys.
//!
//! Records are data only: what they mean to the protocol is the state machine's affair. Fields with
//! private key material are [`SecretBytes`] or [`SecretString`] and never print.

use herold_crypto::{
    Curve25519PublicKey, Ed25519PublicKey, IdentityKeys, SecretBytes, SecretString, SessionId,
};
use herold_trust::{Device, EncryptionSettings, Identity, KeySource, Policy, Timestamp};
use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedTransactionId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{
    KeyError, KeyReader, Record, RecordKey, StoreError, Table,
    key::{USUAL_KEY, push_bytes, push_number, push_text},
};

/// How a component of a key is laid out and read back.
trait Component: Sized {
    fn push(&self, out: &mut Vec<u8>);
    fn read(reader: &mut KeyReader<'_>) -> Result<Self, KeyError>;
}

impl Component for u64 {
    fn push(&self, out: &mut Vec<u8>) {
        push_number(out, *self);
    }
    fn read(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
        reader.number()
    }
}

impl Component for [u8; 32] {
    fn push(&self, out: &mut Vec<u8>) {
        push_bytes(out, self);
    }
    fn read(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
        reader.bytes()?.try_into().map_err(|_| KeyError)
    }
}

impl Component for Curve25519PublicKey {
    fn push(&self, out: &mut Vec<u8>) {
        push_bytes(out, self.as_bytes());
    }
    fn read(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
        Ok(Curve25519PublicKey::from_bytes(<[u8; 32]>::read(reader)?))
    }
}

impl Component for String {
    fn push(&self, out: &mut Vec<u8>) {
        push_text(out, self);
    }
    fn read(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
        reader.text().map(str::to_owned)
    }
}

impl Component for SessionId {
    fn push(&self, out: &mut Vec<u8>) {
        push_text(out, self.as_str());
    }
    fn read(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
        Ok(SessionId::new(reader.text()?))
    }
}

macro_rules! identifier_component {
    ($($type:ty),*) => {$(
        impl Component for $type {
            fn push(&self, out: &mut Vec<u8>) {
                push_text(out, self.as_str());
            }
            fn read(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
                reader.text()?.try_into().map_err(|_| KeyError)
            }
        }
    )*};
}
identifier_component!(OwnedUserId, OwnedRoomId, OwnedEventId);

impl Component for OwnedDeviceId {
    fn push(&self, out: &mut Vec<u8>) {
        push_text(out, self.as_str());
    }
    fn read(reader: &mut KeyReader<'_>) -> Result<Self, KeyError> {
        reader.text().map(OwnedDeviceId::from)
    }
}

macro_rules! record_key {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$doc])*
        ///
        /// Sorts as its rows do: by the bytes of the key.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)+ }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.to_bytes().cmp(&other.to_bytes())
            }
        }

        impl RecordKey for $name {
            fn to_bytes(&self) -> Vec<u8> {
                let mut out = Vec::with_capacity(USUAL_KEY);
                $(self.$field.push(&mut out);)+
                out
            }
            fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
                let mut reader = KeyReader::new(bytes);
                let key = Self { $($field: Component::read(&mut reader)?,)+ };
                reader.end()?;
                Ok(key)
            }
        }
    };
}

macro_rules! prefix {
    ($(#[$doc:meta])* $key:ident::$name:ident($($arg:ident: $type:ty),+)) => {
        impl $key {
            $(#[$doc])*
            #[must_use]
            pub fn $name($($arg: &$type),+) -> Vec<u8> {
                let mut out = Vec::with_capacity(USUAL_KEY);
                $(push_text(&mut out, $arg.as_str());)+
                out
            }
        }
    };
}

macro_rules! record {
    ($type:ty, $key:ty, $table:ident) => {
        impl Record for $type {
            const TABLE: Table = Table::$table;
            type Key = $key;
        }
    };
}

mod dehydration;
mod history;
mod own;

pub use dehydration::{
    DehydratedUploadRecord, DehydrationRecord, DehydrationStage, RehydratedSessionRecord,
    RehydrationOutcome, RehydrationRecord, RehydrationRefusal,
};
pub use history::{HistoryBundleKey, HistoryBundleRecord, InvitationRecord};
pub use own::{
    BackupBatchRecord, BackupDueRecord, BackupRecord, ParkedRecord, PendingIdentityRecord,
    RecoveryChange, RecoveryRecord, RecoveryStage, SecretRecord, SecretRequestRecord,
    SignatureRecord, StorageKeyRecord, VerificationRecord, VerificationRequestRecord,
    VerifiedDeviceRecord,
};

/// The key of a table that has one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Only;

impl RecordKey for Only {
    fn to_bytes(&self) -> Vec<u8> {
        Vec::new()
    }
    fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        KeyReader::new(bytes).end().map(|()| Self)
    }
}

record_key! {
    /// A row with a running number.
    SequenceKey {
        /// The number; rows sort by it.
        sequence: u64,
    }
}
record_key! {
    /// A row with a name of the program's own.
    NameKey {
        /// The name.
        name: String,
    }
}
record_key! {
    /// A user.
    UserKey {
        /// The user.
        user_id: OwnedUserId,
    }
}
record_key! {
    /// A device of a user.
    DeviceKey {
        /// The device's owner.
        user_id: OwnedUserId,
        /// The device.
        device_id: OwnedDeviceId,
    }
}
prefix!(/// All devices of a user.
    DeviceKey::of(user_id: ruma::UserId));
record_key! {
    /// A device of a user by its Curve25519 key.
    DeviceByKeyKey {
        /// The device's owner.
        user_id: OwnedUserId,
        /// The device's Curve25519 identity key.
        curve25519: Curve25519PublicKey,
    }
}
record_key! {
    /// An Olm session with a device.
    OlmSessionKey {
        /// The other device's Curve25519 identity key.
        sender_key: Curve25519PublicKey,
        /// The session.
        session_id: SessionId,
    }
}
impl OlmSessionKey {
    /// All sessions with the device that has this identity key.
    #[must_use]
    pub fn with(sender_key: &Curve25519PublicKey) -> Vec<u8> {
        let mut out = Vec::new();
        sender_key.push(&mut out);
        out
    }
}
record_key! {
    /// The hash of an Olm message.
    HashKey {
        /// SHA-256 of the message.
        hash: [u8; 32],
    }
}
record_key! {
    /// A verification.
    VerificationKey {
        /// Its id: a transaction id, or the event id of the request.
        flow_id: String,
        /// The other user; the own one for own devices.
        user_id: OwnedUserId,
    }
}
impl VerificationKey {
    /// All verifications with this id.
    #[must_use]
    pub fn of(flow_id: &str) -> Vec<u8> {
        let mut out = Vec::new();
        push_text(&mut out, flow_id);
        out
    }
}
record_key! {
    /// A room.
    RoomKey {
        /// The room.
        room_id: OwnedRoomId,
    }
}
record_key! {
    /// A Megolm session in a room.
    RoomSessionKey {
        /// The room.
        room_id: OwnedRoomId,
        /// The session.
        session_id: SessionId,
    }
}
prefix!(/// All sessions of a room.
    RoomSessionKey::of(room_id: ruma::RoomId));
record_key! {
    /// A Megolm session in a room, as one device has claimed it. Every member has the key and can send it on
    /// as its own, so each claim has a row of its own: none can stand in another's way.
    InboundSessionKey {
        /// The room.
        room_id: OwnedRoomId,
        /// The session.
        session_id: SessionId,
        /// The Curve25519 key of the claimant: [`InboundSessionRecord::sender_key`].
        sender_key: Curve25519PublicKey,
    }
}
prefix!(/// All claims to a session.
    InboundSessionKey::of(room_id: ruma::RoomId, session_id: SessionId));
record_key! {
    /// A device that a Megolm session was, or was not, shared with.
    ShareKey {
        /// The session.
        session_id: SessionId,
        /// The device's owner.
        user_id: OwnedUserId,
        /// The device.
        device_id: OwnedDeviceId,
    }
}
prefix!(/// All shares of a session.
    ShareKey::of(session_id: SessionId));
record_key! {
    /// A member of a room.
    MemberKey {
        /// The room.
        room_id: OwnedRoomId,
        /// The member.
        user_id: OwnedUserId,
    }
}
prefix!(/// All members of a room.
    MemberKey::of(room_id: ruma::RoomId));
record_key! {
    /// An event in a room.
    EventKey {
        /// The room.
        room_id: OwnedRoomId,
        /// The event.
        event_id: OwnedEventId,
    }
}
prefix!(/// All events of a room.
    EventKey::of(room_id: ruma::RoomId));
record_key! {
    /// A place in a room's timeline.
    TimelineKey {
        /// The room.
        room_id: OwnedRoomId,
        /// The place: events received live count up from [`TimelineKey::MIDDLE`], older ones down.
        order: u64,
    }
}
prefix!(/// The whole timeline of a room.
    TimelineKey::of(room_id: ruma::RoomId));
impl TimelineKey {
    /// Where a room's timeline starts; it grows both ways.
    pub const MIDDLE: u64 = 1 << 62;
}
record_key! {
    /// An event that waits for a room key.
    WaitingKey {
        /// The room.
        room_id: OwnedRoomId,
        /// The session whose key is missing.
        session_id: SessionId,
        /// The message index that the ciphertext names, unchecked.
        index: u64,
        /// The event.
        event_id: OwnedEventId,
    }
}
prefix!(/// All events that wait for a session.
    WaitingKey::for_session(room_id: ruma::RoomId, session_id: SessionId));
impl WaitingKey {
    /// All events that wait for a session and name this message index.
    #[must_use]
    pub fn at_index(room_id: &ruma::RoomId, session_id: &SessionId, index: u64) -> Vec<u8> {
        let mut out = Self::for_session(room_id, session_id);
        index.push(&mut out);
        out
    }
}
record_key! {
    /// A Megolm session, whatever its room.
    SessionKey {
        /// The session.
        session_id: SessionId,
    }
}
record_key! {
    /// A message index of a Megolm session.
    MegolmIndexKey {
        /// The room.
        room_id: OwnedRoomId,
        /// The session.
        session_id: SessionId,
        /// The message index.
        index: u64,
    }
}
prefix!(/// All message indices of a session that are known to be used.
    MegolmIndexKey::of(room_id: ruma::RoomId, session_id: SessionId));

/// This device's account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountRecord {
    /// The account's user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The public identity keys.
    pub keys: IdentityKeys,
    /// The signed `device_keys` object, as JSON text: it never changes.
    pub signed_keys: String,
    /// The Olm account. Secret.
    pub pickle: SecretBytes,
    /// When it was made.
    pub created_at: Timestamp,
}
record!(AccountRecord, Only, Account);

/// What of the account's keys has been published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUploadRecord {
    /// The server has accepted the device keys.
    pub device_keys_published: bool,
    /// How many signed one-time keys the server last said it has.
    pub server_one_time_keys: Option<u64>,
    /// There are keys in the account that the server has not accepted yet: upload them.
    pub unpublished_keys: bool,
    /// The server said that the published fallback key was used.
    pub fallback_used: bool,
    /// When the current fallback key was made.
    pub fallback_created_at: Option<Timestamp>,
    /// When the previous fallback key is to be forgotten.
    pub forget_previous_fallback_at: Option<Timestamp>,
    /// When keys were last uploaded.
    pub uploaded_at: Option<Timestamp>,
}
record!(KeyUploadRecord, Only, KeyUpload);

/// The login.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoginRecord {
    /// The homeserver's base URL.
    pub homeserver: String,
    /// The access token. Secret.
    pub access_token: SecretString,
    /// The server session is gone; the store can still be read.
    pub logged_out: bool,
    /// The name of the deployment that made this store.
    pub deployment: String,
}
record!(LoginRecord, Only, Login);

/// How far this device has synchronised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRecord {
    /// The token of the last response that was committed.
    pub next_batch: Option<String>,
}
record!(SyncRecord, Only, Sync);

/// The policy in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// The policy.
    pub policy: Policy,
}

impl Record for PolicyRecord {
    const TABLE: Table = Table::Policy;
    /// Version 1 had no [`Policy::untrusted_grace`], version 2 nothing of the sharing of history, version 3 neither
    /// [`Policy::lifetimes`] nor anything of dehydrated devices.
    const VERSION: u8 = 4;
    type Key = Only;

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let default = Policy::default();
        let newest = (default.lifetimes, default.dehydration);
        let of_history = (default.share_history, default.accept_history, newest);
        match bytes.split_first() {
            Some((1, body)) => {
                decode_body(&with_rest(body, &(default.untrusted_grace, of_history)))
            }
            Some((2, body)) => decode_body(&with_rest(body, &of_history)),
            Some((3, body)) => decode_body(&with_rest(body, &newest)),
            Some((4, body)) => decode_body(body),
            _ => Err(StoreError::Corrupt("a policy of an unknown version".to_owned())),
        }
    }
}

/// The body with the fields that it lacks.
fn with_rest(body: &[u8], rest: &impl Serialize) -> Vec<u8> {
    let rest = postcard::to_allocvec(rest).unwrap_or_default();
    [body, &rest].concat()
}

fn decode_body(body: &[u8]) -> Result<PolicyRecord, StoreError> {
    postcard::from_bytes(body).map_err(|_| StoreError::Corrupt("a row of table policy".to_owned()))
}

/// A counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRecord {
    /// The next number.
    pub next: u64,
}
record!(CounterRecord, NameKey, Counter);

/// An Olm session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OlmSessionRecord {
    /// The session. Secret.
    pub pickle: SecretBytes,
    /// The Ed25519 key of the device at the other end: the one whose one-time key made the session, or
    /// which its first message claimed. `None` until a message has passed every check; until then
    /// nothing is sent through it. Two devices may publish one Curve25519 key; their sessions must not
    /// be taken for each other's.
    pub peer_ed25519: Option<Ed25519PublicKey>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last decrypted a message; when it was made if it never has.
    pub last_received_at: Timestamp,
}
record!(OlmSessionRecord, OlmSessionKey, OlmSession);

/// An Olm message already taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OlmHashRecord {
    /// When.
    pub received_at: Timestamp,
}
record!(OlmHashRecord, HashKey, OlmHash);

/// A room key received, with what is known about where it came from. There is one for each claimant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InboundSessionRecord {
    /// The session. Secret.
    pub pickle: SecretBytes,
    /// The Curve25519 key of the device that sent it (or is claimed to have made it).
    pub sender_key: Curve25519PublicKey,
    /// The Ed25519 key that device claimed.
    pub sender_ed25519: Option<Ed25519PublicKey>,
    /// The user whose Olm channel the key came by; `None` unless the source is Olm.
    pub sender: Option<OwnedUserId>,
    /// How the key came.
    pub source: KeySource,
    /// The first message index it decrypts.
    pub first_known_index: u32,
    /// The sender says that history visibility allows sharing it (MSC4268).
    pub shared_history: bool,
    /// When it came.
    pub received_at: Timestamp,
    /// The Curve25519 keys of the devices that passed it on, the last one last, as they say. Nothing is
    /// believed because of it.
    pub forwarders: Vec<Curve25519PublicKey>,
    /// The user who has shared it with us as a part of a room's history (MSC4268).
    pub shared_by: Option<OwnedUserId>,
}
record!(InboundSessionRecord, InboundSessionKey, InboundSession);

/// The session that a room's next message is encrypted with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutboundSessionRecord {
    /// The session's id.
    pub session_id: SessionId,
    /// The session, its ratchet at `reserved_index`. Secret.
    pub pickle: SecretBytes,
    /// Every index below may have been used: a restart begins here.
    pub reserved_index: u32,
    /// The session as it was made, at index 0, to share it from an earlier index with a device that
    /// was left out then. Secret.
    pub initial: SecretBytes,
    /// When it was made.
    pub created_at: Timestamp,
    /// The room's settings when it was made.
    pub settings: EncryptionSettings,
    /// The number of device-list changes seen when its recipients were last looked at.
    pub device_generation: u64,
    /// The number of member changes seen when its recipients were last looked at.
    pub member_generation: u64,
    /// Devices were left out for now, to be tried again at this time.
    pub retry_at: Option<Timestamp>,
    /// Members whose device lists could not be had when messages went out.
    pub unseen: Vec<UnseenUser>,
}
record!(OutboundSessionRecord, RoomKey, OutboundSession);

/// A member of whom there may be devices that are not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnseenUser {
    /// The user.
    pub user_id: OwnedUserId,
    /// The index of the first message that went out without them.
    pub index: u32,
}

/// A session that is used for no further message, kept for those who were to have it. What each of them has
/// been given, or has missed, is in its [`ShareRecord`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RetiredSessionRecord {
    /// The session as it was made, at index 0. Secret.
    pub initial: SecretBytes,
    /// When it was replaced.
    pub retired_at: Timestamp,
    /// There may be a device that is still to be given it.
    pub owed: bool,
    /// Members whose device lists could not be had when its messages went out.
    pub unseen: Vec<UnseenUser>,
}
record!(RetiredSessionRecord, RoomSessionKey, RetiredSession);

/// How far the sharing of a session with a device has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareState {
    /// Encrypted: in the outbox, or accepted by the server.
    Shared,
    /// The server refused it for good.
    Failed,
    /// Not shared; the device was told this code.
    Withheld(String),
}

/// What was shared with a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareRecord {
    /// The device's Curve25519 key then.
    pub curve25519: Curve25519PublicKey,
    /// The message index from which on the device can read.
    pub index: u32,
    /// How far it has come.
    pub state: ShareState,
}
record!(ShareRecord, ShareKey, Share);

/// A device of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// The device, as checked.
    pub device: Device,
    /// When it was first seen.
    pub first_seen: Timestamp,
}
record!(DeviceRecord, DeviceKey, Device);

/// Devices that share a Curve25519 key. More than one is a sign of an attack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceByKeyRecord {
    /// The devices.
    pub device_ids: Vec<OwnedDeviceId>,
}
record!(DeviceByKeyRecord, DeviceByKeyKey, DeviceByKey);

/// A device that the app's user has blocked: it gets no room keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedRecord {
    /// Since when.
    pub since: Timestamp,
}
record!(BlockedRecord, DeviceKey, Blocked);

/// A user's cross-signing identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRecord {
    /// The identity, as checked.
    pub identity: Identity,
    /// When it was first seen.
    pub first_seen: Timestamp,
}
record!(IdentityRecord, UserKey, Identity);

/// The master key of a user that was verified on this very device. An identity counts as verified only
/// while this is its master key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedIdentityRecord {
    /// The master key.
    pub master: Ed25519PublicKey,
    /// When it was verified.
    pub verified_at: Timestamp,
}
record!(VerifiedIdentityRecord, UserKey, VerifiedIdentity);

/// A user whose devices are tracked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedUserRecord {
    /// Counts the changes announced.
    pub generation: u64,
    /// The generation that the last answer taken was asked at.
    pub answered: Option<u64>,
    /// Failed attempts in a row.
    pub failures: u32,
    /// When to try again after a failure.
    pub retry_at: Option<Timestamp>,
    /// Since when the list has been outdated.
    pub outdated_since: Option<Timestamp>,
}
record!(TrackedUserRecord, UserKey, TrackedUser);

/// Marks a tracked user whose device list is outdated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutdatedUserRecord;
record!(OutdatedUserRecord, UserKey, OutdatedUser);

/// A device whose one-time key is to be claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {
    /// Failed attempts in a row.
    pub failures: u32,
    /// When to try, or try again.
    pub retry_at: Timestamp,
    /// When it was last asked for.
    pub asked_at: Option<Timestamp>,
    /// Since when it has been asked for without a long pause: a message waits so long and no longer.
    pub asked_since: Option<Timestamp>,
    /// The sessions we have with the device do not work: send `m.dummy` through the new one.
    pub unwedge: bool,
}
record!(ClaimRecord, DeviceKey, Claim);

/// A user's membership of a room (Matrix specification, `m.room.member`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Membership {
    /// Invited.
    Invite,
    /// Joined.
    Join,
    /// Asked to be let in.
    Knock,
    /// Gone, or never there.
    Leave,
    /// Banned.
    Ban,
}

/// Who may read a room's history (Matrix specification, `m.room.history_visibility`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryVisibility {
    /// From the invitation on.
    Invited,
    /// From the join on.
    Joined,
    /// All of it, for members.
    #[default]
    Shared,
    /// All of it, for everybody.
    WorldReadable,
}

/// A room.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoomRecord {
    /// Our own membership.
    pub membership: Membership,
    /// The encryption settings; once set they never go.
    pub encryption: Option<EncryptionSettings>,
    /// Who may read the history.
    pub history_visibility: HistoryVisibility,
    /// The room's name, if it has one.
    pub name: Option<String>,
    /// The whole member list is known.
    pub members_complete: bool,
    /// Counts the changes of the member list.
    pub member_generation: u64,
    /// The token to fetch older events with; `None` at the room's beginning.
    pub prev_batch: Option<String>,
    /// The next place for a live event.
    pub next_order: u64,
    /// The next place for an older event.
    pub previous_order: u64,
}
record!(RoomRecord, RoomKey, Room);

/// A member of a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The membership.
    pub membership: Membership,
    /// The name the member shows in the room; not trusted.
    pub display_name: Option<String>,
}
record!(MemberRecord, MemberKey, Member);

/// What became of an encrypted event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decryption {
    /// It came in the clear.
    Clear,
    /// It was decrypted.
    Decrypted {
        /// The event type inside.
        event_type: String,
        /// The content inside, as JSON text.
        content: String,
        /// The Megolm session.
        session_id: SessionId,
    },
    /// It cannot be decrypted, for this reason (the machine's name for it).
    Undecryptable {
        /// The reason, stable text.
        reason: String,
        /// The Megolm session, if it names one.
        session_id: Option<SessionId>,
    },
}

/// A room event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// The sender, as the server says.
    pub sender: OwnedUserId,
    /// The event type on the wire.
    pub event_type: String,
    /// When, as the sender's server says.
    pub origin_server_ts: u64,
    /// The event as it came, as JSON text.
    pub raw: String,
    /// Its place in the timeline; `None` if it was fetched on its own.
    pub order: Option<u64>,
    /// The room was known to be encrypted when it came.
    pub in_encrypted_room: bool,
    /// What became of it.
    pub decryption: Decryption,
}
record!(EventRecord, EventKey, Event);

/// A place in the timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineRecord {
    /// The event there.
    pub event_id: OwnedEventId,
}
record!(TimelineRecord, TimelineKey, Timeline);

/// Marks an event that waits for a room key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingRecord;
record!(WaitingRecord, WaitingKey, Waiting);

/// The event that used a message index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MegolmIndexRecord {
    /// The event.
    pub event_id: OwnedEventId,
    /// Its time stamp.
    pub origin_server_ts: u64,
}
record!(MegolmIndexRecord, MegolmIndexKey, MegolmIndex);

/// The room a Megolm session was received for first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRoomRecord {
    /// The room.
    pub room_id: OwnedRoomId,
}
record!(SessionRoomRecord, SessionKey, SessionRoom);

/// Why we were not given a room key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithheldRecord {
    /// The code.
    pub code: String,
    /// Who said so. Not authenticated: withheld messages are in the clear.
    pub sender: OwnedUserId,
    /// When.
    pub received_at: Timestamp,
}
record!(WithheldRecord, RoomSessionKey, Withheld);

/// How far asking for a room key has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyRequestState {
    /// Events wait for it: to be asked for at this time, if it has not come by then.
    Noted(Timestamp),
    /// These devices of our own user have been asked.
    Asked(Vec<OwnedDeviceId>),
    /// It has come, or the request was taken back: it is not asked for again.
    Done,
}

/// A room key that we ask our own other devices for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRequestRecord {
    /// The request's id; random.
    pub request_id: String,
    /// How far it has come.
    pub state: KeyRequestState,
}
record!(KeyRequestRecord, RoomSessionKey, KeyRequest);

/// What one of our own user's devices has asked us for. Its size is bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAnswersRecord {
    /// Since when requests are counted.
    pub counted_since: Timestamp,
    /// Requests taken since.
    pub count: u32,
    /// The ids of the last requests taken.
    pub request_ids: Vec<String>,
    /// What is to be sent once there is an Olm session with the device.
    pub owed: Vec<OwedKey>,
}
record!(KeyAnswersRecord, DeviceKey, KeyAnswers);

/// A room key that was asked for and is to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwedKey {
    /// The request.
    pub request_id: String,
    /// The room.
    pub room_id: OwnedRoomId,
    /// The session.
    pub session_id: SessionId,
}

/// A to-device request to be sent, always with the same bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutboxRecord {
    /// The to-device event type.
    pub event_type: String,
    /// The transaction id.
    pub txn_id: OwnedTransactionId,
    /// The Megolm sessions whose keys it carries.
    pub sessions: Vec<SessionId>,
    /// Failed attempts in a row.
    pub failures: u32,
    /// When to try again after a failure.
    pub retry_at: Option<Timestamp>,
}
record!(OutboxRecord, SequenceKey, Outbox);

/// The body of an outbox request: written once, and read only to be sent. It is large, and what is asked of the
/// outbox at each step is in [`OutboxRecord`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutboxBodyRecord {
    /// The request's body, as JSON text.
    pub body: String,
    /// The shares that are done when it has been accepted.
    pub shares: Vec<OutboxShare>,
}
record!(OutboxBodyRecord, SequenceKey, OutboxBody);

/// A share in an outbox request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxShare {
    /// The Megolm session.
    pub session_id: SessionId,
    /// The device's owner.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
}

/// How far a queued event has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueState {
    /// Not yet encrypted.
    Queued,
    /// Ready to be sent, always with these bytes.
    Ready {
        /// The event type on the wire.
        event_type: String,
        /// The content on the wire, as JSON text.
        content: String,
    },
    /// The server refused it for good; it stays until the app removes or retries it.
    Failed {
        /// The Matrix error code, or the reason's own name.
        errcode: String,
    },
}

/// A room event to be sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueRecord {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The transaction id.
    pub txn_id: OwnedTransactionId,
    /// The event type the app gave.
    pub event_type: String,
    /// The content the app gave, as JSON text.
    pub content: String,
    /// How far it has come.
    pub state: QueueState,
    /// When it was queued.
    pub queued_at: Timestamp,
    /// Since when it has been waiting for keys to be claimed or lists to be fetched.
    pub waiting_since: Option<Timestamp>,
    /// Failed attempts in a row.
    pub failures: u32,
    /// When to try again after a failure.
    pub retry_at: Option<Timestamp>,
}
record!(QueueRecord, SequenceKey, Queue);

/// A request that is put off after failures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackoffRecord {
    /// Failed attempts in a row.
    pub failures: u32,
    /// When to try again.
    pub retry_at: Timestamp,
}
record!(BackoffRecord, NameKey, Backoff);

/// How far this device has synchronised by simplified sliding sync (MSC4186).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlidingSyncRecord {
    /// The app has chosen this kind of sync.
    pub chosen: bool,
    /// The position of the last response that was committed; `None` before the first one, and when the server
    /// has forgotten it.
    pub pos: Option<String>,
    /// The token of the last to-device messages that were committed.
    pub to_device: Option<String>,
    /// The next request asks for so many rooms, the most active ones.
    pub rooms: u64,
    /// All rooms have come once: all are asked for, however many there are.
    pub all_rooms: bool,
}
record!(SlidingSyncRecord, Only, SlidingSync);

/// An app's own event on its way to devices, until each of them is settled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ToDeviceQueueRecord {
    /// The id the app knows it by.
    pub txn_id: OwnedTransactionId,
    /// The event type.
    pub event_type: String,
    /// The content, as JSON text.
    pub content: String,
    /// Users whose devices are still to be looked up: one device, or all of them.
    pub recipients: Vec<(OwnedUserId, Option<OwnedDeviceId>)>,
    /// The devices found so far.
    pub devices: Vec<ToDeviceProgress>,
    /// When it was queued.
    pub queued_at: Timestamp,
}
record!(ToDeviceQueueRecord, SequenceKey, ToDeviceQueue);

/// One device of a [`ToDeviceQueueRecord`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToDeviceProgress {
    /// The device's owner.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// How far it has come.
    pub state: ToDeviceState,
}

/// How far an app's own event has come on its way to a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDeviceState {
    /// It waits for an Olm session.
    Waiting,
    /// Encrypted, in the outbox under this number.
    InOutbox(u64),
    /// The server has accepted it.
    Sent,
    /// The policy, or a block, withholds it, with this code.
    Withheld(String),
    /// No Olm session could be made in time.
    NoOlm,
    /// There is no such device.
    UnknownDevice,
    /// The server refused it for good, with this Matrix error code.
    Refused(String),
}

/// A member's device that is trusted too little to be given room keys, under a policy that puts up with
/// such devices for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UntrustedDeviceRecord {
    /// The device's Ed25519 key: another key is another device.
    pub ed25519: Ed25519PublicKey,
    /// When it was first seen under that policy.
    pub first_seen: Timestamp,
}
record!(UntrustedDeviceRecord, DeviceKey, UntrustedDevice);
