//! Public keys and ids: parsed once, checked at the door.
//!
//! A Curve25519 key of small order makes every key agreement end in the same secret, and an
//! Ed25519 key of small order verifies signatures that nobody made. Both are refused here, before
//! they reach a protocol. Clause: Matrix specification, *Olm & Megolm*; appendices, *Unpadded
//! Base64*.

use std::fmt;

use base64::Engine;
use serde::{Deserialize, Serialize};
use vodozemac::{Curve25519PublicKey, Ed25519Signature};

use crate::unpadded;

/// An Ed25519 public key, as bytes. Not secret.
///
/// Making one from bytes checks that they are a point of the curve; restoring a stored one does not check it
/// again (that costs as much as half a signature), and no signature verifies under one that is none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ed25519PublicKey([u8; 32]);

impl Ed25519PublicKey {
    /// The key with these bytes.
    ///
    /// # Errors
    ///
    /// [`KeyError::NotAPoint`]. Whether the key is of small order is not checked here.
    pub fn from_slice(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        match vodozemac::Ed25519PublicKey::from_slice(bytes) {
            Ok(_) => Ok(Self(*bytes)),
            Err(_) => Err(KeyError::NotAPoint),
        }
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Unpadded base64, as in events.
    #[must_use]
    pub fn to_base64(&self) -> String {
        unpadded::STANDARD.encode(self.0)
    }

    /// Whether the key's owner signed `message`; strictly (keys and commitments of small order and scalars
    /// that are not reduced verify nothing).
    pub(crate) fn verify(&self, message: &[u8], signature: &Ed25519Signature) -> bool {
        vodozemac::Ed25519PublicKey::from_slice(&self.0)
            .is_ok_and(|key| key.verify(message, signature).is_ok())
    }
}

impl From<vodozemac::Ed25519PublicKey> for Ed25519PublicKey {
    fn from(key: vodozemac::Ed25519PublicKey) -> Self {
        Self(*key.as_bytes())
    }
}

impl fmt::Debug for Ed25519PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", self.to_base64())
    }
}

/// The two long-term public keys of a device.
///
/// Deserialising restores what was stored and checks nothing. Keys from outside go through
/// [`curve25519_from_base64`] and [`ed25519_from_base64`].
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
    ed25519_from_bytes(decode(text)?)
}

/// Whether agreeing on a secret with `key` always gives the same secret.
pub(crate) fn is_low_order_curve25519(key: &Curve25519PublicKey) -> bool {
    let mut u = key.to_bytes();
    u[31] &= !SIGN_BIT;
    LOW_ORDER_U.contains(&u)
}

/// Whether signatures that verify under the key that is this text in base64 prove nothing; `None` if it is
/// no key's text.
pub(crate) fn is_low_order_ed25519(text: &str) -> Option<bool> {
    decode(text).ok().map(is_low_order_y)
}

/// Takes an Ed25519 public key from raw bytes, as in a QR code, with the checks of
/// [`ed25519_from_base64`].
pub(crate) fn ed25519_from_bytes(bytes: [u8; 32]) -> Result<Ed25519PublicKey, KeyError> {
    if is_low_order_y(bytes) {
        return Err(KeyError::LowOrder);
    }
    if !is_reduced(bytes) {
        return Err(KeyError::NotCanonical);
    }
    Ed25519PublicKey::from_slice(&bytes)
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

#[cfg(test)]
pub(crate) mod tests_support {
    use super::{Curve25519PublicKey, LOW_ORDER_U};

    /// The agreement keys of small order.
    pub(crate) fn low_order_curve25519() -> impl Iterator<Item = Curve25519PublicKey> {
        LOW_ORDER_U.into_iter().map(Curve25519PublicKey::from_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vodozemac::Curve25519SecretKey;

    fn encode(bytes: [u8; 32]) -> String {
        unpadded::STANDARD.encode(bytes)
    }

    /// Both spellings of each listed coordinate: with and without the top bit.
    fn spellings(list: [[u8; 32]; 7]) -> impl Iterator<Item = [u8; 32]> {
        list.into_iter().flat_map(|plain| {
            let mut signed = plain;
            signed[31] |= SIGN_BIT;
            [plain, signed]
        })
    }

    #[test]
    fn n21_every_small_order_agreement_key_is_refused() {
        for bytes in spellings(LOW_ORDER_U) {
            assert_eq!(curve25519_from_base64(&encode(bytes)), Err(KeyError::LowOrder));
        }
    }

    #[test]
    fn n21_the_list_of_agreement_keys_is_right() {
        for bytes in spellings(LOW_ORDER_U) {
            let key = Curve25519PublicKey::from_bytes(bytes);
            assert!(Curve25519SecretKey::new().diffie_hellman(&key).is_none());
        }
    }

    #[test]
    fn n21_every_small_order_signing_key_is_refused() {
        for bytes in spellings(LOW_ORDER_Y) {
            assert_eq!(ed25519_from_base64(&encode(bytes)), Err(KeyError::LowOrder));
        }
    }

    #[test]
    fn a_key_has_one_spelling_only() {
        let mut bytes = Curve25519PublicKey::from(&Curve25519SecretKey::new()).to_bytes();
        bytes[31] |= SIGN_BIT;
        assert_eq!(curve25519_from_base64(&encode(bytes)), Err(KeyError::NotCanonical));
        // Above the prime, next to the small-order spellings.
        assert_eq!(curve25519_from_base64(&encode(near_p(0xff))), Err(KeyError::NotCanonical));
        assert_eq!(ed25519_from_base64(&encode(near_p(0xff))), Err(KeyError::NotCanonical));
    }

    #[test]
    fn a_key_of_wrong_length_is_refused() {
        for text in ["", "AAAA", &"A".repeat(42), &"A".repeat(44), &"A".repeat(100_000)] {
            assert!(curve25519_from_base64(text).is_err());
            assert!(ed25519_from_base64(text).is_err());
        }
        let short = unpadded::STANDARD.encode([9; 31]);
        assert_eq!(curve25519_from_base64(&short), Err(KeyError::WrongLength));
    }

    #[test]
    fn a_key_in_another_alphabet_is_refused() {
        let key = format!("{}-_", &encode([9; 32])[..41]);
        assert_eq!(curve25519_from_base64(&key), Err(KeyError::NotBase64));
    }

    #[test]
    fn padding_is_tolerated() {
        let text = encode([9; 32]);
        let key = curve25519_from_base64(&text).unwrap();
        assert_eq!(curve25519_from_base64(&format!("{text}=")), Ok(key));
    }

    #[test]
    fn errors_do_not_repeat_the_key() {
        let text = encode(near_p(0xec));
        let error = curve25519_from_base64(&text).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(&text));
    }

    #[test]
    fn a_session_id_is_transparent() {
        let id = SessionId::new("abc");
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"abc\"");
        assert_eq!(id.to_string(), "abc");
    }

    proptest! {
        #[test]
        fn generated_agreement_keys_are_accepted(secret: [u8; 32]) {
            let key = Curve25519PublicKey::from(&Curve25519SecretKey::from_slice(&secret));
            prop_assert_eq!(curve25519_from_base64(&key.to_base64()), Ok(key));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text: String) {
            let _ = curve25519_from_base64(&text);
            let _ = ed25519_from_base64(&text);
        }
    }
}
