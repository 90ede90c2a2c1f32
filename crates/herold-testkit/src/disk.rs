//! [`Disk`]: what of a store survives. The process can die at any commit, and the power can fail.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use herold::{MemoryStore, Store, StoreError};
use herold_store::{ChangeSet, Changed, Durability, ScanControl, Snapshot, Table};

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
    /// What survives a power loss.
    synced: MemoryStore,
    /// What was written since, in its order: it survives the death of the process.
    unsynced: Vec<ChangeSet>,
    commits: u64,
    kill: Option<Kill>,
    /// Beside `kill`: nothing but its commit takes it back.
    planned: Option<Kill>,
    dead: bool,
    /// Several processes have it in turns.
    shared: bool,
    /// While it is shared: the rows that were written, in their order.
    written: Vec<(Table, Vec<u8>)>,
}

impl Platter {
    /// Brings a copy of what was synchronised up to what was written.
    fn write(&self, copy: &mut MemoryStore) {
        for changes in &self.unsynced {
            // It was applied to the process's own copy, and memory does not fail.
            let _applied = copy.commit(changes);
        }
    }

    fn synchronise(&mut self) {
        for changes in std::mem::take(&mut self.unsynced) {
            let _applied = self.synced.commit(&changes);
        }
    }
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
        let view = self.image();
        let mut platter = self.lock();
        platter.dead = false;
        let seen = platter.written.len();
        drop(platter);
        DiskStore { view, disk: self.clone(), seen, let_go: false }
    }

    /// From now on several processes have it in turns.
    pub fn share(&self) {
        self.lock().shared = true;
    }

    /// Another process than the one that died goes on.
    pub fn revive(&self) {
        self.lock().dead = false;
    }

    /// The power fails: only what was fully synchronous is left.
    pub fn lose_power(&self) {
        self.lock().unsynced.clear();
    }

    /// The device dies as `kill` says.
    pub fn kill(&self, kill: Kill) {
        self.lock().kill = Some(kill);
    }

    /// The device dies as `kill` says too, whatever else is done to it.
    pub fn plan(&self, kill: Kill) {
        self.lock().planned = Some(kill);
    }

    /// The device no longer dies as [`Disk::kill`] said, unless it has.
    pub fn spare(&self) {
        self.lock().kill = None;
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
        let platter = self.lock();
        let mut image = platter.synced.clone();
        platter.write(&mut image);
        image
    }

    /// Puts an image back.
    pub fn restore(&self, image: MemoryStore) {
        let mut platter = self.lock();
        platter.synced = image;
        platter.unsynced.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store of one process on a [`Disk`].
pub struct DiskStore {
    view: MemoryStore,
    disk: Disk,
    /// As many of the written rows were there when it was last taken.
    seen: usize,
    let_go: bool,
}

impl DiskStore {
    fn held(&self) -> Result<&MemoryStore, StoreError> {
        if self.let_go { Err(StoreError::Suspended) } else { Ok(&self.view) }
    }
}

impl Snapshot for DiskStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.held()?.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        self.held()?.scan(table, prefix, from, visit)
    }

    fn scan_back(
        &self,
        table: Table,
        prefix: &[u8],
        before: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        self.held()?.scan_back(table, prefix, before, visit)
    }
}

impl Store for DiskStore {
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError> {
        self.held()?;
        let mut platter = self.disk.lock();
        let killed = || StoreError::Io("the process was killed".to_owned());
        if platter.dead {
            return Err(killed());
        }
        let number = platter.commits;
        platter.commits += 1;
        if [platter.kill, platter.planned].contains(&Some(Kill::Before(number))) {
            platter.dead = true;
            return Err(killed());
        }
        self.view.commit(changes)?;
        platter.unsynced.push(changes.clone());
        if platter.shared {
            let rows = changes.iter().map(|(table, key, _)| (table, key.to_vec()));
            platter.written.extend(rows);
        }
        if changes.durability() == Durability::Full {
            platter.synchronise();
        }
        if [platter.kill, platter.planned].contains(&Some(Kill::After(number))) {
            platter.dead = true;
            return Err(killed());
        }
        Ok(())
    }

    fn snapshot(&self) -> &dyn Snapshot {
        self
    }

    fn suspend(&mut self) -> Result<(), StoreError> {
        let platter = self.disk.lock();
        if platter.shared && !self.let_go {
            self.let_go = true;
            self.seen = platter.written.len();
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<Changed, StoreError> {
        let mut changed = Changed::nothing();
        if self.let_go {
            self.view = self.disk.image();
            let platter = self.disk.lock();
            for (table, key) in platter.written.iter().skip(self.seen) {
                changed.add(*table, key);
            }
            self.seen = platter.written.len();
            drop(platter);
            self.let_go = false;
        }
        Ok(changed)
    }

    fn is_suspended(&self) -> bool {
        self.let_go
    }

    fn is_shared(&self) -> bool {
        self.disk.lock().shared
    }
}
