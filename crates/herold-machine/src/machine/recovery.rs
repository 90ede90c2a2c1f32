//! What was begun with the user's recovery: kept until it is done and the user has the new key.

use herold_store::{
    Snapshot, SnapshotExt as _,
    records::{Only, RecoveryRecord},
};

use crate::{Context, Machine, MachineError, Pending, Step};

impl Machine {
    /// What was begun with the recovery and is not done, or whose key the user has not confirmed to have.
    ///
    /// # Errors
    /// Those of the store.
    pub fn recovery_begun(
        &self,
        snapshot: &dyn Snapshot,
    ) -> Result<Option<RecoveryRecord>, MachineError> {
        Ok(snapshot.load(&Only)?)
    }

    /// Keeps what is begun with the recovery, in place of what was; with `None`, it is done.
    ///
    /// # Errors
    /// Those of the store.
    pub fn note_recovery(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        begun: Option<&RecoveryRecord>,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        match begun {
            Some(begun) => txn.put(&Only, begun),
            None if txn.contains::<RecoveryRecord>(&Only)? => txn.delete::<RecoveryRecord>(&Only),
            None => {}
        }
        // The homeserver is told of the key next.
        txn.require_full();
        self.end(txn, ())
    }
}
