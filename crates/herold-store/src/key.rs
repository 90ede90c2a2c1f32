//! Keys of rows: components laid one after the other so that a prefix of components is a prefix of
//! bytes.
//!
//! Text and bytes carry their length (32 bits, big-endian) before them, so that no identifier, whatever
//! it contains, can be taken for another row's; numbers are 8 bytes, big-endian, so that they sort.

use std::fmt;

/// A key that does not have the shape its table asks for.
#[derive(Debug, thiserror::Error)]
#[error("a row's key does not have the shape of its table")]
pub struct KeyError;

/// The typed key of a record.
pub trait RecordKey: Sized + Clone + fmt::Debug + Ord {
    /// The key as bytes, the same for the same key always.
    fn to_bytes(&self) -> Vec<u8>;

    /// The key back from its bytes.
    ///
    /// # Errors
    /// [`KeyError`] if the bytes were not made by [`RecordKey::to_bytes`] of this type.
    fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError>;
}

/// The lowest byte string above every string that starts with `prefix`: the exclusive end of a scan.
/// `None` if there is none (the prefix is empty or all bytes 255).
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

/// Most keys fit: ids of a room and a session.
pub(crate) const USUAL_KEY: usize = 128;

/// Appends a text component.
pub(crate) fn push_text(out: &mut Vec<u8>, text: &str) {
    push_bytes(out, text.as_bytes());
}

/// Appends a bytes component.
pub(crate) fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a number component.
pub(crate) fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// Takes components off the front of a key.
pub struct KeyReader<'a>(&'a [u8]);

impl<'a> KeyReader<'a> {
    /// Reads `bytes` from the front.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next bytes component.
    ///
    /// # Errors
    /// [`KeyError`] if there is none.
    pub fn bytes(&mut self) -> Result<&'a [u8], KeyError> {
        let (length, rest) = self.0.split_first_chunk::<4>().ok_or(KeyError)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| KeyError)?;
        let (part, rest) = rest.split_at_checked(length).ok_or(KeyError)?;
        self.0 = rest;
        Ok(part)
    }

    /// The next text component.
    ///
    /// # Errors
    /// [`KeyError`] if there is none or it is not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, KeyError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| KeyError)
    }

    /// The next number component.
    ///
    /// # Errors
    /// [`KeyError`] if there is none.
    pub fn number(&mut self) -> Result<u64, KeyError> {
        let (number, rest) = self.0.split_first_chunk::<8>().ok_or(KeyError)?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*number))
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`KeyError`] if something is.
    pub fn end(self) -> Result<(), KeyError> {
        if self.0.is_empty() { Ok(()) } else { Err(KeyError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_above_all_that_start_with_it() {
        assert_eq!(prefix_end(b""), None);
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b"a").as_deref(), Some(&b"b"[..]));
        assert_eq!(prefix_end(b"a\xff\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(prefix_end(b"\xfe").as_deref(), Some(&b"\xff"[..]));
        assert_eq!(prefix_end(b"\0\0").as_deref(), Some(&b"\0\x01"[..]));
    }

    #[test]
    fn a_key_that_was_cut_or_grew_is_refused() {
        let mut key = Vec::new();
        push_text(&mut key, "a");
        push_number(&mut key, 7);
        let read = |bytes: &[u8]| -> Result<(String, u64), KeyError> {
            let mut reader = KeyReader::new(bytes);
            let parts = (reader.text()?.to_owned(), reader.number()?);
            reader.end()?;
            Ok(parts)
        };
        assert_eq!(read(&key).unwrap(), ("a".to_owned(), 7));
        for length in 0..key.len() {
            assert!(read(&key[..length]).is_err());
        }
        key.push(0);
        assert!(read(&key).is_err());
        assert!(read(b"\xff\xff\xff\xffabcdefgh").is_err());
        assert!(read(b"\0\0\0\x01\xff\0\0\0\0\0\0\0\x01").is_err());
    }
}
