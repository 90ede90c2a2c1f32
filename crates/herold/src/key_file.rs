//! Key files: all room keys in a file, under a passphrase (Matrix specification, "Key exports").

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter},
    path::{Path, PathBuf},
    sync::Arc,
};

use herold_crypto::{
    DEFAULT_KEY_FILE_ROUNDS, KeyFileError, KeyFileReader, KeyFileWriter, SecretString,
};
use herold_machine::{Imported, RestoredKey};
use herold_trust::KeySource;
use ruma::OwnedRoomId;

use crate::{Client, ClientError, OsEntropy, session::Session};

/// As many room keys are read or imported at once.
const PAGE: usize = 500;

impl Client {
    /// Writes every room key into a file, which must not exist yet. A file that could not be written to its end is removed.
    /// Answers how many there were.
    ///
    /// # Errors
    /// [`ClientError::KeyFile`]; those of the store.
    pub async fn export_keys(
        &self,
        path: &Path,
        passphrase: SecretString,
    ) -> Result<usize, ClientError> {
        let (session, path) = (self.session().clone(), path.to_owned());
        blocking(move || export(&session, path, &passphrase)).await
    }

    /// Takes every room key out of a file. They prove nothing of who made them. Nothing is taken from a file that is not
    /// whole, or for a wrong passphrase; an entry that is damaged is counted as refused.
    ///
    /// # Errors
    /// [`ClientError::KeyFile`]; those of the store.
    pub async fn import_keys(
        &self,
        path: &Path,
        passphrase: SecretString,
    ) -> Result<Imported, ClientError> {
        let (session, path) = (self.session().clone(), path.to_owned());
        blocking(move || import(&session, &path, &passphrase)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ClientError::Internal("a task ended early"))?
}

fn export(
    session: &Arc<Session>,
    path: PathBuf,
    passphrase: &SecretString,
) -> Result<usize, ClientError> {
    let file = File::create_new(&path).map_err(KeyFileError::from)?;
    let written = write_all(session, file, passphrase);
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

fn import(
    session: &Arc<Session>,
    path: &Path,
    passphrase: &SecretString,
) -> Result<Imported, ClientError> {
    let file = File::open(path).map_err(KeyFileError::from)?;
    let reader = KeyFileReader::open(BufReader::new(file), passphrase.as_str())?;
    let mut total = Imported::default();
    let mut page = Vec::new();
    let take = |page: &mut Vec<RestoredKey>, total: &mut Imported| {
        let keys = std::mem::take(page);
        let imported = session.step(|machine, snapshot, cx| {
            machine.import_room_keys(snapshot, cx, keys, KeySource::Imported)
        })?;
        total.new += imported.new;
        total.known += imported.known;
        total.refused += imported.refused;
        Ok::<_, ClientError>(())
    };
    // The whole file was checked before its first key is given.
    for entry in reader {
        match entry {
            Ok(key) => match OwnedRoomId::try_from(key.room_id) {
                Ok(room_id) => {
                    page.push(RestoredKey { room_id, session_id: key.session_id, data: key.data })
                }
                Err(_) => total.refused += 1,
            },
            Err(KeyFileError::Entry(_)) => total.refused += 1,
            Err(error) => return Err(error.into()),
        }
        if page.len() >= PAGE {
            take(&mut page, &mut total)?;
        }
    }
    take(&mut page, &mut total)?;
    Ok(total)
}
