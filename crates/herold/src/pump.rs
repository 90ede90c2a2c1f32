//! The request pump: makes the requests the machine wants made, and gives it the answers.
//!
//! Which requests there are, and when a failed one is due again, is the machine's affair; it is all in
//! the store. The pump bounds how many are under way and how often an endpoint is called.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use herold_machine::{Answer, Outgoing};
use herold_store::StoreError;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    ClientError, TransportError,
    homeserver::{RESPONSE_LIMIT, backoff},
    pace::{self, Pace},
    session::Session,
};

/// How many requests are under way at most.
const MAX_PARALLEL: usize = 16;

/// How often an answer is offered to a store that fails.
const MAX_TAKES: u32 = 8;

/// How long the pump sleeps at most: the clock may have been put ahead meanwhile.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// How long it sleeps at least when it has nothing to do although the machine says it is time.
const MIN_SLEEP: Duration = Duration::from_millis(20);

/// Runs until the session closes or is logged out.
pub(crate) async fn run(session: Arc<Session>) {
    let mut closing = session.closing.subscribe();
    let mut waiting = VecDeque::new();
    let mut paces: HashMap<&'static str, Pace> = HashMap::new();
    let mut running = JoinSet::new();
    let mut idle_rounds = 0;
    let mut failures = 0;
    loop {
        if session.is_logged_out() {
            return;
        }
        session.awake().await;
        if *closing.borrow() {
            return;
        }
        match session.due_requests() {
            Err(ClientError::Store(StoreError::Suspended)) => continue,
            Ok(due) => {
                failures = 0;
                idle_rounds = if due.is_empty() { idle_rounds + 1 } else { 0 };
                waiting.extend(due);
            }
            Err(ClientError::Closed) => return,
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, "requests could not be read");
            }
        }
        while running.len() < MAX_PARALLEL
            && let Some(request) = waiting.pop_front()
        {
            let pause = pause(&mut paces, &request);
            running.spawn(exchange(session.clone(), request, pause));
        }
        let sleep = if failures > 0 { backoff(failures) } else { session.sleep(idle_rounds) };
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => return,
            () = session.wake_pump.notified() => idle_rounds = 0,
            Some(_) = running.join_next() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

impl Session {
    fn due_requests(&self) -> Result<Vec<Outgoing>, ClientError> {
        let outputs = self.with_engine(|engine| Ok(engine.due_requests()?))?;
        // What the pump itself has brought about needs no waking of the pump.
        for (_, event) in &outputs.events {
            self.outcomes.note(event);
        }
        if outputs.changed {
            self.beat();
        }
        Ok(outputs.reply)
    }

    /// How long the pump may sleep.
    fn sleep(&self, idle_rounds: u32) -> Duration {
        let until = self.with_engine(|engine| {
            let now = engine.now();
            Ok(engine.next_timeout()?.map(|next| next.saturating_since(now)))
        });
        match until {
            Ok(Some(until)) => {
                let floor = MIN_SLEEP * (1 << idle_rounds.min(8));
                until.max(floor).min(MAX_SLEEP)
            }
            Ok(None) | Err(_) => MAX_SLEEP,
        }
    }
}

/// How long a request has to wait so that its endpoint is not called too often. Sends are bounded by
/// what there is to send, so they need not wait.
fn pause(paces: &mut HashMap<&'static str, Pace>, request: &Outgoing) -> Duration {
    match request.kind() {
        "send" | "send_to_device" => Duration::ZERO,
        kind => paces.entry(kind).or_default().next(Instant::now()),
    }
}

/// Makes a request that is free again however this ends.
async fn exchange(session: Arc<Session>, request: Outgoing, pause: Duration) {
    let mut under_way = UnderWay { session: &session, request: &request, answered: false };
    pace::wait(pause).await;
    let limit = request.response_limit().unwrap_or(RESPONSE_LIMIT);
    let result = session.exchange(request.http.clone(), limit).await;
    let answer = match &result {
        Ok(response) => Answer::Response {
            status: response.status,
            retry_after_ms: response.retry_after_ms,
            body: &response.body,
        },
        Err(ClientError::Transport(TransportError::TooLarge { .. })) => Answer::OverLimit,
        Err(ClientError::Transport(_)) => Answer::Failed,
        Err(_) => return,
    };
    // The answer may be the only one of its kind (a claimed key): a full disk must not lose it.
    let mut attempt = 0;
    while attempt < MAX_TAKES {
        session.awake().await;
        if *session.closing.borrow() {
            return;
        }
        attempt += 1;
        match session.with_engine(|engine| Ok(engine.answer(&request, answer)?)) {
            Ok(outputs) => {
                under_way.answered = true;
                return session.publish(outputs);
            }
            Err(ClientError::Closed) => return,
            Err(ClientError::Store(StoreError::Suspended)) => attempt = 0,
            Err(error) => {
                tracing::warn!(%error, kind = request.kind(), "an answer could not be taken");
                tokio::time::sleep(backoff(attempt)).await;
            }
        }
    }
}

struct UnderWay<'a> {
    session: &'a Session,
    request: &'a Outgoing,
    answered: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // Closed: then nothing is under way anyhow.
            let _ = self.session.with_idle_engine(|engine| engine.abandon(&self.request.id));
            self.session.wake_pump.notify_one();
        }
    }
}
