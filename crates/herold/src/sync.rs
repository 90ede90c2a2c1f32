//! The background sync: a long poll at a time, with back-off.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use herold_machine::{SyncMode, SyncReport};
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
        let result = {
            let _turn = session.sync_turn.lock().await;
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                _ = closing.wait_for(|closing| *closing) => return,
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
pub(crate) async fn round_trip(
    session: &Session,
    timeout: Duration,
) -> Result<SyncReport, Failure> {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let mode = session.read(|machine, snapshot| machine.sync_mode(snapshot))?;
    let mut has_started_over = false;
    let response = loop {
        let pause = lock(&session.sync_pace).next(Instant::now());
        pace::wait(pause).await;
        let request = session.read(|machine, snapshot| match mode {
            SyncMode::V2 => machine.sync_request(snapshot, timeout_ms),
            SyncMode::Sliding => machine.sliding_sync_request(snapshot, timeout_ms),
        })?;
        let response = session.exchange(request, RESPONSE_LIMIT).await?;
        if (200..300).contains(&response.status) {
            break response;
        }
        let retry_after = retry_after(&response);
        let error = match session.success(response) {
            Err(error) => error,
            Ok(_) => ClientError::Internal("a failure was a success"),
        };
        if mode == SyncMode::Sliding && error.is_matrix("M_UNKNOWN_POS") && !has_started_over {
            has_started_over = true;
            session.step(|machine, snapshot, cx| machine.handle_unknown_pos(snapshot, cx))?;
            continue;
        }
        return Err(Failure { error, retry_after });
    };
    let report = session.step(|machine, snapshot, cx| match mode {
        SyncMode::V2 => machine.handle_sync(snapshot, cx, &response.body),
        SyncMode::Sliding => machine.handle_sliding_sync(snapshot, cx, &response.body),
    })?;
    session.synced.store(true, Ordering::Release);
    session.beat();
    Ok(report)
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
