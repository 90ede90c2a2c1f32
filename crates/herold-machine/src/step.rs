//! [`Step`]: what one input or command has decided.
//!
//! A step comes out of the machine as `Step<Pending, T>`: a change set, and outputs nobody can read.
//! Committing it is the only way to a `Step<Durable, T>`, whose outputs can be read. So nothing leaves
//! the core before what it depends on is on disk.
//!
//! ```compile_fail
//! fn peek(step: herold_machine::Step<herold_machine::Pending, u8>) -> u8 {
//!     step.into_outputs().reply // a pending step has no such method
//! }
//! ```

use std::marker::PhantomData;

use herold_store::{ChangeSet, Store, StoreError};

use crate::AppEvent;

/// Marks a step that has not been committed.
#[derive(Debug)]
pub enum Pending {}

/// Marks a step that has been committed.
#[derive(Debug)]
pub enum Durable {}

/// One step of the machine. See the module's documentation.
#[must_use = "a step does nothing until it is committed"]
pub struct Step<S, T = ()> {
    changes: ChangeSet,
    outputs: Outputs<T>,
    state: PhantomData<S>,
}

/// What a durable step hands out.
#[derive(Debug)]
pub struct Outputs<T> {
    /// The answer to the command.
    pub reply: T,
    /// The new events for the app, with their numbers. They are in the store until acknowledged.
    pub events: Vec<(u64, AppEvent)>,
    /// The step changed something, so [`crate::Machine::requests`] may have changed.
    pub changed: bool,
}

impl<T> Step<Pending, T> {
    pub(crate) fn new(changes: ChangeSet, reply: T, events: Vec<(u64, AppEvent)>) -> Self {
        let changed = !changes.is_empty();
        Self { changes, outputs: Outputs { reply, events, changed }, state: PhantomData }
    }

    /// The changes the step wants committed, to look at in tests.
    #[must_use]
    pub fn changes(&self) -> &ChangeSet {
        &self.changes
    }

    /// Commits the changes in one transaction. An empty change set is not committed.
    ///
    /// # Errors
    /// Those of the store; the step is lost then and nothing has changed. The caller must call
    /// [`crate::Machine::forget_cached`] before the next step.
    pub fn commit<St: Store + ?Sized>(
        self,
        store: &mut St,
    ) -> Result<Step<Durable, T>, StoreError> {
        if !self.changes.is_empty() {
            store.commit(&self.changes)?;
        }
        Ok(Step { changes: ChangeSet::new(), outputs: self.outputs, state: PhantomData })
    }
}

impl<T> Step<Durable, T> {
    /// What may now be acted on.
    pub fn into_outputs(self) -> Outputs<T> {
        self.outputs
    }
}

impl<S, T> std::fmt::Debug for Step<S, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step").field("changes", &self.changes).finish_non_exhaustive()
    }
}
