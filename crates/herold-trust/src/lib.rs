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
//! - [`policy`](crate::Policy): what a deployment allows, and who may get a room key
//! - [`rotation`](crate::EncryptionSettings): a room's encryption settings and session expiry
//! - [`shield`](crate::Shield): how far the sender of a message is certain
//! - [`time`](crate::Timestamp): points in time as arguments
//!
//! Matrix specification, Client-Server API: "End-to-end encryption", "Cross-signing", and its
//! recommendation to share room keys with cross-signed devices only.
#![forbid(unsafe_code)]

mod anchor;
mod device;
mod identity;
mod policy;
mod rotation;
mod shield;
#[cfg(test)]
mod test_world;
mod time;

pub use anchor::Anchor;
pub use device::{
    Device, DeviceChange, DeviceKeysError, KeyKind, MAX_KEYS_SIZE, compare, owns,
    parse_device_keys, parse_sender_device_keys,
};
pub use identity::{
    Identity, IdentityError, IdentityState, KeyUsage, ParsedIdentity, is_cross_signed, is_verified,
    parse_identity,
};
pub use policy::{
    DecryptTrust, Policy, PolicyDenied, PolicyFloor, Recipients, WithheldCode, may_receive,
};
pub use rotation::{
    EncryptionSettings, MAX_ROTATION, MAX_ROTATION_MESSAGES, MEGOLM, MIN_ROTATION, OLM, is_expired,
    parse_encryption,
};
pub use shield::{KeySource, SenderUntrusted, Shield, ShieldReason, may_show, shield};
pub use time::Timestamp;
