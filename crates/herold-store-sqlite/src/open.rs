//! [`SqliteStore`]: making, opening and closing.

use std::{
    fmt::{self, Write as _},
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use herold_store::StoreError;
use rusqlite::{Connection, OpenFlags, config::DbConfig, hooks::Wal};
use zeroize::Zeroizing;

use crate::{
    StoreKey, StoreOptions,
    error::{from_io, from_sqlite},
    files::{Files, Presence, private},
    header::{self, DataKey, DatabaseId, KeyFile, Unsealed},
    journal,
    lock::ProcessLock,
    mark::Mark,
    resident::Resident,
    rollback::{self, Rollback},
    schema,
    share::Seen,
    wal::{self, LogState},
};

/// Bytes of a page of the database: less than one is no database.
const PAGE: u64 = 4096;

/// A session store in a directory, open and locked for this process.
///
/// Reads and commits are synchronous; a commit of [`Durability::Full`](herold_store::Durability::Full)
/// waits for the medium. The store can be sent to another thread, not shared between threads.
///
/// It can be let go of and taken again ([`Store::suspend`](herold_store::Store::suspend)); the database's key stays in
/// memory meanwhile, as it does while the store is open.
///
/// Dropping it closes it as [`SqliteStore::close`] does, but cannot say whether that went well.
pub struct SqliteStore {
    /// `None` while it is let go of.
    pub(crate) held: Option<Held>,
    pub(crate) files: Files,
    pub(crate) data_key: DataKey,
    pub(crate) options: StoreOptions,
    pub(crate) resident: Resident,
    /// What the store was like when it was let go of.
    pub(crate) seen: Seen,
    /// The key file that `data_key` is from, or one that is known to hold the same.
    pub(crate) key_file: KeyFile,
    /// Refuses a store that was put back, if the host has what it takes.
    pub(crate) rollback: Option<Rollback>,
}

/// What there is while the store is held.
pub(crate) struct Held {
    // In this order: the connection has to be gone before the lock is.
    pub(crate) connection: Connection,
    pub(crate) mark: Mark,
    /// Frames in the log after the last commit, as SQLite reports them.
    pub(crate) frames: Arc<AtomicU32>,
    /// The mark demands this filling of the log.
    pub(crate) marked: bool,
    /// The log file has nothing in it, current or left over.
    pub(crate) log_is_empty: bool,
    /// Whether a commit waits for the medium as things are set now.
    pub(crate) synchronous: Option<bool>,
    /// Whether a commit overwrites the pages it frees as things are set now.
    pub(crate) wiping: Option<bool>,
    /// A failed commit could not be taken back: no more reads, no more commits.
    pub(crate) broken: bool,
    /// The number of the journal's last entry.
    pub(crate) journal: Option<i64>,
    /// The journal has nothing in it, or says all.
    pub(crate) journal_is_right: bool,
    #[cfg(test)]
    pub(crate) fail_after: Option<usize>,
    pub(crate) lock: ProcessLock,
}

impl SqliteStore {
    /// Opens the store in the directory `path`. Makes nothing.
    ///
    /// # Errors
    /// - [`StoreError::NotFound`] if there is no store.
    /// - [`StoreError::Locked`] if another process, or another part of this one, has it open.
    /// - [`StoreError::WrongKey`] if `key` is not this store's.
    /// - [`StoreError::Corrupt`] if a part of it is missing or damaged; nothing was changed.
    /// - [`StoreError::TooNew`] if a newer version wrote it; nothing was changed.
    /// - [`StoreError::RolledBack`] if the host's [`RollbackGuard`](crate::RollbackGuard) has seen a later state of it.
    /// - [`StoreError::Io`] if the medium failed, or the guard.
    pub fn open(
        path: impl AsRef<Path>,
        key: &StoreKey,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        let files = Files::new(path.as_ref())?;
        // Before the lock, so that looking for a store leaves no file behind.
        if files.presence()? == Presence::Nothing {
            return Err(StoreError::NotFound);
        }
        let end = Instant::now() + options.patience;
        let lock = take_lock(&files, options, end)?;
        Self::open_with(files, lock, key, options, end)
    }

    /// Opens a store whose lock is held.
    pub(crate) fn open_with(
        files: Files,
        lock: ProcessLock,
        key: &StoreKey,
        options: &StoreOptions,
        end: Instant,
    ) -> Result<Self, StoreError> {
        let header = read_header(&files)?;
        let key_file = header::identify(&header)?;
        let Unsealed { data_key, database } = header::unseal(&header, key)?;
        files.settle(&database)?;
        let store = Self::open_locked(files, lock, data_key, key_file, options, end)?;
        // Only now: an opening that fails leaves everything as it was.
        store.files.remove_new_database()?;
        Ok(store)
    }

    /// Makes an empty store in the directory `path`, which is made too if it is not there.
    ///
    /// A kill or a power loss leaves either the store or nothing that the next call minds.
    ///
    /// # Errors
    /// - [`StoreError::Exists`] if there is a store, in whatever state.
    /// - [`StoreError::Locked`] if somebody else is making one.
    /// - [`StoreError::Io`] if the medium failed.
    pub fn create(
        path: impl AsRef<Path>,
        key: &StoreKey,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        let files = Files::new(path.as_ref())?;
        if files.presence()? != Presence::Nothing {
            return Err(StoreError::Exists);
        }
        files.make_directory()?;
        let end = Instant::now() + options.patience;
        let lock = take_lock(&files, options, end)?;
        if files.presence()? != Presence::Nothing {
            return Err(StoreError::Exists);
        }
        files.remove_leftovers()?;
        let data_key = header::new_data_key()?;
        let guard = options.rollback_guard.as_ref();
        let database = make_database(&files, &data_key, options, |connection| {
            schema::create(connection)?;
            rollback::begin(connection, guard)
        })?;
        let header = header::seal(&data_key, &database, key, options.passphrase_cost)?;
        Mark::create(&files.mark())?;
        // From here on it is a store: all of its parts are on the medium, and their names.
        files.sync_names()?;
        files.replace_header(&header)?;
        files.settle(&database)?;
        let key_file = header::identify(&header)?;
        Self::open_locked(files, lock, data_key, key_file, options, end)
    }

    /// Opens the store in the directory `path`, or makes one if there is none at all. A store that is
    /// damaged, or of which a part is left, is an error and never made anew.
    ///
    /// # Errors
    /// As [`SqliteStore::open`] and [`SqliteStore::create`].
    pub fn open_or_create(
        path: impl AsRef<Path>,
        key: &StoreKey,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        match Self::open(path.as_ref(), key, options) {
            Err(StoreError::NotFound) => {}
            opened => return opened,
        }
        match Self::create(path.as_ref(), key, options) {
            // Made by somebody else in between.
            Err(StoreError::Exists) => Self::open(path, key, options),
            made => made,
        }
    }

    fn open_locked(
        files: Files,
        lock: ProcessLock,
        data_key: DataKey,
        key_file: KeyFile,
        options: &StoreOptions,
        end: Instant,
    ) -> Result<Self, StoreError> {
        let (held, _) = Held::open(&files, lock, &data_key, options, end)?;
        let mut store = Self {
            held: Some(held),
            files,
            data_key,
            options: options.clone(),
            resident: Resident::default(),
            seen: Seen::default(),
            key_file,
            rollback: options.rollback_guard.as_ref().map(Rollback::new),
        };
        store.meet_guard()?;
        Ok(store)
    }

    /// What there is while the store is held.
    ///
    /// # Errors
    /// [`StoreError::Suspended`].
    pub(crate) fn held(&self) -> Result<&Held, StoreError> {
        self.held.as_ref().ok_or(StoreError::Suspended)
    }

    /// Moves everything into the database file, and lets go of the store.
    ///
    /// # Errors
    /// [`StoreError::Io`] if it could not all be moved, or the [`RollbackGuard`](crate::RollbackGuard) not be raised.
    /// Nothing is lost: the rest is in the log, and the next opening takes it from there.
    pub fn close(mut self) -> Result<(), StoreError> {
        let parted = self.part_from_guard();
        let emptied = if self.held.is_some() { self.checkpoint() } else { Ok(()) };
        emptied.and(parted)
    }

    /// Changes the key that opens the store, at the cost of one small file. The database's own key stays:
    /// who had the old key *and* a copy of the old key file can still read copies of the database.
    /// [`SqliteStore::rekey`] changes that too.
    ///
    /// # Errors
    /// - [`StoreError::WrongKey`] if `old` is not the store's key.
    /// - [`StoreError::Corrupt`] if the key file is damaged.
    /// - [`StoreError::Io`] if the medium failed; then one of the two keys opens the store.
    /// - [`StoreError::Suspended`] if it is let go of.
    pub fn change_key(
        &mut self,
        old: &StoreKey,
        new: &StoreKey,
        options: &StoreOptions,
    ) -> Result<(), StoreError> {
        // Others may have changed it too, or re-keyed the store, while it was let go of.
        self.held()?;
        let header = std::fs::read(self.files.header())
            .map_err(|error| from_io(&error, "reading the key file"))?;
        let Unsealed { data_key, database } = header::unseal(&header, old)?;
        let sealed = header::seal(&data_key, &database, new, options.passphrase_cost)?;
        self.files.replace_header(&sealed)?;
        self.key_file = header::identify(&sealed)?;
        Ok(())
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // What fails here is in the log still; a store that was let go of is others' affair.
        let _ = self.part_from_guard();
        let _ = self.checkpoint();
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqliteStore(..)")
    }
}

impl Held {
    /// Opens the store that `lock` was taken of; waits until `end` if it is shared. Answers with what the log was found
    /// to hold.
    pub(crate) fn open(
        files: &Files,
        lock: ProcessLock,
        data_key: &DataKey,
        options: &StoreOptions,
        end: Instant,
    ) -> Result<(Self, Option<LogState>), StoreError> {
        let (mark, demand) = Mark::open(&files.mark())?;
        let log = wal::read(&files.log()).map_err(|error| from_io(&error, "reading the log"))?;
        if !demand.is_met_by(log.as_ref()) {
            // SQLite would open the store as it was some commits ago.
            return Err(StoreError::Corrupt(
                "committed changes are missing from the log".to_owned(),
            ));
        }
        let no_log = std::fs::metadata(files.log()).map_or(true, |log| log.len() == 0);
        let database = std::fs::metadata(files.database());
        if database.map_err(|error| from_io(&error, "looking at the database"))?.len() < PAGE {
            // SQLite would take it for a new one, and begin to write it.
            return Err(StoreError::Corrupt("the database is cut".to_owned()));
        }
        let frames = Arc::new(AtomicU32::new(log.as_ref().map_or(0, |log| log.frames)));
        let mut connection = loop {
            match connect(&files.database(), data_key, options) {
                // The system takes a dead holder's locks away one after the other.
                Err(StoreError::Locked { .. }) if options.shared && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                connected => break connected?,
            }
        };
        let doing = "opening the database";
        let seen = Arc::clone(&frames);
        connection
            .wal_hook(Some(move |_: &mut Wal, pages| {
                seen.store(u32::try_from(pages).unwrap_or(u32::MAX), Ordering::Relaxed);
                Ok(())
            }))
            .map_err(|error| from_sqlite(&error, doing))?;
        schema::migrate(&mut connection)?;
        let journal = if options.shared { journal::last(&connection)? } else { None };
        let held = Self {
            log_is_empty: no_log && frames.load(Ordering::Relaxed) == 0,
            marked: demand.asks_for(log.as_ref()),
            connection,
            mark,
            frames,
            synchronous: None,
            wiping: None,
            broken: false,
            journal,
            journal_is_right: options.shared,
            #[cfg(test)]
            fail_after: None,
            lock,
        };
        Ok((held, log))
    }

    pub(crate) fn usable(&self) -> Result<&Self, StoreError> {
        if self.broken {
            return Err(StoreError::Io("a failed commit could not be taken back".to_owned()));
        }
        Ok(self)
    }
}

/// Takes the lock of a store that is, or is being, made.
pub(crate) fn take_lock(
    files: &Files,
    options: &StoreOptions,
    end: Instant,
) -> Result<ProcessLock, StoreError> {
    if options.shared {
        ProcessLock::wait(files, &options.label, end)
    } else {
        ProcessLock::acquire(files, &options.label)
    }
}

/// The key file of a store that is all there.
pub(crate) fn read_header(files: &Files) -> Result<Vec<u8>, StoreError> {
    match files.presence()? {
        Presence::Nothing => return Err(StoreError::NotFound),
        Presence::Broken(what) => return Err(StoreError::Corrupt(what.to_owned())),
        Presence::Unnamed | Presence::Whole => {}
    }
    std::fs::read(files.header()).map_err(|error| from_io(&error, "reading the key file"))
}

/// Makes the database under the name that it has until it is whole, with what `fill` puts in. Returns what it is known
/// by; it and its name are on the medium then.
pub(crate) fn make_database(
    files: &Files,
    data_key: &DataKey,
    options: &StoreOptions,
    fill: impl FnOnce(&mut Connection) -> Result<(), StoreError>,
) -> Result<DatabaseId, StoreError> {
    let doing = "making the database";
    let path = files.new_database();
    let made = |error: std::io::Error| from_io(&error, doing);
    private().write(true).create_new(true).open(&path).map_err(made)?;
    let mut connection = connect(&path, data_key, options)?;
    fill(&mut connection)?;
    // The last connection empties and removes the log.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        .map_err(|error| from_sqlite(&error, doing))?;
    connection.close().map_err(|(_, error)| from_sqlite(&error, doing))?;
    File::options().write(true).open(&path).and_then(|file| file.sync_all()).map_err(made)?;
    files.sync_names()?;
    files.new_database_id()
}

/// Opens the database file at `path`, which is there, and takes SQLite's lock on it.
pub(crate) fn connect(
    path: &Path,
    data_key: &DataKey,
    options: &StoreOptions,
) -> Result<Connection, StoreError> {
    let doing = "opening the database";
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    herold_sqlcipher::install().map_err(|error| StoreError::Io(error.to_string()))?;
    let connection =
        Connection::open_with_flags(path, flags).map_err(|error| from_sqlite(&error, doing))?;
    let configure = || -> rusqlite::Result<String> {
        // A connection that is given up, because something is damaged, moves nothing out of the log.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // Whoever holds the store keeps it: waiting would not help.
        connection.busy_timeout(Duration::ZERO)?;
        connection.set_prepared_statement_cache_capacity(512);
        // SQLCipher would write to the standard error stream of whatever program this is.
        connection.execute_batch("PRAGMA cipher_log_level = NONE")?;
        if options.wipe_memory {
            connection.execute_batch("PRAGMA cipher_memory_security = ON")?;
        }
        connection.execute_batch(&key_statement(data_key))?;
        connection.execute_batch(&format!(
            "PRAGMA cipher_page_size = 4096;
             PRAGMA cipher_hmac_algorithm = {};
             PRAGMA temp_store = MEMORY;
             PRAGMA locking_mode = EXCLUSIVE;
             PRAGMA secure_delete = ON;
             PRAGMA trusted_schema = OFF;
             PRAGMA cell_size_check = ON;
             PRAGMA fullfsync = ON;
             PRAGMA checkpoint_fullfsync = ON;
             PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 0;
             PRAGMA cache_size = -{};",
            data_key.pages.sql(),
            options.cache_kib
        ))?;
        // The first read: the key is put to the test, and the log is taken in.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
    };
    match configure() {
        Ok(mode) if mode == "wal" => Ok(connection),
        Ok(_) => Err(StoreError::Io("SQLite cannot keep a write-ahead log here".to_owned())),
        Err(error) => Err(from_sqlite(&error, doing)),
    }
}

/// The statement that gives SQLCipher the key as it is, without a derivation of its own.
fn key_statement(data_key: &DataKey) -> Zeroizing<String> {
    let mut statement = Zeroizing::new(String::with_capacity(96));
    statement.push_str("PRAGMA key = \"x'");
    for byte in data_key.secret.iter() {
        // Writing to a string does not fail.
        let _ = write!(statement, "{byte:02x}");
    }
    statement.push_str("'\"");
    statement
}
