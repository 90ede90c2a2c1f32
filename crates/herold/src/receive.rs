//! Receiving: the timeline, single events, and the numbered events for the app.

use std::{sync::Arc, time::Duration};

use herold_machine::{AppEvent, Machine, RoomEvent};
use ruma::{EventId, RoomId};
use tokio::time::{Instant, timeout_at};

use crate::{
    Client, ClientError,
    homeserver::Retry,
    session::{Session, deadline},
    tasks::detached,
};

/// How many events for the app come at once.
const BATCH: usize = 256;

/// How long the sync has to show an event before it is fetched.
const FETCH_AFTER: Duration = Duration::from_millis(500);

/// How often it is fetched after that.
const FETCH_EVERY: Duration = Duration::from_secs(1);

/// How many older events are fetched at a time so that the homeserver gets to know an event.
const LOOK_BACK: u32 = 50;

impl Client {
    /// An event as it is in the store.
    ///
    /// # Errors
    /// Those of the store.
    pub fn event(
        &self,
        room: &RoomId,
        event_id: &EventId,
    ) -> Result<Option<RoomEvent>, ClientError> {
        self.session().read(|machine, snapshot| machine.room_event(snapshot, room, event_id))
    }

    /// Fetches one event from the homeserver, decrypts it if the key is there, and stores it. Needs no
    /// running sync: what a notification process does.
    ///
    /// # Errors
    /// [`ClientError::Matrix`] with `M_NOT_FOUND`, [`ClientError::Transport`].
    pub async fn fetch_event(
        &self,
        room: &RoomId,
        event_id: &EventId,
    ) -> Result<RoomEvent, ClientError> {
        let (session, room, event_id) =
            (self.session().clone(), room.to_owned(), event_id.to_owned());
        detached(async move { session.fetch_event(&room, &event_id).await }).await
    }

    /// Waits until an event is there and clear. When the sync does not show it, it is fetched, older
    /// events first if the homeserver does not know it. When the time is up, the event as it is then.
    ///
    /// # Errors
    /// [`ClientError::Timeout`] if the event is not there at all.
    pub async fn wait_for_event(
        &self,
        room: &RoomId,
        event_id: &EventId,
        timeout: Duration,
    ) -> Result<RoomEvent, ClientError> {
        let mut changes = self.changed();
        let end = deadline(timeout);
        let mut fetch_at = Instant::now() + FETCH_AFTER;
        let mut last = None;
        loop {
            if let Some(event) = self.event(room, event_id)? {
                if event.body.is_ok() {
                    return Ok(event);
                }
                last = Some(event);
            }
            let now = Instant::now();
            if now >= end {
                return last.ok_or(ClientError::Timeout);
            }
            if last.is_none() && now >= fetch_at {
                // Not found, no answer: the sync may still show it.
                let _ = timeout_at(end, self.find_event(room, event_id)).await;
                fetch_at = Instant::now() + FETCH_EVERY;
                continue;
            }
            let wake = if last.is_none() { fetch_at.min(end) } else { end };
            if let Ok(changed) = timeout_at(wake, changes.wait()).await {
                changed?;
            }
        }
    }

    /// The last `limit` events of a room, newest last.
    ///
    /// # Errors
    /// Those of the store.
    pub fn timeline(&self, room: &RoomId, limit: usize) -> Result<Vec<RoomEvent>, ClientError> {
        self.session().read(|machine, snapshot| machine.timeline(snapshot, room, limit))
    }

    /// Fetches up to `count` events older than those in the timeline; newest last. None at the room's
    /// beginning.
    ///
    /// # Errors
    /// [`ClientError::UnknownRoom`], [`ClientError::Matrix`], [`ClientError::Transport`].
    pub async fn paginate(&self, room: &RoomId, count: u32) -> Result<Vec<RoomEvent>, ClientError> {
        let (session, room) = (self.session().clone(), room.to_owned());
        detached(async move { session.paginate(&room, count).await }).await
    }

    /// Events for the app after number `after` (from the oldest not acknowledged if `None`), 256 at
    /// most. They stay until acknowledged.
    ///
    /// # Errors
    /// Those of the store.
    pub fn events(&self, after: Option<u64>) -> Result<Vec<(u64, AppEvent)>, ClientError> {
        self.session().read(|machine, snapshot| machine.events_after(snapshot, after, BATCH))
    }

    /// The oldest events not yet acknowledged, 256 at most; waits when there are none, and answers
    /// with none when the time is up. Without [`Client::acknowledge`] the same come again.
    ///
    /// # Errors
    /// [`ClientError::Closed`]; those of the store.
    pub async fn next_events(
        &self,
        timeout: Duration,
    ) -> Result<Vec<(u64, AppEvent)>, ClientError> {
        let next = |session: &Session| {
            let events =
                session.read(|machine, snapshot| machine.events_after(snapshot, None, BATCH))?;
            Ok((!events.is_empty()).then_some(events))
        };
        match self.session().wait_until(timeout, next).await {
            Err(ClientError::Timeout) => Ok(Vec::new()),
            result => result,
        }
    }

    /// The app has dealt with all events up to this number: they go.
    ///
    /// # Errors
    /// Those of the store.
    pub fn acknowledge(&self, up_to: u64) -> Result<(), ClientError> {
        self.session().step(|machine, snapshot, cx| machine.acknowledge(snapshot, cx, up_to))
    }

    /// Fetches an event; if the homeserver does not know it, first fetches older events, which makes
    /// the homeserver ask others for them.
    async fn find_event(&self, room: &RoomId, event_id: &EventId) -> Result<(), ClientError> {
        match self.fetch_event(room, event_id).await {
            Err(error) if error.is_matrix("M_NOT_FOUND") => {
                self.paginate(room, LOOK_BACK).await.map(drop)
            }
            result => result.map(drop),
        }
    }
}

impl Session {
    async fn fetch_event(
        self: Arc<Self>,
        room: &RoomId,
        event_id: &EventId,
    ) -> Result<RoomEvent, ClientError> {
        let request = Machine::event_request(room, event_id);
        let body = self.call(request, Retry::Always).await?;
        self.step(|machine, snapshot, cx| {
            machine.handle_event(snapshot, cx, room, event_id, &body)
        })?;
        let event = self.read(|machine, snapshot| machine.room_event(snapshot, room, event_id))?;
        event.ok_or(ClientError::UnknownEvent)
    }

    async fn paginate(
        self: Arc<Self>,
        room: &RoomId,
        count: u32,
    ) -> Result<Vec<RoomEvent>, ClientError> {
        // Two pages at once would both begin at the same place.
        let _turn = self.page_turn.lock().await;
        let request =
            self.read(|machine, snapshot| machine.messages_request(snapshot, room, count))?;
        let Some(request) = request else { return Ok(Vec::new()) };
        let body = self.call(request, Retry::Always).await?;
        let ids =
            self.step(|machine, snapshot, cx| machine.handle_messages(snapshot, cx, room, &body))?;
        let mut events = Vec::with_capacity(ids.len());
        for id in ids {
            events.extend(self.read(|machine, snapshot| machine.room_event(snapshot, room, &id))?);
        }
        Ok(events)
    }
}
