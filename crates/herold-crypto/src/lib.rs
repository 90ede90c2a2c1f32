//! Matrix end-to-end encryption, reduced to bytes and keys in, bytes and keys out.
//!
//! This crate is the only one of the workspace that touches a ratchet. It offers Olm (one to one),
//! Megolm (one to many), encrypted attachments, canonical JSON with its signatures, and the
//! containers in which secrets travel. It knows nothing of rooms, users' devices, trust, storage
//! or the network.
//!
//! Invariants, which every module keeps:
//!
//! - No input from outside makes it panic; each fallible call returns a typed error.
//! - No `Debug` output and no error text contains key material or plaintext.
//! - Secrets are wiped when they are dropped, as far as the libraries below allow it.
//! - A key of small order is refused wherever a key enters.
//! - Live state is never `Serialize`; it becomes a versioned record (`to_record`) and comes back
//!   through `from_record`, which fails loudly instead of starting afresh.
//!
//! Clauses: Matrix specification, *Olm & Megolm*, *Sending encrypted attachments*, and of the
//! appendices *Canonical JSON* and *Signing JSON*.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod attachment;
mod canonical;
mod entropy;
mod identity;
mod megolm;
mod olm;
mod record;
mod secret;
mod unpadded;

pub use vodozemac::{Curve25519PublicKey, Ed25519Signature};

pub use attachment::{AttachmentError, EncryptedFile, decrypt_attachment, encrypt_attachment};
pub use canonical::{CanonicalJsonError, SignatureError, canonical_json, verify_json};
pub use entropy::{Entropy, SeededEntropy};
pub use identity::{
    Ed25519PublicKey, IdentityKeys, KeyError, SessionId, curve25519_from_base64,
    ed25519_from_base64,
};
pub use megolm::{
    InboundGroupSession, MegolmError, OutboundGroupSession, SessionRelation, megolm_message_index,
};
pub use olm::{Account, MessageHash, OlmError, OlmMessage, OlmSession};
pub use record::RecordError;
pub use secret::{SecretBytes, SecretString};
