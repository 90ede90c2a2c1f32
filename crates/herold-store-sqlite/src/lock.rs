//! The process lock: one process at a time has a store open.
//!
//! Processes that share a store take turns. Whoever wants it waits in the turnstile, a second lock, so that a holder
//! that lets go and wants it again at once does not overtake, and can see that somebody waits. Both are advisory
//! locks of the operating system: neither can outlive its holder, so there is no lease to renew and nothing to break.

use std::{
    fs::{File, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use herold_store::StoreError;

use crate::{
    error::from_io,
    files::{Files, private},
};

/// What a holder may call itself, in characters.
const MAX_LABEL: usize = 80;
/// Bytes of a note: more than the longest label and process id have.
const NOTE: usize = 400;
/// How often a lock that is waited for is tried, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_micros(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(2);

/// Holds the store for this process until it is dropped, or the process dies.
pub(crate) struct ProcessLock {
    file: File,
    /// The turnstile's file, to look whether somebody waits; `None` if the store is not shared.
    turnstile: Option<File>,
}

impl ProcessLock {
    /// Takes the lock, and notes the process id and `label` for others to read.
    pub(crate) fn acquire(files: &Files, label: &str) -> Result<Self, StoreError> {
        let mut file = open(&files.lock())?;
        if !try_lock(&file)? {
            return Err(StoreError::Locked { holder: holder(file) });
        }
        note(&mut file, label)?;
        Ok(Self { file, turnstile: None })
    }

    /// The same lock once more: it is held until both are gone, so nobody who waits gets in between. `shared`: it is to
    /// be seen whether somebody waits.
    pub(crate) fn another(&self, files: &Files, shared: bool) -> Result<Self, StoreError> {
        let file = self.file.try_clone().map_err(|error| from_io(&error, LOCKING))?;
        let turnstile = if shared { Some(open(&files.turnstile())?) } else { None };
        Ok(Self { file, turnstile })
    }

    /// As [`ProcessLock::acquire`], waiting until `end` for others to let go.
    pub(crate) fn wait(files: &Files, label: &str, end: Instant) -> Result<Self, StoreError> {
        let turnstile = open(&files.turnstile())?;
        let mut file = open(&files.lock())?;
        if !lock_until(&turnstile, end)? {
            return Err(StoreError::Locked { holder: holder(file) });
        }
        let locked = lock_until(&file, end);
        // Whatever came of it: nobody may be kept waiting behind us.
        turnstile.unlock().map_err(|error| from_io(&error, LOCKING))?;
        if !locked? {
            return Err(StoreError::Locked { holder: holder(file) });
        }
        note(&mut file, label)?;
        Ok(Self { file, turnstile: Some(turnstile) })
    }

    /// Whether another process waits for the lock.
    pub(crate) fn is_wanted(&self) -> bool {
        let Some(turnstile) = &self.turnstile else { return false };
        match turnstile.try_lock() {
            Ok(()) => turnstile.unlock().is_err(),
            Err(_) => true,
        }
    }
}

const LOCKING: &str = "locking the store";

fn open(path: &Path) -> Result<File, StoreError> {
    private()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| from_io(&error, LOCKING))
}

fn try_lock(file: &File) -> Result<bool, StoreError> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(from_io(&error, LOCKING)),
    }
}

fn lock_until(file: &File, end: Instant) -> Result<bool, StoreError> {
    let mut pause = FIRST_PAUSE;
    loop {
        if try_lock(file)? {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Always as long as any: what the last holder has noted need not be cut off first, which costs the medium more than all
/// else in taking a lock.
fn note(file: &mut File, label: &str) -> Result<(), StoreError> {
    let mut note = format!("process {} ({})", std::process::id(), printable(label)).into_bytes();
    note.resize(NOTE, 0);
    file.write_all(&note).map_err(|error| from_io(&error, LOCKING))
}

/// What the holder has noted, as far as it can be read.
fn holder(mut file: File) -> String {
    let mut note = Vec::new();
    let read = file.rewind().and_then(|()| file.take(NOTE as u64).read_to_end(&mut note));
    match printable(&String::from_utf8_lossy(&note)) {
        note if read.is_ok() && !note.is_empty() => note,
        _ => "another process".to_owned(),
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(MAX_LABEL).collect()
}
