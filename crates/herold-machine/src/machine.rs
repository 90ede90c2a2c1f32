//! [`Machine`]: what it is, how it is made and loaded. Its inputs, commands and getters are in the modules below, what they do in those
//! beside this one.

mod backup;
mod commands;
mod dehydration;
mod events;
mod history;
mod identity;
mod inputs;
mod known;
mod recovery;
mod requests;
mod verification;

pub use known::{DeviceView, UserDevices};

use std::sync::Arc;

use herold_crypto::IdentityKeys;
use herold_store::{
    Changed, Snapshot, SnapshotExt as _, StoreError, Table,
    records::{AccountRecord, LoginRecord, Only, PolicyRecord},
};
use herold_trust::Policy;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use crate::{
    Context, MachineError, Pending, Step, Workers, account, hot::Hot, txn::Left, txn::Own, txn::Txn,
};

/// The state machine of one device. It holds nothing but caches: the state is in the store.
pub struct Machine {
    own: Own,
    policy: Policy,
    hot: Hot,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("user_id", &self.own.user_id)
            .field("device_id", &self.own.device_id)
            .finish_non_exhaustive()
    }
}

fn stored_policy(snapshot: &dyn Snapshot) -> Result<Policy, StoreError> {
    let record: Option<PolicyRecord> = snapshot.load(&Only)?;
    let missing = || StoreError::Corrupt("an account without a policy".to_owned());
    Ok(record.ok_or_else(missing)?.policy)
}

/// Making and loading.
impl Machine {
    /// Makes a new device: its identity, its first one-time keys and its fallback key. Commit the step,
    /// then [`Machine::load`].
    ///
    /// # Errors
    /// [`MachineError::AccountExists`] if the store has an account: one identity for a device id, for
    /// ever.
    pub fn create(
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: OwnedUserId,
        device_id: OwnedDeviceId,
        policy: Policy,
        login: Option<&LoginRecord>,
    ) -> Result<Step<Pending>, MachineError> {
        if snapshot.contains::<AccountRecord>(&Only)? {
            return Err(MachineError::AccountExists);
        }
        let record = account::make(user_id, device_id, cx.now)?;
        let own = Own::new((&record).into());
        let mut txn = Txn::new(snapshot, cx, own, Left::default());
        account::store(&mut txn, &record)?;
        txn.put(&Only, &PolicyRecord { policy });
        if let Some(login) = login {
            txn.put(&Only, login);
        }
        Ok(txn.finish(())?.0)
    }

    /// The machine of the account in the store; `None` if there is none.
    ///
    /// # Errors
    /// Those of the store.
    pub fn load(snapshot: &dyn Snapshot) -> Result<Option<Self>, MachineError> {
        let Some(account) = snapshot.load::<AccountRecord>(&Only)? else { return Ok(None) };
        let policy = stored_policy(snapshot)?;
        Ok(Some(Self { own: Own::new((&account).into()), policy, hot: Hot::default() }))
    }

    /// The account's user.
    #[must_use]
    pub fn user_id(&self) -> &UserId {
        &self.own.user_id
    }

    /// The device.
    #[must_use]
    pub fn device_id(&self) -> &DeviceId {
        &self.own.device_id
    }

    /// The device's public identity keys.
    #[must_use]
    pub fn identity_keys(&self) -> IdentityKeys {
        self.own.keys
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    fn begin<'a, 'c>(
        &mut self,
        snapshot: &'a dyn Snapshot,
        cx: &'a mut Context<'c>,
    ) -> Txn<'a, 'c> {
        // Should the step fail, the account is not put back, and is loaded anew.
        Txn::new(snapshot, cx, Own::clone(&self.own), std::mem::take(&mut self.hot.left))
    }

    fn end<T>(&mut self, txn: Txn<'_, '_>, reply: T) -> Result<Step<Pending, T>, MachineError> {
        let (step, left) = txn.finish(reply)?;
        self.hot.left = left;
        self.hot.forget_ahead();
        Ok(step)
    }

    /// Drops every cached object. To be called when a step has failed, was not committed or could not be, and
    /// when another process may have changed the store.
    pub fn forget_cached(&mut self) {
        self.hot.clear();
    }

    /// Has arithmetic that can be cut into pieces done by these workers. The outcome is the same; without, it is done in
    /// turn.
    pub fn set_workers(&mut self, workers: Arc<dyn Workers>) {
        self.hot.workers = workers;
    }

    /// Drops the cached objects that were made from rows which another process has changed, and takes its changes of
    /// the policy. To be called before the next step when a store was taken again.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if there is another account in the store now; those of the store. Everything cached is
    /// dropped then; call it again before the next step.
    pub fn forget(
        &mut self,
        snapshot: &dyn Snapshot,
        changed: &Changed,
    ) -> Result<(), MachineError> {
        let taken = self.take_changes(snapshot, changed);
        if taken.is_err() {
            self.forget_cached();
        }
        taken
    }

    fn take_changes(
        &mut self,
        snapshot: &dyn Snapshot,
        changed: &Changed,
    ) -> Result<(), MachineError> {
        if changed.touches_table(Table::Account) {
            let account: Option<AccountRecord> = snapshot.load(&Only)?;
            if account.is_none_or(|account| account.keys != self.own.keys) {
                return Err(StoreError::Corrupt("another account".to_owned()).into());
            }
        }
        if changed.touches_table(Table::Policy) {
            self.policy = stored_policy(snapshot)?;
        }
        self.hot.forget_changed(changed);
        Ok(())
    }

    /// How many live room keys were made from their records since the machine was loaded: a figure for tests of what
    /// stays cached.
    #[must_use]
    pub fn restored_room_keys(&self) -> u64 {
        self.hot.restored()
    }
}
