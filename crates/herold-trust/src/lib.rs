//! Herold's trust decisions: which devices and identities are believed, who may get a room key, and
//! how a message is shown.
//!
//! Everything is a pure function of its arguments: no clock, no store, no network, no async. Input
//! from a server is read tolerantly per entry; a bad entry is a typed error for that entry and leaves
//! the others and everything known untouched.
//!
//! - [`device`](crate::Device): devices, their self-signature, and changes of them
//! - [`anchor`](crate::Anchor): the own identity, and whom it vouches for
//! - [`identity`](crate::Identity): cross-signing identities, their pins, and who signed which device
//! - [`own_identity`](crate::CrossSigningKeys): making an own identity, and signing with it
//! - [`policy`](crate::Policy): what a deployment allows, and who may get a room key
//! - [`rotation`](crate::EncryptionSettings): a room's encryption settings and session expiry
//! - [`shield`](crate::Shield): how far the sender of a message is certain
//! - [`verification`](crate::Verification): two people or devices compare their keys
//! - [`emoji`](crate::Emoji): the pictures they compare, and their names in many languages
//! - [`time`](crate::Timestamp): points in time as arguments
//!
//! Matrix specification, Client-Server API: "End-to-end encryption", "Cross-signing", and its
//! recommendation to share room keys with cross-signed devices only.
#![forbid(unsafe_code)]

mod anchor;
mod device;
mod emoji;
mod identity;
mod own_identity;
mod policy;
mod rotation;
mod shield;
#[cfg(test)]
mod test_world;
mod time;
mod verification;

pub use anchor::Anchor;
pub use device::{
    Device, DeviceChange, DeviceKeysError, KeyKind, MAX_KEYS_SIZE, compare, owns,
    parse_device_keys, parse_sender_device_keys,
};
pub use emoji::Emoji;
pub use identity::{
    Identity, IdentityError, IdentityState, KeyUsage, ParsedIdentity, is_cross_signed, is_verified,
    parse_identity,
};
pub use own_identity::{
    CrossSigningKeys, SignError, SignatureUpload, is_master_signed_by_device,
    is_signed_by_own_user, own_master_object, sign_device, sign_user,
};
pub use policy::{
    DecryptTrust, Lifetimes, Policy, PolicyDenied, PolicyFloor, Recipients, WithheldCode,
    may_receive,
};
pub use rotation::{
    EncryptionSettings, MAX_ROTATION, MAX_ROTATION_MESSAGES, MEGOLM, MIN_ROTATION, OLM, is_expired,
    parse_encryption,
};
pub use shield::{KeySource, SenderUntrusted, Shield, ShieldReason, may_show, shield};
pub use time::Timestamp;
pub use verification::{
    CancelCode, Channel, CurrentKeys, IgnoredRequest, KeyIdConflict, Methods, PartyKeys,
    RecordError as VerificationRecordError, ScanError, ShortAuthString, Verification,
    VerificationMessage, VerificationState, VerificationTarget, VerifiedKey, from_device,
    unknown_transaction,
};
