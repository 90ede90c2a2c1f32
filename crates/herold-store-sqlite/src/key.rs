//! [`StoreKey`], what a passphrase costs, and the options of a store.

use std::{fmt, sync::Arc, time::Duration};

use argon2::{Algorithm, Argon2, Params, Version};
use herold_crypto::SecretString;
use herold_store::StoreError;
use zeroize::Zeroizing;

use crate::RollbackGuard;

/// What opens a store. Secret: `Debug` prints the kind only, and the key is wiped on drop.
#[derive(Clone)]
pub enum StoreKey {
    /// 32 random bytes, from the platform's key store for instance.
    Raw(Zeroizing<[u8; 32]>),
    /// A passphrase, stretched with Argon2id. Its bytes count as they are: a host whose users type
    /// accents brings them to one normal form first.
    Passphrase(SecretString),
}

impl StoreKey {
    /// A key of 32 random bytes.
    #[must_use]
    pub fn raw(key: [u8; 32]) -> Self {
        Self::Raw(Zeroizing::new(key))
    }

    /// A passphrase.
    #[must_use]
    pub fn passphrase(passphrase: impl Into<SecretString>) -> Self {
        Self::Passphrase(passphrase.into())
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw(_) => "Raw(..)",
            Self::Passphrase(_) => "Passphrase(..)",
        })
    }
}

/// What a guess at a passphrase costs: Argon2id (RFC 9106), version 1.3.
///
/// The cost is stored beside the salt, so stores of different costs open alike; it takes effect when a
/// store is made or its key is changed. It is bounded on writing and on reading, so that a changed file
/// can ask neither for all memory nor for a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassphraseCost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl PassphraseCost {
    /// The least memory, in KiB.
    pub const MIN_MEMORY_KIB: u32 = 8;
    /// The most memory, in KiB: 1 GiB.
    pub const MAX_MEMORY_KIB: u32 = 1 << 20;
    /// The most passes.
    pub const MAX_PASSES: u32 = 64;
    /// The greatest product of memory (KiB) and passes: 8 GiB written in all.
    const MAX_WORK: u64 = 8 << 20;

    /// So much memory in KiB, gone over so many times. Values beyond the bounds are brought to them,
    /// passes first.
    #[must_use]
    pub fn new(memory_kib: u32, passes: u32) -> Self {
        let passes = passes.clamp(1, Self::MAX_PASSES);
        let memory_kib = memory_kib
            .clamp(Self::MIN_MEMORY_KIB, Self::MAX_MEMORY_KIB)
            .min(u32::try_from(Self::MAX_WORK / u64::from(passes)).unwrap_or(u32::MAX));
        Self { memory_kib, passes, lanes: 1 }
    }

    /// Memory in KiB.
    #[must_use]
    pub fn memory_kib(self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    #[must_use]
    pub fn passes(self) -> u32 {
        self.passes
    }

    pub(crate) fn lanes(self) -> u32 {
        self.lanes
    }

    /// A cost as it was read; `None` if it is out of bounds.
    pub(crate) fn read(memory_kib: u32, passes: u32, lanes: u32) -> Option<Self> {
        let within = (Self::MIN_MEMORY_KIB..=Self::MAX_MEMORY_KIB).contains(&memory_kib)
            && (1..=Self::MAX_PASSES).contains(&passes)
            && lanes == 1
            && u64::from(memory_kib) * u64::from(passes) <= Self::MAX_WORK;
        within.then_some(Self { memory_kib, passes, lanes })
    }

    /// Stretches `passphrase`.
    pub(crate) fn stretch(
        self,
        passphrase: &SecretString,
        salt: &[u8; 32],
    ) -> Result<Zeroizing<[u8; 32]>, StoreError> {
        let failed = |_| StoreError::Io("the passphrase could not be stretched".to_owned());
        let params =
            Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(failed)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.as_str().as_bytes(), salt, key.as_mut_slice())
            .map_err(failed)?;
        Ok(key)
    }
}

impl Default for PassphraseCost {
    /// 64 MiB and 3 passes, RFC 9106's second recommendation on one lane: some 0.2 s on a phone.
    fn default() -> Self {
        Self::new(64 * 1024, 3)
    }
}

/// How a store is opened. The default suits an app.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// What this process calls itself to others that find the store locked. Not secret; control
    /// characters are left out.
    pub label: String,
    /// What a passphrase costs, if one is set by this call.
    pub passphrase_cost: PassphraseCost,
    /// Memory for decrypted pages, in KiB.
    pub cache_kib: u32,
    /// Pages of 4 KiB that the write-ahead log may hold before a commit moves them into the database.
    pub checkpoint_pages: u32,
    /// Wipes and locks all of SQLite's memory, not only keys (SQLCipher's `cipher_memory_security`).
    /// Holds for the whole process from then on, and makes the store slower.
    pub wipe_memory: bool,
    /// Other processes open the same store, and all take turns: opening waits for them, every commit says in the store
    /// what it has changed, and [`Store::suspend`](herold_store::Store::suspend) lets the next one in. All of them set
    /// it.
    pub shared: bool,
    /// How long a shared store is waited for at most while another process holds it.
    pub patience: Duration,
    /// Notices when the whole store is put back to an earlier state, on hosts with secure hardware.
    pub rollback_guard: Option<Arc<dyn RollbackGuard>>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            label: "herold".to_owned(),
            passphrase_cost: PassphraseCost::default(),
            cache_kib: 8 * 1024,
            checkpoint_pages: 1000,
            wipe_memory: false,
            shared: false,
            patience: Duration::from_secs(5),
            rollback_guard: None,
        }
    }
}
