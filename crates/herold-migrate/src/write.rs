//! Writing the new store: beside its place, and then into it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use herold_crypto::Entropy;
use herold_machine::{Adopted, Context, Machine, Pending, Step};
use herold_store::{
    ChangeSet, MemoryStore, Store, StoreError,
    records::{BackupDueRecord, LoginRecord, SessionKey, SessionRoomRecord},
};
use herold_store_sqlite::{SqliteStore, StoreKey, StoreOptions};
use herold_trust::{Policy, Timestamp};

use crate::{Found, Kind, MigrateError, Reason, Report};

/// As many rows are committed at once.
const ROWS: usize = 4000;

/// Where the account goes on.
#[derive(Debug)]
pub struct Target<'a> {
    /// The folder of the new store, which must not be there or be empty.
    pub folder: &'a Path,
    /// The key of the new store.
    pub key: &'a StoreKey,
    /// How it is made.
    pub options: &'a StoreOptions,
    /// The login: homeserver, and an access token of *this* device.
    pub login: &'a LoginRecord,
    /// The policy in force.
    pub policy: Policy,
}

impl Found {
    /// What there is, before it is known what becomes of the trust in it.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Does everything but writing, and answers what writing would.
    ///
    /// # Errors
    /// [`MigrateError::Machine`].
    pub fn dry_run(
        mut self,
        policy: Policy,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> Result<Report, MigrateError> {
        let login = LoginRecord {
            homeserver: String::new(),
            access_token: herold_crypto::SecretString::new(String::new()),
            logged_out: false,
            deployment: String::new(),
        };
        let mut store = MemoryStore::new();
        let step = self.adopt(&store, policy, &login, now, entropy)?;
        let adopted = step.commit(&mut store)?.into_outputs().reply;
        Ok(self.finish(&adopted))
    }

    /// Makes the new store. A process that is killed leaves either the whole store or none.
    ///
    /// # Errors
    /// [`MigrateError::TargetExists`]; those of the new store.
    pub fn write(
        mut self,
        target: Target<'_>,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> Result<Report, MigrateError> {
        if !is_free(target.folder)? {
            return Err(MigrateError::TargetExists);
        }
        let beside = beside(target.folder)?;
        remove_leftover(&beside, target.key, target.options)?;
        let written = self.write_beside(&beside, &target, now, entropy);
        let adopted = match written {
            Ok(adopted) => adopted,
            Err(error) => {
                // Nobody will ask for it again.
                let _ = fs::remove_dir_all(&beside);
                return Err(error);
            }
        };
        give_name(&beside, target.folder)
            .map_err(|error| MigrateError::io(&error, "giving the new store its name"))?;
        Ok(self.finish(&adopted))
    }

    fn write_beside(
        &mut self,
        folder: &Path,
        target: &Target<'_>,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> Result<Adopted, MigrateError> {
        let mut store = SqliteStore::create(folder, target.key, target.options)?;
        let step = self.adopt(&store, target.policy.clone(), target.login, now, entropy)?;
        self.write_rows(&mut store)?;
        // The account comes last: a store without one is none.
        let adopted = step.commit(&mut store)?.into_outputs().reply;
        store.close()?;
        Ok(adopted)
    }

    /// The step that makes the account. The rows beside it have no part in what it decides.
    fn adopt(
        &mut self,
        store: &dyn Store,
        policy: Policy,
        login: &LoginRecord,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> Result<Step<Pending, Adopted>, MigrateError> {
        let adoption = self.adoption.take().ok_or(MigrateError::NoAccount)?;
        self.secrets = adoption.secrets.iter().map(|(usage, _)| *usage).collect();
        self.backup_in_use = matches!(adoption.backup, Some((_, Some(_))));
        let mut cx = Context { now, entropy };
        Ok(Machine::adopt(store.snapshot(), &mut cx, policy, login, adoption)?)
    }

    fn write_rows(&self, store: &mut SqliteStore) -> Result<(), StoreError> {
        for rows in self.channels.chunks(ROWS) {
            let mut changes = ChangeSet::new();
            for (key, record) in rows {
                changes.put(key, record);
            }
            changes.require_full();
            store.commit(&changes)?;
        }
        for rows in self.room_keys.chunks(ROWS) {
            let mut changes = ChangeSet::new();
            for found in rows {
                changes.put(&found.key, &found.record);
                let session = SessionKey { session_id: found.key.session_id.clone() };
                let room = SessionRoomRecord { room_id: found.key.room_id.clone() };
                changes.put(&session, &room);
                if self.backup_in_use && !found.backed_up {
                    changes.put(&found.key, &BackupDueRecord);
                }
            }
            changes.require_full();
            store.commit(&changes)?;
        }
        Ok(())
    }

    fn finish(self, adopted: &Adopted) -> Report {
        let mut report = self.report;
        for usage in self.secrets {
            if adopted.secrets.contains(&usage) {
                report.take(Kind::CrossSigningKey, 1);
            } else {
                let name = usage.to_string();
                report.leave_named(Kind::CrossSigningKey, Reason::NotPublished, name);
            }
        }
        if adopted.own_identity_verified {
            report.take(Kind::OwnVerification, 1);
        } else if self.own_was_verified {
            report.leave(Kind::OwnVerification, Reason::Unproved);
        }
        report.take(Kind::UserVerification, adopted.verified_users.len() as u64);
        for user_id in self.users_were_verified {
            if !adopted.verified_users.contains(&user_id) {
                report.leave_named(Kind::UserVerification, Reason::Unproved, user_id.to_string());
            }
        }
        if !adopted.backup_enabled {
            let count = report.taken.remove(&Kind::RoomKeyBackedUp).unwrap_or(0);
            report.leave_many(Kind::RoomKeyBackedUp, Reason::MadeAnew, count);
        }
        report
    }
}

/// Whether a store can be given this name.
fn is_free(folder: &Path) -> Result<bool, MigrateError> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(MigrateError::io(&error, "looking at the new store's folder")),
    }
}

/// Where the store is made: on the same medium, so that it can be given its name.
fn beside(folder: &Path) -> Result<PathBuf, MigrateError> {
    let failed = |error: &io::Error| MigrateError::io(error, "looking at the new store's folder");
    let whole = std::path::absolute(folder).map_err(|error| failed(&error))?;
    let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
        return Err(MigrateError::TargetExists);
    };
    fs::create_dir_all(parent).map_err(|error| failed(&error))?;
    let mut name = name.to_owned();
    name.push(".migrating");
    Ok(parent.join(name))
}

/// Removes what a migration that was killed has left, unless it is one that is under way.
fn remove_leftover(
    beside: &Path,
    key: &StoreKey,
    options: &StoreOptions,
) -> Result<(), MigrateError> {
    if is_free(beside)? {
        return Ok(());
    }
    if let Err(error @ StoreError::Locked { .. }) = SqliteStore::open(beside, key, options) {
        return Err(error.into());
    }
    fs::remove_dir_all(beside).map_err(|error| MigrateError::io(&error, "clearing up"))
}

fn give_name(beside: &Path, folder: &Path) -> io::Result<()> {
    let folder = std::path::absolute(folder)?;
    match fs::remove_dir(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(beside, &folder)?;
    #[cfg(unix)]
    if let Some(parent) = folder.parent() {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}
