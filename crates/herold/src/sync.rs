//! The background sync: a long poll at a time, with back-off.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use herold_machine::{SyncMode, SyncReport};
use herold_store::StoreError;
use tokio::{sync::watch, time::Instant};

use crate::{
    ClientError,
    homeserver::{RESPONSE_LIMIT, backoff, retry_after},
    pace,
    session::{Session, lock},
};

/// How long the homeserver may wait for news.
const LONG_POLL: Duration = Duration::from_secs(30);

/// The longest `Retry-After` that is kept.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// How often a round trip is begun again because another process was quicker.
const MAX_OVERTAKEN: usize = 20;

/// A failed round trip.
pub(crate) struct Failure {
    pub(crate) error: ClientError,
    retry_after: Option<Duration>,
}

impl<E: Into<ClientError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into(), retry_after: None }
    }
}

/// Syncs until it is stopped, the session closes or is logged out.
pub(crate) async fn run(session: Arc<Session>, mut stop: watch::Receiver<bool>) {
    let mut closing = session.closing.subscribe();
    let mut failures = 0;
    // The first one says at once whether there is news.
    let mut timeout = Duration::ZERO;
    loop {
        session.awake().await;
        let result = {
            let _turn = session.sync_turn.lock().await;
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                _ = closing.wait_for(|closing| *closing) => return,
                () = session.asleep() => continue,
                // The turn goes to whoever has waited for it longest.
                () = session.sync_interrupt.notified() => continue,
                result = round_trip(&session, timeout) => result,
            }
        };
        let failure = match result {
            Ok(_) => {
                failures = 0;
                timeout = LONG_POLL;
                continue;
            }
            Err(failure) => failure,
        };
        if matches!(failure.error, ClientError::LoggedOut | ClientError::Closed) {
            return;
        }
        if matches!(failure.error, ClientError::Store(StoreError::Suspended)) {
            continue;
        }
        failures += 1;
        tracing::warn!(error = %failure.error, failures, "sync failed");
        let asked = failure.retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = closing.wait_for(|closing| *closing) => return,
            () = tokio::time::sleep(backoff(failures).max(asked)) => {}
        }
    }
}

/// One round trip, processed and committed. Dropping it before it is done changes nothing. The caller
/// holds the sync turn.
///
/// If another process that shares the store was quicker, what came is not taken: it is asked for again from where that
/// one has got to.
pub(crate) async fn round_trip(
    session: &Session,
    timeout: Duration,
) -> Result<SyncReport, Failure> {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let mode = session.read(|machine, snapshot| machine.sync_mode(snapshot))?;
    let mut has_started_over = false;
    // After the first time it is only asked what is there.
    for timeout_ms in std::iter::once(timeout_ms).chain([0; MAX_OVERTAKEN]) {
        let (asked, response) = loop {
            let pause = lock(&session.sync_pace).next(Instant::now());
            pace::wait(pause).await;
            let (asked, request) = session.read(|machine, snapshot| {
                let request = match mode {
                    SyncMode::V2 => machine.sync_request(snapshot, timeout_ms),
                    SyncMode::Sliding => machine.sliding_sync_request(snapshot, timeout_ms),
                };
                Ok((machine.sync_position(snapshot, mode)?, request?))
            })?;
            let response = session.exchange(request, RESPONSE_LIMIT).await?;
            if (200..300).contains(&response.status) {
                break (asked, response);
            }
            let retry_after = retry_after(&response);
            let error = match session.success(response) {
                Err(error) => error,
                Ok(_) => ClientError::Internal("a failure was a success"),
            };
            if mode == SyncMode::Sliding && error.is_matrix("M_UNKNOWN_POS") && !has_started_over {
                has_started_over = true;
                session.step(|machine, snapshot, cx| {
                    machine.handle_unknown_position(snapshot, cx, &asked)
                })?;
                continue;
            }
            return Err(Failure { error, retry_after });
        };
        let report = session.step(|machine, snapshot, cx| {
            machine.handle_response(snapshot, cx, &asked, &response.body)
        })?;
        if let Some(report) = report {
            session.synced.store(true, Ordering::Release);
            if report.secret_storage {
                session.recovery.has_changed();
            }
            session.beat();
            return Ok(report);
        }
        tracing::debug!("another process has synced meanwhile");
    }
    Err(ClientError::Timeout.into())
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
