//! The arithmetic of short authentication strings: key agreement, commitment, the bytes that users
//! compare, and the MACs that bind the keys to them.
//!
//! Which string is shown to whom, and what is signed afterwards, is decided elsewhere. The key
//! agreement is `curve25519-hkdf-sha256`, the MAC `hkdf-hmac-sha256.v2`, the hash SHA-256; the
//! deprecated methods of the specification are not offered.
//!
//! Clause: Matrix specification, *Short Authentication String (SAS) verification*.

use std::fmt;

use base64::Engine;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use vodozemac::{Curve25519PublicKey, Curve25519SecretKey};
use zeroize::{Zeroize, Zeroizing};

use crate::canonical::{CanonicalJsonError, canonical_json};
use crate::entropy::{Entropy, secret_bytes};
use crate::identity::{KeyError, is_low_order_curve25519};
use crate::record::{self, RecordError};
use crate::secret::SecretBytes;
use crate::unpadded;

/// The ephemeral key pair of one side of one verification.
///
/// Secrecy: `Debug` prints the public key only. Never use a pair twice.
pub struct SasKeyPair(Curve25519SecretKey);

impl SasKeyPair {
    /// A new pair from 32 random bytes.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        Self(Curve25519SecretKey::from_slice(&secret_bytes(entropy)))
    }

    /// The public half, for `m.key.verification.key`.
    #[must_use]
    pub fn public_key(&self) -> Curve25519PublicKey {
        Curve25519PublicKey::from(&self.0)
    }

    /// Agrees on a secret with the other side's public key.
    ///
    /// # Errors
    ///
    /// [`KeyError::LowOrder`] if the outcome would not depend on our key.
    pub fn agree(&self, theirs: &Curve25519PublicKey) -> Result<SasSecret, KeyError> {
        if is_low_order_curve25519(theirs) {
            return Err(KeyError::LowOrder);
        }
        let shared = self.0.diffie_hellman(theirs).ok_or(KeyError::LowOrder)?;
        Ok(SasSecret(Zeroizing::new(*shared.as_bytes())))
    }

    /// The pair as a record, in clear.
    #[must_use]
    pub fn to_record(&self) -> SecretBytes {
        let mut boxed = self.0.to_bytes();
        let record = record::wrap(&*boxed);
        boxed.zeroize();
        record
    }

    /// Restores a pair from its record.
    ///
    /// # Errors
    ///
    /// If the record is damaged or of an unknown version.
    pub fn from_record(record: &[u8]) -> Result<Self, RecordError> {
        let seed = record::key("a verification's ephemeral key", record)?;
        Ok(Self(Curve25519SecretKey::from_slice(&seed)))
    }
}

impl fmt::Debug for SasKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SasKeyPair").field(&self.public_key().to_base64()).finish()
    }
}

/// The secret that both sides of a verification agreed on.
///
/// Secrecy: `Debug` prints nothing; wiped on drop.
pub struct SasSecret(Zeroizing<[u8; 32]>);

impl SasSecret {
    /// The bytes that both users compare. `info` names both sides, their keys and the flow.
    #[must_use]
    pub fn bytes(&self, info: &str) -> SasBytes {
        let mut bytes = [0; 6];
        self.expand(info, &mut bytes);
        SasBytes(bytes)
    }

    /// The MAC of `input` (a public key, or the list of key ids) by `hkdf-hmac-sha256.v2`, in
    /// unpadded base64. `info` names sender, receiver, flow and key id.
    #[must_use]
    pub fn mac(&self, input: &str, info: &str) -> String {
        unpadded::STANDARD.encode(self.mac_bytes(input, info))
    }

    /// Whether `mac` is the MAC of `input`; compared in constant time.
    #[must_use]
    pub fn is_authentic(&self, input: &str, info: &str, mac: &str) -> bool {
        unpadded::STANDARD
            .decode(mac)
            .is_ok_and(|mac| mac.ct_eq(&self.mac_bytes(input, info)).into())
    }

    fn mac_bytes(&self, input: &str, info: &str) -> [u8; 32] {
        let mut key = Zeroizing::new([0; 32]);
        self.expand(info, &mut *key);
        let mut mac = [0; 32];
        if let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(&*key) {
            hmac.update(input.as_bytes());
            mac = hmac.finalize().into_bytes().into();
        }
        mac
    }

    fn expand(&self, info: &str, out: &mut [u8]) {
        let derived = Hkdf::<Sha256>::new(None, &*self.0).expand(info.as_bytes(), out);
        debug_assert!(derived.is_ok(), "32 bytes are within what HKDF gives");
    }
}

impl fmt::Debug for SasSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SasSecret(..)")
    }
}

/// The 48 bits that become emoji or decimals. Secret until they are shown: `Debug` prints nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SasBytes([u8; 6]);

impl SasBytes {
    /// Seven indices into the table of emoji, each below 64: the first 42 bits in sixes.
    #[must_use]
    pub fn emoji_indices(&self) -> [u8; 7] {
        let bits = self.0.iter().fold(0u64, |bits, byte| (bits << 8) | u64::from(*byte));
        std::array::from_fn(|at| ((bits >> (42 - 6 * at)) & 63) as u8)
    }

    /// Three numbers from 1000 to 9191: the first 39 bits in thirteens.
    #[must_use]
    pub fn decimals(&self) -> [u16; 3] {
        let bits = self.0.iter().fold(0u64, |bits, byte| (bits << 8) | u64::from(*byte));
        std::array::from_fn(|at| ((bits >> (35 - 13 * at)) & 8191) as u16 + 1000)
    }
}

impl fmt::Debug for SasBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SasBytes(..)")
    }
}

/// The commitment of whoever accepts: the hash of their public key and the content of the `start`
/// message, in unpadded base64.
///
/// # Errors
///
/// If the content has no canonical form.
pub fn sas_commitment(
    public_key: &Curve25519PublicKey,
    start_content: &Value,
) -> Result<String, CanonicalJsonError> {
    let mut hash = Sha256::new();
    hash.update(public_key.to_base64());
    hash.update(canonical_json(start_content)?);
    Ok(unpadded::STANDARD.encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;
    use crate::identity::tests_support::low_order_curve25519;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn bits_become_emoji_and_decimals_from_the_left() {
        // Origin: worked out by hand from the formulas of the specification.
        let bytes = SasBytes([0b1111_1100, 0b0000_0000, 0b0011_1111, 0b1100_0000, 0xff, 0xff]);
        assert_eq!(bytes.emoji_indices(), [63, 0, 0, 63, 48, 15, 63]);
        assert_eq!(SasBytes([0; 6]).decimals(), [1000; 3]);
        assert_eq!(SasBytes([0xff; 6]).decimals(), [9191; 3]);
        let first_only = SasBytes([0xff, 0b1111_1000, 0, 0, 0, 0]);
        assert_eq!(first_only.decimals(), [9191, 1000, 1000]);
        let last_only = SasBytes([0, 0, 0, 0b0011_1111, 0b1111_1110, 0]);
        assert_eq!(last_only.decimals(), [1000, 1000, 9191]);
    }

    #[test]
    fn n21_a_key_of_small_order_is_refused() {
        let pair = SasKeyPair::generate(&mut SeededEntropy::new(1));
        for key in low_order_curve25519() {
            assert_eq!(pair.agree(&key).unwrap_err(), KeyError::LowOrder);
        }
    }

    #[test]
    fn the_ratchet_librarys_sas_agrees_with_ours() {
        // Origin: `vodozemac::sas`, the other implementation of the same clause.
        let ours = SasKeyPair::generate(&mut SeededEntropy::new(1));
        let theirs = vodozemac::sas::Sas::new();
        let secret = ours.agree(&theirs.public_key()).unwrap();
        let theirs = theirs.diffie_hellman(ours.public_key()).unwrap();
        let bytes = theirs.bytes("info");
        assert_eq!(secret.bytes("info").0, *bytes.as_bytes());
        assert_eq!(secret.bytes("info").emoji_indices(), bytes.emoji_indices());
        assert_eq!(<(u16, u16, u16)>::from(secret.bytes("info").decimals()), bytes.decimals());
        let mac = theirs.calculate_mac("key", "info").to_base64();
        assert_eq!(secret.mac("key", "info"), mac);
        assert!(secret.is_authentic("key", "info", &mac));
        assert!(!secret.is_authentic("kex", "info", &mac));
        assert!(!secret.is_authentic("key", "inf", &mac));
        assert!(!secret.is_authentic("key", "info", ""));
        assert!(!secret.is_authentic("key", "info", &mac[..20]));
    }

    #[test]
    fn a_pair_survives_its_record() {
        let pair = SasKeyPair::generate(&mut SeededEntropy::new(1));
        let back = SasKeyPair::from_record(pair.to_record().as_slice()).unwrap();
        assert_eq!(back.public_key(), pair.public_key());
        assert!(SasKeyPair::from_record(&[1; 32]).is_err());
    }

    #[test]
    fn the_commitment_covers_key_and_start() {
        let mut entropy = SeededEntropy::new(1);
        let (a, b) = (SasKeyPair::generate(&mut entropy), SasKeyPair::generate(&mut entropy));
        let start = json!({ "method": "m.sas.v1", "hashes": ["sha256"] });
        let commit =
            |pair: &SasKeyPair, start: &Value| sas_commitment(&pair.public_key(), start).unwrap();
        assert_eq!(commit(&a, &start), commit(&a, &start.clone()));
        assert_ne!(commit(&a, &start), commit(&b, &start));
        assert_ne!(commit(&a, &start), commit(&a, &json!({ "method": "m.sas.v1" })));
        assert!(sas_commitment(&a.public_key(), &json!(1.5)).is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let pair = SasKeyPair::generate(&mut SeededEntropy::new(1));
        let secret =
            pair.agree(&SasKeyPair::generate(&mut SeededEntropy::new(2)).public_key()).unwrap();
        assert_eq!(format!("{secret:?} {:?}", secret.bytes("info")), "SasSecret(..) SasBytes(..)");
        assert!(format!("{pair:?}").contains(&pair.public_key().to_base64()));
    }

    proptest! {
        #[test]
        fn both_sides_see_the_same(seed: u64, info: String) {
            let mut entropy = SeededEntropy::new(seed);
            let (a, b) = (SasKeyPair::generate(&mut entropy), SasKeyPair::generate(&mut entropy));
            let ab = a.agree(&b.public_key()).unwrap().bytes(&info);
            prop_assert_eq!(ab, b.agree(&a.public_key()).unwrap().bytes(&info));
            prop_assert!(ab.emoji_indices().iter().all(|index| *index < 64));
            prop_assert!(ab.decimals().iter().all(|n| (1000..=9191).contains(n)));
        }
    }
}
