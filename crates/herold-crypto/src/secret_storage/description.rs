//! The description of a storage key, as it lies in account data.

use base64::Engine;
use serde_json::{Map, Value, json};

use crate::secret_storage::cipher::fixed;
use crate::secret_storage::{PassphraseParameters, SECRET_STORAGE_ALGORITHM, SecretStorageError};
use crate::unpadded;

/// What the check values of a description say about a storage key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCheck {
    /// The key is the described one.
    Right,
    /// The key is another one: mistyped, or the description was exchanged.
    Wrong,
    /// The description has no check values, so nothing is known. The specification lets a client
    /// go on; what is encrypted with such a key is then readable by whoever put the description
    /// there *and* knows the key, so write nothing new under it unless the key was proved by
    /// decrypting a secret that matches its public key.
    Absent,
}

/// The content of an `m.secret_storage.key.<id>` event. Not secret, and not trustworthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDescription {
    /// The key's name, for display.
    pub name: Option<String>,
    /// How to derive the key from a passphrase, if it can be.
    pub passphrase: Option<PassphraseParameters>,
    /// `iv` and `mac` over 32 zero bytes, if given.
    pub(super) check: Option<([u8; 16], [u8; 32])>,
}

impl KeyDescription {
    /// Reads the content of the event; unknown fields are ignored.
    ///
    /// # Errors
    ///
    /// [`SecretStorageError::UnknownAlgorithm`], [`SecretStorageError::Malformed`] (also when only
    /// one of `iv` and `mac` is there), or what is wrong with the passphrase's parameters.
    pub fn parse(content: &Value) -> Result<Self, SecretStorageError> {
        if content.get("algorithm").and_then(Value::as_str) != Some(SECRET_STORAGE_ALGORITHM) {
            return Err(SecretStorageError::UnknownAlgorithm);
        }
        let present = |field| content.get(field).is_some_and(|value: &Value| !value.is_null());
        let check = if present("iv") || present("mac") {
            Some((fixed(content, "iv")?, fixed(content, "mac")?))
        } else {
            None
        };
        let passphrase = if present("passphrase") {
            Some(PassphraseParameters::parse(&content["passphrase"])?)
        } else {
            None
        };
        let name = content.get("name").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { name, passphrase, check })
    }

    /// The content of the event.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut content = Map::new();
        content.insert("algorithm".into(), SECRET_STORAGE_ALGORITHM.into());
        if let Some(name) = &self.name {
            content.insert("name".into(), name.as_str().into());
        }
        if let Some(passphrase) = &self.passphrase {
            content.insert("passphrase".into(), passphrase.to_json());
        }
        if let Some((iv, mac)) = &self.check {
            content.insert("iv".into(), json!(unpadded::STANDARD.encode(iv)));
            content.insert("mac".into(), json!(unpadded::STANDARD.encode(mac)));
        }
        Value::Object(content)
    }
}
