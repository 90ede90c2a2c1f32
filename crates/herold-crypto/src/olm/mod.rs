//! Olm: the ratchet between two devices. Clause: Matrix specification, *Olm & Megolm*, algorithm
//! `m.olm.v1.curve25519-aes-sha2`.
//!
//! Only version 1 of the protocol exists in Matrix; messages of any other version are malformed.

mod account;
mod dehydrated;
mod error;
mod message;
mod session;

pub use account::Account;
pub use dehydrated::{DehydratedAccount, DehydrationError, DehydrationKey};
pub use error::OlmError;
pub use message::{MessageHash, OlmMessage};
pub use session::OlmSession;

#[cfg(test)]
mod tests;
