//! Public keys and ids: parsed once, checked at the door.
//!
//! A Curve25519 key of small order makes every key agreement end in the same secret, and an
//! Ed25519 key of small order verifies signatures that nobody made. Both are refused here, before
//! they reach a protocol. Clause: Matrix specification, *Olm & Megolm*; appendices, *Unpadded
//! Base64*.

use std::fmt;

use base64::Engine;
use serde::{Deserialize, Serialize};
use vodozemac::{Curve25519PublicKey, Ed25519PublicKey};

use crate::unpadded;

/// The two long-term public keys of a device.
///
/// Deserialising restores what was stored and checks only that the Ed25519 key is a point. Keys
/// from outside go through [`curve25519_from_base64`] and [`ed25519_from_base64`].
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct IdentityKeys {
    /// The key that Olm sessions are agreed with ("sender key").
    pub curve25519: Curve25519PublicKey,
    /// The key that the device signs with ("fingerprint").
    pub ed25519: Ed25519PublicKey,
}

/// Why a public key was refused. The texts name no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is not base64.
    #[error("the key is not base64")]
    NotBase64,
    /// The key is not 32 bytes long.
    #[error("the key is not 32 bytes long")]
    WrongLength,
    /// The bytes are no point of the Ed25519 curve.
    #[error("the key is not a point of the curve")]
    NotAPoint,
    /// The key has small order: any agreement or signature with it is worthless.
    #[error("the key has small order")]
    LowOrder,
    /// The bytes spell a key in a way that no generator does, so that one key would have two
    /// names.
    #[error("the key is not in canonical form")]
    NotCanonical,
}

/// Reads a Curve25519 public key from unpadded base64 (padding is tolerated).
///
/// # Errors
///
/// [`KeyError::LowOrder`] for the small-order points in every spelling; [`KeyError::NotCanonical`]
/// for other keys with the unused top bit set or a coordinate beyond the field; otherwise what is
/// wrong with the encoding.
pub fn curve25519_from_base64(text: &str) -> Result<Curve25519PublicKey, KeyError> {
    let bytes = decode(text)?;
    let key = Curve25519PublicKey::from_bytes(bytes);
    if is_low_order_curve25519(&key) {
        return Err(KeyError::LowOrder);
    }
    if bytes[31] & SIGN_BIT != 0 || !is_reduced(bytes) {
        return Err(KeyError::NotCanonical);
    }
    Ok(key)
}

/// Reads an Ed25519 public key from unpadded base64 (padding is tolerated).
///
/// # Errors
///
/// [`KeyError::LowOrder`] for the small-order points in every spelling; [`KeyError::NotCanonical`]
/// for other keys with a coordinate beyond the field; otherwise what is wrong with the encoding.
pub fn ed25519_from_base64(text: &str) -> Result<Ed25519PublicKey, KeyError> {
    let bytes = decode(text)?;
    if is_low_order_y(bytes) {
        return Err(KeyError::LowOrder);
    }
    if !is_reduced(bytes) {
        return Err(KeyError::NotCanonical);
    }
    Ed25519PublicKey::from_slice(&bytes).map_err(|_| KeyError::NotAPoint)
}

/// Whether agreeing on a secret with `key` always gives the same secret.
pub(crate) fn is_low_order_curve25519(key: &Curve25519PublicKey) -> bool {
    let mut u = key.to_bytes();
    u[31] &= !SIGN_BIT;
    LOW_ORDER_U.contains(&u)
}

/// Whether signatures that verify under `key` prove nothing.
pub(crate) fn is_low_order_ed25519(key: &Ed25519PublicKey) -> bool {
    is_low_order_y(*key.as_bytes())
}

/// The id of an Olm or a Megolm session, as the ratchet derives it.
///
/// Public, and unique to its session. Ids of the two protocols never meet in one table, so the
/// type does not tell them apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(String);

impl SessionId {
    /// Names a session. Any text is accepted: an id that no session has simply finds none.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The id as it stands in events.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The bit of the last byte that X25519 ignores and Ed25519 uses for the sign of x.
const SIGN_BIT: u8 = 0x80;

/// The field prime, 2^255 - 19, little endian.
const P: [u8; 32] = near_p(0xed);

/// A number of the form `low + (2^255 - 256)`, little endian; all values next to the prime.
const fn near_p(low: u8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    bytes[0] = low;
    bytes[31] = 0x7f;
    bytes
}

const fn small(low: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = low;
    bytes
}

/// Every u-coordinate of order 1, 2, 4 or 8 on Curve25519 or its twist, in every spelling of 255
/// bits. The two long ones are the points of order 8.
const LOW_ORDER_U: [[u8; 32]; 7] = [
    small(0),
    small(1),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
    near_p(0xec),
    near_p(0xed),
    near_p(0xee),
];

/// Every y-coordinate of order 1, 2, 4 or 8 on Ed25519, in every spelling of 255 bits. The two
/// long ones are the points of order 8.
const LOW_ORDER_Y: [[u8; 32]; 7] = [
    small(0),
    small(1),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
    near_p(0xec),
    near_p(0xed),
    near_p(0xee),
];

fn is_low_order_y(mut bytes: [u8; 32]) -> bool {
    bytes[31] &= !SIGN_BIT;
    LOW_ORDER_Y.contains(&bytes)
}

/// Whether the lower 255 bits are a number below the prime.
fn is_reduced(mut bytes: [u8; 32]) -> bool {
    bytes[31] &= !SIGN_BIT;
    bytes.iter().rev().lt(P.iter().rev())
}

fn decode(text: &str) -> Result<[u8; 32], KeyError> {
    // 44 characters with padding; longer text is refused before it is decoded.
    if text.len() > 44 {
        return Err(KeyError::WrongLength);
    }
    let bytes = unpadded::STANDARD.decode(text).map_err(|_| KeyError::NotBase64)?;
    bytes.try_into().map_err(|_| KeyError::WrongLength)
}
