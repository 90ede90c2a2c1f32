//! [`Source`]: the foreign store, open: its version, its cipher, its rows.
//!
//! With a cipher each value is XChaCha20-Poly1305 of its bytes, and each key a keyed BLAKE3 hash of it, by table
//! (`matrix-sdk-store-encryption`). The encryption does not say which row a value belongs to, so every row's content is
//! compared with the key it is filed under.

use std::path::Path;

use herold_crypto::SecretString;
use matrix_sdk_store_encryption::{Error as CipherError, StoreCipher};
use rusqlite::{Connection, OpenFlags, config::DbConfig, types::ValueRef};
use serde::{Deserialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{MigrateError, image};

/// The file with the encryption's state.
const FILE: &str = "matrix-sdk-crypto.sqlite3";
/// The versions of the schema that are read: from when sessions say who sent them, to the one of 0.18.
const OLDEST: u8 = 9;
const NEWEST: u8 = 17;
/// matrix-sdk uses 200,000. More than this is no store, it is somebody who wants to see the machine busy.
const MAX_ROUNDS: u32 = 20_000_000;

/// What opens an encrypted store.
#[derive(Debug)]
pub enum SourceSecret {
    /// The passphrase. Secret.
    Passphrase(SecretString),
    /// The key. Secret.
    Key(SourceKey),
}

/// A store's key of 32 bytes.
///
/// Secrecy: `Debug` prints no content; wiped on drop.
pub struct SourceKey(Zeroizing<[u8; 32]>);

impl SourceKey {
    /// The key with these bytes; copies the caller made are not wiped.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl std::fmt::Debug for SourceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SourceKey(..)")
    }
}

/// A matrix-sdk-crypto store, as it was when it was opened. Its files are not open any more.
pub struct Source {
    connection: Connection,
    cipher: Option<StoreCipher>,
}

/// A value that does not decrypt or does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged;

/// A table that could not be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// The columns of a row. What is no blob and no text is empty.
pub(crate) type Columns<'a> = [&'a [u8]];

impl Source {
    /// Reads the store in `folder`, which holds `matrix-sdk-crypto.sqlite3`. Nothing is written anywhere. It takes as much
    /// memory as the file has bytes, and as much again while it is read.
    ///
    /// # Errors
    /// [`MigrateError`].
    pub fn open(folder: &Path, secret: Option<&SourceSecret>) -> Result<Self, MigrateError> {
        let image = image::read(&folder.join(FILE))?.ok_or(MigrateError::NotFound)?;
        let connection = load(&image).map_err(|_| MigrateError::Damaged("it cannot be opened"))?;
        drop(image);
        let mut source = Self { connection, cipher: None };
        let version =
            match source.kv("version").map_err(|_| no_table())?.as_deref().map(Vec::as_slice) {
                Some([version]) => *version,
                _ => return Err(MigrateError::Damaged("it has no version")),
            };
        if version > NEWEST {
            return Err(MigrateError::TooNew { found: version, supported: NEWEST });
        }
        if version < OLDEST {
            return Err(MigrateError::TooOld { found: version, supported: OLDEST });
        }
        let cipher = source.kv("cipher").map_err(|_| no_table())?;
        source.cipher = match (cipher, secret) {
            (None, None) => None,
            (None, Some(_)) => return Err(MigrateError::NotEncrypted),
            (Some(_), None) => return Err(MigrateError::SecretNeeded),
            (Some(cipher), Some(secret)) => Some(unlock(&cipher, secret)?),
        };
        Ok(source)
    }

    /// Whether the store is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.cipher.is_some()
    }

    /// How a key of a table is filed.
    pub(crate) fn filed(&self, table: &str, key: &[u8]) -> Vec<u8> {
        match &self.cipher {
            Some(cipher) => cipher.hash_key(table, key).to_vec(),
            None => key.to_vec(),
        }
    }

    /// Decrypts a value and reads it.
    pub(crate) fn value<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Damaged> {
        let Some(cipher) = &self.cipher else { return from_slice(bytes) };
        let plain = cipher.decrypt_value_data(from_slice(bytes)?).map_err(|_| Damaged)?;
        from_slice(&Zeroizing::new(plain))
    }

    /// The value with this name; `None` if there is none.
    pub(crate) fn named<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Damaged> {
        match self.kv(name) {
            Ok(Some(bytes)) => self.value(&bytes).map(Some),
            Ok(None) => Ok(None),
            Err(Unreadable) => Err(Damaged),
        }
    }

    fn kv(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Unreadable> {
        let mut found = None;
        self.rows("SELECT value, key FROM kv", |columns| {
            if let [value, key] = columns
                && *key == name.as_bytes()
            {
                found = Some(Zeroizing::new(value.to_vec()));
            }
        })?;
        Ok(found)
    }

    /// Visits the rows of a query.
    pub(crate) fn rows(
        &self,
        query: &str,
        mut visit: impl FnMut(&Columns<'_>),
    ) -> Result<(), Unreadable> {
        let mut statement = self.connection.prepare(query).map_err(|_| Unreadable)?;
        let width = statement.column_count();
        let mut rows = statement.query(()).map_err(|_| Unreadable)?;
        while let Some(row) = rows.next().map_err(|_| Unreadable)? {
            let column = |place| match row.get_ref(place) {
                Ok(ValueRef::Blob(bytes) | ValueRef::Text(bytes)) => bytes,
                // SQLite's booleans.
                Ok(ValueRef::Integer(number)) if number != 0 => &[1][..],
                _ => &[],
            };
            let columns: Vec<&[u8]> = (0..width).map(column).collect();
            visit(&columns);
        }
        Ok(())
    }

    /// How many rows a table has; 0 if there is no such table.
    pub(crate) fn count(&self, table: &str) -> u64 {
        let query = format!("SELECT count(*) FROM {table}");
        self.connection
            .query_row(&query, (), |row| row.get::<_, i64>(0))
            .map_or(0, |count| u64::try_from(count).unwrap_or(0))
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("is_encrypted", &self.is_encrypted()).finish_non_exhaustive()
    }
}

/// `kv` comes first in every store.
fn no_table() -> MigrateError {
    MigrateError::Damaged("it is no store of matrix-sdk-crypto")
}

/// Opens the image in memory, as data: nothing that is written into its schema is run.
fn load(image: &[u8]) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_in_memory_with_flags(
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.deserialize_read_exact("main", image, image.len(), true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    Ok(connection)
}

/// Reads MessagePack to its end.
fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Damaged> {
    let mut rest = bytes;
    let value =
        T::deserialize(&mut rmp_serde::Deserializer::new(&mut rest)).map_err(|_| Damaged)?;
    if rest.is_empty() { Ok(value) } else { Err(Damaged) }
}

/// How the cipher's own keys are encrypted, as far as it has to be known before it is tried.
#[derive(Deserialize)]
struct Sealed {
    kdf_info: Kdf,
}

#[derive(Deserialize)]
enum Kdf {
    None,
    #[serde(alias = "Pbkdf2ToChaCha20Poly1305")]
    Passphrase {
        rounds: u32,
    },
}

fn unlock(sealed: &[u8], secret: &SourceSecret) -> Result<StoreCipher, MigrateError> {
    let damaged = MigrateError::Damaged("its cipher cannot be read");
    // Older versions wrote JSON.
    let read = from_slice::<Sealed>(sealed)
        .or_else(|_| serde_json::from_slice(sealed).map_err(|_| Damaged));
    match (read, secret) {
        (Err(Damaged), _) => return Err(damaged),
        (Ok(Sealed { kdf_info: Kdf::Passphrase { rounds } }), _) if rounds > MAX_ROUNDS => {
            return Err(MigrateError::Damaged("its passphrase costs too much"));
        }
        (Ok(Sealed { kdf_info: Kdf::Passphrase { .. } }), SourceSecret::Key(_)) => {
            return Err(MigrateError::OtherSecret("a passphrase"));
        }
        (Ok(Sealed { kdf_info: Kdf::None }), SourceSecret::Passphrase(_)) => {
            return Err(MigrateError::OtherSecret("a key"));
        }
        _ => {}
    }
    let opened = match secret {
        SourceSecret::Passphrase(passphrase) => StoreCipher::import(passphrase.as_str(), sealed),
        SourceSecret::Key(key) => StoreCipher::import_with_key(&key.0, sealed),
    };
    opened.map_err(|error| match error {
        CipherError::Encryption(_) => MigrateError::WrongSecret,
        _ => damaged,
    })
}
