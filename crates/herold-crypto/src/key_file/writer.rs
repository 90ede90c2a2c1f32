//! Writing a key file, session by session.

use std::io::Write;

use aes::Aes256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as PADDED;
use ctr::Ctr128BE;
use ctr::cipher::StreamCipher;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::entropy::Entropy;
use crate::key_file::{BEGIN, END, Header, KeyFileError, MAX_KEY_FILE_ROUNDS, MIN_KEY_FILE_ROUNDS};
use crate::secret_storage::fresh_iv;
use crate::session_data::ExportedSession;

/// The bytes of one line: 96 characters of base64.
const LINE: usize = 72;

/// A key file being written. Call [`write`](Self::write) for every session, then
/// [`finish`](Self::finish); a file that was not finished cannot be read by anybody.
///
/// Memory: one session and one line.
pub struct KeyFileWriter<W> {
    out: W,
    cipher: Ctr128BE<Aes256>,
    hmac: Hmac<Sha256>,
    line: Vec<u8>,
    pub(super) is_empty: bool,
}

impl<W: Write> KeyFileWriter<W> {
    /// Begins a file: stretches the passphrase, which takes time in proportion to `rounds` (half a
    /// second for [`DEFAULT_KEY_FILE_ROUNDS`](crate::DEFAULT_KEY_FILE_ROUNDS)), and writes the head.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::Rounds`] or [`KeyFileError::Io`].
    pub fn new(
        out: W,
        passphrase: &str,
        rounds: u32,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, KeyFileError> {
        if !(MIN_KEY_FILE_ROUNDS..=MAX_KEY_FILE_ROUNDS).contains(&rounds) {
            return Err(KeyFileError::Rounds(rounds));
        }
        Self::begin(out, passphrase, rounds, entropy)
    }

    pub(super) fn begin(
        mut out: W,
        passphrase: &str,
        rounds: u32,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, KeyFileError> {
        let mut salt = [0; 16];
        entropy.fill(&mut salt);
        let header = Header { salt, iv: fresh_iv(entropy), rounds };
        let keys = header.derive(passphrase);
        writeln!(out, "{BEGIN}")?;
        let (cipher, hmac) = (keys.cipher()?, keys.hmac()?);
        let mut file = Self { out, cipher, hmac, line: Vec::with_capacity(LINE), is_empty: true };
        file.put(&header.to_bytes(), true)?;
        Ok(file)
    }

    /// Adds one session.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::Io`]. The file is of no use then.
    pub fn write(&mut self, session: &ExportedSession) -> Result<(), KeyFileError> {
        let separator = if std::mem::take(&mut self.is_empty) { b"[" } else { b"," };
        self.encrypt(separator)?;
        self.encrypt(session.to_json().as_slice())
    }

    /// Ends the file and hands the destination back, flushed.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::Io`]. The file is of no use then.
    pub fn finish(mut self) -> Result<W, KeyFileError> {
        self.encrypt(if self.is_empty { b"[]" } else { b"]" })?;
        let mac = self.hmac.clone().finalize().into_bytes();
        self.put(&mac, false)?;
        if !self.line.is_empty() {
            writeln!(self.out, "{}", PADDED.encode(&self.line))?;
        }
        writeln!(self.out, "{END}")?;
        self.out.flush()?;
        Ok(self.out)
    }

    pub(super) fn encrypt(&mut self, plaintext: &[u8]) -> Result<(), KeyFileError> {
        let mut buffer = [0; 1024];
        for chunk in plaintext.chunks(buffer.len()) {
            let ciphertext = &mut buffer[..chunk.len()];
            ciphertext.copy_from_slice(chunk);
            self.cipher.apply_keystream(ciphertext);
            self.put(ciphertext, true)?;
        }
        Ok(())
    }

    /// Writes bytes as lines of base64.
    fn put(&mut self, mut bytes: &[u8], authenticated: bool) -> Result<(), KeyFileError> {
        if authenticated {
            self.hmac.update(bytes);
        }
        while !bytes.is_empty() {
            let room = (LINE - self.line.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.line.extend_from_slice(now);
            bytes = later;
            if self.line.len() == LINE {
                writeln!(self.out, "{}", PADDED.encode(&self.line))?;
                self.line.clear();
            }
        }
        Ok(())
    }
}

impl<W> std::fmt::Debug for KeyFileWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyFileWriter(..)")
    }
}
