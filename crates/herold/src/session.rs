//! [`Session`]: what all handles and tasks of one account share.
//!
//! The engine stands behind a mutex that is held for one step or one question, never while anything
//! is awaited. Everything else in here can be lost without loss.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use herold_crypto::{IdentityKeys, SecretString};
use herold_machine::{
    AppEvent, Context, HttpRequest, Machine, MachineError, Outputs, Pending, Step,
};
use herold_store::{Changed, Snapshot, Table, records::LoginRecord};
use herold_trust::Policy;
use ruma::{OwnedDeviceId, OwnedUserId};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use crate::{
    Changes, ClientError, Engine, Threads, TransportResponse,
    homeserver::{Homeserver, RESPONSE_LIMIT, Retry, success},
    outcomes::Outcomes,
    pace::Pace,
    recovery,
    tasks::Tasks,
};

/// What changed last, for those who wait.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pulse {
    /// Counts changes.
    pub(crate) generation: u64,
    /// The client is closed.
    pub(crate) closed: bool,
}

/// What all handles and tasks of one account share.
pub(crate) struct Session {
    pub(crate) user_id: OwnedUserId,
    pub(crate) device_id: OwnedDeviceId,
    pub(crate) identity_keys: IdentityKeys,
    pub(crate) homeserver: Homeserver,
    /// The deployment's policy: its floor holds also if the store's is laxer.
    pub(crate) deployment_policy: Policy,
    engine: Mutex<Option<Engine>>,
    /// Other processes have the store too.
    pub(crate) is_shared: bool,
    /// When the engine was last worked with.
    worked_at: Mutex<Instant>,
    /// The access token; `None` once logged out.
    token: Mutex<Option<SecretString>>,
    logged_out: AtomicBool,
    /// This process has synced.
    pub(crate) synced: AtomicBool,
    /// Beats whenever something has changed.
    pulse: watch::Sender<Pulse>,
    /// The tasks are to end.
    pub(crate) closing: watch::Sender<bool>,
    /// There may be requests to make.
    pub(crate) wake_pump: Notify,
    /// One sync round trip at a time.
    pub(crate) sync_turn: tokio::sync::Mutex<()>,
    /// A background round trip is to give way.
    pub(crate) sync_interrupt: Notify,
    pub(crate) sync_pace: Mutex<Pace>,
    /// One page of history at a time.
    pub(crate) page_turn: tokio::sync::Mutex<()>,
    pub(crate) outcomes: Outcomes,
    pub(crate) recovery: recovery::Watch,
    pub(crate) tasks: Mutex<Tasks>,
    /// The store is let go of until the app resumes.
    pub(crate) suspended: watch::Sender<bool>,
    /// A shared store was taken.
    pub(crate) taken: Notify,
}

impl Session {
    /// The session over a loaded engine.
    pub(crate) fn new(
        mut engine: Engine,
        login: &LoginRecord,
        homeserver: Homeserver,
        deployment_policy: Policy,
    ) -> Self {
        engine.set_workers(Arc::new(Threads::default()));
        let machine = engine.machine();
        Self {
            is_shared: engine.is_shared(),
            user_id: machine.user_id().to_owned(),
            device_id: machine.device_id().to_owned(),
            identity_keys: machine.identity_keys(),
            homeserver,
            deployment_policy,
            engine: Mutex::new(Some(engine)),
            worked_at: Mutex::new(Instant::now()),
            token: Mutex::new((!login.logged_out).then(|| login.access_token.clone())),
            logged_out: AtomicBool::new(login.logged_out),
            synced: AtomicBool::new(false),
            pulse: watch::Sender::new(Pulse::default()),
            closing: watch::Sender::new(false),
            wake_pump: Notify::new(),
            sync_turn: tokio::sync::Mutex::new(()),
            sync_interrupt: Notify::new(),
            sync_pace: Mutex::new(Pace::default()),
            page_turn: tokio::sync::Mutex::new(()),
            outcomes: Outcomes::default(),
            recovery: recovery::Watch::default(),
            tasks: Mutex::new(Tasks::default()),
            suspended: watch::Sender::new(false),
            taken: Notify::new(),
        }
    }

    /// Works with the engine, on the store. The lock is held meanwhile, the store a little longer if it is shared.
    pub(crate) fn with_engine<T>(
        &self,
        work: impl FnOnce(&mut Engine) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let (done, news, held) = {
            let mut guard = self.engine();
            let engine = guard.as_mut().ok_or(ClientError::Closed)?;
            let was_held = engine.is_held();
            let done = match engine.hold() {
                Ok(()) => work(engine),
                Err(error) => Err(error.into()),
            };
            *lock(&self.worked_at) = Instant::now();
            (done, engine.take_news(), engine.is_held() && !was_held)
        };
        if held {
            self.taken.notify_one();
        }
        if !news.is_nothing() {
            self.take_news(&news);
        }
        done
    }

    /// The engine, without the store.
    fn engine(&self) -> MutexGuard<'_, Option<Engine>> {
        match self.engine.lock() {
            Ok(guard) => guard,
            Err(poisoned) => {
                // A step panicked: nothing of it was committed, but caches may be half-way.
                self.engine.clear_poison();
                let mut guard = poisoned.into_inner();
                if let Some(engine) = guard.as_mut() {
                    engine.forget_cached();
                }
                guard
            }
        }
    }

    /// Works with what of the engine needs no store.
    pub(crate) fn with_idle_engine<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        self.engine().as_mut().map(work)
    }

    /// How long nothing has been done with the engine.
    pub(crate) fn idle_for(&self) -> Duration {
        lock(&self.worked_at).elapsed()
    }

    /// Other processes have changed something: whoever waits looks again.
    fn take_news(&self, news: &Changed) {
        if news.touches_table(Table::Login) && !self.is_logged_out() {
            match self.read(|machine, snapshot| machine.login(snapshot)) {
                Ok(login) if login.as_ref().is_none_or(|login| login.logged_out) => {
                    lock(&self.token).take();
                    self.logged_out.store(true, Ordering::Release);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the login could not be read"),
            }
        }
        if news.touches_table(Table::AppEvent) && self.outcomes.is_awaited() {
            match self.read(|machine, snapshot| machine.events_after(snapshot, None, usize::MAX)) {
                Ok(events) => events.iter().for_each(|(_, event)| self.outcomes.note(event)),
                Err(error) => tracing::warn!(%error, "outcomes could not be read"),
            }
        }
        self.beat();
        self.wake_pump.notify_one();
    }

    /// Asks the machine something.
    pub(crate) fn read<T>(
        &self,
        ask: impl FnOnce(&Machine, &dyn Snapshot) -> Result<T, MachineError>,
    ) -> Result<T, ClientError> {
        self.with_engine(|engine| Ok(engine.read(ask)?))
    }

    /// Makes a step and tells everybody who waits.
    pub(crate) fn step<T>(
        &self,
        decide: impl FnOnce(
            &mut Machine,
            &dyn Snapshot,
            &mut Context<'_>,
        ) -> Result<Step<Pending, T>, MachineError>,
    ) -> Result<T, ClientError> {
        let outputs = self.with_engine(|engine| Ok(engine.step(decide)?))?;
        Ok(self.publish(outputs))
    }

    /// Tells everybody who waits what a step has brought.
    pub(crate) fn publish<T>(&self, outputs: Outputs<T>) -> T {
        for (_, event) in &outputs.events {
            self.outcomes.note(event);
            if matches!(event, AppEvent::LoggedOut) {
                self.logged_out.store(true, Ordering::Release);
            }
        }
        if outputs.changed || !outputs.events.is_empty() {
            self.beat();
            self.wake_pump.notify_one();
        }
        outputs.reply
    }

    /// Wakes everybody who waits for a change.
    pub(crate) fn beat(&self) {
        self.pulse.send_modify(|pulse| pulse.generation = pulse.generation.wrapping_add(1));
    }

    pub(crate) fn changes(&self) -> Changes {
        Changes { pulse: self.pulse.subscribe() }
    }

    /// Waits until `check` finds something, looking again after each change.
    pub(crate) async fn wait_until<T>(
        &self,
        timeout: Duration,
        mut check: impl FnMut(&Self) -> Result<Option<T>, ClientError>,
    ) -> Result<T, ClientError> {
        let mut changes = self.changes();
        let deadline = deadline(timeout);
        loop {
            if let Some(found) = check(self)? {
                return Ok(found);
            }
            timeout_at(deadline, changes.wait()).await.map_err(|_| ClientError::Timeout)??;
        }
    }

    /// One exchange with the access token, whatever the status. A token that the homeserver does
    /// not know any more ends the session.
    pub(crate) async fn exchange(
        &self,
        http: HttpRequest,
        response_limit: usize,
    ) -> Result<TransportResponse, ClientError> {
        let token = self.token()?;
        let response = self.homeserver.exchange(http, Some(token), response_limit).await?;
        self.check_token(&response)?;
        Ok(response)
    }

    /// A call with the access token, tried again where that is safe; the answer whatever its status.
    pub(crate) async fn call_raw(
        &self,
        http: HttpRequest,
        retry: Retry,
        response_limit: usize,
    ) -> Result<TransportResponse, ClientError> {
        let token = self.token()?;
        let mut closing = self.closing.subscribe();
        let response = tokio::select! {
            response = self.homeserver.call(http, Some(&token), retry, response_limit) => response?,
            _ = closing.wait_for(|closing| *closing) => return Err(ClientError::Closed),
        };
        self.check_token(&response)?;
        Ok(response)
    }

    /// The body of a call's success.
    pub(crate) async fn call(
        &self,
        http: HttpRequest,
        retry: Retry,
    ) -> Result<Vec<u8>, ClientError> {
        let response = self.call_raw(http, retry, RESPONSE_LIMIT).await?;
        self.success(response)
    }

    /// The body of a success, else the error, without the access token in it.
    pub(crate) fn success(&self, response: TransportResponse) -> Result<Vec<u8>, ClientError> {
        let token = self.token().ok();
        success(response, token.as_ref().as_slice())
    }

    fn token(&self) -> Result<SecretString, ClientError> {
        if *self.closing.borrow() {
            return Err(ClientError::Closed);
        }
        lock(&self.token).clone().ok_or(ClientError::LoggedOut)
    }

    fn check_token(&self, response: &TransportResponse) -> Result<(), ClientError> {
        if response.status == 401
            && ClientError::from_answer(401, &response.body, &[]).is_matrix("M_UNKNOWN_TOKEN")
        {
            tracing::info!("the homeserver does not know the access token any more");
            self.end_login()?;
            return Err(ClientError::LoggedOut);
        }
        Ok(())
    }

    /// The server session is gone: remembers it and forgets the access token.
    pub(crate) fn end_login(&self) -> Result<(), ClientError> {
        lock(&self.token).take();
        if self.logged_out.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let record = self.read(|machine, snapshot| machine.login(snapshot))?;
        if let Some(mut record) = record {
            record.logged_out = true;
            record.access_token = SecretString::new(String::new());
            self.step(|machine, snapshot, cx| machine.set_login(snapshot, cx, &record))?;
        }
        self.beat();
        Ok(())
    }

    pub(crate) fn is_logged_out(&self) -> bool {
        self.logged_out.load(Ordering::Acquire)
    }

    /// Tells the tasks to end.
    pub(crate) fn begin_close(&self) {
        self.closing.send_replace(true);
    }

    /// Closes the store. The tasks must have ended.
    pub(crate) fn finish_close(&self) {
        let engine = lock(&self.engine).take();
        drop(engine);
        lock(&self.token).take();
        self.pulse.send_modify(|pulse| pulse.closed = true);
    }
}

/// Locks what no panic can leave half-way.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of a time span from now; a year from now if it is longer than that.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(Duration::from_hours(24 * 365))
}
