//! [`Table`] and [`Record`]: which rows there are and how a record becomes bytes.

use postcard::ser_flavors::Size;
use serde::{Serialize, de::DeserializeOwned};

use crate::{RecordKey, StoreError};

macro_rules! tables {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The tables of a store. The order is the order in which a commit applies them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Table { $($(#[$doc])* $variant,)* }

        impl Table {
            /// Every table.
            pub const ALL: &'static [Table] = &[$(Table::$variant,)*];

            /// The table's name, stable for ever: it names the table on disk. Letters and `_` only.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Table::$variant => $name,)* }
            }
        }
    };
}

tables! {
    /// This device's Olm account: private keys.
    Account = "account",
    /// What of the account's keys the server has.
    KeyUpload = "key_upload",
    /// The homeserver and the access token.
    Login = "login",
    /// The sync token.
    Sync = "sync",
    /// The deployment's policy in force.
    Policy = "policy",
    /// Counters that number things for good.
    Counter = "counter",
    /// Olm sessions.
    OlmSession = "olm_session",
    /// Hashes of Olm messages already taken.
    OlmHash = "olm_hash",
    /// Room keys received.
    InboundSession = "inbound_session",
    /// Room keys that room messages are encrypted with.
    OutboundSession = "outbound_session",
    /// Room keys no longer used that some devices are still to be given.
    RetiredSession = "retired_session",
    /// Who was given which room key.
    Share = "share",
    /// Devices of users.
    Device = "device",
    /// Devices by their Curve25519 key.
    DeviceByKey = "device_by_key",
    /// Devices the app's user has blocked.
    Blocked = "blocked",
    /// Cross-signing identities of users.
    Identity = "identity",
    /// Identities that were verified on this device.
    VerifiedIdentity = "verified_identity",
    /// Users whose device lists are tracked.
    TrackedUser = "tracked_user",
    /// Users whose device lists are outdated.
    OutdatedUser = "outdated_user",
    /// Devices whose one-time keys are to be claimed.
    Claim = "claim",
    /// Rooms.
    Room = "room",
    /// Members of rooms.
    Member = "member",
    /// Room events by id.
    Event = "event",
    /// Room events in their order.
    Timeline = "timeline",
    /// Events that wait for a room key.
    Waiting = "waiting",
    /// Which event used a Megolm message index.
    MegolmIndex = "megolm_index",
    /// Which room a Megolm session belongs to.
    SessionRoom = "session_room",
    /// Why a room key was not given to us.
    Withheld = "withheld",
    /// Room keys that we ask our own other devices for.
    KeyRequest = "key_request",
    /// What our own other devices have asked us for.
    KeyAnswers = "key_answers",
    /// To-device messages to be sent.
    Outbox = "outbox",
    /// Room events to be sent.
    Queue = "queue",
    /// Events for the app that it has not yet acknowledged.
    AppEvent = "app_event",
    /// Requests whose failure puts them off.
    Backoff = "backoff",
    /// How far sliding sync has come.
    SlidingSync = "sliding_sync",
    /// An app's own to-device events to be sent.
    ToDeviceQueue = "to_device_queue",
    /// Devices that a policy puts up with for a time.
    UntrustedDevice = "untrusted_device",
    /// The bodies of the to-device messages to be sent: ciphertexts.
    OutboxBody = "outbox_body",
    /// The user's own secrets.
    Secret = "secret",
    /// An identity that the homeserver may not have accepted yet.
    PendingIdentity = "pending_identity",
    /// Signatures to be uploaded.
    Signature = "signature",
    /// The key backup in use.
    Backup = "backup",
    /// Room keys to be uploaded to the backup.
    BackupDue = "backup_due",
    /// An upload to the backup under way.
    BackupBatch = "backup_batch",
    /// Verifications under way, or just over.
    Verification = "verification",
    /// Verifications to be begun with an event that is in the send queue.
    VerificationRequest = "verification_request",
    /// Messages of verifications whose sending device is not known yet.
    Parked = "parked",
    /// The user's own secrets that we ask our other devices for.
    SecretRequest = "secret_request",
    /// Devices that were verified by themselves.
    VerifiedDevice = "verified_device",
    /// Who has invited us to which room.
    Invitation = "invitation",
    /// Bundles of room keys that were shared with us and are to be fetched.
    HistoryBundle = "history_bundle",
    /// What was begun with the user's recovery.
    Recovery = "recovery",
    /// How things stand with the dehydrated device.
    Dehydration = "dehydration",
    /// A dehydrated device that is being read.
    Rehydration = "rehydration",
    /// Its Olm sessions.
    RehydratedSession = "rehydrated_session",
    /// A dehydrated device that the homeserver may not have accepted yet.
    DehydratedUpload = "dehydrated_upload",
}

/// A typed record: its table, its key, and its bytes.
///
/// The first byte is the record's version; the rest is the compact serde encoding of that version.
pub trait Record: Serialize + DeserializeOwned {
    /// The table its rows are in.
    const TABLE: Table;
    /// The version written.
    const VERSION: u8 = 1;
    /// The type of its keys.
    type Key: RecordKey;

    /// The record as bytes.
    fn encode(&self) -> Vec<u8> {
        // Measured first: a buffer that grew would leave copies of the secret behind.
        let size = postcard::serialize_with_flavor(self, Size::default()).unwrap_or_default();
        let mut out = Vec::with_capacity(1 + size);
        out.push(Self::VERSION);
        // Only a type that cannot be serialised at all fails, and then no row of its kind is ever
        // readable: the conformance suite encodes each record type.
        postcard::to_extend(self, out).unwrap_or_default()
    }

    /// The record back from its bytes.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], naming the table only.
    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        match bytes.split_first() {
            Some((version, body)) if *version == Self::VERSION => postcard::from_bytes(body)
                .map_err(|_| StoreError::Corrupt(format!("a row of table {}", Self::TABLE.name()))),
            Some((version, _)) => Err(StoreError::Corrupt(format!(
                "a row of table {} has the unknown version {version}",
                Self::TABLE.name()
            ))),
            None => {
                Err(StoreError::Corrupt(format!("an empty row in table {}", Self::TABLE.name())))
            }
        }
    }
}
