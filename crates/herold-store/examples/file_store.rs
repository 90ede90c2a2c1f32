//! A store of one's own: all rows in memory, and all of them in one file, written anew by each commit. As small as
//! a store can be that keeps the contract; fit for a few thousand rows, and for no secrets: it does not encrypt.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "a store has files")]

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use herold_store::{ChangeSet, MemoryStore, ScanControl, Snapshot, Store, StoreError, Table};

/// Rows in a file.
pub struct FileStore {
    path: PathBuf,
    rows: MemoryStore,
    /// The next commit is to fail once so many bytes are written, as on a full disk.
    pub full_after: Option<usize>,
}

impl FileStore {
    /// Opens the file, or begins an empty store if there is none.
    ///
    /// Not being able to read is never taken for not being there.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut rows = MemoryStore::new();
        match fs::read(path) {
            Ok(bytes) => rows.commit(&decode(&bytes)?)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io(&error)),
        }
        Ok(Self { path: path.to_owned(), rows, full_after: None })
    }
}

impl Snapshot for FileStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.rows.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        self.rows.scan(table, prefix, from, visit)
    }

    fn scan_back(
        &self,
        table: Table,
        prefix: &[u8],
        before: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        self.rows.scan_back(table, prefix, before, visit)
    }
}

impl Store for FileStore {
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError> {
        // What the rows will be, beside what they are: a failure leaves those.
        let mut rows = self.rows.clone();
        rows.commit(changes)?;
        let mut bytes = encode(&rows)?;
        let full = self.full_after.take().is_some_and(|room| {
            bytes.truncate(room);
            true
        });
        let new = self.path.with_extension("new");
        let mut file = File::create(&new).map_err(|error| io(&error))?;
        file.write_all(&bytes).map_err(|error| io(&error))?;
        if full {
            return Err(StoreError::Io("no room".to_owned()));
        }
        // The content is on the medium before the name is, and the name before this returns. That is more than
        // `Durability::Process` asks for; a store may always do more.
        file.sync_all().map_err(|error| io(&error))?;
        fs::rename(&new, &self.path).map_err(|error| io(&error))?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| io(&error))?;
        self.rows = rows;
        Ok(())
    }

    fn snapshot(&self) -> &dyn Snapshot {
        self
    }
}

/// Each row as the name of its table, its key and its value, each after its length; then a sum over it all.
fn encode(rows: &MemoryStore) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    for table in Table::ALL {
        rows.scan(*table, b"", None, &mut |key, value| {
            for part in [table.name().as_bytes(), key, value] {
                bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
                bytes.extend_from_slice(part);
            }
            ControlFlow::Continue(())
        })?;
    }
    bytes.extend_from_slice(&sum(&bytes).to_be_bytes());
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<ChangeSet, StoreError> {
    let damaged = || StoreError::Corrupt("the file".to_owned());
    let (mut rest, written) = bytes.split_last_chunk::<8>().ok_or_else(damaged)?;
    if sum(rest).to_be_bytes() != *written {
        return Err(damaged());
    }
    let mut changes = ChangeSet::new();
    while !rest.is_empty() {
        let mut part = || {
            let (length, after) = rest.split_first_chunk::<8>()?;
            let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
            let part = after.split_at_checked(length)?;
            rest = part.1;
            Some(part.0)
        };
        let (table, key, value) = (part(), part(), part());
        let table = Table::ALL.iter().find(|known| Some(known.name().as_bytes()) == table);
        match (table, key, value) {
            (Some(table), Some(key), Some(value)) => {
                changes.put_row(*table, key.to_vec(), value.to_vec());
            }
            _ => return Err(damaged()),
        }
    }
    Ok(changes)
}

/// FNV-1a: finds damage, not malice. A store that has to keep secrets encrypts and authenticates.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn io(error: &std::io::Error) -> StoreError {
    StoreError::Io(error.kind().to_string())
}

fn main() -> Result<(), StoreError> {
    let path = std::env::temp_dir().join(format!("herold-example-{}", std::process::id()));
    let mut changes = ChangeSet::new();
    changes.put_row(Table::Sync, b"key".to_vec(), b"value".to_vec());
    changes.require_full();
    FileStore::open(&path)?.commit(&changes)?;
    let store = FileStore::open(&path)?;
    assert_eq!(store.get(Table::Sync, b"key")?.as_deref(), Some(&b"value"[..]));
    fs::remove_file(&path).map_err(|error| io(&error))
}
