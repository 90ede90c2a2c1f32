//! Restoring from the key backup.

use std::{sync::Arc, time::Duration};

use herold_crypto::BackupDecryptionKey;
use herold_machine::{
    BackupEntry, BackupStatus, HttpRequest, Imported, Machine, Method, backup_entries, room_entries,
};
use herold_trust::KeySource;
use ruma::RoomId;

use crate::{
    Client, ClientError, Lengthy,
    homeserver::Retry,
    import::{Opened, PAGE, import},
    progress::Report,
    session::Session,
    tasks::{blocking, detached},
};

/// The name of the backup's private key in secret storage.
pub(crate) const SECRET: &str = "m.megolm_backup.v1";
const MALFORMED: ClientError = ClientError::BadResponse("the contents of a key backup");

impl Client {
    /// How things stand with the key backup.
    ///
    /// # Errors
    /// Those of the store.
    pub fn backup_status(&self) -> Result<BackupStatus, ClientError> {
        self.session().read(|machine, snapshot| machine.backup_status(snapshot))
    }

    /// Waits until every room key is in the backup.
    ///
    /// # Errors
    /// [`ClientError::Timeout`]; those of the store.
    pub async fn wait_for_backup(&self, timeout: Duration) -> Result<(), ClientError> {
        let done = |session: &Session| {
            let status = session.read(|machine, snapshot| machine.backup_status(snapshot))?;
            Ok(Some(()).filter(|()| status.enabled && status.pending == 0))
        };
        self.session().wait_until(timeout, done).await
    }

    /// Has the homeserver's backup looked at again, whatever is known of it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn check_backup(&self) -> Result<(), ClientError> {
        self.session().step(|machine, snapshot, cx| machine.check_backup(snapshot, cx))
    }

    /// Restores every room key of the backup in use.
    ///
    /// # Errors
    /// [`ClientError::NoBackupKey`] if its private key is not here; [`ClientError::Matrix`],
    /// [`ClientError::Transport`], those of the store.
    pub fn restore_backup(&self) -> Lengthy<Imported> {
        let session = self.session().clone();
        Lengthy::new(|report| detached(async move { restore(&session, report).await }))
    }
}

/// Downloads the backup in use and imports it.
pub(crate) async fn restore(
    session: &Arc<Session>,
    report: Report,
) -> Result<Imported, ClientError> {
    let (version, key) = session
        .read(|machine, snapshot| machine.backup_key(snapshot))?
        .ok_or(ClientError::NoBackupKey)?;
    let body = session.call(Machine::backup_request(&version), Retry::Always).await?;
    let session = session.clone();
    blocking(move || {
        let (entries, refused) = backup_entries(&body).map_err(|_| MALFORMED)?;
        let mut imported = take(&session, &key, &entries, report)?;
        imported.refused += refused;
        Ok::<_, ClientError>(imported)
    })
    .await
}

/// Downloads one room's keys from the backup in use, if its private key is here, and imports them.
pub(crate) async fn restore_room(session: &Arc<Session>, room: &RoomId) -> Result<(), ClientError> {
    let Some((version, key)) = session.read(|machine, snapshot| machine.backup_key(snapshot))?
    else {
        return Ok(());
    };
    let segments = ["keys", room.as_str()];
    let request = HttpRequest::new(Method::Get, "/_matrix/client/v3/room_keys", &segments)
        .query("version", version);
    let body = match session.call(request, Retry::Always).await {
        Err(error) if error.is_matrix("M_NOT_FOUND") => return Ok(()),
        body => body?,
    };
    let (session, room) = (session.clone(), room.to_owned());
    blocking(move || {
        let entries = room_entries(&room, &body).map_err(|_| MALFORMED)?;
        take(&session, &key, &entries, Box::new(|_| ())).map(drop)
    })
    .await
}

/// Decrypts and imports a backup's entries.
fn take(
    session: &Session,
    key: &BackupDecryptionKey,
    entries: &[BackupEntry<'_>],
    mut report: Report,
) -> Result<Imported, ClientError> {
    let open = |page: &[BackupEntry<'_>]| {
        let keys: Vec<_> = page.iter().filter_map(|entry| entry.open(key)).collect();
        Ok(Opened { refused: page.len() - keys.len(), keys })
    };
    let (pages, total) = (entries.chunks(PAGE), Some(entries.len()));
    import(session, KeySource::Backup, pages, open, total, &mut report)
}
