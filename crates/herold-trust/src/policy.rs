//! What a deployment allows, as data, and who may get a room key under it.
//!
//! A policy has two parts: what holds now, and a floor that no app code can go below. Every decision
//! uses the stricter of the two, so that a policy whose parts contradict each other is never the
//! laxer one.
//!
//! Matrix specification, Client-Server API: "Cross-signing" (room keys go to cross-signed devices
//! only), `m.room_key.withheld` (codes).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Device, Identity, IdentityState, is_cross_signed};

/// Which devices get room keys. They compare from lax to strict: see [`Recipients::FROM_LAX_TO_STRICT`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipients {
    /// Every device that is not blocked.
    AllDevices,
    /// Devices that their owner has cross-signed, unless the owner's identity is in violation.
    #[default]
    IdentityBased,
    /// Cross-signed devices of owners whose identity is verified.
    OnlyTrusted,
    // Stores know the variants by their place: a new one comes last, whatever its strictness.
    /// As [`Recipients::IdentityBased`], and the app is told of each device that is left out. After
    /// [`Policy::untrusted_grace`] nothing can be sent to a room that still has such a device, until its owner
    /// has cross-signed or removed it, or the app's user has blocked it.
    IdentityBasedThenStrict,
}

impl Recipients {
    /// Every choice, each stricter than the one before.
    pub const FROM_LAX_TO_STRICT: [Self; 4] =
        [Self::AllDevices, Self::IdentityBased, Self::IdentityBasedThenStrict, Self::OnlyTrusted];

    const fn strictness(self) -> u8 {
        match self {
            Self::AllDevices => 0,
            Self::IdentityBased => 1,
            Self::IdentityBasedThenStrict => 2,
            Self::OnlyTrusted => 3,
        }
    }
}

impl PartialOrd for Recipients {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Recipients {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.strictness().cmp(&other.strictness())
    }
}

/// How far a sender must be certain for a message to be shown. The order is from lax to strict.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum DecryptTrust {
    /// Every message that decrypts is shown, with its shield.
    #[default]
    Any,
    /// Messages from cross-signed devices, and what cannot be better: devices of users without an
    /// identity, and room keys from a backup or an import.
    CrossSignedOrLegacy,
    /// Messages from cross-signed devices only.
    CrossSigned,
}

/// What no app code can loosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyFloor {
    /// The laxest choice of recipients.
    pub recipients: Recipients,
    /// The laxest demand on senders.
    pub decrypt_trust: DecryptTrust,
}

impl Default for PolicyFloor {
    /// No floor: the laxest of each.
    fn default() -> Self {
        Self { recipients: Recipients::AllDevices, decrypt_trust: DecryptTrust::Any }
    }
}

/// For how long a device keeps things. `None` is for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lifetimes {
    /// Room keys, from when they were received. Events that were decrypted stay readable; others under these keys do not
    /// become so any more, unless a backup has the keys.
    pub room_keys: Option<Duration>,
    /// Events with their content, from when their server says they were sent.
    pub events: Option<Duration>,
    /// What a room key can decrypt again, from when it was received: it is moved on behind the last message that it has
    /// decrypted, where no event waits for it. Who gets at the store later cannot decrypt recorded ciphertexts of
    /// those messages.
    pub ratchet_forward: Option<Duration>,
    /// Olm sessions, from when a message last came by them; the newest with each device stays.
    pub olm_sessions: Option<Duration>,
}

impl Lifetimes {
    /// The shorter of each.
    #[must_use]
    pub fn shortest(self, other: Self) -> Self {
        let shorter = |one: Option<Duration>, other| [one, other].into_iter().flatten().min();
        Self {
            room_keys: shorter(self.room_keys, other.room_keys),
            events: shorter(self.events, other.events),
            ratchet_forward: shorter(self.ratchet_forward, other.ratchet_forward),
            olm_sessions: shorter(self.olm_sessions, other.olm_sessions),
        }
    }
}

/// What a deployment allows. In a self-describing format a missing field has its default, and an
/// unknown one is an error: a misspelt rule must not be a rule that silently does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Which devices get room keys. Default: [`Recipients::IdentityBased`].
    pub recipients: Recipients,
    /// How far a sender must be certain. Default: [`DecryptTrust::Any`].
    pub decrypt_trust: DecryptTrust,
    /// Whether a message that was sent in clear to an encrypted room is withheld from the app
    /// rather than shown with a shield. Default: `false`.
    pub refuse_clear_in_encrypted_rooms: bool,
    /// What no app code can loosen. Default: nothing.
    pub floor: PolicyFloor,
    /// Messages per room session where the room says nothing sensible. Default: 100.
    pub default_rotation_messages: u64,
    /// Age of a room session where the room says nothing sensible. Default: seven days.
    pub default_rotation: Duration,
    /// Characters of a device name that are shown; the rest is cut. Default: 100.
    pub max_device_name_chars: u32,
    /// How long [`Recipients::IdentityBasedThenStrict`] puts up with a device that gets no keys. Default: seven
    /// days.
    pub untrusted_grace: Duration,
    /// Whether room keys of a room's past may be given to users whom this one invites (MSC4268). Default: `true`.
    pub share_history: bool,
    /// Whether room keys of a room's past are taken from whoever has invited this user (MSC4268). Default: `true`.
    pub accept_history: bool,
    /// For how long things are kept at most, whatever the app asks for. What is older goes when the app next has it
    /// cleaned up. Default: for ever.
    pub lifetimes: Lifetimes,
    /// Whether the user may have a dehydrated device: made, kept and opened by this one (MSC3814). None is made before the
    /// app asks for one. Default: `true`.
    pub dehydration: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            recipients: Recipients::default(),
            decrypt_trust: DecryptTrust::default(),
            refuse_clear_in_encrypted_rooms: false,
            floor: PolicyFloor::default(),
            default_rotation_messages: 100,
            default_rotation: Duration::from_hours(7 * 24),
            max_device_name_chars: 100,
            untrusted_grace: Duration::from_hours(7 * 24),
            share_history: true,
            accept_history: true,
            lifetimes: Lifetimes::default(),
            dehydration: true,
        }
    }
}

/// An app asked for less than its deployment demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PolicyDenied {
    /// The recipients asked for are laxer than the floor.
    #[error("the deployment allows no recipients laxer than {floor:?}")]
    Recipients {
        /// The floor.
        floor: Recipients,
    },
    /// The demand on senders asked for is laxer than the floor.
    #[error("the deployment allows no demand on senders laxer than {floor:?}")]
    DecryptTrust {
        /// The floor.
        floor: DecryptTrust,
    },
}

impl Policy {
    /// This policy with the app's own choices in place. The floor and everything else stay.
    ///
    /// # Errors
    ///
    /// [`PolicyDenied`] when a choice is laxer than the floor; nothing is applied then.
    pub fn tighten(
        &self,
        recipients: Recipients,
        decrypt_trust: DecryptTrust,
    ) -> Result<Self, PolicyDenied> {
        if recipients < self.floor.recipients {
            return Err(PolicyDenied::Recipients { floor: self.floor.recipients });
        }
        if decrypt_trust < self.floor.decrypt_trust {
            return Err(PolicyDenied::DecryptTrust { floor: self.floor.decrypt_trust });
        }
        Ok(Self { recipients, decrypt_trust, ..self.clone() })
    }

    /// The rule on recipients that holds: the stricter of choice and floor.
    #[must_use]
    pub fn effective_recipients(&self) -> Recipients {
        self.recipients.max(self.floor.recipients)
    }

    /// The demand on senders that holds: the stricter of choice and floor.
    #[must_use]
    pub fn effective_decrypt_trust(&self) -> DecryptTrust {
        self.decrypt_trust.max(self.floor.decrypt_trust)
    }

    /// A device's name for display: without control and invisible direction characters, cut to
    /// [`Policy::max_device_name_chars`]. `None` when nothing is left.
    ///
    /// The name is chosen by the server, so it proves nothing whatever it says.
    #[must_use]
    pub fn device_name(&self, device: &Device) -> Option<String> {
        let limit = usize::try_from(self.max_device_name_chars).unwrap_or(usize::MAX);
        let name: String = device
            .display_name
            .as_deref()?
            .chars()
            .filter(|c| !c.is_control() && !is_invisible(*c))
            .take(limit)
            .collect();
        let name = name.trim();
        (!name.is_empty()).then(|| name.to_owned())
    }
}

/// Zero-width characters, directional marks and line separators: they change how text around them
/// looks without being seen.
const fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{061c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    )
}

/// Why a device does not get a room key, in the words of `m.room_key.withheld`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WithheldCode {
    /// The device or its user is blocked.
    #[serde(rename = "m.blacklisted")]
    Blacklisted,
    /// The sender's policy demands more trust than the device has.
    #[serde(rename = "m.unverified")]
    Unverified,
    /// The device may not have this key, for instance because its user was not in the room.
    #[serde(rename = "m.unauthorised")]
    Unauthorised,
    /// The key was asked for and is not there.
    #[serde(rename = "m.unavailable")]
    Unavailable,
    /// No Olm session could be made, so there is no way to send the key.
    #[serde(rename = "m.no_olm")]
    NoOlm,
    /// The key is not shared with those who came later.
    #[serde(rename = "m.history_not_shared")]
    HistoryNotShared,
}

impl WithheldCode {
    const ALL: [Self; 6] = [
        Self::Blacklisted,
        Self::Unverified,
        Self::Unauthorised,
        Self::Unavailable,
        Self::NoOlm,
        Self::HistoryNotShared,
    ];

    /// The code of the specification.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blacklisted => "m.blacklisted",
            Self::Unverified => "m.unverified",
            Self::Unauthorised => "m.unauthorised",
            Self::Unavailable => "m.unavailable",
            Self::NoOlm => "m.no_olm",
            Self::HistoryNotShared => "m.history_not_shared",
        }
    }

    /// Reads a code. `None` for an unknown one, for which the event's own reason is all there is.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == code)
    }

    /// A reason in English for the event's `reason` field, addressed to the device that gets no key.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Blacklisted => "The sender has blocked you.",
            Self::Unverified => "The sender has disabled encrypting to unverified devices.",
            Self::Unauthorised => "You are not authorised to read the message.",
            Self::Unavailable => "The requested key was not found.",
            Self::NoOlm => "Unable to establish a secure channel.",
            Self::HistoryNotShared => "The sender disabled sharing encrypted history.",
        }
    }
}

impl std::fmt::Display for WithheldCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether this device may get a room key. `identity` is that of the device's owner, if there is one;
/// `blocked` is the app's own decision about the device. A dehydrated device has to be cross-signed under every policy
/// (MSC3814): nobody sees it in use, so nobody would wonder about one that the server has made up.
///
/// # Errors
///
/// [`WithheldCode::Blacklisted`] for a blocked device under every policy;
/// [`WithheldCode::Unverified`] when the policy asks for more than the device has.
pub fn may_receive(
    policy: &Policy,
    device: &Device,
    blocked: bool,
    identity: Option<&Identity>,
) -> Result<(), WithheldCode> {
    if blocked {
        return Err(WithheldCode::Blacklisted);
    }
    if device.dehydrated && !is_cross_signed(device, identity) {
        return Err(WithheldCode::Unverified);
    }
    let state = identity.map(Identity::state);
    let trusted = match policy.effective_recipients() {
        Recipients::AllDevices => true,
        Recipients::IdentityBased | Recipients::IdentityBasedThenStrict => {
            state.is_some_and(|state| !state.is_violation()) && is_cross_signed(device, identity)
        }
        Recipients::OnlyTrusted => {
            state == Some(IdentityState::Verified) && is_cross_signed(device, identity)
        }
    };
    if trusted { Ok(()) } else { Err(WithheldCode::Unverified) }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
