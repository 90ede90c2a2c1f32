//! Megolm: the ratchet that one device sends with and many read. Clause: Matrix specification,
//! *Olm & Megolm*, algorithm `m.megolm.v1.aes-sha2`; Megolm document, *Session-sharing format*,
//! *Session export format*, *Message format*.

mod error;
mod inbound;
mod outbound;

pub use error::MegolmError;
pub use inbound::{InboundGroupSession, SessionRelation};
pub use outbound::OutboundGroupSession;

use vodozemac::megolm::MegolmMessage;

/// The index of a Megolm ciphertext, without its session.
///
/// Only parses; the index is not authenticated until the message is decrypted.
///
/// # Errors
///
/// [`MegolmError::Malformed`] if the text is no Megolm message.
pub fn megolm_message_index(ciphertext_base64: &str) -> Result<u32, MegolmError> {
    Ok(parse_message(ciphertext_base64)?.message_index())
}

fn parse_message(ciphertext_base64: &str) -> Result<MegolmMessage, MegolmError> {
    MegolmMessage::from_base64(ciphertext_base64).map_err(|_| MegolmError::Malformed)
}

#[cfg(test)]
mod tests;
