//! The algorithms, on slices: what SQLCipher 4 makes of a page and of a key.

use aes::{
    Aes256,
    cipher::{Array, BlockModeDecrypt as _, BlockModeEncrypt as _, KeyIvInit as _},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Sha256, Sha512};

/// Bytes of a key of AES-256.
pub(crate) const KEY: usize = 32;
/// Bytes of one of its blocks, and of an initialization vector.
pub(crate) const BLOCK: usize = 16;

/// Which way a page goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Decrypt,
    Encrypt,
}

impl Mode {
    /// SQLCipher's `CIPHER_DECRYPT` and `CIPHER_ENCRYPT`.
    pub(crate) fn from_number(number: i32) -> Option<Self> {
        match number {
            0 => Some(Self::Decrypt),
            1 => Some(Self::Encrypt),
            _ => None,
        }
    }
}

/// The hash of an HMAC or of PBKDF2; SHA-1 is left to OpenSSL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    /// SQLCipher's `SQLCIPHER_HMAC_*` and `SQLCIPHER_PBKDF2_HMAC_*`, which are the same.
    pub(crate) fn from_number(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::Sha256),
            2 => Some(Self::Sha512),
            _ => None,
        }
    }

    /// Bytes of its output.
    pub(crate) fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// The HMAC of the two parts, one behind the other, into the beginning of `out`. `None` if that is too short.
    pub(crate) fn hmac(self, key: &[u8], parts: [&[u8]; 2], out: &mut [u8]) -> Option<()> {
        let out = out.get_mut(..self.length())?;
        match self {
            Self::Sha256 => {
                let mac = parts.iter().fold(Hmac::<Sha256>::new_from_slice(key).ok()?, add);
                out.copy_from_slice(&mac.finalize().into_bytes());
            }
            Self::Sha512 => {
                let mac = parts.iter().fold(Hmac::<Sha512>::new_from_slice(key).ok()?, add);
                out.copy_from_slice(&mac.finalize().into_bytes());
            }
        }
        Some(())
    }

    /// PBKDF2. `None` for no rounds.
    pub(crate) fn stretch(
        self,
        passphrase: &[u8],
        salt: &[u8],
        rounds: u32,
        out: &mut [u8],
    ) -> Option<()> {
        if rounds == 0 {
            return None;
        }
        match self {
            Self::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(passphrase, salt, rounds, out),
            Self::Sha512 => pbkdf2::pbkdf2_hmac::<Sha512>(passphrase, salt, rounds, out),
        }
        Some(())
    }
}

fn add<M: hmac::Mac>(mac: M, part: &&[u8]) -> M {
    mac.chain_update(part)
}

/// AES-256-CBC in place, without padding. `None` if a length is wrong: then nothing has changed.
pub(crate) fn page(mode: Mode, key: &[u8], iv: &[u8], data: &mut [u8]) -> Option<()> {
    // No copy of the key is left on the stack.
    let (key, iv) = (<&Array<u8, _>>::try_from(key).ok()?, <&Array<u8, _>>::try_from(iv).ok()?);
    let (blocks, rest) = Array::slice_as_chunks_mut(data);
    if !rest.is_empty() {
        return None;
    }
    match mode {
        Mode::Encrypt => cbc::Encryptor::<Aes256>::new(key, iv).encrypt_blocks(blocks),
        Mode::Decrypt => cbc::Decryptor::<Aes256>::new(key, iv).decrypt_blocks(blocks),
    }
    Some(())
}
