//! Commands about the key backup.

use herold_crypto::SecretString;
use herold_store::Snapshot;
use herold_trust::KeySource;

use crate::{
    Context, Imported, Machine, MachineError, Pending, RestoredKey, Step, key_backup, restored,
};

impl Machine {
    /// Begins to make a backup: replies with the body of `POST /room_keys/version`, with the same key until
    /// [`Machine::backup_created`].
    ///
    /// # Errors
    /// [`MachineError::UnknownIdentity`] if the private master key is not here; those of the store.
    pub fn prepare_backup(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending, String>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let body = key_backup::prepare(&mut txn)?;
        self.end(txn, body)
    }

    /// The homeserver has accepted what [`Machine::prepare_backup`] gave, as this version: every room key is uploaded to it.
    /// Replies `false` if nothing was prepared.
    ///
    /// # Errors
    /// Those of the store.
    pub fn backup_created(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        version: &str,
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let created = key_backup::created(&mut txn, version.to_owned())?;
        self.end(txn, created)
    }

    /// Takes the backup's private key. `version` is the body of `GET /room_keys/version`. Replies whether it is that backup's: then
    /// it is used; anything else changes nothing.
    ///
    /// # Errors
    /// Those of the store.
    pub fn import_backup_key(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        secret: &SecretString,
        version: &[u8],
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let taken = key_backup::import_key(&mut txn, secret, version)?;
        self.end(txn, taken)
    }

    /// The homeserver's backup is looked at again, whatever is known of it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn check_backup(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        key_backup::look_again(&mut txn)?;
        self.end(txn, ())
    }

    /// Takes room keys out of a backup or a file, and decrypts what waited for them. They prove nothing of who made
    /// them, and never take the place of what came by Olm.
    ///
    /// # Errors
    /// Those of the store.
    pub fn import_room_keys(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        keys: Vec<RestoredKey>,
        source: KeySource,
    ) -> Result<Step<Pending, Imported>, MachineError> {
        let source = if source == KeySource::Olm { KeySource::Imported } else { source };
        let mut txn = self.begin(snapshot, cx);
        let imported = restored::import(&mut txn, &mut self.hot, keys, source)?;
        self.end(txn, imported)
    }
}
