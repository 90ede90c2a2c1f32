//! Secret storage (4S): secrets in account data, under a key that only the user has
//! (Matrix specification, "Secrets").

use herold_crypto::{
    EncryptedSecret, KeyCheck, KeyDescription, PassphraseParameters, SecretStorageError,
    SecretString, StorageKey,
};
use herold_machine::{HttpRequest, Method};
use serde_json::{Value, json};

use crate::{
    ClientError, OsEntropy, dehydration,
    homeserver::{RESPONSE_LIMIT, Retry},
    session::Session,
    tasks::blocking,
};

const DEFAULT_KEY: &str = "m.secret_storage.default_key";

/// An open secret storage: the key with its id.
pub(crate) struct SecretStorage {
    key_id: String,
    key: StorageKey,
}

impl SecretStorage {
    /// Makes a new key, with a passphrase or without, and describes it in account data. It becomes the default one
    /// with [`SecretStorage::make_default`], once the secrets are there.
    pub(crate) async fn create(
        session: &Session,
        passphrase: Option<&SecretString>,
    ) -> Result<Self, ClientError> {
        let parameters = passphrase.map(|_| PassphraseParameters::generate(&mut OsEntropy));
        let key = match (passphrase, &parameters) {
            (Some(passphrase), Some(parameters)) => derive(passphrase.clone(), parameters).await?,
            _ => StorageKey::generate(&mut OsEntropy),
        };
        let mut id = [0; 16];
        herold_crypto::Entropy::fill(&mut OsEntropy, &mut id);
        let key_id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let description = key.describe(None, parameters, &mut OsEntropy).to_json();
        put(session, &format!("m.secret_storage.key.{key_id}"), &description).await?;
        Ok(Self { key_id, key })
    }

    /// Opens the default key with what the user has typed: a recovery key, or a passphrase if the key has one.
    pub(crate) async fn open(session: &Session, typed: &SecretString) -> Result<Self, ClientError> {
        let default = get(session, DEFAULT_KEY).await?.ok_or(ClientError::NoSecretStorage)?;
        // A default key without an id is how it is switched off.
        let key_id =
            default.get("key").and_then(Value::as_str).ok_or(ClientError::NoSecretStorage)?;
        let description = get(session, &format!("m.secret_storage.key.{key_id}"))
            .await?
            .ok_or(ClientError::NoSecretStorage)?;
        let description = KeyDescription::parse(&description)?;
        let key = match (StorageKey::from_recovery_key(typed.as_str()), &description.passphrase) {
            (Ok(key), _) => key,
            (Err(_), Some(parameters)) => derive(typed.clone(), parameters).await?,
            (Err(error), None) => return Err(error.into()),
        };
        match key.check(&description) {
            KeyCheck::Right | KeyCheck::Absent => Ok(Self { key_id: key_id.to_owned(), key }),
            KeyCheck::Wrong => Err(ClientError::WrongRecoveryKey),
        }
    }

    /// The text that opens it again. Secret: for the user, and nobody else.
    pub(crate) fn recovery_key(&self) -> SecretString {
        self.key.to_recovery_key()
    }

    /// A secret; `None` if there is none under this key.
    pub(crate) async fn read(
        &self,
        session: &Session,
        name: &str,
    ) -> Result<Option<SecretString>, ClientError> {
        let Some(content) = get(session, name).await? else { return Ok(None) };
        let Some(secret) = EncryptedSecret::from_account_data(&content, &self.key_id)? else {
            return Ok(None);
        };
        Ok(Some(self.key.decrypt(name, &secret)?))
    }

    /// Writes a secret. What it was encrypted with under other keys goes: it may be an older one.
    pub(crate) async fn write(
        &self,
        session: &Session,
        name: &str,
        secret: &SecretString,
    ) -> Result<(), ClientError> {
        let encrypted = self.key.encrypt(name, secret.as_str(), &mut OsEntropy).to_json();
        put(session, name, &json!({ "encrypted": { self.key_id.as_str(): encrypted } })).await
    }

    /// Makes this the key that other devices open.
    pub(crate) async fn make_default(&self, session: &Session) -> Result<(), ClientError> {
        dehydration::keep_key(session, self).await?;
        put(session, DEFAULT_KEY, &json!({ "key": self.key_id })).await
    }
}

/// Whether there is a default key.
pub(crate) async fn exists(session: &Session) -> Result<bool, ClientError> {
    let default = get(session, DEFAULT_KEY).await?;
    Ok(default.is_some_and(|content| content.get("key").is_some_and(Value::is_string)))
}

/// Whether there is such a secret under the default key. Whether it can be opened, and is what it should be, this does not say.
pub(crate) async fn has(session: &Session, name: &str) -> Result<bool, ClientError> {
    let Some(default) = get(session, DEFAULT_KEY).await? else { return Ok(false) };
    let Some(key_id) = default.get("key").and_then(Value::as_str) else { return Ok(false) };
    let Some(content) = get(session, name).await? else { return Ok(false) };
    Ok(EncryptedSecret::from_account_data(&content, key_id)?.is_some())
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

fn account_data(session: &Session, method: Method, kind: &str) -> HttpRequest {
    let segments = [session.user_id.as_str(), "account_data", kind];
    HttpRequest::new(method, "/_matrix/client/v3/user", &segments)
}

async fn get(session: &Session, kind: &str) -> Result<Option<Value>, ClientError> {
    let request = account_data(session, Method::Get, kind);
    let response = session.call_raw(request, Retry::Always, RESPONSE_LIMIT).await?;
    if response.status == 404 {
        return Ok(None);
    }
    let body = session.success(response)?;
    serde_json::from_slice(&body).map(Some).map_err(|_| ClientError::BadResponse("account data"))
}

async fn put(session: &Session, kind: &str, content: &Value) -> Result<(), ClientError> {
    let request = account_data(session, Method::Put, kind).json(content.to_string());
    session.call(request, Retry::Always).await.map(drop)
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
