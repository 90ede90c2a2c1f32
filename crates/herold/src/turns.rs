//! Taking turns with other processes that share the store, and letting go of it altogether.
//!
//! A shared store is held while there is work, a moment longer in case there is more, and not while somebody else
//! waits for it. No lock outlives its process, so there is nothing to renew and nothing that expires.

use std::{sync::Arc, time::Duration};

use crate::{Client, ClientError, session::Session, tasks::detached};

/// A shared store is held for so long after the last work.
const LINGER: Duration = Duration::from_millis(50);

/// How often it is looked whether that is over, or somebody waits.
const LOOK: Duration = Duration::from_millis(10);

/// Lets go of a shared store when nothing is being done, or somebody waits. Runs until the session closes.
pub(crate) async fn run(session: Arc<Session>) {
    let mut closing = session.closing.subscribe();
    loop {
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => return,
            () = session.taken.notified() => {}
        }
        // Whoever waits gets it at the next look: between two looks there is time for a good many steps.
        loop {
            tokio::time::sleep(LOOK).await;
            let idle = session.idle_for() >= LINGER;
            let held = session.with_idle_engine(|engine| {
                if engine.is_held() && (idle || engine.is_wanted()) {
                    engine.let_go().is_err()
                } else {
                    engine.is_held()
                }
            });
            match held {
                None => return,
                Some(false) => break,
                Some(true) => {}
            }
        }
    }
}

impl Client {
    /// Lets go of the store and rests: when it returns, no lock of a file is held, and no request is being made by the
    /// background sync. For an app that the system is about to freeze, and would kill for a lock it holds. Until
    /// [`Client::resume`] whatever needs the store is [`ClientError::Store`] with
    /// [`StoreError::Suspended`](crate::StoreError::Suspended); answers that come meanwhile wait. Doing it again is no
    /// error.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn suspend(&self) -> Result<(), ClientError> {
        let session = self.session().clone();
        detached(async move {
            session.suspended.send_replace(true);
            match session.with_idle_engine(|engine| engine.suspend()) {
                None => Err(ClientError::Closed),
                Some(suspended) => Ok(suspended?),
            }
        })
        .await
    }

    /// Goes on after [`Client::suspend`]: takes the store, learns what others have changed meanwhile, syncs and
    /// sends. No error if it was not suspended.
    ///
    /// # Errors
    /// [`ClientError::Closed`]; [`ClientError::Store`] with [`StoreError::Locked`](crate::StoreError::Locked) if another
    /// process does not let go of the store: the client goes on by itself once it does.
    pub async fn resume(&self) -> Result<(), ClientError> {
        let session = self.session().clone();
        detached(async move {
            session.with_idle_engine(crate::Engine::resume).ok_or(ClientError::Closed)?;
            session.suspended.send_replace(false);
            session.wake_pump.notify_one();
            session.with_engine(|_| Ok(()))
        })
        .await
    }
}

impl Session {
    /// Comes back when the client is not suspended, or is closing.
    pub(crate) async fn awake(&self) {
        let (mut suspended, mut closing) = (self.suspended.subscribe(), self.closing.subscribe());
        tokio::select! {
            _ = suspended.wait_for(|suspended| !*suspended) => {}
            _ = closing.wait_for(|closing| *closing) => {}
        }
    }

    /// Comes back when the client is suspended.
    pub(crate) async fn asleep(&self) {
        let mut suspended = self.suspended.subscribe();
        let _ = suspended.wait_for(|suspended| *suspended).await;
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
