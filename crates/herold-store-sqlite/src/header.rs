//! The key file: how a store key becomes the key of the database.
//!
//! The database has a random *data key*. The key file holds it, encrypted under the store key, so a new passphrase
//! costs one small file and not a new database. It also names the database that the data key is for, by the salt that
//! SQLCipher has put at its beginning: when a store is re-keyed ([`crate::rekey`]) the key file is what decides which of
//! two databases is the store's. All integers are big-endian.
//!
//! | at | bytes | what |
//! | --- | --- | --- |
//! | 0 | 16 | `herold store key` |
//! | 16 | 1 | version: how the database's pages are authenticated ([`PageMac`]) |
//! | 17 | 1 | 0: raw store key, 1: passphrase |
//! | 18 | 12 | passphrase: memory in KiB, passes, lanes; raw: zero |
//! | 30 | 32 | salt |
//! | 62 | 16 | the first bytes of the database |
//! | 78 | 32 | data key, encrypted |
//! | 110 | 32 | key check: HMAC-SHA-256 of all before |
//! | 142 | 32 | check sum: SHA-256 of all before |
//!
//! With `ikm` the raw store key or the stretched passphrase: `prk = HMAC(salt, ikm)`, the key check's key
//! and the pad that encrypts the data key are `HMAC(prk, label)`. The salt is fresh for every key file, so
//! the pad is used once.
//!
//! The check sum fails: the file is damaged. The check sum holds and the key check fails: the key is
//! wrong. Every later version ends with the same check sum, so it is told from damage too.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use herold_store::StoreError;

use crate::key::{PassphraseCost, StoreKey};

const MAGIC: &[u8; 16] = b"herold store key";
const RAW: u8 = 0;
const PASSPHRASE: u8 = 1;

const CHECK_LABEL: &[u8] = b"herold store 1: key check";
const PAD_LABEL: &[u8] = b"herold store 1: data key";

/// Bytes before the key check.
const CHECKED: usize = 110;
/// Bytes of the file.
const LENGTH: usize = CHECKED + 32 + 32;

/// The key of the database. Secret: `Debug` prints nothing of it; wiped when dropped.
#[derive(PartialEq, Eq)]
pub(crate) struct DataKey {
    pub(crate) secret: Zeroizing<[u8; 32]>,
    /// For the whole life of the database.
    pub(crate) pages: PageMac,
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataKey").field("pages", &self.pages).finish_non_exhaustive()
    }
}

/// What SQLCipher authenticates the pages of a database with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageMac {
    /// Version 1. SQLCipher's default.
    Sha512,
    /// Version 2, of all new databases: processors since 2016 have instructions for it, which makes a page three times
    /// as fast, and a page has room for 32 bytes more.
    Sha256,
}

impl PageMac {
    const NEWEST: Self = Self::Sha256;

    fn version(self) -> u8 {
        match self {
            Self::Sha512 => 1,
            Self::Sha256 => 2,
        }
    }

    fn of_version(version: u8) -> Option<Self> {
        [Self::Sha512, Self::Sha256].into_iter().find(|pages| pages.version() == version)
    }

    /// As the value of `PRAGMA cipher_hmac_algorithm`.
    pub(crate) fn sql(self) -> &'static str {
        match self {
            Self::Sha512 => "HMAC_SHA512",
            Self::Sha256 => "HMAC_SHA256",
        }
    }
}

/// The first bytes of a database: random, the same for its whole life, no secret.
pub(crate) type DatabaseId = [u8; 16];

/// What a key file says to whoever has the store key.
#[derive(Debug)]
pub(crate) struct Unsealed {
    pub(crate) data_key: DataKey,
    pub(crate) database: DatabaseId,
}

/// A new random data key.
pub(crate) fn new_data_key() -> Result<DataKey, StoreError> {
    let mut secret = Zeroizing::new([0; 32]);
    fill(secret.as_mut_slice())?;
    Ok(DataKey { secret, pages: PageMac::NEWEST })
}

/// A key file that opens with `key` and holds the `data_key` of this database.
pub(crate) fn seal(
    data_key: &DataKey,
    database: &DatabaseId,
    key: &StoreKey,
    cost: PassphraseCost,
) -> Result<Vec<u8>, StoreError> {
    let mut salt = [0; 32];
    fill(&mut salt)?;
    let (kind, numbers) = match key {
        StoreKey::Raw(_) => (RAW, [0; 3]),
        StoreKey::Passphrase(_) => (PASSPHRASE, [cost.memory_kib(), cost.passes(), cost.lanes()]),
    };
    let keys = Keys::derive(key, &salt, cost)?;
    let mut out = Vec::with_capacity(LENGTH);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[data_key.pages.version(), kind]);
    for number in numbers {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(&salt);
    out.extend_from_slice(database);
    out.extend_from_slice(keys.pad(&data_key.secret).as_slice());
    out.extend_from_slice(&hmac(&keys.check)?.chain_update(&out).finalize().into_bytes());
    out.extend_from_slice(&Sha256::digest(&out));
    Ok(out)
}

/// The data key in the key file `bytes`, and its database.
///
/// # Errors
/// [`StoreError::Corrupt`], [`StoreError::TooNew`], or [`StoreError::WrongKey`], each only if it is so.
pub(crate) fn unseal(bytes: &[u8], key: &StoreKey) -> Result<Unsealed, StoreError> {
    let fields = Fields::parse(bytes)?;
    match (key, fields.cost) {
        (StoreKey::Raw(_), None) | (StoreKey::Passphrase(_), Some(_)) => {}
        _ => return Err(StoreError::WrongKey),
    }
    let keys = Keys::derive(key, &fields.salt, fields.cost.unwrap_or_default())?;
    hmac(&keys.check)?
        .chain_update(fields.checked)
        .verify_slice(&fields.check)
        .map_err(|_| StoreError::WrongKey)?;
    let data_key = DataKey { secret: keys.pad(&fields.sealed), pages: fields.pages };
    Ok(Unsealed { data_key, database: fields.database })
}

/// What tells a key file from another without the store key. Checked for damage only: not authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyFile {
    /// The database that it belongs to.
    pub(crate) database: DatabaseId,
    sum: [u8; 32],
}

/// Checks that the key file `bytes` is undamaged, and says which it is.
///
/// # Errors
/// [`StoreError::Corrupt`] or [`StoreError::TooNew`].
pub(crate) fn identify(bytes: &[u8]) -> Result<KeyFile, StoreError> {
    let Fields { database, sum, .. } = Fields::parse(bytes)?;
    Ok(KeyFile { database, sum })
}

/// A key file's content, undamaged.
struct Fields<'a> {
    checked: &'a [u8],
    pages: PageMac,
    /// `None`: the store key is raw.
    cost: Option<PassphraseCost>,
    salt: [u8; 32],
    database: DatabaseId,
    sealed: Zeroizing<[u8; 32]>,
    check: [u8; 32],
    sum: [u8; 32],
}

impl<'a> Fields<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::Corrupt("the key file is damaged".to_owned());
        let (body, sum) = bytes.split_last_chunk::<32>().ok_or_else(damaged)?;
        let rest = body.strip_prefix(MAGIC).ok_or_else(damaged)?;
        if Sha256::digest(body).as_slice() != sum {
            return Err(damaged());
        }
        let (&version, rest) = rest.split_first().ok_or_else(damaged)?;
        let newest = PageMac::NEWEST.version();
        if version > newest {
            let (found, supported) = (u32::from(version), u32::from(newest));
            return Err(StoreError::TooNew { found, supported });
        }
        let pages = PageMac::of_version(version).ok_or_else(damaged)?;
        if bytes.len() != LENGTH {
            return Err(damaged());
        }
        let (&kind, rest) = rest.split_first().ok_or_else(damaged)?;
        let (memory, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (passes, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (lanes, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (salt, rest) = rest.split_first_chunk::<32>().ok_or_else(damaged)?;
        let (database, rest) = rest.split_first_chunk::<16>().ok_or_else(damaged)?;
        let (sealed, rest) = rest.split_first_chunk::<32>().ok_or_else(damaged)?;
        let check = rest.try_into().map_err(|_| damaged())?;
        let [memory, passes, lanes] = [memory, passes, lanes].map(|at| u32::from_be_bytes(*at));
        let cost = match kind {
            RAW => None,
            PASSPHRASE => Some(PassphraseCost::read(memory, passes, lanes).ok_or_else(damaged)?),
            _ => return Err(damaged()),
        };
        let checked = bytes.get(..CHECKED).ok_or_else(damaged)?;
        let (salt, database, sealed) = (*salt, *database, Zeroizing::new(*sealed));
        Ok(Self { checked, pages, cost, salt, database, sealed, check, sum: *sum })
    }
}

/// What is derived from a store key.
struct Keys {
    check: Zeroizing<[u8; 32]>,
    pad: Zeroizing<[u8; 32]>,
}

impl Keys {
    fn derive(key: &StoreKey, salt: &[u8; 32], cost: PassphraseCost) -> Result<Self, StoreError> {
        let ikm = match key {
            StoreKey::Raw(key) => key.clone(),
            StoreKey::Passphrase(passphrase) => cost.stretch(passphrase, salt)?,
        };
        let prk = derive(salt, ikm.as_slice())?;
        Ok(Self { check: derive(&prk, CHECK_LABEL)?, pad: derive(&prk, PAD_LABEL)? })
    }

    /// Encrypts or decrypts a data key.
    fn pad(&self, secret: &Zeroizing<[u8; 32]>) -> Zeroizing<[u8; 32]> {
        let mut out = secret.clone();
        for (byte, pad) in out.iter_mut().zip(self.pad.iter()) {
            *byte ^= pad;
        }
        out
    }
}

fn derive(key: &[u8; 32], input: &[u8]) -> Result<Zeroizing<[u8; 32]>, StoreError> {
    Ok(Zeroizing::new(hmac(key)?.chain_update(input).finalize().into_bytes().into()))
}

fn hmac(key: &[u8; 32]) -> Result<Hmac<Sha256>, StoreError> {
    // HMAC takes keys of any length.
    Hmac::new_from_slice(key).map_err(|_| StoreError::Io("HMAC refused its key".to_owned()))
}

fn fill(bytes: &mut [u8]) -> Result<(), StoreError> {
    getrandom::fill(bytes).map_err(|_| StoreError::Io("no random bytes".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATABASE: DatabaseId = *b"sixteen bytes of";

    fn data_key() -> DataKey {
        DataKey { secret: Zeroizing::new([0x5a; 32]), pages: PageMac::NEWEST }
    }

    fn cheap() -> PassphraseCost {
        PassphraseCost::new(0, 0)
    }

    fn passphrase(text: &str) -> StoreKey {
        StoreKey::passphrase(text.to_owned())
    }

    /// `bytes` with a fresh check sum, as somebody would make it who changes the file on purpose.
    fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.truncate(bytes.len() - 32);
        let sum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    #[test]
    fn each_kind_of_key_opens_its_own_file_only() {
        for key in [StoreKey::raw([1; 32]), passphrase("correct horse")] {
            let bytes = seal(&data_key(), &DATABASE, &key, cheap()).unwrap();
            assert_eq!(bytes.len(), LENGTH);
            assert_eq!(unseal(&bytes, &key).unwrap().database, DATABASE);
            assert_eq!(unseal(&bytes, &key).unwrap().data_key, data_key());
            for wrong in [StoreKey::raw([2; 32]), passphrase("correct horse "), passphrase("")] {
                assert!(matches!(unseal(&bytes, &wrong), Err(StoreError::WrongKey)));
            }
        }
    }

    #[test]
    fn a_file_says_how_its_database_is_authenticated() {
        let key = StoreKey::raw([1; 32]);
        for pages in [PageMac::Sha512, PageMac::Sha256] {
            let data_key = DataKey { pages, ..data_key() };
            let mut bytes = seal(&data_key, &DATABASE, &key, cheap()).unwrap();
            assert_eq!(unseal(&bytes, &key).unwrap().data_key, data_key);
            // Under its key check: nobody without the key can have it read in another way.
            bytes[16] = 3 - bytes[16];
            assert!(matches!(unseal(&summed(bytes), &key), Err(StoreError::WrongKey)));
        }
    }

    #[test]
    fn two_files_for_one_key_share_nothing() {
        let key = StoreKey::raw([1; 32]);
        let one = seal(&data_key(), &DATABASE, &key, cheap()).unwrap();
        let other = seal(&data_key(), &DATABASE, &key, cheap()).unwrap();
        for range in [30..62, 78..110, 110..142] {
            assert_ne!(one[range.clone()], other[range]);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_damage() {
        for key in [StoreKey::raw([1; 32]), passphrase("p")] {
            let bytes = seal(&data_key(), &DATABASE, &key, cheap()).unwrap();
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut changed = bytes.clone();
                    changed[at] ^= 1 << bit;
                    assert!(matches!(unseal(&changed, &key), Err(StoreError::Corrupt(_))));
                }
                assert!(matches!(unseal(&bytes[..at], &key), Err(StoreError::Corrupt(_))));
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(matches!(unseal(&longer, &key), Err(StoreError::Corrupt(_))));
        }
    }

    #[test]
    fn a_file_changed_on_purpose_gives_no_other_data_key() {
        let key = passphrase("p");
        let bytes = seal(&data_key(), &DATABASE, &key, cheap()).unwrap();
        for at in 0..CHECKED + 32 {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let error = unseal(&summed(changed), &key).unwrap_err();
            assert!(
                matches!(
                    error,
                    StoreError::WrongKey | StoreError::Corrupt(_) | StoreError::TooNew { .. }
                ),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_tampered_cost_is_refused_before_it_is_paid() {
        let key = passphrase("p");
        let bytes = seal(&data_key(), &DATABASE, &key, cheap()).unwrap();
        for (at, number) in [
            (18, 1 << 31),
            (18, u32::MAX),
            (18, PassphraseCost::MAX_MEMORY_KIB + 1),
            (18, 7),
            (18, 0),
            (22, 1 << 31),
            (22, PassphraseCost::MAX_PASSES + 1),
            (22, 0),
            (26, 2),
            (26, 0),
        ] {
            let mut changed = bytes.clone();
            changed[at..at + 4].copy_from_slice(&u32::to_be_bytes(number));
            assert!(matches!(unseal(&summed(changed), &key), Err(StoreError::Corrupt(_))));
        }
        let mut both = bytes;
        both[18..22].copy_from_slice(&PassphraseCost::MAX_MEMORY_KIB.to_be_bytes());
        both[22..26].copy_from_slice(&PassphraseCost::MAX_PASSES.to_be_bytes());
        assert!(matches!(unseal(&summed(both), &key), Err(StoreError::Corrupt(_))));
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let key = StoreKey::raw([1; 32]);
        let mut bytes = seal(&data_key(), &DATABASE, &key, cheap()).unwrap();
        bytes[16] = 9;
        let error = unseal(&summed(bytes), &key).unwrap_err();
        assert!(matches!(error, StoreError::TooNew { found: 9, supported: 2 }));
    }

    #[test]
    fn every_cost_that_can_be_set_can_be_read() {
        for memory in [0, 8, 19 * 1024, 64 * 1024, 1 << 20, u32::MAX] {
            for passes in [0, 1, 3, 9, 64, u32::MAX] {
                let cost = PassphraseCost::new(memory, passes);
                let read = PassphraseCost::read(cost.memory_kib(), cost.passes(), cost.lanes());
                assert_eq!(read, Some(cost));
            }
        }
    }
}
