//! Reading a key file: first whether it is authentic, then what is in it.

use std::io::{Read, Seek, SeekFrom};

use aes::Aes256;
use base64::Engine;
use ctr::Ctr128BE;
use ctr::cipher::StreamCipher;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::key_file::array::Elements;
use crate::key_file::{BEGIN, END, Header, KeyFileError, Keys, MAC_LENGTH};
use crate::session_data::ExportedSession;
use crate::unpadded;

/// The characters of base64 that are decoded at a time.
const BATCH: usize = 16 * 1024;

/// The text before the first line that is searched for it, bytes.
const MAX_PREAMBLE: usize = 64 * 1024;

/// An authentic key file, iterated session by session.
///
/// An [`Entry`](KeyFileError::Entry) error concerns one session; the iteration goes on. Every other
/// error ends it, and what came before must not be kept: import in one transaction.
///
/// Memory: some 100 KiB. Secrecy: `Debug` prints nothing.
pub struct KeyFileReader<R> {
    body: Body<R>,
    cipher: Ctr128BE<Aes256>,
    hmac: Hmac<Sha256>,
    /// Decrypted bytes that are not yet taken apart, and how many of them are.
    plaintext: Zeroizing<Vec<u8>>,
    taken: usize,
    elements: Elements,
    /// Ciphertext bytes in all, and those decrypted so far.
    total: u64,
    done: u64,
    over: bool,
}

impl<R: Read + Seek> KeyFileReader<R> {
    /// Stretches the passphrase and checks the MAC over the whole file, from where `input` stands
    /// to its last line.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`], all but [`NotSessions`](KeyFileError::NotSessions) and
    /// [`Entry`](KeyFileError::Entry). Rounds out of bounds are refused before anything is computed.
    pub fn open(mut input: R, passphrase: &str) -> Result<Self, KeyFileError> {
        let start = input.stream_position()?;
        let mut body = Body::begin(input)?;
        let mut batch = Vec::with_capacity(BATCH);

        let mut seen: Vec<u8> = Vec::with_capacity(BATCH);
        while seen.len() < Header::LENGTH && body.read(&mut batch)? {
            seen.append(&mut batch);
        }
        let (head, rest) =
            seen.split_first_chunk::<{ Header::LENGTH }>().ok_or(KeyFileError::Truncated)?;
        let keys = Header::parse(head)?.derive(passphrase);
        let mut hmac = keys.hmac()?;
        hmac.update(head);

        // The last 32 bytes seen are held back: they could be the MAC.
        let mut pending = rest.to_vec();
        let mut total = pending.len() as u64;
        while body.read(&mut batch)? {
            total += batch.len() as u64;
            pending.append(&mut batch);
            let covered = pending.len().saturating_sub(MAC_LENGTH);
            hmac.update(&pending[..covered]);
            pending.drain(..covered);
        }
        let covered = pending.len().checked_sub(MAC_LENGTH).ok_or(KeyFileError::Truncated)?;
        hmac.update(&pending[..covered]);
        hmac.verify_slice(&pending[covered..]).map_err(|_| KeyFileError::BadMac)?;

        let mut input = body.input;
        input.seek(SeekFrom::Start(start))?;
        Self::second_pass(input, &keys, total - MAC_LENGTH as u64)
    }

    fn second_pass(input: R, keys: &Keys, total: u64) -> Result<Self, KeyFileError> {
        let mut body = Body::begin(input)?;
        let mut first = Vec::with_capacity(BATCH);
        while first.len() < Header::LENGTH {
            let mut batch = Vec::new();
            if !body.read(&mut batch)? {
                return Err(KeyFileError::BadMac);
            }
            first.append(&mut batch);
        }
        let mut hmac = keys.hmac()?;
        hmac.update(&first[..Header::LENGTH]);
        let mut reader = Self {
            body,
            cipher: keys.cipher()?,
            hmac,
            plaintext: Zeroizing::new(Vec::with_capacity(2 * BATCH)),
            taken: 0,
            elements: Elements::new(),
            total,
            done: 0,
            over: false,
        };
        let first = first.split_off(Header::LENGTH);
        reader.decrypt(first)?;
        Ok(reader)
    }
}

impl<R: Read> KeyFileReader<R> {
    /// How much was read, from 0 to 1000.
    #[must_use]
    pub fn progress_per_mille(&self) -> u16 {
        // `done` is at most `total`.
        (self.done.saturating_mul(1000) / self.total.max(1)).min(1000) as u16
    }

    /// Takes the next bytes of the body: ciphertext first, then the MAC.
    fn decrypt(&mut self, mut bytes: Vec<u8>) -> Result<(), KeyFileError> {
        let left = self.total - self.done;
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let mac = bytes.split_off(now);
        self.hmac.update(&bytes);
        self.cipher.apply_keystream(&mut bytes);
        self.done += now as u64;
        self.plaintext.drain(..self.taken);
        self.taken = 0;
        self.plaintext.extend_from_slice(&bytes);
        drop(Zeroizing::new(bytes));
        if self.done == self.total && left > 0 || self.total == 0 {
            self.finish(mac)?;
        }
        Ok(())
    }

    /// The MAC once more, over what the second pass saw.
    fn finish(&mut self, mut mac: Vec<u8>) -> Result<(), KeyFileError> {
        let mut batch = Vec::new();
        while self.body.read(&mut batch)? {
            mac.append(&mut batch);
            if mac.len() > MAC_LENGTH {
                return Err(KeyFileError::BadMac);
            }
        }
        let expected = self.hmac.clone().finalize().into_bytes();
        if bool::from(expected.as_slice().ct_eq(&mac)) { Ok(()) } else { Err(KeyFileError::BadMac) }
    }

    /// The JSON text of the next session; `None` after the last.
    fn element(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, KeyFileError> {
        loop {
            while let Some(byte) = self.plaintext.get(self.taken) {
                self.taken += 1;
                if let Some(element) = self.elements.push(*byte)? {
                    return Ok(Some(element));
                }
            }
            if self.done == self.total {
                return if self.elements.is_complete() {
                    Ok(None)
                } else {
                    Err(KeyFileError::NotSessions)
                };
            }
            let mut batch = Vec::new();
            if !self.body.read(&mut batch)? {
                return Err(KeyFileError::BadMac);
            }
            self.decrypt(batch)?;
        }
    }
}

impl<R: Read> Iterator for KeyFileReader<R> {
    type Item = Result<ExportedSession, KeyFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        match self.element() {
            Ok(Some(json)) => Some(ExportedSession::parse(&json).map_err(KeyFileError::Entry)),
            Ok(None) => {
                self.over = true;
                None
            }
            Err(error) => {
                self.over = true;
                Some(Err(error))
            }
        }
    }
}

impl<R> std::fmt::Debug for KeyFileReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyFileReader(..)")
    }
}

/// The base64 between the first and the last line, decoded in batches.
struct Body<R> {
    input: R,
    raw: Vec<u8>,
    at: usize,
    over: bool,
}

impl<R: Read> Body<R> {
    /// Skips to the line after the first one.
    fn begin(input: R) -> Result<Self, KeyFileError> {
        let mut body = Self { input, raw: vec![0; 0], at: 0, over: false };
        let mut line = Vec::new();
        for _ in 0..MAX_PREAMBLE {
            match body.byte()? {
                None => break,
                Some(b'\n') if line.trim_ascii() == BEGIN.as_bytes() => return Ok(body),
                Some(b'\n') => line.clear(),
                Some(byte) => line.push(byte),
            }
        }
        Err(KeyFileError::NotAKeyFile)
    }

    /// Replaces `out` by the next decoded bytes; `false` after the last.
    fn read(&mut self, out: &mut Vec<u8>) -> Result<bool, KeyFileError> {
        out.clear();
        if self.over {
            return Ok(false);
        }
        let mut characters = Vec::with_capacity(BATCH);
        while characters.len() < BATCH {
            match self.byte()? {
                None => return Err(KeyFileError::Truncated),
                Some(byte) if byte.is_ascii_whitespace() => {}
                Some(b'-') => {
                    self.end()?;
                    self.over = true;
                    break;
                }
                Some(byte) => characters.push(byte),
            }
        }
        unpadded::STANDARD.decode_vec(&characters, out).map_err(|_| KeyFileError::Malformed)?;
        Ok(!out.is_empty())
    }

    /// The rest of the last line, whose first character was read.
    fn end(&mut self) -> Result<(), KeyFileError> {
        for expected in END.bytes().skip(1) {
            match self.byte()? {
                None => return Err(KeyFileError::Truncated),
                Some(byte) if byte == expected => {}
                Some(_) => return Err(KeyFileError::Malformed),
            }
        }
        Ok(())
    }

    fn byte(&mut self) -> Result<Option<u8>, KeyFileError> {
        if self.at == self.raw.len() {
            self.raw.resize(8 * 1024, 0);
            let read = loop {
                match self.input.read(&mut self.raw) {
                    Ok(read) => break read,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            };
            self.raw.truncate(read);
            self.at = 0;
        }
        let byte = self.raw.get(self.at).copied();
        self.at += usize::from(byte.is_some());
        Ok(byte)
    }
}
