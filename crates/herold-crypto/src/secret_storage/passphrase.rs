//! From a passphrase to a storage key: PBKDF2 with parameters that the server could have chosen.

use serde_json::{Value, json};
use sha2::Sha512;
use zeroize::Zeroizing;

use crate::entropy::Entropy;
use crate::secret_storage::SecretStorageError;

/// The fewest iterations that are computed. Below, the server could try passphrases cheaply: a
/// description is its to choose.
pub const MIN_PASSPHRASE_ITERATIONS: u32 = 10_000;

/// The most iterations that are computed: some seconds of one core.
pub const MAX_PASSPHRASE_ITERATIONS: u32 = 5_000_000;

/// What new passphrases are stretched with; the number other clients use too.
const DEFAULT_ITERATIONS: u32 = 500_000;

/// The characters of a new salt, as many as other clients use.
const SALT_LENGTH: usize = 32;

/// How a storage key follows from a passphrase (`m.pbkdf2`). Not secret.
///
/// Exists only within the bounds: 256 bits, and iterations from [`MIN_PASSPHRASE_ITERATIONS`] to
/// [`MAX_PASSPHRASE_ITERATIONS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassphraseParameters {
    salt: String,
    iterations: u32,
}

impl PassphraseParameters {
    /// Parameters for a new passphrase: a random salt and half a million iterations.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut bytes = [0; SALT_LENGTH];
        entropy.fill(&mut bytes);
        let salt = bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte & 63)])).collect();
        Self { salt, iterations: DEFAULT_ITERATIONS }
    }

    /// Reads the `passphrase` object of a key description.
    ///
    /// # Errors
    ///
    /// [`SecretStorageError::UnknownPassphraseAlgorithm`] for another algorithm or other than 256
    /// bits, [`SecretStorageError::Malformed`], [`SecretStorageError::Iterations`].
    pub fn parse(json: &Value) -> Result<Self, SecretStorageError> {
        let algorithm = json.get("algorithm").and_then(Value::as_str);
        let bits = json.get("bits").map_or(Some(256), Value::as_u64);
        if algorithm != Some("m.pbkdf2") || bits != Some(256) {
            return Err(SecretStorageError::UnknownPassphraseAlgorithm);
        }
        let salt = json.get("salt").and_then(Value::as_str).filter(|salt| !salt.is_empty());
        let salt = salt.ok_or(SecretStorageError::Malformed("salt"))?.to_owned();
        let iterations = json.get("iterations").and_then(Value::as_u64);
        let iterations = iterations.ok_or(SecretStorageError::Malformed("iterations"))?;
        let iterations = u32::try_from(iterations)
            .ok()
            .filter(|n| (MIN_PASSPHRASE_ITERATIONS..=MAX_PASSPHRASE_ITERATIONS).contains(n))
            .ok_or(SecretStorageError::Iterations(iterations))?;
        Ok(Self { salt, iterations })
    }

    /// The `passphrase` object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "algorithm": "m.pbkdf2",
            "salt": self.salt,
            "iterations": self.iterations,
            "bits": 256,
        })
    }

    /// The number of iterations.
    #[must_use]
    pub const fn iterations(&self) -> u32 {
        self.iterations
    }

    pub(super) fn derive(&self, passphrase: &str) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2_hmac::<Sha512>(
            passphrase.as_bytes(),
            self.salt.as_bytes(),
            self.iterations,
            &mut *key,
        );
        key
    }
}
