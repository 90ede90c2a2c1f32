//! [`Disk`]: what of a store survives. The process can die at any commit, and the power can fail.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use herold::{MemoryStore, Store, StoreError};
use herold_store::{ChangeSet, Durability, ScanControl, Snapshot, Table};

/// When a device dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// Right before its commit of this number (counted from 0) is applied.
    Before(u64),
    /// Right after its commit of this number is applied, before anybody learns of it.
    After(u64),
}

#[derive(Default)]
struct Platter {
    /// What survives the death of the process.
    written: MemoryStore,
    /// What survives a power loss.
    synced: MemoryStore,
    commits: u64,
    kill: Option<Kill>,
    dead: bool,
}

/// A store's medium. Clones are the same disk.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<Platter>>);

impl Disk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The store as a process that starts now finds it.
    #[must_use]
    pub fn open(&self) -> DiskStore {
        let mut platter = self.lock();
        platter.dead = false;
        DiskStore { view: platter.written.clone(), disk: self.clone() }
    }

    /// The power fails: only what was fully synchronous is left.
    pub fn lose_power(&self) {
        let mut platter = self.lock();
        platter.written = platter.synced.clone();
    }

    /// The device dies as `kill` says.
    pub fn kill(&self, kill: Kill) {
        self.lock().kill = Some(kill);
    }

    /// Whether the process on this disk has died.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// How many commits there have been.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.lock().commits
    }

    /// A copy of what is on the disk now, to roll back to.
    #[must_use]
    pub fn image(&self) -> MemoryStore {
        self.lock().written.clone()
    }

    /// Puts an image back.
    pub fn restore(&self, image: MemoryStore) {
        let mut platter = self.lock();
        platter.synced = image.clone();
        platter.written = image;
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store of one process on a [`Disk`].
pub struct DiskStore {
    view: MemoryStore,
    disk: Disk,
}

impl Snapshot for DiskStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.view.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        self.view.scan(table, prefix, from, visit)
    }

    fn scan_back(
        &self,
        table: Table,
        prefix: &[u8],
        before: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        self.view.scan_back(table, prefix, before, visit)
    }
}

impl Store for DiskStore {
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError> {
        let mut platter = self.disk.lock();
        let killed = || StoreError::Io("the process was killed".to_owned());
        if platter.dead {
            return Err(killed());
        }
        let number = platter.commits;
        platter.commits += 1;
        if platter.kill == Some(Kill::Before(number)) {
            platter.dead = true;
            return Err(killed());
        }
        platter.written.commit(changes)?;
        if changes.durability() == Durability::Full {
            platter.synced = platter.written.clone();
        }
        if platter.kill == Some(Kill::After(number)) {
            platter.dead = true;
            return Err(killed());
        }
        drop(platter);
        self.view.commit(changes)
    }

    fn snapshot(&self) -> &dyn Snapshot {
        self
    }
}
