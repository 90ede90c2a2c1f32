//! [`Engine`]: load, step, commit, release.
//!
//! The engine owns the store and the machine. Every input and command goes through [`Engine::step`],
//! which commits what the machine has decided before it hands anything out. It has no threads, no
//! tasks and no network, so a simulation drives it just as [`crate::Client`] does.
//!
//! Order of calls: [`Engine::create`] once for a new account, else [`Engine::load`]; then steps in any
//! order; [`Engine::due_requests`] after each step and whenever [`Engine::next_timeout`] has come;
//! [`Engine::answer`] for each request that was handed out, or [`Engine::abandon`].
//!
//! A store that other processes share is held while there is something to do: each step takes it,
//! [`Engine::let_go`] gives it to whoever is next.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use herold_crypto::Entropy;
use herold_machine::{
    Answer, AppEvent, Context, Machine, MachineError, Outgoing, Outputs, Pending, RequestId, Step,
    Workers,
};
use herold_store::{Changed, Snapshot, Store, StoreError, records::LoginRecord};
use herold_trust::{Policy, Timestamp};
use ruma::{OwnedDeviceId, OwnedUserId};

use crate::Clock;

/// How many times in a row the machine is asked to move on before others get a turn.
const MAX_ADVANCES: usize = 64;

/// Why the engine could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The store failed. The step has changed nothing; trying again is allowed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The machine refused. Nothing has changed.
    #[error(transparent)]
    Machine(MachineError),
    /// There is no account in the store.
    #[error("there is no account in the store")]
    NoAccount,
    /// There already is an account in the store.
    #[error("there is an account in the store already")]
    AccountExists,
}

impl From<MachineError> for EngineError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Store(error) => Self::Store(error),
            MachineError::NoAccount => Self::NoAccount,
            MachineError::AccountExists => Self::AccountExists,
            other => Self::Machine(other),
        }
    }
}

/// The machine on its store. See the module's documentation.
pub struct Engine {
    store: Box<dyn Store + Send>,
    machine: Machine,
    clock: Arc<dyn Clock>,
    clock_offset: Duration,
    entropy: Box<dyn Entropy + Send>,
    in_flight: BTreeSet<RequestId>,
    /// The machine has more to move on with than one turn allowed, or a turn failed.
    unfinished: bool,
    /// At this time the machine had nothing to move on with, and nothing has been committed since.
    quiet_at: Option<Timestamp>,
    /// The store is to be left alone until the host says otherwise.
    is_suspended: bool,
    /// What other processes have changed, and the machine has not been told.
    untold: Changed,
    /// What other processes have changed, and nobody has asked for.
    news: Changed,
}

impl Engine {
    /// Makes a new account with its first keys in an empty store, commits it, and loads it.
    ///
    /// # Errors
    /// [`EngineError::AccountExists`] if the store has one; those of the store.
    pub fn create(
        mut store: Box<dyn Store + Send>,
        user_id: OwnedUserId,
        device_id: OwnedDeviceId,
        policy: Policy,
        login: Option<LoginRecord>,
        clock: Arc<dyn Clock>,
        mut entropy: Box<dyn Entropy + Send>,
    ) -> Result<Self, EngineError> {
        // What others may have changed while it was let go of has been read by nobody.
        store.resume()?;
        let mut cx = Context { now: clock.now(), entropy: entropy.as_mut() };
        let step =
            Machine::create(store.snapshot(), &mut cx, user_id, device_id, policy, login.as_ref())?;
        step.commit(store.as_mut())?.into_outputs();
        Self::load(store, clock, entropy)
    }

    /// Loads the account that is in the store.
    ///
    /// # Errors
    /// [`EngineError::NoAccount`] if there is none; those of the store.
    pub fn load(
        mut store: Box<dyn Store + Send>,
        clock: Arc<dyn Clock>,
        entropy: Box<dyn Entropy + Send>,
    ) -> Result<Self, EngineError> {
        store.resume()?;
        let machine = Machine::load(store.snapshot())?.ok_or(EngineError::NoAccount)?;
        Ok(Self {
            store,
            machine,
            clock,
            clock_offset: Duration::ZERO,
            entropy,
            in_flight: BTreeSet::new(),
            unfinished: true,
            quiet_at: None,
            is_suspended: false,
            untold: Changed::nothing(),
            news: Changed::nothing(),
        })
    }

    /// Has the machine's arithmetic done by these workers: [`crate::Threads`], for instance. Without, it is done in turn
    /// by whoever makes a step.
    pub fn set_workers(&mut self, workers: Arc<dyn Workers>) {
        self.machine.set_workers(workers);
    }

    /// Takes the store, if it was let go of, and has the machine drop exactly what was made from rows that other
    /// processes have changed meanwhile. Every step does it by itself; who only wants to read does it first.
    ///
    /// # Errors
    /// [`StoreError::Suspended`] after [`Engine::suspend`]; [`StoreError::Locked`] if another process does not let
    /// go of the store in time; those of the store. Nothing is lost; trying again is allowed.
    pub fn hold(&mut self) -> Result<(), EngineError> {
        if self.is_suspended {
            return Err(StoreError::Suspended.into());
        }
        if self.store.is_suspended() {
            let changed = self.store.resume()?;
            self.untold.append(&changed);
        }
        if !self.untold.is_nothing() {
            self.machine.forget(self.store.snapshot(), &self.untold)?;
            let told = std::mem::take(&mut self.untold);
            self.news.append(&told);
            // There may be something to do that there was not.
            self.unfinished = true;
            self.quiet_at = None;
        }
        Ok(())
    }

    /// Lets go of a store that is shared, until the next step: another process can have it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn let_go(&mut self) -> Result<(), EngineError> {
        if self.store.is_shared() {
            self.store.suspend()?;
        }
        Ok(())
    }

    /// Lets go of the store, shared or not: no lock of a file is held any more. Steps are
    /// [`StoreError::Suspended`] until [`Engine::resume`].
    ///
    /// # Errors
    /// Those of the store.
    pub fn suspend(&mut self) -> Result<(), EngineError> {
        self.is_suspended = true;
        Ok(self.store.suspend()?)
    }

    /// Steps are possible again. The next one takes the store.
    pub fn resume(&mut self) {
        self.is_suspended = false;
    }

    /// Whether other processes may have the store in turn.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// Whether a shared store is held at the moment.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.store.is_shared() && !self.store.is_suspended()
    }

    /// Whether another process waits for the store.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.store.is_wanted()
    }

    /// What other processes have changed since this was last asked.
    pub fn take_news(&mut self) -> Changed {
        std::mem::take(&mut self.news)
    }

    /// The machine, for its getters that need no snapshot.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The store's committed state.
    #[must_use]
    pub fn snapshot(&self) -> &dyn Snapshot {
        self.store.snapshot()
    }

    /// The engine's time: the clock's, plus what [`Engine::advance_clock`] has added.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now().saturating_add(self.clock_offset)
    }

    /// Puts the engine's own time ahead. For tests; forgotten when the engine goes.
    pub fn advance_clock(&mut self, span: Duration) {
        self.clock_offset = self.clock_offset.saturating_add(span);
    }

    /// Asks the machine something. The store has to be held: see [`Engine::hold`].
    ///
    /// # Errors
    /// Those of the getter; [`StoreError::Suspended`].
    pub fn read<T>(
        &self,
        ask: impl FnOnce(&Machine, &dyn Snapshot) -> Result<T, MachineError>,
    ) -> Result<T, EngineError> {
        Ok(ask(&self.machine, self.store.snapshot())?)
    }

    /// Makes one step, commits it, and lets the machine move its send queue on. What comes back is
    /// durable: the reply, and the events of the step and of what followed from it.
    ///
    /// Moving on may fail (a full disk) after the step itself is durable. That does not undo the
    /// step, so it is no error here; the next [`Engine::due_requests`] tries again and says so.
    ///
    /// # Errors
    /// Those of the command or input, and of the store. Nothing has changed then.
    pub fn step<T>(
        &mut self,
        decide: impl FnOnce(
            &mut Machine,
            &dyn Snapshot,
            &mut Context<'_>,
        ) -> Result<Step<Pending, T>, MachineError>,
    ) -> Result<Outputs<T>, EngineError> {
        let mut outputs = self.commit_step(decide)?;
        if outputs.changed
            && let Err(error) = self.move_on(&mut outputs.events)
        {
            tracing::warn!(%error, "the send queue could not be moved on");
        }
        Ok(outputs)
    }

    /// Every request that is due and not under way, and what the app should know because time has
    /// passed. The requests count as under way from now on.
    ///
    /// # Errors
    /// Those of the store.
    pub fn due_requests(&mut self) -> Result<Outputs<Vec<Outgoing>>, EngineError> {
        self.hold()?;
        let mut events = Vec::new();
        let changed = self.move_on(&mut events)?;
        let mut due = self.machine.requests(self.store.snapshot(), self.now())?;
        due.retain(|request| !self.in_flight.contains(&request.id));
        if due.iter().any(Outgoing::is_noted) {
            self.commit_step(|machine, snapshot, cx| machine.note_asked(snapshot, cx, &due))?;
        }
        if self.store.is_shared() && due.iter().any(Outgoing::is_for_one) {
            self.commit_step(|machine, snapshot, cx| machine.put_off(snapshot, cx, &due))?;
        }
        self.in_flight.extend(due.iter().map(|request| request.id.clone()));
        Ok(Outputs { reply: due, events, changed })
    }

    /// Takes what came of a request, which then no longer counts as under way.
    ///
    /// # Errors
    /// Those of the store; the request still counts as under way: answer it again, for what came may
    /// not come twice, or [`Engine::abandon`] it.
    pub fn answer(
        &mut self,
        request: &Outgoing,
        answer: Answer<'_>,
    ) -> Result<Outputs<()>, EngineError> {
        let outputs = self
            .step(|machine, snapshot, cx| machine.handle_answer(snapshot, cx, request, answer))?;
        self.in_flight.remove(&request.id);
        Ok(outputs)
    }

    /// A request was not made, or its answer is of no interest any more: it is due again.
    pub fn abandon(&mut self, request: &RequestId) {
        self.in_flight.remove(request);
    }

    /// When [`Engine::due_requests`] should be called even if nothing happens; `None` for never.
    ///
    /// # Errors
    /// Those of the store.
    pub fn next_timeout(&self) -> Result<Option<Timestamp>, EngineError> {
        if self.unfinished {
            return Ok(Some(self.now()));
        }
        Ok(self.machine.next_timeout(self.store.snapshot(), self.now())?)
    }

    /// Forgets everything that is cached above the store; nothing is lost by it.
    pub fn forget_cached(&mut self) {
        self.machine.forget_cached();
    }

    /// Gives the store back.
    #[must_use]
    pub fn into_store(self) -> Box<dyn Store + Send> {
        self.store
    }

    fn commit_step<T>(
        &mut self,
        decide: impl FnOnce(
            &mut Machine,
            &dyn Snapshot,
            &mut Context<'_>,
        ) -> Result<Step<Pending, T>, MachineError>,
    ) -> Result<Outputs<T>, EngineError> {
        self.hold()?;
        let mut cx = Context { now: self.now(), entropy: self.entropy.as_mut() };
        let decided = decide(&mut self.machine, self.store.snapshot(), &mut cx);
        let step = self.decided(decided)?;
        self.commit(step)
    }

    /// What a step that failed had taken in before is nowhere but in the caches: they go.
    fn decided<T>(
        &mut self,
        decided: Result<Step<Pending, T>, MachineError>,
    ) -> Result<Step<Pending, T>, EngineError> {
        if decided.is_err() {
            self.machine.forget_cached();
        }
        Ok(decided?)
    }

    fn commit<T>(&mut self, step: Step<Pending, T>) -> Result<Outputs<T>, EngineError> {
        self.quiet_at = None;
        match step.commit(self.store.as_mut()) {
            Ok(step) => Ok(step.into_outputs()),
            Err(error) => {
                self.machine.forget_cached();
                Err(error.into())
            }
        }
    }

    /// Lets the machine move on until it is quiet or the turn is over. Whether anything changed.
    fn move_on(&mut self, events: &mut Vec<(u64, AppEvent)>) -> Result<bool, EngineError> {
        let start = self.now();
        if self.quiet_at == Some(start) {
            return Ok(false);
        }
        self.unfinished = true;
        for round in 0..MAX_ADVANCES {
            let mut cx = Context { now: self.now(), entropy: self.entropy.as_mut() };
            let decided = self.machine.advance(self.store.snapshot(), &mut cx);
            let step = self.decided(decided)?;
            // Rows written as they already are would never end.
            if is_idle(&step, self.store.snapshot())? {
                self.unfinished = false;
                self.quiet_at = Some(start);
                return Ok(round > 0);
            }
            events.extend(self.commit(step)?.events);
        }
        Ok(true)
    }
}

/// Whether the step leaves every row as it is.
fn is_idle(step: &Step<Pending>, snapshot: &dyn Snapshot) -> Result<bool, StoreError> {
    for (table, key, value) in step.changes().iter() {
        if snapshot.get(table, key)?.as_deref() != value {
            return Ok(false);
        }
    }
    Ok(true)
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("user_id", &self.machine.user_id())
            .field("device_id", &self.machine.device_id())
            .field("in_flight", &self.in_flight.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "shared_engine_tests.rs"]
mod shared_tests;
