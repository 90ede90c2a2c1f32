//! A flow at rest.

use std::io;

use herold_crypto::SecretBytes;
use thiserror::Error;

use super::Verification;

const VERSION: u8 = 1;

/// A stored flow cannot be read: the row is damaged, or a newer release wrote it. Cancel the flow
/// with the other side if its id is known otherwise; never treat it as confirmed. The text quotes
/// nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("cannot read the record of a verification")]
pub struct RecordError;

impl Verification {
    /// The flow as a record, with its ephemeral private key in clear. Store it before anything that
    /// the step returned is sent.
    #[must_use]
    pub fn to_record(&self) -> SecretBytes {
        // Measured first, so that the buffer never grows and leaves secrets in freed memory.
        let mut length = Length(1);
        let measured = serde_json::to_writer(&mut length, self);
        let mut bytes = Vec::with_capacity(length.0);
        bytes.push(VERSION);
        let written = measured.and_then(|()| serde_json::to_writer(&mut bytes, self));
        debug_assert!(written.is_ok(), "a flow always encodes");
        SecretBytes::new(bytes)
    }

    /// Restores a flow, which goes on where it was.
    ///
    /// # Errors
    ///
    /// [`RecordError`].
    pub fn from_record(record: &[u8]) -> Result<Self, RecordError> {
        match record.split_first() {
            Some((&VERSION, body)) => serde_json::from_slice(body).map_err(|_| RecordError),
            _ => Err(RecordError),
        }
    }
}

/// A writer that only counts.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
