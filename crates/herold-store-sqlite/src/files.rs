//! The files of a store: their names, which of them are there, and writing one whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use herold_store::StoreError;

use crate::{error::from_io, header::DatabaseId};

/// Where the files of a store are.
#[derive(Clone)]
pub(crate) struct Files {
    directory: PathBuf,
}

/// What is there of a store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// No store: nothing at all, or what a making that was cut short left.
    Nothing,
    /// A whole store whose database only lacks its final name.
    Unnamed,
    /// All that a store needs.
    Whole,
    /// A store of which this is missing.
    Broken(&'static str),
}

impl Files {
    /// The files in `directory`, which need not exist.
    pub(crate) fn new(directory: &Path) -> Result<Self, StoreError> {
        // Absolute, so that neither a change of the working directory nor a name that starts with
        // `file:` leads SQLite elsewhere.
        let directory = std::path::absolute(directory)
            .map_err(|error| from_io(&error, "looking for the store"))?;
        Ok(Self { directory })
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.directory.join("herold.db")
    }

    pub(crate) fn new_database(&self) -> PathBuf {
        self.directory.join("herold.db.new")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("herold.db-wal")
    }

    pub(crate) fn header(&self) -> PathBuf {
        self.directory.join("herold.salt")
    }

    fn new_header(&self) -> PathBuf {
        self.directory.join("herold.salt.new")
    }

    pub(crate) fn mark(&self) -> PathBuf {
        self.directory.join("herold.mark")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.directory.join("herold.lock")
    }

    pub(crate) fn turnstile(&self) -> PathBuf {
        self.directory.join("herold.turn")
    }

    /// Looks at what is there.
    pub(crate) fn presence(&self) -> Result<Presence, StoreError> {
        let is = |path: PathBuf| {
            path.try_exists().map_err(|error| from_io(&error, "looking for the store"))
        };
        Ok(match (is(self.header())?, is(self.database())?) {
            (true, true) if is(self.directory.join("herold.db-journal"))? => {
                // A store never has one; SQLite would play it back.
                Presence::Broken("a journal of somebody else's is there")
            }
            (true, true) => Presence::Whole,
            (true, false) if is(self.new_database())? => Presence::Unnamed,
            (true, false) => Presence::Broken("the database is missing"),
            (false, true) => Presence::Broken("the key file is missing"),
            // A mark without the database in the making: there was a store.
            (false, false) if is(self.log())? || is(self.mark())? && !is(self.new_database())? => {
                Presence::Broken("the database and the key file are missing")
            }
            (false, false) => Presence::Nothing,
        })
    }

    /// Makes the directory, for its owner only, and those above it; their names are on the medium then.
    pub(crate) fn make_directory(&self) -> Result<(), StoreError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        // A name is in the folder above: up to the first that is there already.
        let above = || self.directory.ancestors().skip(1);
        let missing = above().take_while(|folder| !folder.exists()).count();
        let make = || -> io::Result<()> {
            builder.create(&self.directory)?;
            above().take(missing + 1).try_for_each(|folder| match sync_directory(folder) {
                // A folder of somebody else's in which one may pass, not look.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                done => done,
            })
        };
        make().map_err(|error| from_io(&error, "making the directory"))
    }

    /// Removes what a making of a store that was cut short has left; there is no store.
    pub(crate) fn remove_leftovers(&self) -> Result<(), StoreError> {
        // The mark first: without the new database it would be taken for what is left of a store.
        self.remove(&["herold.mark"])?;
        self.sync_names()?;
        self.remove_new_database()
    }

    /// Removes a database that never became the store's.
    pub(crate) fn remove_new_database(&self) -> Result<(), StoreError> {
        self.remove_new_log()?;
        self.remove(&["herold.salt.new", "herold.db.new"])
    }

    /// Removes what SQLite leaves beside a database that is being made.
    pub(crate) fn remove_new_log(&self) -> Result<(), StoreError> {
        self.remove(&["herold.db.new-wal", "herold.db.new-journal"])
    }

    fn remove(&self, names: &[&str]) -> Result<(), StoreError> {
        for name in names {
            match fs::remove_file(self.directory.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(from_io(&error, "clearing up"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Brings the names in line with the key file, which belongs to the database `id`: a making or a re-keying that was
    /// cut short is finished if the key file is the new one.
    pub(crate) fn settle(&self, id: &DatabaseId) -> Result<(), StoreError> {
        // Whoever put the key file there may have been killed before its name was on the medium. A power loss that
        // takes it back must not find the old database gone.
        self.sync_names()?;
        if database_id(&self.database())?.is_some_and(|found| found == *id) {
            return Ok(());
        }
        if database_id(&self.new_database())?.is_some_and(|found| found == *id) {
            self.remove_new_log()?;
            return self.name_database();
        }
        Err(StoreError::Corrupt("the database is damaged, or not the key file's".to_owned()))
    }

    /// Gives the new database its name, in place of any other.
    fn name_database(&self) -> Result<(), StoreError> {
        fs::rename(self.new_database(), self.database())
            .and_then(|()| self.sync_directory())
            .map_err(|error| from_io(&error, "naming the database"))
    }

    /// What the new database is known by.
    pub(crate) fn new_database_id(&self) -> Result<DatabaseId, StoreError> {
        database_id(&self.new_database())?
            .ok_or_else(|| StoreError::Io("the new database is not there".to_owned()))
    }

    /// Replaces the key file: afterwards, power loss or not, it is wholly the old or wholly the new.
    pub(crate) fn replace_header(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let write = || -> io::Result<()> {
            let mut file =
                private().write(true).create(true).truncate(true).open(self.new_header())?;
            file.write_all(bytes)?;
            file.sync_all()?;
            drop(file);
            fs::rename(self.new_header(), self.header())?;
            self.sync_directory()
        };
        write().map_err(|error| from_io(&error, "writing the key file"))
    }

    /// As [`Files::sync_directory`], for those who can do nothing about it.
    pub(crate) fn sync_names(&self) -> Result<(), StoreError> {
        self.sync_directory().map_err(|error| from_io(&error, "synchronising the directory"))
    }

    /// Makes the names in the directory durable.
    pub(crate) fn sync_directory(&self) -> io::Result<()> {
        sync_directory(&self.directory)
    }
}

/// The first bytes of a database; `None` if there is none, or less than that of it.
fn database_id(path: &Path) -> Result<Option<DatabaseId>, StoreError> {
    let mut id = DatabaseId::default();
    match File::open(path).and_then(|mut file| file.read_exact(&mut id)) {
        Ok(()) => Ok(Some(id)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) =>
        {
            Ok(None)
        }
        Err(error) => Err(from_io(&error, "looking at the database")),
    }
}

/// Makes the names in a directory durable, where the system has such a thing.
fn sync_directory(directory: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(directory)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = directory;
    Ok(())
}

/// Options that make files for their owner only.
pub(crate) fn private() -> OpenOptions {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
