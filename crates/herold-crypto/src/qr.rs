//! The bytes of a verification QR code.
//!
//! A code says which two keys its shower believes in, and carries a random secret that proves a
//! scan. Parsing checks form only; whether the keys are the expected ones is decided by whoever
//! verifies.
//!
//! Clause: Matrix specification, *QR codes*, *QR code format* (version 2).

use std::fmt;

use crate::entropy::Entropy;
use crate::identity::{Ed25519PublicKey, ed25519_from_bytes};
use crate::secret::SecretBytes;

const MAGIC: &[u8; 6] = b"MATRIX";
const VERSION: u8 = 2;

/// Magic, version, mode, and the length of the flow id.
const HEADER_LENGTH: usize = 10;

/// The bytes of two keys.
const KEYS_LENGTH: usize = 64;

/// The most bytes that any QR code holds in byte mode (version 40, level L).
const MAX_LENGTH: usize = 2953;

/// The least secret that is taken; the specification suggests as much.
const MIN_SECRET_LENGTH: usize = 8;

/// The secret of new codes, bytes.
const SECRET_LENGTH: usize = 16;

/// Who shows the code, and the two keys in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QrKeys {
    /// Mode 0: one user shows it to another.
    OtherUser {
        /// The shower's own master key.
        own_master: Ed25519PublicKey,
        /// What the shower believes the other user's master key is.
        their_master: Ed25519PublicKey,
    },
    /// Mode 1: shown to a device of the same user, by one that trusts the master key.
    TrustsMaster {
        /// The user's master key.
        master: Ed25519PublicKey,
        /// What the shower believes the other device's Ed25519 key is.
        their_device: Ed25519PublicKey,
    },
    /// Mode 2: shown to a device of the same user, by one that does not trust the master key yet.
    DistrustsMaster {
        /// The shower's own device key.
        own_device: Ed25519PublicKey,
        /// What the shower believes the user's master key is.
        master: Ed25519PublicKey,
    },
}

impl QrKeys {
    const fn mode(&self) -> u8 {
        match self {
            Self::OtherUser { .. } => 0,
            Self::TrustsMaster { .. } => 1,
            Self::DistrustsMaster { .. } => 2,
        }
    }

    const fn pair(&self) -> (&Ed25519PublicKey, &Ed25519PublicKey) {
        match self {
            Self::OtherUser { own_master: first, their_master: second }
            | Self::TrustsMaster { master: first, their_device: second }
            | Self::DistrustsMaster { own_device: first, master: second } => (first, second),
        }
    }
}

/// Why bytes are no verification code, or none can be made. The texts quote nothing of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QrError {
    /// The bytes do not begin with `MATRIX`: a code for something else.
    #[error("this is not a verification code of Matrix")]
    NotMatrix,
    /// Another version than 2.
    #[error("version {0} of verification codes is not supported")]
    Version(u8),
    /// An unknown mode.
    #[error("mode {0} of verification codes is not known")]
    Mode(u8),
    /// The bytes end before the secret does, or are more than a code can hold.
    #[error("the verification code has the wrong length")]
    Length,
    /// The flow id is empty or not UTF-8.
    #[error("the verification code names no flow")]
    FlowId,
    /// A key is none, or has small order.
    #[error("a key in the verification code is not a key")]
    Key,
}

/// A verification QR code.
///
/// Secrecy: the secret lets whoever knows it claim a scan; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct QrCode {
    flow_id: String,
    keys: QrKeys,
    secret: SecretBytes,
}

impl QrCode {
    /// A code with a fresh secret for the flow with this event id or transaction id.
    ///
    /// # Errors
    ///
    /// [`QrError::FlowId`] if the id is empty, [`QrError::Length`] if it does not fit in a code.
    pub fn new(flow_id: &str, keys: QrKeys, entropy: &mut dyn Entropy) -> Result<Self, QrError> {
        if flow_id.is_empty() {
            return Err(QrError::FlowId);
        }
        if HEADER_LENGTH + flow_id.len() + KEYS_LENGTH + SECRET_LENGTH > MAX_LENGTH {
            return Err(QrError::Length);
        }
        let mut secret = vec![0; SECRET_LENGTH];
        entropy.fill(&mut secret);
        Ok(Self { flow_id: flow_id.to_owned(), keys, secret: SecretBytes::new(secret) })
    }

    /// Reads the bytes of a scanned code.
    ///
    /// # Errors
    ///
    /// [`QrError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, QrError> {
        if !bytes.starts_with(MAGIC) {
            return Err(QrError::NotMatrix);
        }
        if bytes.len() > MAX_LENGTH {
            return Err(QrError::Length);
        }
        let (header, rest) = bytes.split_first_chunk::<HEADER_LENGTH>().ok_or(QrError::Length)?;
        let [.., version, mode, high, low] = *header;
        if version != VERSION {
            return Err(QrError::Version(version));
        }
        if mode > 2 {
            return Err(QrError::Mode(mode));
        }
        let id_length = usize::from(u16::from_be_bytes([high, low]));
        let (flow_id, rest) = rest.split_at_checked(id_length).ok_or(QrError::Length)?;
        let (first, rest) = rest.split_first_chunk::<32>().ok_or(QrError::Length)?;
        let (second, secret) = rest.split_first_chunk::<32>().ok_or(QrError::Length)?;
        if secret.len() < MIN_SECRET_LENGTH {
            return Err(QrError::Length);
        }
        let flow_id = std::str::from_utf8(flow_id).map_err(|_| QrError::FlowId)?;
        if flow_id.is_empty() {
            return Err(QrError::FlowId);
        }
        let key = |bytes: &[u8; 32]| ed25519_from_bytes(*bytes).map_err(|_| QrError::Key);
        let (first, second) = (key(first)?, key(second)?);
        let keys = match mode {
            0 => QrKeys::OtherUser { own_master: first, their_master: second },
            1 => QrKeys::TrustsMaster { master: first, their_device: second },
            _ => QrKeys::DistrustsMaster { own_device: first, master: second },
        };
        Ok(Self { flow_id: flow_id.to_owned(), keys, secret: SecretBytes::new(secret.to_vec()) })
    }

    /// The bytes to draw, as one segment in byte mode. They contain the secret.
    #[must_use]
    pub fn to_bytes(&self) -> SecretBytes {
        let (first, second) = self.keys.pair();
        let secret = self.secret.as_slice();
        let mut bytes =
            Vec::with_capacity(HEADER_LENGTH + self.flow_id.len() + KEYS_LENGTH + secret.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, self.keys.mode()]);
        // Both constructors bound the whole code, and with it the id, far below 2^16.
        bytes.extend_from_slice(&(self.flow_id.len() as u16).to_be_bytes());
        bytes.extend_from_slice(self.flow_id.as_bytes());
        bytes.extend_from_slice(first.as_bytes());
        bytes.extend_from_slice(second.as_bytes());
        bytes.extend_from_slice(secret);
        SecretBytes::new(bytes)
    }

    /// The event id or transaction id of the flow.
    #[must_use]
    pub fn flow_id(&self) -> &str {
        &self.flow_id
    }

    /// The mode and its two keys.
    #[must_use]
    pub const fn keys(&self) -> QrKeys {
        self.keys
    }

    /// The shared secret. Compare it through [`SecretBytes`], in constant time.
    #[must_use]
    pub const fn secret(&self) -> &SecretBytes {
        &self.secret
    }
}

impl fmt::Debug for QrCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QrCode")
            .field("flow_id", &self.flow_id)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;
    use crate::signing::SigningKey;
    use proptest::prelude::*;

    fn key(seed: u64) -> Ed25519PublicKey {
        SigningKey::generate(&mut SeededEntropy::new(seed)).public_key()
    }

    fn all_modes() -> [QrKeys; 3] {
        let (a, b) = (key(1), key(2));
        [
            QrKeys::OtherUser { own_master: a, their_master: b },
            QrKeys::TrustsMaster { master: a, their_device: b },
            QrKeys::DistrustsMaster { own_device: a, master: b },
        ]
    }

    fn code() -> Vec<u8> {
        let code = QrCode::new("$event", all_modes()[0], &mut SeededEntropy::new(3)).unwrap();
        code.to_bytes().as_slice().to_vec()
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        // Origin: the layout of the specification's example, with keys that are points.
        let bytes = code();
        assert_eq!(bytes[..10], *b"MATRIX\x02\x00\x00\x06");
        assert_eq!(bytes[10..16], *b"$event");
        assert_eq!(bytes[16..48], *key(1).as_bytes());
        assert_eq!(bytes[48..80], *key(2).as_bytes());
        assert_eq!(bytes.len(), 80 + SECRET_LENGTH);
    }

    #[test]
    fn every_mode_comes_back() {
        for (mode, keys) in all_modes().into_iter().enumerate() {
            let code = QrCode::new("txn", keys, &mut SeededEntropy::new(3)).unwrap();
            assert_eq!(usize::from(code.to_bytes().as_slice()[7]), mode);
            assert_eq!(QrCode::parse(code.to_bytes().as_slice()), Ok(code));
        }
    }

    #[test]
    fn a_truncated_code_is_refused() {
        let bytes = code();
        for end in 0..80 + MIN_SECRET_LENGTH {
            assert!(QrCode::parse(&bytes[..end]).is_err(), "{end}");
        }
        assert!(QrCode::parse(&bytes[..80 + MIN_SECRET_LENGTH]).is_ok());
    }

    #[test]
    fn a_code_that_is_none_is_refused() {
        let changed = |at: usize, value: u8| {
            let mut bytes = code();
            bytes[at] = value;
            QrCode::parse(&bytes)
        };
        assert_eq!(changed(0, b'm'), Err(QrError::NotMatrix));
        assert_eq!(changed(6, 1), Err(QrError::Version(1)));
        assert_eq!(changed(6, 3), Err(QrError::Version(3)));
        assert_eq!(changed(7, 3), Err(QrError::Mode(3)));
        assert_eq!(changed(8, 1), Err(QrError::Length));
        assert_eq!(changed(10, 0xff), Err(QrError::FlowId));
        let mut long = code();
        long.resize(MAX_LENGTH + 1, 0);
        assert_eq!(QrCode::parse(&long), Err(QrError::Length));
        let mut nameless = code();
        nameless.drain(10..16);
        nameless[9] = 0;
        assert_eq!(QrCode::parse(&nameless), Err(QrError::FlowId));
    }

    #[test]
    fn n21_a_key_of_small_order_is_refused() {
        for at in [16, 48] {
            let mut bytes = code();
            bytes[at..at + 32].fill(0);
            assert_eq!(QrCode::parse(&bytes), Err(QrError::Key));
        }
    }

    #[test]
    fn an_id_that_does_not_fit_is_refused() {
        let mut entropy = SeededEntropy::new(3);
        assert_eq!(QrCode::new("", all_modes()[0], &mut entropy), Err(QrError::FlowId));
        let long = "x".repeat(MAX_LENGTH);
        assert_eq!(QrCode::new(&long, all_modes()[0], &mut entropy), Err(QrError::Length));
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let code = QrCode::parse(&code()).unwrap();
        assert!(format!("{code:?}").ends_with(", .. }"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(tail: Vec<u8>, mode: u8) {
            let mut bytes = b"MATRIX\x02".to_vec();
            bytes.push(mode % 3);
            bytes.extend(tail);
            if let Ok(code) = QrCode::parse(&bytes) {
                prop_assert_eq!(code.to_bytes(), SecretBytes::new(bytes));
            }
        }
    }
}
