//! [`RecoveryState`]: how things stand, as one value, and whoever wants to be told of it.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use herold_store::records::{RecoveryChange, RecoveryStage};
use tokio::time::{Instant, sleep_until};

use crate::{
    Changes, ClientError, Progress,
    account_data::AccountData,
    key_backup,
    session::{Session, lock},
};

/// A homeserver that could not be asked is asked again after this long at the soonest.
const AGAIN: Duration = Duration::from_secs(30);
/// What another device may have changed without this one being told is looked at after this long.
const STALE: Duration = Duration::from_hours(1);

/// How things stand: what an app draws its screen from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveryState {
    /// The homeserver has not been asked yet, or does not answer: show nothing.
    Unknown,
    /// Nothing is set up: offer [`crate::Client::enable_recovery`].
    Disabled,
    /// It is being set up, replaced, or given another key.
    Enabling {
        /// Which of it.
        change: RecoveryChange,
        /// How far it is.
        step: EnableStep,
    },
    /// It was begun to be set up, replaced or given another key, and did not come to its end. Nothing is lost: offer to go
    /// on with the same call.
    Interrupted {
        /// What was begun.
        change: RecoveryChange,
    },
    /// All is made, and nobody has said that the user has the new recovery key: show it again (the same call gives the same
    /// key), then [`crate::Client::confirm_recovery_key`].
    Unconfirmed {
        /// What was done.
        change: RecoveryChange,
    },
    /// This device has all it needs, and so will the next one.
    Enabled,
    /// It is set up, and something of it is missing. What this device lacks comes with [`crate::Client::recover`] or a
    /// verification; what the next one would lack, with [`crate::Client::enable_recovery`].
    Incomplete {
        /// What.
        missing: Missing,
    },
    /// This device is being given what it lacks.
    Recovering {
        /// How far it is.
        step: RecoverStep,
    },
}

/// How far setting up is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnableStep {
    /// The secret storage is opened with the key it has.
    Opening,
    /// The user's identity is made.
    Identity,
    /// The key backup is made.
    Backup,
    /// The secrets are put under the new key.
    Storage,
}

/// How far recovering is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoverStep {
    /// The secret storage is opened with what the user has typed.
    Opening,
    /// The identity is taken over.
    Identity,
    /// The room keys are restored.
    Backup {
        /// How far that is.
        progress: Progress,
    },
}

/// A secret that recovery is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecoverySecret {
    /// The private master key of the user's identity.
    MasterKey,
    /// The private self-signing key.
    SelfSigningKey,
    /// The private user-signing key.
    UserSigningKey,
    /// The private key of the key backup.
    BackupKey,
}

impl RecoverySecret {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::MasterKey, Self::SelfSigningKey, Self::UserSigningKey, Self::BackupKey];

    /// The name in secret storage.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MasterKey => "m.cross_signing.master",
            Self::SelfSigningKey => "m.cross_signing.self_signing",
            Self::UserSigningKey => "m.cross_signing.user_signing",
            Self::BackupKey => key_backup::SECRET,
        }
    }
}

/// What is missing of a recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// What this device does not have, or not as it is published.
    pub here: BTreeSet<RecoverySecret>,
    /// What the homeserver does not have under the key of the secret storage, or hides: the next device will not get it.
    pub stored: BTreeSet<RecoverySecret>,
    /// The homeserver has no key backup, or hides it.
    pub backup: bool,
}

impl Missing {
    /// Nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.here.is_empty() && self.stored.is_empty() && !self.backup
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.here.iter().map(|secret| format!("{} here", secret.name())));
        parts.extend(self.stored.iter().map(|secret| format!("{} in the storage", secret.name())));
        parts.extend(self.backup.then(|| "the key backup".to_owned()));
        f.write_str(&parts.join(", "))
    }
}

/// What is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Running {
    Enabling(RecoveryChange, EnableStep),
    Recovering(RecoverStep),
}

/// What the homeserver has in its secret storage.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    default_key: bool,
    /// What is not under the default key.
    missing: BTreeSet<RecoverySecret>,
    asked_at: Instant,
}

impl Stored {
    fn of(data: &AccountData) -> Self {
        let default = data.default_key();
        Self {
            default_key: default.is_some(),
            missing: missing_under(data, default.unwrap_or_default()),
            asked_at: Instant::now(),
        }
    }
}

/// What is not under a key.
pub(crate) fn missing_under(data: &AccountData, key_id: &str) -> BTreeSet<RecoverySecret> {
    let has = |name| data.secrets().any(|(n, by_key)| n == name && by_key.contains_key(key_id));
    RecoverySecret::ALL.into_iter().filter(|secret| !has(secret.name())).collect()
}

/// What a session knows of its recovery; all of it can be lost.
#[derive(Default)]
pub(crate) struct Watch {
    /// One of enabling and recovering at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    running: Option<Running>,
    stored: Option<Stored>,
    stale: bool,
    /// Counts what may have changed the homeserver's side.
    changes: u64,
    asking: bool,
    not_before: Option<Instant>,
}

impl Watch {
    /// Somebody has changed the homeserver's side.
    pub(crate) fn has_changed(&self) {
        let mut seen = lock(&self.seen);
        seen.stale = true;
        seen.not_before = None;
        seen.changes += 1;
    }
}

/// As long as it is there, something is under way.
pub(crate) struct Showing<'a>(&'a Session);

impl<'a> Showing<'a> {
    pub(crate) fn new(session: &'a Session, running: Running) -> Self {
        let showing = Self(session);
        showing.set(running);
        showing
    }

    /// It is at another step.
    pub(crate) fn set(&self, running: Running) {
        show(self.0, Some(running));
    }
}

impl Drop for Showing<'_> {
    fn drop(&mut self) {
        self.0.recovery.has_changed();
        // What was seen before is wrong now.
        lock(&self.0.recovery.seen).stored = None;
        show(self.0, None);
    }
}

/// Shows what is under way.
pub(crate) fn show(session: &Session, running: Option<Running>) {
    lock(&session.recovery.seen).running = running;
    session.beat();
}

/// How things stand as far as it is known without asking.
fn known(session: &Session) -> Result<RecoveryState, ClientError> {
    let (running, stored) = {
        let seen = lock(&session.recovery.seen);
        (seen.running, seen.stored.clone())
    };
    match running {
        Some(Running::Enabling(change, step)) => {
            return Ok(RecoveryState::Enabling { change, step });
        }
        Some(Running::Recovering(step)) => return Ok(RecoveryState::Recovering { step }),
        None => {}
    }
    if let Some(begun) = session.read(|machine, snapshot| machine.recovery_begun(snapshot))? {
        let change = begun.change;
        return Ok(match begun.stage {
            RecoveryStage::Made => RecoveryState::Unconfirmed { change },
            _ => RecoveryState::Interrupted { change },
        });
    }
    let Some(stored) = stored else { return Ok(RecoveryState::Unknown) };
    if !stored.default_key {
        return Ok(RecoveryState::Disabled);
    }
    let Some(missing) = missing(session, stored.missing)? else {
        return Ok(RecoveryState::Unknown);
    };
    Ok(match missing.is_empty() {
        true => RecoveryState::Enabled,
        false => RecoveryState::Incomplete { missing },
    })
}

/// What is missing, with what is missing in the storage; `None` while it is not known whether there is a backup and all else
/// is here.
fn missing(
    session: &Session,
    stored: BTreeSet<RecoverySecret>,
) -> Result<Option<Missing>, ClientError> {
    let mut here = missing_keys(session)?;
    let backup = session.read(|machine, snapshot| machine.backup_status(snapshot))?;
    if here.is_empty() && !backup.known {
        return Ok(None);
    }
    let none = backup.known && backup.version.is_none();
    if !(none || backup.enabled && backup.has_key) {
        here.insert(RecoverySecret::BackupKey);
    }
    Ok(Some(Missing { here, stored, backup: none }))
}

/// The private keys of the identity that are not here, or not those of the published ones.
pub(crate) fn missing_keys(session: &Session) -> Result<BTreeSet<RecoverySecret>, ClientError> {
    let here = session.read(|machine, snapshot| machine.identity_keys_here(snapshot))?;
    let keys = RecoverySecret::ALL.into_iter().zip(here);
    Ok(keys.filter(|(_, here)| !here).map(|(secret, _)| secret).collect())
}

/// How things stand; asks the homeserver unless that has been done.
pub(crate) async fn current(session: &Session) -> Result<RecoveryState, ClientError> {
    let wanted = wants_asking(session, false);
    if wanted {
        ask(session).await?;
    }
    known(session)
}

/// Whether the homeserver is to be asked, by whoever does not wait for it only if it is time to.
fn wants_asking(session: &Session, in_background: bool) -> bool {
    let seen = lock(&session.recovery.seen);
    let now = Instant::now();
    let young = |stored: &Stored| now < stored.asked_at + STALE;
    let fresh = !seen.stale && seen.stored.as_ref().is_some_and(young);
    let put_off = in_background
        && (seen.running.is_some() || seen.asking || seen.not_before.is_some_and(|at| now < at));
    !fresh && !put_off
}

async fn ask(session: &Session) -> Result<(), ClientError> {
    let before = lock(&session.recovery.seen).changes;
    let data = AccountData::fetch(session).await?;
    let mut seen = lock(&session.recovery.seen);
    // What has changed meanwhile may not be in it.
    if seen.changes == before {
        seen.stored = Some(Stored::of(&data));
        seen.stale = false;
    }
    Ok(())
}

/// Asks without anybody waiting; tells when it has come.
fn ask_in_background(session: &Arc<Session>) {
    lock(&session.recovery.seen).asking = true;
    let session = session.clone();
    tokio::spawn(async move {
        let asked = ask(&session).await;
        {
            let mut seen = lock(&session.recovery.seen);
            seen.asking = false;
            seen.not_before = asked.is_err().then(|| Instant::now() + AGAIN);
        }
        if let Err(error) = asked {
            tracing::debug!(%error, "the recovery's state could not be asked for");
        }
        session.beat();
    });
}

/// Tells how recovery stands: see [`crate::Client::recovery_states`].
pub struct RecoveryStates {
    session: Weak<Session>,
    changes: Changes,
    last: Option<RecoveryState>,
}

impl RecoveryStates {
    pub(crate) fn new(session: &Arc<Session>) -> Self {
        Self { session: Arc::downgrade(session), changes: session.changes(), last: None }
    }

    /// The state as it is, at first; then each other one it becomes. States that are over before this is called again are left
    /// out. A homeserver that does not answer is no error: the state is [`RecoveryState::Unknown`] until it does.
    ///
    /// # Errors
    /// [`ClientError::Closed`]; those of the store.
    pub async fn next(&mut self) -> Result<RecoveryState, ClientError> {
        loop {
            let until = {
                let session = self.session.upgrade().ok_or(ClientError::Closed)?;
                if wants_asking(&session, true) {
                    ask_in_background(&session);
                }
                let state = known(&session)?;
                if self.last.as_ref() != Some(&state) {
                    self.last = Some(state.clone());
                    return Ok(state);
                }
                lock(&session.recovery.seen).not_before
            };
            let until = until.unwrap_or_else(|| Instant::now() + STALE);
            tokio::select! {
                changed = self.changes.wait() => changed?,
                () = sleep_until(until) => {}
            }
        }
    }
}

impl fmt::Debug for RecoveryStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecoveryStates").field("last", &self.last).finish_non_exhaustive()
    }
}
