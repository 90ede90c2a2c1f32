//! [`Notice`]: what was dropped and why, or what a user or an auditor should know.

/// Something that was dropped and why, or that a user or an auditor should know.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Notice {
    /// A to-device event was dropped.
    ToDeviceDropped {
        /// The sender the server named; nothing if that was not a user id.
        sender: Option<String>,
        /// Why.
        reason: DropReason,
    },
    /// A room event, or a part of a room, was dropped.
    EventDropped {
        /// The room; nothing if that was not a room id.
        room_id: Option<String>,
        /// Why.
        reason: DropReason,
    },
    /// A part of a response was dropped.
    SectionDropped {
        /// The part's name in the specification.
        section: String,
    },
    /// A device entry of a user was refused; what was known before stands.
    DeviceRefused {
        /// The owner.
        user_id: String,
        /// The device.
        device_id: String,
        /// Why.
        reason: DropReason,
    },
    /// The server's idea of this very device differs from ours.
    OwnDeviceMismatch,
    /// A user's identity was refused; what was known before stands.
    IdentityRefused {
        /// The user.
        user_id: String,
    },
    /// A user's identity is another one than the one pinned.
    IdentityChanged {
        /// The user.
        user_id: String,
    },
    /// A one-time key was refused.
    OneTimeKeyRefused {
        /// The owner.
        user_id: String,
        /// The device.
        device_id: String,
    },
    /// A sender says that it does not give us a room key. Not authenticated.
    KeyWithheld {
        /// The room, if it names one.
        room_id: Option<String>,
        /// Who says so.
        sender: String,
        /// The code.
        code: String,
    },
    /// The server refused our one-time keys as clashing; new ones were made.
    OneTimeKeyClash,
    /// The server refused a to-device request for good.
    ToDeviceRefused {
        /// The Matrix error code.
        errcode: String,
    },
    /// A room asks for an encryption that is not supported, or for less than before; ignored.
    EncryptionChangeRefused {
        /// The room.
        room_id: String,
    },
    /// The server has forgotten how far it told us what is new; everything that may have changed is fetched.
    SyncStartsOver,
    /// A member's device is trusted too little and gets no keys; nothing is sent to its rooms from a time on.
    UntrustedDevice {
        /// The owner.
        user_id: String,
        /// The device.
        device_id: String,
        /// From when on its rooms are closed, in milliseconds since the Unix epoch.
        strict_at_ms: u64,
    },
    /// The server refused a signature of ours.
    SignatureRefused {
        /// Whose key was signed.
        user_id: String,
        /// The key's name: a device id, or a master key.
        name: String,
        /// The Matrix error code.
        errcode: String,
    },
    /// Room keys are uploaded to this backup from now on.
    BackupEnabled {
        /// Its version.
        version: String,
    },
    /// The homeserver's backup is not one to trust: nothing is uploaded to it.
    BackupRefused,
    /// The backup in use is gone, or another has taken its place.
    BackupStopped {
        /// The Matrix error code.
        errcode: String,
    },
    /// Whoever has invited us to a room has shared its history.
    HistoryReceived {
        /// The room.
        room_id: String,
        /// Who has shared it: only this user vouches for who wrote it.
        user_id: String,
        /// Room keys that are new.
        fresh: u64,
    },
    /// History that was shared with us could not be taken.
    HistoryRefused {
        /// The room.
        room_id: String,
        /// Who has shared it.
        user_id: String,
    },
    /// A user whom we invited was told of the room keys of a room's past.
    HistoryShared {
        /// The room.
        room_id: String,
        /// The user.
        user_id: String,
        /// As many devices were told.
        devices: u64,
    },
    /// Something that has no name here yet.
    Unknown,
}

/// Why something from outside was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum DropReason {
    /// Not of the shape the specification asks for.
    Malformed,
    /// Key material that must come by Olm came in the clear, or under Megolm.
    NotByOlm,
    /// An algorithm that is not known here.
    UnsupportedAlgorithm,
    /// The message is not for this device.
    NotForUs,
    /// No Olm session decrypts it.
    Undecryptable,
    /// The payload names another sender, recipient or key than the channel it came by.
    PayloadMismatch,
    /// The payload's device keys do not fit the message.
    SenderDeviceKeys,
    /// A room key that does not fit what is known of its session.
    RoomKeyConflict,
    /// Not asked for.
    Unsolicited,
    /// A signature is missing or does not verify.
    BadSignature,
    /// The identity keys of a known device changed.
    KeysChanged,
    /// The policy does not believe the sending device.
    SenderUntrusted,
    /// Something that has no name here yet.
    Unknown,
}

impl From<herold::Notice> for Notice {
    fn from(notice: herold::Notice) -> Self {
        use herold::Notice as From;
        match notice {
            From::ToDeviceDropped { sender, reason } => {
                Self::ToDeviceDropped { sender: sender.map(Into::into), reason: reason.into() }
            }
            From::EventDropped { room_id, reason } => {
                Self::EventDropped { room_id: room_id.map(Into::into), reason: reason.into() }
            }
            From::SectionDropped { section } => Self::SectionDropped { section },
            From::DeviceRefused { user_id, device_id, reason } => Self::DeviceRefused {
                user_id: user_id.into(),
                device_id: device_id.into(),
                reason: reason.into(),
            },
            From::OwnDeviceMismatch => Self::OwnDeviceMismatch,
            From::IdentityRefused { user_id } => Self::IdentityRefused { user_id: user_id.into() },
            From::IdentityChanged { user_id } => Self::IdentityChanged { user_id: user_id.into() },
            From::OneTimeKeyRefused { user_id, device_id } => {
                Self::OneTimeKeyRefused { user_id: user_id.into(), device_id: device_id.into() }
            }
            From::KeyWithheld { room_id, sender, code } => {
                Self::KeyWithheld { room_id: room_id.map(Into::into), sender: sender.into(), code }
            }
            From::OneTimeKeyClash => Self::OneTimeKeyClash,
            From::ToDeviceRefused { errcode } => Self::ToDeviceRefused { errcode },
            From::EncryptionChangeRefused { room_id } => {
                Self::EncryptionChangeRefused { room_id: room_id.into() }
            }
            From::SyncStartsOver => Self::SyncStartsOver,
            From::UntrustedDevice { user_id, device_id, strict_at } => Self::UntrustedDevice {
                user_id: user_id.into(),
                device_id: device_id.into(),
                strict_at_ms: strict_at.as_millis(),
            },
            From::SignatureRefused { user_id, name, errcode } => {
                Self::SignatureRefused { user_id: user_id.into(), name, errcode }
            }
            From::BackupEnabled { version } => Self::BackupEnabled { version },
            From::BackupRefused => Self::BackupRefused,
            From::BackupStopped { errcode } => Self::BackupStopped { errcode },
            From::HistoryReceived { room_id, user_id, new, .. } => Self::HistoryReceived {
                room_id: room_id.into(),
                user_id: user_id.into(),
                fresh: u64::try_from(new).unwrap_or(u64::MAX),
            },
            From::HistoryRefused { room_id, user_id, .. } => {
                Self::HistoryRefused { room_id: room_id.into(), user_id: user_id.into() }
            }
            From::HistoryShared { room_id, user_id, devices } => Self::HistoryShared {
                room_id: room_id.into(),
                user_id: user_id.into(),
                devices: u64::try_from(devices).unwrap_or(u64::MAX),
            },
            _ => Self::Unknown,
        }
    }
}

impl From<herold::DropReason> for DropReason {
    fn from(reason: herold::DropReason) -> Self {
        use herold::DropReason as From;
        match reason {
            From::Malformed => Self::Malformed,
            From::NotByOlm => Self::NotByOlm,
            From::UnsupportedAlgorithm => Self::UnsupportedAlgorithm,
            From::NotForUs => Self::NotForUs,
            From::Undecryptable => Self::Undecryptable,
            From::PayloadMismatch => Self::PayloadMismatch,
            From::SenderDeviceKeys => Self::SenderDeviceKeys,
            From::RoomKeyConflict => Self::RoomKeyConflict,
            From::Unsolicited => Self::Unsolicited,
            From::BadSignature => Self::BadSignature,
            From::KeysChanged => Self::KeysChanged,
            From::SenderUntrusted => Self::SenderUntrusted,
            _ => Self::Unknown,
        }
    }
}
