//! Records: how live ratchet state becomes bytes at rest, and back.
//!
//! A record is one version byte followed by a body. The bodies of accounts, Olm sessions and
//! outbound group sessions are MessagePack with field names. The ratchet library defaults or
//! renames fields of its state between releases and tags some of its enums inside the value; both
//! need a self-describing encoding, which a positional one such as postcard is not.
//!
//! Records contain private keys in clear. The store encrypts them.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::secret::SecretBytes;

/// The version that this release writes and the only one it reads.
pub(crate) const VERSION: u8 = 1;

/// A stored record cannot be decoded.
///
/// The row is corrupt, or a newer release wrote it. Never treat this as absence: a fresh session
/// in place of a damaged one loses messages silently. The text names the kind of record and the
/// reason, and contains nothing of the record's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the record of {kind}: {reason}")]
pub struct RecordError {
    kind: &'static str,
    reason: &'static str,
}

impl RecordError {
    pub(crate) fn new(kind: &'static str, reason: &'static str) -> Self {
        Self { kind, reason }
    }

    /// Which kind of record was read, in words for a log line.
    pub fn kind(&self) -> &'static str {
        self.kind
    }
}

/// Splits the version byte off.
///
/// # Errors
///
/// If the record is empty or its version is not ours.
pub(crate) fn body<'a>(kind: &'static str, record: &'a [u8]) -> Result<&'a [u8], RecordError> {
    match record.split_first() {
        None => Err(RecordError::new(kind, "it is empty")),
        Some((&VERSION, body)) => Ok(body),
        Some(_) => Err(RecordError::new(kind, "its version is unknown")),
    }
}

/// Prefixes `body` with the version byte.
pub(crate) fn wrap(body: &[u8]) -> SecretBytes {
    let mut record = Vec::with_capacity(body.len() + 1);
    record.push(VERSION);
    record.extend_from_slice(body);
    SecretBytes::new(record)
}

/// Reads a record whose body is one private key of 32 bytes, written by [`wrap`].
///
/// # Errors
///
/// If the version is unknown or the body has another length.
pub(crate) fn key(kind: &'static str, record: &[u8]) -> Result<Zeroizing<[u8; 32]>, RecordError> {
    let mut key = Zeroizing::new([0; 32]);
    let body = body(kind, record)?;
    if body.len() != key.len() {
        return Err(RecordError::new(kind, "its length is wrong"));
    }
    key.copy_from_slice(body);
    Ok(key)
}

/// Encodes `value` as a record.
///
/// The types of this crate always encode. Should one ever fail to, the result is the empty record,
/// which [`decode`] refuses.
pub(crate) fn encode<T: Serialize>(value: &T) -> SecretBytes {
    // The buffer never grows: that would leave secrets in freed memory. Most records fit into the first one.
    let mut bytes = Bounded::new(USUAL);
    let mut written = write_named(&mut bytes, value);
    if bytes.length > USUAL {
        bytes = Bounded::new(bytes.length);
        written = write_named(&mut bytes, value);
    }
    let mut bytes = bytes.bytes;
    debug_assert!(written.is_ok(), "ratchet state always encodes");
    if written.is_err() {
        return SecretBytes::new(Vec::new());
    }
    SecretBytes::new(std::mem::take(&mut *bytes))
}

/// Decodes a record written by [`encode`].
///
/// # Errors
///
/// If the version is unknown, the body is damaged, or bytes follow it.
pub(crate) fn decode<T: DeserializeOwned>(
    kind: &'static str,
    record: &[u8],
) -> Result<T, RecordError> {
    let mut body = body(kind, record)?;
    let value = T::deserialize(&mut rmp_serde::Deserializer::new(&mut body))
        .map_err(|_| RecordError::new(kind, "its body is damaged"))?;
    if !body.is_empty() {
        return Err(RecordError::new(kind, "bytes follow its end"));
    }
    Ok(value)
}

fn write_named<W: io::Write, T: Serialize>(
    writer: &mut W,
    value: &T,
) -> Result<(), rmp_serde::encode::Error> {
    value.serialize(&mut rmp_serde::Serializer::new(writer).with_struct_map())
}

/// As many bytes most records have at most.
const USUAL: usize = 1024;

/// A record being written. Counts what does not fit.
struct Bounded {
    bytes: Zeroizing<Vec<u8>>,
    /// With everything that has not fitted.
    length: usize,
}

impl Bounded {
    fn new(capacity: usize) -> Self {
        let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
        bytes.push(VERSION);
        Self { bytes, length: 1 }
    }
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len();
        if self.length <= self.bytes.capacity() {
            self.bytes.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_begins_with_its_version_and_comes_back() {
        let record = encode(&("text", 7_u32));
        assert_eq!(record.as_slice()[0], VERSION);
        assert_eq!(decode::<(String, u32)>("a pair", record.as_slice()), Ok(("text".into(), 7)));
    }

    #[test]
    fn a_record_of_any_size_comes_back() {
        for length in [0, 1, USUAL - 8, USUAL - 4, USUAL - 3, USUAL, 3 * USUAL] {
            let text = "x".repeat(length);
            let record = encode(&text);
            assert_eq!(decode::<String>("a text", record.as_slice()), Ok(text));
        }
    }

    #[test]
    fn an_unknown_version_is_an_error() {
        let mut record = encode(&7_u32).as_slice().to_vec();
        record[0] = 2;
        let error = decode::<u32>("a number", &record).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the record of a number: its version is unknown");
    }

    #[test]
    fn any_byte_after_the_end_is_an_error() {
        for byte in 0..=u8::MAX {
            let mut record = encode(&7_u32).as_slice().to_vec();
            record.push(byte);
            assert!(decode::<u32>("a number", &record).is_err(), "{byte:#x}");
        }
    }

    #[test]
    fn an_empty_record_is_an_error() {
        assert!(decode::<u32>("a number", &[]).is_err());
        assert!(decode::<()>("nothing", &[VERSION]).is_err());
    }

    #[test]
    fn the_error_quotes_nothing_of_the_record() {
        let record = encode(&"sesame");
        let error = decode::<u32>("a number", record.as_slice()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("sesame"));
    }
}
