//! Key files: all room keys in a file, under a passphrase (Matrix specification, "Key exports").

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter},
    iter,
    path::{Path, PathBuf},
    sync::Arc,
};

use herold_crypto::{
    DEFAULT_KEY_FILE_ROUNDS, ExportedSession, KeyFileError, KeyFileReader, KeyFileWriter,
    SecretString,
};
use herold_machine::{Imported, RestoredKey};
use herold_trust::KeySource;

use crate::{
    Client, ClientError, Lengthy, OsEntropy,
    import::{Opened, PAGE, import},
    progress::{Progress, Report},
    session::Session,
    tasks::blocking,
};

impl Client {
    /// Writes every room key into a file, which must not exist yet. A file that could not be written to its end is removed.
    /// Answers how many there were.
    ///
    /// # Errors
    /// [`ClientError::KeyFile`]; those of the store.
    pub fn export_keys(&self, path: &Path, passphrase: SecretString) -> Lengthy<usize> {
        let (session, path) = (self.session().clone(), path.to_owned());
        Lengthy::new(|report| blocking(move || export(&session, path, &passphrase, report)))
    }

    /// Takes every room key out of a file. They prove nothing of who made them. Nothing is taken from a file that is not
    /// whole, or for a wrong passphrase; an entry that is damaged is counted as refused.
    ///
    /// # Errors
    /// [`ClientError::KeyFile`]; those of the store.
    pub fn import_keys(&self, path: &Path, passphrase: SecretString) -> Lengthy<Imported> {
        let (session, path) = (self.session().clone(), path.to_owned());
        Lengthy::new(|report| blocking(move || take(&session, &path, &passphrase, report)))
    }
}

fn export(
    session: &Arc<Session>,
    path: PathBuf,
    passphrase: &SecretString,
    report: Report,
) -> Result<usize, ClientError> {
    let file = File::create_new(&path).map_err(KeyFileError::from)?;
    let written = write_all(session, file, passphrase, report);
    if written.is_err() {
        // What is not whole cannot be read by anybody.
        let _ = fs::remove_file(path);
    }
    written
}

fn write_all(
    session: &Arc<Session>,
    file: File,
    passphrase: &SecretString,
    mut report: Report,
) -> Result<usize, ClientError> {
    let out = BufWriter::new(file);
    let mut writer =
        KeyFileWriter::new(out, passphrase.as_str(), DEFAULT_KEY_FILE_ROUNDS, &mut OsEntropy)?;
    let mut count = 0;
    let mut after = None;
    loop {
        let (keys, last) =
            session.read(|machine, snapshot| machine.room_keys(snapshot, after.as_ref(), PAGE))?;
        for key in &keys {
            writer.write(key)?;
        }
        count += keys.len();
        report(Progress { done: count, total: None });
        if last.is_none() {
            break;
        }
        after = last;
    }
    let out = writer.finish()?;
    out.into_inner()
        .map_err(std::io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all())
        .map_err(KeyFileError::from)?;
    Ok(count)
}

fn take(
    session: &Session,
    path: &Path,
    passphrase: &SecretString,
    mut report: Report,
) -> Result<Imported, ClientError> {
    let file = File::open(path).map_err(KeyFileError::from)?;
    // The whole file is checked before its first key is given.
    let mut reader = KeyFileReader::open(BufReader::new(file), passphrase.as_str())?;
    let pages = iter::from_fn(|| {
        let page: Vec<_> = reader.by_ref().take(PAGE).collect();
        Some(page).filter(|page| !page.is_empty())
    });
    import(session, KeySource::Imported, pages, open, None, &mut report)
}

fn open(page: Vec<Result<ExportedSession, KeyFileError>>) -> Result<Opened, ClientError> {
    let mut opened = Opened { keys: Vec::with_capacity(page.len()), refused: 0 };
    for entry in page {
        match entry {
            Ok(entry) => match RestoredKey::from_export(entry) {
                Some(key) => opened.keys.push(key),
                None => opened.refused += 1,
            },
            Err(KeyFileError::Entry(_)) => opened.refused += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(opened)
}
