//! The process lock: one process at a time has a store open.

use std::{
    fs::{File, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
};

use herold_store::StoreError;

use crate::{error::from_io, files::private};

/// What a holder may call itself, in characters.
const MAX_LABEL: usize = 80;

/// Holds the store for this process until it is dropped, or the process dies.
///
/// An advisory lock of the operating system: it cannot outlive its holder, so there is no lease to
/// renew and nothing to break.
pub(crate) struct ProcessLock {
    file: File,
}

impl ProcessLock {
    /// Takes the lock, and notes the process id and `label` for others to read.
    pub(crate) fn acquire(path: &Path, label: &str) -> Result<Self, StoreError> {
        let failed = |error: &std::io::Error| from_io(error, "locking the store");
        let mut file = private()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| failed(&error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked { holder: holder(file) });
            }
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
        let note = format!("process {} ({})", std::process::id(), printable(label));
        file.set_len(0).and_then(|()| file.write_all(note.as_bytes())).map_err(|e| failed(&e))?;
        Ok(Self { file })
    }

    /// The same lock once more: it is held until both are gone.
    pub(crate) fn another(&self) -> Result<Self, StoreError> {
        let file = self.file.try_clone().map_err(|error| from_io(&error, "locking the store"))?;
        Ok(Self { file })
    }
}

/// What the holder has noted, as far as it can be read.
fn holder(mut file: File) -> String {
    let mut note = Vec::new();
    let read = file.rewind().and_then(|()| file.take(400).read_to_end(&mut note));
    match printable(&String::from_utf8_lossy(&note)) {
        note if read.is_ok() && !note.is_empty() => note,
        _ => "another process".to_owned(),
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(MAX_LABEL).collect()
}
