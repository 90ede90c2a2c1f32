//! The files of a store: their names, which of them are there, and writing one whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use herold_store::StoreError;

use crate::error::from_io;

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

    /// Makes the directory, for its owner only.
    pub(crate) fn make_directory(&self) -> Result<(), StoreError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.directory).map_err(|error| from_io(&error, "making the directory"))
    }

    /// Removes what a making of a store that was cut short has left.
    pub(crate) fn remove_leftovers(&self) -> Result<(), StoreError> {
        // The mark first: without the new database it would be taken for what is left of a store.
        for name in ["herold.mark", "herold.db.new-wal", "herold.db.new-journal", "herold.db.new"] {
            match fs::remove_file(self.directory.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(from_io(&error, "clearing up"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives the new database its name.
    pub(crate) fn name_database(&self) -> Result<(), StoreError> {
        fs::rename(self.new_database(), self.database())
            .and_then(|()| self.sync_directory())
            .map_err(|error| from_io(&error, "naming the database"))
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

    /// Makes the names in the directory durable.
    pub(crate) fn sync_directory(&self) -> io::Result<()> {
        #[cfg(unix)]
        File::open(&self.directory)?.sync_all()?;
        Ok(())
    }
}

/// Options that make files for their owner only.
pub(crate) fn private() -> OpenOptions {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
