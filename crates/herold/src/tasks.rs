//! [`Tasks`]: a session's background tasks, and work that goes on when nobody waits for it any more.

use std::{future::Future, sync::Arc};

use tokio::{sync::watch, task::JoinHandle};

use crate::{
    ClientError, pump,
    session::{Session, lock},
    sync, turns,
};

/// The tasks that run.
#[derive(Default)]
pub(crate) struct Tasks {
    pump: Option<JoinHandle<()>>,
    turns: Option<JoinHandle<()>>,
    sync: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl Tasks {
    /// The background sync is on.
    pub(crate) fn is_syncing(&self) -> bool {
        self.sync.as_ref().is_some_and(|(_, task)| !task.is_finished())
    }
}

/// Starts to make the requests the machine wants made.
pub(crate) fn start_pump(session: &Arc<Session>) {
    let task = tokio::spawn(pump::run(session.clone()));
    lock(&session.tasks).pump = Some(task);
    if session.is_shared {
        let task = tokio::spawn(turns::run(session.clone()));
        lock(&session.tasks).turns = Some(task);
        // It was taken before anybody watched.
        session.taken.notify_one();
    }
}

/// Starts to sync, unless it runs.
pub(crate) fn start_sync(session: &Arc<Session>) -> Result<(), ClientError> {
    if *session.closing.borrow() {
        return Err(ClientError::Closed);
    }
    if session.is_logged_out() {
        return Err(ClientError::LoggedOut);
    }
    let mut tasks = lock(&session.tasks);
    if !tasks.is_syncing() {
        let (stop, stopped) = watch::channel(false);
        tasks.sync = Some((stop, tokio::spawn(sync::run(session.clone(), stopped))));
    }
    Ok(())
}

/// Stops to sync, and waits until it has.
pub(crate) async fn stop_sync(session: &Session) {
    let running = lock(&session.tasks).sync.take();
    if let Some((stop, task)) = running {
        stop.send_replace(true);
        let _ = task.await;
    }
}

/// Ends all tasks and closes the store.
pub(crate) async fn close(session: &Session) {
    session.begin_close();
    stop_sync(session).await;
    let tasks = {
        let mut tasks = lock(&session.tasks);
        [tasks.pump.take(), tasks.turns.take()]
    };
    for task in tasks.into_iter().flatten() {
        let _ = task.await;
    }
    session.finish_close();
}

/// Does work to its end, even if whoever waits for it goes away meanwhile.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, ClientError>> + Send + 'static,
) -> Result<T, ClientError> {
    tokio::spawn(work).await.unwrap_or(Err(ClientError::Internal("a task ended early")))
}

/// Does what takes long without waiting for anything (arithmetic on much data, a derivation, the store's file) off the
/// runtime's own threads.
pub(crate) async fn blocking<T: Send + 'static, E: Into<ClientError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ClientError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ClientError::Internal("a task ended early"))?.map_err(Into::into)
}
