//! [`Report`]: what was taken over, and of everything that was not, why.

use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, OwnedUserId};
use serde::Serialize;

/// As many names are kept with each reason.
const MAX_NAMES: usize = 50;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// In words, for people.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

words! {
    /// What there is in a store.
    Kind {
        /// The device's own keys.
        Account = "the device's account",
        /// A channel to another device.
        OlmSession = "Olm sessions",
        /// A room key received.
        RoomKey = "room keys",
        /// A room key whose sender can be proved.
        RoomKeySender = "room keys with a proved sender",
        /// A room key that the backup has.
        RoomKeyBackedUp = "room keys that are in the backup",
        /// Somebody's device.
        Device = "devices",
        /// A device that gets no room keys.
        BlockedDevice = "blocked devices",
        /// A device that was marked as verified by hand.
        VerifiedDevice = "devices marked as verified",
        /// Somebody's cross-signing identity.
        Identity = "identities",
        /// The own identity, as verified.
        OwnVerification = "the own identity as verified",
        /// Another user, as verified.
        UserVerification = "users as verified",
        /// A private key of the own identity.
        CrossSigningKey = "private cross-signing keys",
        /// The private key of the backup.
        BackupKey = "the key backup's private key",
        /// The backup in use.
        BackupVersion = "the key backup's version",
        /// A user whose devices are tracked.
        TrackedUser = "users whose devices are tracked",
        /// A room that is known to be encrypted.
        EncryptedRoom = "rooms known to be encrypted",
        /// The place in the stream of events.
        SyncToken = "the sync token",
        /// A room key that messages were sent with.
        OutboundRoomKey = "outbound room keys",
        /// The hash of an Olm message.
        OlmHash = "hashes of Olm messages",
        /// A request for a key or a secret.
        KeyRequest = "requests for keys",
        /// The note that a key is withheld.
        Withheld = "notes of withheld keys",
        /// A secret that waits to be looked at.
        WaitingSecret = "secrets that nobody has looked at",
        /// A bundle of room keys for a room that was joined.
        KeyBundle = "bundles of room keys",
        /// The key of a dehydrated device.
        DehydratedDeviceKey = "the key of a dehydrated device",
    }
}

words! {
    /// Why something was not taken.
    Reason {
        /// It does not decrypt or does not read.
        Damaged = "damaged",
        /// It is not what it is filed as: an id, a key or a signature does not fit.
        Contradiction = "contradicts what it is filed as",
        /// It is for a version or an algorithm that is not known here.
        Unsupported = "not supported",
        /// The rest of the table cannot be read.
        Unreadable = "the rest of the table cannot be read",
        /// Nothing proves it, and nothing is believed because somebody wrote it down.
        Unproved = "cannot be proved",
        /// It does not fit the identity that is published.
        NotPublished = "not that of the published identity",
        /// It came by a way that proves nothing of its sender, or the sender's device is gone: its messages are shown as
        /// not authentic.
        NotAuthentic = "taken as not authentic",
        /// It is made or asked for anew.
        MadeAnew = "made anew",
        /// The two programs do not do the same with it.
        NoCounterpart = "has no counterpart here",
    }
}

/// Something that was not taken, or not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// What.
    pub kind: Kind,
    /// Why.
    pub reason: Reason,
    /// How many.
    pub count: u64,
    /// Whose, where that is known: ids of users, devices and rooms; a bounded number.
    pub names: Vec<String>,
}

/// What was taken over and what was not. Holds ids, counts and public keys, and no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The account's user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The device's public Ed25519 key, in unpadded base64.
    pub ed25519: String,
    /// The device's public Curve25519 key, in unpadded base64.
    pub curve25519: String,
    /// The old store was encrypted.
    pub source_encrypted: bool,
    /// How many of each kind were taken.
    pub taken: BTreeMap<Kind, u64>,
    /// What was not.
    pub left: Vec<Left>,
}

impl Report {
    pub(crate) fn take(&mut self, kind: Kind, count: u64) {
        if count > 0 {
            let taken = self.taken.entry(kind).or_default();
            *taken = taken.saturating_add(count);
        }
    }

    pub(crate) fn leave(&mut self, kind: Kind, reason: Reason) {
        self.leave_many(kind, reason, 1);
    }

    pub(crate) fn leave_many(&mut self, kind: Kind, reason: Reason, count: u64) {
        if count > 0 {
            let entry = self.entry(kind, reason);
            entry.count = entry.count.saturating_add(count);
        }
    }

    pub(crate) fn leave_named(&mut self, kind: Kind, reason: Reason, name: String) {
        let entry = self.entry(kind, reason);
        entry.count = entry.count.saturating_add(1);
        if entry.names.len() < MAX_NAMES {
            entry.names.push(name);
        }
    }

    fn entry(&mut self, kind: Kind, reason: Reason) -> &mut Left {
        let is_it = |left: &Left| left.kind == kind && left.reason == reason;
        let place = self.left.iter().position(is_it).unwrap_or_else(|| {
            self.left.push(Left { kind, reason, count: 0, names: Vec::new() });
            self.left.len() - 1
        });
        &mut self.left[place]
    }

    /// How many of a kind were taken.
    #[must_use]
    pub fn taken(&self, kind: Kind) -> u64 {
        self.taken.get(&kind).copied().unwrap_or(0)
    }

    /// How many of a kind were left for this reason.
    #[must_use]
    pub fn left(&self, kind: Kind, reason: Reason) -> u64 {
        let is_it = |left: &&Left| left.kind == kind && left.reason == reason;
        self.left.iter().find(is_it).map_or(0, |left| left.count)
    }
}
