//! How far the sender of a message is certain, and whether the message is shown at all.
//!
//! The shields are lax: a cross-signed device of a user who was never verified is fine. What gets a
//! shield is a sender that nobody vouches for.
//!
//! Matrix specification, Client-Server API: "End-to-end encryption" (a key that was forwarded, or
//! comes from a backup or an export, does not prove who sent the message) and "Cross-signing".

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{DecryptTrust, Device, Identity, IdentityState, Policy, is_cross_signed};

/// Where the room key of a message came from. Only the first is proof of who sent the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySource {
    /// From its sender, over Olm.
    Olm,
    /// Passed on by somebody else.
    Forwarded,
    /// From a key export file.
    Imported,
    /// From the server-side backup.
    Backup,
    // Stores know the variants by their place: a new one comes last.
    /// From a bundle of the room's past that whoever has invited us has shared (MSC4268).
    SharedHistory,
}

/// How a message is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shield {
    /// Plainly.
    None,
    /// With a note.
    Grey(ShieldReason),
    /// With a warning.
    Red(ShieldReason),
}

impl Shield {
    /// Why there is a shield; `None` when there is none.
    #[must_use]
    pub const fn reason(self) -> Option<ShieldReason> {
        match self {
            Self::None => None,
            Self::Grey(reason) | Self::Red(reason) => Some(reason),
        }
    }
}

/// Why a message has a shield.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShieldReason {
    /// The room key does not prove who sent the message.
    AuthenticityNotGuaranteed,
    /// The device that sent the message is not known.
    UnknownDevice,
    /// The device that sent the message is not cross-signed by its owner.
    UnsignedDevice,
    /// The sender's identity changed and nobody has acknowledged that.
    IdentityViolation,
    /// The message was sent in clear to an encrypted room.
    SentInClear,
    /// The event claims another sender than the owner of the room key.
    MismatchedSender,
}

impl ShieldReason {
    /// A stable name, in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthenticityNotGuaranteed => "authenticity_not_guaranteed",
            Self::UnknownDevice => "unknown_device",
            Self::UnsignedDevice => "unsigned_device",
            Self::IdentityViolation => "identity_violation",
            Self::SentInClear => "sent_in_clear",
            Self::MismatchedSender => "mismatched_sender",
        }
    }
}

impl std::fmt::Display for ShieldReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The shield of a message that decrypted.
///
/// `device` is the device whose three sender keys agree with the room key's ([`crate::owns`]), if there
/// is one, and `identity` its owner's. The own device needs no shield and is not asked about here;
/// [`ShieldReason::SentInClear`] and [`ShieldReason::MismatchedSender`] are for the caller to give.
#[must_use]
pub fn shield(source: KeySource, device: Option<&Device>, identity: Option<&Identity>) -> Shield {
    if source != KeySource::Olm {
        return Shield::Grey(ShieldReason::AuthenticityNotGuaranteed);
    }
    let Some(device) = device else {
        return Shield::Red(ShieldReason::UnknownDevice);
    };
    if !is_cross_signed(device, identity) {
        return Shield::Red(ShieldReason::UnsignedDevice);
    }
    if identity.map(Identity::state).is_some_and(IdentityState::is_violation) {
        return Shield::Red(ShieldReason::IdentityViolation);
    }
    Shield::None
}

/// The message decrypted, but its sender is not certain enough for this deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the sender of the message is not trusted: {reason}")]
pub struct SenderUntrusted {
    /// What is uncertain.
    pub reason: ShieldReason,
}

/// Whether a message with this shield is shown to the app.
///
/// `owner_has_identity` says whether the sender has a cross-signing identity. Under
/// [`DecryptTrust::CrossSignedOrLegacy`] a sender without one cannot do better than an unsigned device,
/// and a room key without proof of origin is let pass; an unknown device is not, because then
/// nothing ties the message to its sender. A message sent in clear was not decrypted, so only
/// [`Policy::refuse_clear_in_encrypted_rooms`] decides about it.
///
/// # Errors
///
/// [`SenderUntrusted`] with the reason when the message is not to be shown.
pub fn may_show(
    policy: &Policy,
    shield: &Shield,
    owner_has_identity: bool,
) -> Result<(), SenderUntrusted> {
    use ShieldReason::{AuthenticityNotGuaranteed, SentInClear, UnsignedDevice};

    let Some(reason) = shield.reason() else {
        return Ok(());
    };
    let allowed = match (policy.effective_decrypt_trust(), reason) {
        (_, SentInClear) => !policy.refuse_clear_in_encrypted_rooms,
        (DecryptTrust::Any, _) | (DecryptTrust::CrossSignedOrLegacy, AuthenticityNotGuaranteed) => {
            true
        }
        (DecryptTrust::CrossSignedOrLegacy, UnsignedDevice) => !owner_has_identity,
        (DecryptTrust::CrossSignedOrLegacy | DecryptTrust::CrossSigned, _) => false,
    };
    if allowed { Ok(()) } else { Err(SenderUntrusted { reason }) }
}

#[cfg(test)]
#[path = "shield_tests.rs"]
mod tests;
