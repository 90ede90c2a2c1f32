//! Restoring from the key backup.

use std::{sync::Arc, time::Duration};

use herold_crypto::BackupDecryptionKey;
use herold_machine::{
    BackupStatus, HttpRequest, Imported, Machine, Method, RestoredKey, open_entry,
};
use herold_trust::KeySource;
use ruma::{OwnedRoomId, RoomId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Client, ClientError, SessionId, homeserver::Retry, session::Session, tasks::detached};

/// The name of the backup's private key in secret storage.
pub(crate) const SECRET: &str = "m.megolm_backup.v1";
/// As many room keys are decrypted, and then imported in one step.
const CHUNK: usize = 500;

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
    pub async fn restore_backup(&self) -> Result<Imported, ClientError> {
        let session = self.session().clone();
        detached(async move { restore(&session).await }).await
    }
}

/// Downloads the backup in use and imports it.
pub(crate) async fn restore(session: &Arc<Session>) -> Result<Imported, ClientError> {
    let (version, key) = session
        .read(|machine, snapshot| machine.backup_key(snapshot))?
        .ok_or(ClientError::NoBackupKey)?;
    let body = session.call(Machine::backup_request(&version), Retry::Always).await?;
    let session = session.clone();
    tokio::task::spawn_blocking(move || import(&session, &key, &body))
        .await
        .map_err(|_| ClientError::Internal("a task ended early"))?
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
    let sessions: &RawValue = serde_json::from_slice(&body)
        .map_err(|_| ClientError::BadResponse("the contents of a key backup"))?;
    let body = serde_json::json!({ "rooms": { room.as_str(): sessions } }).to_string();
    let session = session.clone();
    tokio::task::spawn_blocking(move || import(&session, &key, body.as_bytes()))
        .await
        .map_err(|_| ClientError::Internal("a task ended early"))??;
    Ok(())
}

/// Decrypts and imports a downloaded backup, a part at a time: what is in memory beside the download does not grow with
/// it.
fn import(
    session: &Session,
    key: &BackupDecryptionKey,
    body: &[u8],
) -> Result<Imported, ClientError> {
    let mut total = Imported::default();
    let mut entries: Vec<(OwnedRoomId, SessionId, &RawValue)> = Vec::new();
    let body: Rooms<'_> = serde_json::from_slice(body)
        .map_err(|_| ClientError::BadResponse("the contents of a key backup"))?;
    for (room_id, raw) in body.rooms {
        let sessions = serde_json::from_str::<Sessions<'_>>(raw.get());
        let (Ok(room_id), Ok(sessions)) = (OwnedRoomId::try_from(room_id.as_ref()), sessions)
        else {
            total.refused += 1;
            continue;
        };
        for (session_id, raw) in sessions.sessions {
            entries.push((room_id.clone(), SessionId::new(session_id.into_owned()), raw));
        }
    }
    for chunk in entries.chunks(CHUNK) {
        let opened = open(key, chunk);
        let refused = chunk.len() - opened.len();
        let imported = session.step(|machine, snapshot, cx| {
            machine.import_room_keys(snapshot, cx, opened, KeySource::Backup)
        })?;
        total.new += imported.new;
        total.known += imported.known;
        total.refused += imported.refused + refused;
    }
    Ok(total)
}

/// Decrypts entries on all processors.
fn open(
    key: &BackupDecryptionKey,
    entries: &[(OwnedRoomId, SessionId, &RawValue)],
) -> Vec<RestoredKey> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = entries.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = entries
            .chunks(part)
            .map(|entries| {
                scope.spawn(move || {
                    entries
                        .iter()
                        .filter_map(|(room_id, session_id, raw)| {
                            Some(RestoredKey {
                                room_id: room_id.clone(),
                                session_id: session_id.clone(),
                                data: open_entry(key, raw)?,
                            })
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    })
}

type Text<'a> = std::borrow::Cow<'a, str>;

#[derive(Deserialize)]
struct Rooms<'a> {
    #[serde(borrow)]
    rooms: std::collections::BTreeMap<Text<'a>, &'a RawValue>,
}

#[derive(Deserialize)]
struct Sessions<'a> {
    #[serde(borrow)]
    sessions: std::collections::BTreeMap<Text<'a>, &'a RawValue>,
}
