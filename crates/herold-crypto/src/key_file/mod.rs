//! Key files: room keys under a passphrase, in a text file that any client can read.
//!
//! Both directions work in bounded memory, whatever the size of the file. Writing encrypts each
//! session as it comes. Reading goes over the file twice: the first pass checks the MAC of the
//! whole and releases nothing, the second decrypts. The second computes the MAC again, so a file
//! that changes between the passes ends in an error; whoever imports in one transaction has then
//! imported nothing.
//!
//! Nothing in a file proves who a session belongs to: import as *not authentic*.
//!
//! Clause: Matrix specification, *Key exports*.

mod array;
mod reader;
mod writer;

pub use reader::KeyFileReader;
pub use writer::KeyFileWriter;

use aes::Aes256;
use ctr::Ctr128BE;
use ctr::cipher::KeyIvInit;
use hmac::{Hmac, KeyInit};
use sha2::{Sha256, Sha512};
use std::io;
use zeroize::Zeroizing;

use crate::session_data::SessionDataError;

/// The fewest rounds that are written, as the specification asks.
pub const MIN_KEY_FILE_ROUNDS: u32 = 100_000;

/// The rounds to write by default; the number other clients use too.
pub const DEFAULT_KEY_FILE_ROUNDS: u32 = 500_000;

/// The most rounds that are computed for reading: some seconds of one core.
pub const MAX_KEY_FILE_ROUNDS: u32 = 5_000_000;

const BEGIN: &str = "-----BEGIN MEGOLM SESSION DATA-----";
const END: &str = "-----END MEGOLM SESSION DATA-----";
const VERSION: u8 = 1;
const MAC_LENGTH: usize = 32;

/// Why a key file was not written or read. The texts quote nothing of the file.
///
/// After [`Entry`](Self::Entry) reading goes on with the next session; every other error ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file itself could not be read or written.
    #[error("the key file cannot be accessed: {0}")]
    Io(io::ErrorKind),
    /// The first line of a key file was not found.
    #[error("this is not a key file")]
    NotAKeyFile,
    /// The file ends too early.
    #[error("the key file is truncated")]
    Truncated,
    /// Between the first and the last line is something else than base64.
    #[error("the key file is malformed")]
    Malformed,
    /// Another version than 1.
    #[error("version {0} of key files is not supported")]
    Version(u8),
    /// No rounds, or more than [`MAX_KEY_FILE_ROUNDS`]; for writing, fewer than
    /// [`MIN_KEY_FILE_ROUNDS`].
    #[error("{0} rounds for the passphrase are out of bounds")]
    Rounds(u32),
    /// The passphrase is another one, or the file was changed. Nothing tells which.
    #[error("the passphrase is wrong or the key file was changed")]
    BadMac,
    /// The decrypted text is not an array of objects of at most 64 KiB each.
    #[error("the key file contains no list of sessions")]
    NotSessions,
    /// One session is not usable.
    #[error(transparent)]
    Entry(#[from] SessionDataError),
}

impl From<io::Error> for KeyFileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}

/// What stands before the ciphertext: version, salt, IV, rounds.
struct Header {
    salt: [u8; 16],
    iv: [u8; 16],
    rounds: u32,
}

impl Header {
    const LENGTH: usize = 1 + 16 + 16 + 4;

    fn to_bytes(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(&self.salt);
        bytes[17..33].copy_from_slice(&self.iv);
        bytes[33..].copy_from_slice(&self.rounds.to_be_bytes());
        bytes
    }

    fn parse(bytes: &[u8; Self::LENGTH]) -> Result<Self, KeyFileError> {
        if bytes[0] != VERSION {
            return Err(KeyFileError::Version(bytes[0]));
        }
        let (mut salt, mut iv, mut rounds) = ([0; 16], [0; 16], [0; 4]);
        salt.copy_from_slice(&bytes[1..17]);
        iv.copy_from_slice(&bytes[17..33]);
        rounds.copy_from_slice(&bytes[33..]);
        let rounds = u32::from_be_bytes(rounds);
        if rounds == 0 || rounds > MAX_KEY_FILE_ROUNDS {
            return Err(KeyFileError::Rounds(rounds));
        }
        Ok(Self { salt, iv, rounds })
    }

    /// Stretches the passphrase; takes time in proportion to the rounds.
    fn derive(&self, passphrase: &str) -> Keys {
        let mut keys = Zeroizing::new([0; 64]);
        pbkdf2::pbkdf2_hmac::<Sha512>(passphrase.as_bytes(), &self.salt, self.rounds, &mut *keys);
        Keys { iv: self.iv, keys }
    }
}

/// The AES key and the MAC key of one file.
struct Keys {
    iv: [u8; 16],
    keys: Zeroizing<[u8; 64]>,
}

impl Keys {
    fn cipher(&self) -> Result<Ctr128BE<Aes256>, KeyFileError> {
        Ctr128BE::new_from_slices(&self.keys[..32], &self.iv).map_err(|_| KeyFileError::Malformed)
    }

    fn hmac(&self) -> Result<Hmac<Sha256>, KeyFileError> {
        Hmac::new_from_slice(&self.keys[32..]).map_err(|_| KeyFileError::Malformed)
    }
}

#[cfg(test)]
mod tests;
