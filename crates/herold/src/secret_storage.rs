//! Secret storage (4S): secrets in account data, under a key that only the user has
//! (Matrix specification, "Secrets").
//!
//! What is under one key stays there while it is put under another: whatever dies in between, the key that is the default
//! one opens everything.

use herold_crypto::{
    EncryptedSecret, KeyCheck, KeyDescription, PassphraseParameters, SecretStorageError,
    SecretString, StorageKey,
};
use herold_store::{StoreError, records::StorageKeyRecord};
use serde_json::{Map, Value};

use crate::{
    ClientError, OsEntropy,
    account_data::{self, AccountData},
    session::Session,
    tasks::blocking,
};

/// As many keys are tried with what the user has typed: each may take a derivation, and the homeserver says how many
/// there are.
const MAX_KEYS: usize = 8;

/// An open secret storage: the key with its id.
pub(crate) struct SecretStorage {
    key_id: String,
    key: StorageKey,
}

impl SecretStorage {
    /// Makes a new key, with a passphrase or without, and its description. Nobody is told of it.
    pub(crate) async fn generate(
        passphrase: Option<&SecretString>,
    ) -> Result<(Self, Value), ClientError> {
        let parameters = passphrase.map(|_| PassphraseParameters::generate(&mut OsEntropy));
        let key = match (passphrase, &parameters) {
            (Some(passphrase), Some(parameters)) => derive(passphrase.clone(), parameters).await?,
            _ => StorageKey::generate(&mut OsEntropy),
        };
        let mut id = [0; 16];
        herold_crypto::Entropy::fill(&mut OsEntropy, &mut id);
        let key_id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let description = key.describe(None, parameters, &mut OsEntropy).to_json();
        Ok((Self { key_id, key }, description))
    }

    /// A key that was kept.
    pub(crate) fn from_record(record: &StorageKeyRecord) -> Result<Self, ClientError> {
        let key = StorageKey::from_record(record.key.as_slice())
            .map_err(|_| StoreError::Corrupt("a key of the secret storage".to_owned()))?;
        Ok(Self { key_id: record.key_id.clone(), key })
    }

    /// The key to be kept.
    pub(crate) fn to_record(&self) -> StorageKeyRecord {
        StorageKeyRecord { key_id: self.key_id.clone(), key: self.key.to_record() }
    }

    /// Opens with what the user has typed, a recovery key or a passphrase: the default key, or another one that is
    /// described.
    pub(crate) async fn open(
        data: &AccountData,
        typed: &SecretString,
    ) -> Result<Self, ClientError> {
        let ids = data.key_ids();
        if data.default_key().is_none() {
            return Err(ClientError::NoSecretStorage);
        }
        let parsed = StorageKey::from_recovery_key(typed.as_str()).map(drop);
        let (mut tried, mut unusable) = (false, None);
        for key_id in ids.into_iter().take(MAX_KEYS) {
            let Some(description) = data.description(key_id) else { continue };
            let description = match KeyDescription::parse(description) {
                Ok(description) => description,
                Err(error) => {
                    unusable.get_or_insert(error);
                    continue;
                }
            };
            let key = match (StorageKey::from_recovery_key(typed.as_str()), &description.passphrase)
            {
                (Ok(key), _) => key,
                (Err(_), Some(parameters)) => derive(typed.clone(), parameters).await?,
                (Err(_), None) => continue,
            };
            tried = true;
            let found = Self { key_id: key_id.to_owned(), key };
            let right = match found.key.check(&description) {
                KeyCheck::Right => true,
                KeyCheck::Wrong => false,
                KeyCheck::Absent => found.is_proved(data),
            };
            if right {
                return Ok(found);
            }
        }
        match (tried, unusable, parsed) {
            (false, Some(error), _) => Err(error.into()),
            (false, None, Err(error))
                if data.description(data.default_key().unwrap_or_default()).is_some() =>
            {
                Err(error.into())
            }
            (false, None, _) => Err(ClientError::NoSecretStorage),
            (true, ..) => Err(ClientError::WrongRecoveryKey),
        }
    }

    /// Whether something that is under this key's id opens with it.
    fn is_proved(&self, data: &AccountData) -> bool {
        data.secrets().any(|(name, by_key)| {
            by_key
                .get(&self.key_id)
                .and_then(|entry| EncryptedSecret::parse(entry).ok())
                .is_some_and(|secret| self.key.decrypt(name, &secret).is_ok())
        })
    }

    /// The key's id.
    pub(crate) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The text that opens it again. Secret: for the user, and nobody else.
    pub(crate) fn recovery_key(&self) -> SecretString {
        self.key.to_recovery_key()
    }

    /// Whether this passphrase, or none, was given for the key that is described so.
    pub(crate) async fn is_of(
        &self,
        description: &Value,
        passphrase: Option<&SecretString>,
    ) -> Result<bool, ClientError> {
        let description = KeyDescription::parse(description)?;
        Ok(match (passphrase, &description.passphrase) {
            (None, None) => true,
            (Some(passphrase), Some(parameters)) => {
                derive(passphrase.clone(), parameters).await?.check(&description) == KeyCheck::Right
            }
            _ => false,
        })
    }

    /// A secret; `None` if there is none under this key.
    pub(crate) fn read(
        &self,
        data: &AccountData,
        name: &str,
    ) -> Result<Option<SecretString>, ClientError> {
        // Without that, it is how it is taken away.
        let Some(content) = data.get(name).filter(|content| content.get("encrypted").is_some())
        else {
            return Ok(None);
        };
        let Some(secret) = EncryptedSecret::from_account_data(content, &self.key_id)? else {
            return Ok(None);
        };
        Ok(Some(self.key.decrypt(name, &secret)?))
    }

    /// Puts a secret under this key, beside what it is under already. If it is there, nothing is written.
    pub(crate) async fn add(
        &self,
        session: &Session,
        name: &str,
        secret: &SecretString,
    ) -> Result<(), ClientError> {
        let mut content = match account_data::get(session, name).await? {
            Some(Value::Object(content)) => content,
            _ => Map::new(),
        };
        let encrypted = content.entry("encrypted").or_insert(Value::Null);
        if !encrypted.is_object() {
            *encrypted = Value::Object(Map::new());
        }
        let Some(by_key) = encrypted.as_object_mut() else {
            return Err(ClientError::Internal("an object is none"));
        };
        let there = by_key.get(&self.key_id).and_then(|entry| EncryptedSecret::parse(entry).ok());
        let there = there.and_then(|there| self.key.decrypt(name, &there).ok());
        if there.is_some_and(|there| there == *secret) {
            return Ok(());
        }
        let entry = self.key.encrypt(name, secret.as_str(), &mut OsEntropy).to_json();
        by_key.insert(self.key_id.clone(), entry);
        account_data::put(session, name, &Value::Object(content)).await
    }
}

/// Takes a secret from under other keys than `keep`: from under those that `goes` names. Nothing is written if it is under none
/// of them, nor if it is not under `keep`.
pub(crate) async fn remove_keys(
    session: &Session,
    name: &str,
    keep: &str,
    goes: impl Fn(&str) -> bool,
) -> Result<(), ClientError> {
    let Some(mut content) = account_data::get(session, name).await? else { return Ok(()) };
    let Some(by_key) = content.get_mut("encrypted").and_then(Value::as_object_mut) else {
        return Ok(());
    };
    let before = by_key.len();
    if !by_key.contains_key(keep) {
        return Ok(());
    }
    by_key.retain(|key_id, _| key_id == keep || !goes(key_id));
    if by_key.len() == before {
        return Ok(());
    }
    account_data::put(session, name, &content).await
}

/// Stretches a passphrase, where it holds nothing else up.
async fn derive(
    passphrase: SecretString,
    parameters: &PassphraseParameters,
) -> Result<StorageKey, ClientError> {
    let parameters = parameters.clone();
    let derive = move || StorageKey::from_passphrase(passphrase.as_str(), &parameters);
    blocking(move || Ok::<_, ClientError>(derive())).await
}

impl From<SecretStorageError> for ClientError {
    fn from(error: SecretStorageError) -> Self {
        match error {
            SecretStorageError::UnknownAlgorithm
            | SecretStorageError::UnknownPassphraseAlgorithm => {
                Self::Unsupported("the algorithm of the secret storage")
            }
            error => Self::SecretStorage(error),
        }
    }
}
