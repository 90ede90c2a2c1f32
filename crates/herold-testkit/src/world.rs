//! [`World`]: devices, a homeserver and a network, in virtual time.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use herold::{
    Answer, AppEvent, Body, Clock, DecryptTrust, Engine, EngineError, Entropy, HttpRequest,
    MachineError, Method, Notice, OwnedEventId, OwnedRoomId, OwnedTransactionId, OwnedUserId,
    Policy, Recipients, RoomEvent, Timestamp,
};
use herold_crypto::{SecretString, SeededEntropy};
use herold_machine::{Outgoing, Piece, Workers};
use herold_store::{
    ScanControl, SnapshotExt as _,
    records::{Only, OutboxBodyRecord, QueueRecord, QueueState, SyncRecord},
};
use serde_json::{Value, json};

use crate::{
    Disk, Fate, Faults, Oracle,
    homeserver::{HomeServer, ServerRequest, ServerResponse},
    oracle::ciphertexts,
};

mod processes;

/// The world's clock. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct SimClock {
    millis: Arc<AtomicU64>,
    /// What a device's look at it takes.
    look: Arc<AtomicU64>,
}

impl SimClock {
    fn new() -> Self {
        let millis = Arc::new(AtomicU64::new(1_700_000_000_000));
        Self { millis, look: Arc::default() }
    }

    /// The time in milliseconds.
    #[must_use]
    pub fn millis(&self) -> u64 {
        self.millis.load(Ordering::SeqCst)
    }

    /// Lets time pass.
    pub fn advance(&self, span: Duration) {
        let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.millis.fetch_add(span, Ordering::SeqCst);
    }

    /// From now on a device that looks at it twice sees so many milliseconds pass, as real ones do.
    pub fn run(&self, millis: u64) {
        self.look.store(millis, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let look = self.look.load(Ordering::SeqCst);
        Timestamp::from_millis(self.millis.fetch_add(look, Ordering::SeqCst))
    }
}

/// A device in the world.
pub struct SimDevice {
    /// Its user.
    pub user_id: OwnedUserId,
    /// Its id.
    pub device_id: String,
    /// Its disk.
    pub disk: Disk,
    /// What the app was told, over all its lives.
    pub events: Vec<AppEvent>,
    /// How often it has died.
    pub deaths: u32,
    /// The place in the stream at which the server had its keys.
    pub published: Option<u64>,
    /// It synchronises by simplified sliding sync.
    pub sliding: bool,
    token: String,
    acknowledged: Option<u64>,
    engine: Option<Engine>,
    /// The process that has let go of the store, where two share it.
    other: Option<Engine>,
    online: bool,
    /// Queued, and not encrypted as far as is known.
    waiting: BTreeSet<OwnedTransactionId>,
}

/// Devices, a homeserver, a network. See the crate's documentation.
pub struct World {
    /// The homeserver.
    pub server: HomeServer,
    /// What the network does.
    pub faults: Faults,
    /// What watches.
    pub oracle: Oracle,
    /// The time.
    pub clock: SimClock,
    /// The devices.
    pub devices: Vec<SimDevice>,
    /// Changes every response of the server, for attacks: (device, path, response).
    #[allow(clippy::type_complexity)]
    pub tamper: Option<Box<dyn FnMut(usize, &str, &mut ServerResponse)>>,
    /// Every cache is dropped before every step.
    pub uncached: bool,
    /// New devices synchronise by simplified sliding sync.
    pub sliding: bool,
    entropy: SeededEntropy,
    late: Vec<(usize, Outgoing, ServerResponse)>,
    faults_met: u64,
    encrypted: Vec<Encrypted>,
    seed: u64,
}

/// The moment at which a queued message was encrypted.
#[derive(Clone, Debug)]
pub struct Encrypted {
    /// The device.
    pub device: usize,
    /// What it was queued under.
    pub txn_id: OwnedTransactionId,
    /// The place in the stream that the device had synced to.
    pub since: u64,
    /// The end of the stream then.
    pub position: u64,
    /// The server already had the event: it was encrypted anew after a power loss, for nothing.
    pub in_vain: bool,
}

/// Every other device has its arithmetic done in pieces, the last one first: that must make no difference.
fn set_workers(engine: &mut Engine, device: usize) {
    if device % 2 == 1 {
        engine.set_workers(Arc::new(Backwards));
    }
}

struct Backwards;

impl Workers for Backwards {
    fn width(&self) -> usize {
        3
    }

    fn least(&self) -> usize {
        1
    }

    fn run(&self, pieces: &mut [Piece]) {
        for piece in pieces.iter_mut().rev() {
            piece.work();
        }
    }
}

/// The policy that devices of the world start with: anybody's devices, so that a test needs no
/// cross-signing.
#[must_use]
pub fn open_policy() -> Policy {
    Policy {
        recipients: Recipients::AllDevices,
        decrypt_trust: DecryptTrust::Any,
        ..Policy::default()
    }
}

impl World {
    /// A world without devices. The same seed makes the same faults and ids.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            server: HomeServer::new("world.test", seed),
            faults: Faults::NONE,
            oracle: Oracle::default(),
            clock: SimClock::new(),
            devices: Vec::new(),
            tamper: None,
            uncached: false,
            sliding: false,
            entropy: SeededEntropy::new(seed),
            late: Vec::new(),
            faults_met: 0,
            encrypted: Vec::new(),
            seed,
        }
    }

    /// Logs a new device in, with [`open_policy`]. The user is registered if need be.
    pub fn add_device(&mut self, localpart: &str) -> usize {
        self.add_device_with(localpart, open_policy())
    }

    /// Logs a new device in, with a policy.
    pub fn add_device_with(&mut self, localpart: &str, policy: Policy) -> usize {
        self.add_device_on(localpart, policy, Disk::new())
    }

    /// Logs a new device in on a disk. If the disk's kill strikes at the very first commit, the device
    /// has no identity yet, and another log-in makes another device.
    pub fn add_device_on(&mut self, localpart: &str, policy: Policy, disk: Disk) -> usize {
        let user = self.server.register(localpart, "pw");
        loop {
            let login = self.call(
                None,
                "POST",
                "/_matrix/client/v3/login",
                json!({
                    "type": "m.login.password",
                    "identifier": { "type": "m.id.user", "user": user },
                    "password": "pw",
                }),
            );
            let device_id = login["device_id"].as_str().unwrap_or_default().to_owned();
            let token = login["access_token"].as_str().unwrap_or_default().to_owned();
            self.oracle.add_secret(&SecretString::new(token.clone()));
            let index = self.devices.len() as u64;
            let deaths = self.devices.len() as u64 * 1000;
            let engine = Engine::create(
                Box::new(disk.open()),
                user.as_str().try_into().expect("the server makes user ids"),
                device_id.as_str().into(),
                policy.clone(),
                None,
                Arc::new(self.clock.clone()),
                Box::new(SeededEntropy::new(self.seed ^ (index << 32) ^ deaths)),
            );
            let (engine, dead) = match engine {
                Ok(mut engine) => {
                    set_workers(&mut engine, self.devices.len());
                    (Some(engine), false)
                }
                Err(EngineError::AccountExists) => (None, true),
                Err(_) if disk.commits() > 0 => {
                    // Killed at the first commit: was it written?
                    let written = Engine::load(
                        Box::new(disk.open()),
                        Arc::new(self.clock.clone()),
                        Box::new(SeededEntropy::new(1)),
                    );
                    if written.is_err() {
                        continue;
                    }
                    (None, true)
                }
                Err(error) => panic!("a new device cannot be made: {error}"),
            };
            self.devices.push(SimDevice {
                user_id: user.as_str().try_into().expect("the server makes user ids"),
                device_id,
                disk,
                events: Vec::new(),
                deaths: u32::from(dead),
                published: None,
                sliding: self.sliding,
                token,
                acknowledged: None,
                engine,
                other: None,
                online: true,
                waiting: BTreeSet::new(),
            });
            return self.devices.len() - 1;
        }
    }

    /// A request outside of a device's engine: what the app does over HTTP itself. Not subject to
    /// faults. The JSON answer.
    pub fn call(&mut self, device: Option<usize>, method: &str, path: &str, body: Value) -> Value {
        let request = ServerRequest {
            method: method.to_owned(),
            path: path.to_owned(),
            query: Vec::new(),
            access_token: device.map(|device| self.devices[device].token.clone()),
            content_type: Some("application/json".to_owned()),
            body: body.to_string().into_bytes(),
        };
        let response = self.server.handle(self.clock.millis(), &request);
        serde_json::from_slice(&response.body).unwrap_or(Value::Null)
    }

    /// A request made by a device outside of its engine. Not subject to faults. The JSON answer.
    pub fn call_http(&mut self, device: usize, http: &HttpRequest) -> Value {
        let request = self.server_request(device, http);
        let response = self.server.handle(self.clock.millis(), &request);
        serde_json::from_slice(&response.body).unwrap_or(Value::Null)
    }

    /// Makes an encrypted room with these members: invited, joined, and seen by everybody.
    pub fn make_room(&mut self, devices: &[usize]) -> OwnedRoomId {
        self.make_room_with(devices, json!({}), "shared")
    }

    /// Makes an encrypted room with rotation settings and a history visibility.
    pub fn make_room_with(
        &mut self,
        devices: &[usize],
        rotation: Value,
        visibility: &str,
    ) -> OwnedRoomId {
        let mut encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        for (name, value) in rotation.as_object().into_iter().flatten() {
            encryption[name] = value.clone();
        }
        let owner = devices[0];
        let room = self.call(
            Some(owner),
            "POST",
            "/_matrix/client/v3/createRoom",
            json!({
                "preset": "private_chat",
                "initial_state": [
                    { "type": "m.room.encryption", "state_key": "", "content": encryption },
                    { "type": "m.room.history_visibility", "state_key": "",
                      "content": { "history_visibility": visibility } },
                ],
            }),
        );
        let room: OwnedRoomId =
            room["room_id"].as_str().unwrap_or_default().try_into().expect("a room was made");
        for &device in &devices[1..] {
            self.invite(owner, &room, device);
            self.join(device, &room);
        }
        self.settle();
        room
    }

    /// A device's user invites another's.
    pub fn invite(&mut self, by: usize, room: &OwnedRoomId, whom: usize) {
        let user = self.devices[whom].user_id.clone();
        self.call(Some(by), "POST", &room_path(room, "invite"), json!({ "user_id": user }));
    }

    /// A device's user joins.
    pub fn join(&mut self, device: usize, room: &OwnedRoomId) {
        self.call(Some(device), "POST", &room_path(room, "join"), json!({}));
    }

    /// A device's user leaves.
    pub fn leave(&mut self, device: usize, room: &OwnedRoomId) {
        self.call(Some(device), "POST", &room_path(room, "leave"), json!({}));
    }

    /// A device's user kicks another's.
    pub fn kick(&mut self, by: usize, room: &OwnedRoomId, whom: usize) {
        let user = self.devices[whom].user_id.clone();
        self.call(Some(by), "POST", &room_path(room, "kick"), json!({ "user_id": user }));
    }

    /// Queues a text message. Queued again after a death that left it open whether it was.
    pub fn queue(&mut self, device: usize, room: &OwnedRoomId, body: &str) -> OwnedTransactionId {
        let content = json!({ "msgtype": "m.text", "body": body });
        self.queue_event(device, room, "m.room.message", &content).expect("the room is known")
    }

    /// Queues an event.
    ///
    /// # Errors
    /// Those of the machine.
    pub fn queue_event(
        &mut self,
        device: usize,
        room: &OwnedRoomId,
        event_type: &str,
        content: &Value,
    ) -> Result<OwnedTransactionId, MachineError> {
        let mut id = [0; 8];
        self.entropy.fill(&mut id);
        let txn_id = OwnedTransactionId::from(format!("app{:016x}", u64::from_le_bytes(id)));
        for _ in 0..4 {
            self.start(device);
            self.devices[device].waiting.insert(txn_id.clone());
            let queued = self.with_engine(device, |engine| {
                engine.step(|machine, snapshot, cx| {
                    let txn_id = Some(txn_id.clone());
                    machine.queue_event(snapshot, cx, room, event_type, content, txn_id)
                })
            });
            match queued {
                Some(Ok(_)) => return Ok(txn_id),
                Some(Err(EngineError::Machine(error))) => {
                    self.devices[device].waiting.remove(&txn_id);
                    return Err(error);
                }
                _ => {} // it died; the app does not know, and asks again under the same id
            }
        }
        panic!("a device died four times over one message");
    }

    /// Sends a text message and lets the world settle. Answers the event's id.
    pub fn send(&mut self, device: usize, room: &OwnedRoomId, body: &str) -> OwnedEventId {
        let txn_id = self.queue(device, room, body);
        self.settle();
        self.sent(device, &txn_id)
            .unwrap_or_else(|| panic!("{body:?} was not sent: {:?}", self.devices[device].events))
    }

    /// The id of an event that was queued under `txn_id` and accepted.
    #[must_use]
    pub fn sent(&self, device: usize, txn_id: &OwnedTransactionId) -> Option<OwnedEventId> {
        self.devices[device].events.iter().find_map(|event| match event {
            AppEvent::Sent { txn_id: sent, event_id, .. } if sent == txn_id => {
                Some(event_id.clone())
            }
            _ => None,
        })
    }

    /// An event as a device shows it.
    pub fn event(
        &mut self,
        device: usize,
        room: &OwnedRoomId,
        event_id: &OwnedEventId,
    ) -> Option<RoomEvent> {
        self.with_engine(device, |engine| {
            engine.read(|machine, snapshot| machine.room_event(snapshot, room, event_id))
        })
        .and_then(Result::ok)
        .flatten()
    }

    /// The clear body of a message as a device shows it, or why there is none.
    pub fn text(
        &mut self,
        device: usize,
        room: &OwnedRoomId,
        event_id: &OwnedEventId,
    ) -> Result<String, String> {
        match self.event(device, room, event_id) {
            None => Err("not_there".to_owned()),
            Some(event) => match event.body {
                Ok(body) => {
                    let content: Value = serde_json::from_str(&body.content).unwrap_or_default();
                    Ok(content["body"].as_str().unwrap_or_default().to_owned())
                }
                Err(reason) => Err(reason.to_text()),
            },
        }
    }

    /// The bodies of a room's whole timeline as a device shows them, undecryptable ones left out.
    pub fn texts(&mut self, device: usize, room: &OwnedRoomId) -> Vec<String> {
        let events = self
            .with_engine(device, |engine| {
                engine.read(|machine, snapshot| machine.timeline(snapshot, room, 10_000))
            })
            .and_then(Result::ok)
            .unwrap_or_default();
        events
            .into_iter()
            .filter_map(|event| event.body.ok())
            .filter_map(|body| serde_json::from_str::<Value>(&body.content).ok())
            .filter_map(|content| content["body"].as_str().map(str::to_owned))
            .collect()
    }

    /// Runs a command on a device's engine.
    pub fn command<T>(
        &mut self,
        device: usize,
        run: impl FnOnce(&mut Engine) -> Result<T, EngineError>,
    ) -> Option<T> {
        self.with_engine(device, run).and_then(Result::ok)
    }

    /// Takes a device off the network, or puts it back.
    pub fn set_online(&mut self, device: usize, online: bool) {
        self.devices[device].online = online;
    }

    /// How many exchanges have gone wrong.
    #[must_use]
    pub fn faults_met(&self) -> u64 {
        self.faults_met
    }

    /// Ends a device's process; it starts again when it is next needed.
    pub fn restart(&mut self, device: usize) {
        self.end_process(device);
    }

    /// What was under way ends with the process: nobody is there to take late answers.
    fn end_process(&mut self, device: usize) {
        let sim = &mut self.devices[device];
        sim.engine = None;
        self.oracle.may_forget(sim.user_id.as_str(), &sim.device_id);
        self.late.retain(|(of, ..)| *of != device);
    }

    /// The power of a device fails.
    pub fn lose_power(&mut self, device: usize) {
        self.end_process(device);
        self.devices[device].other = None;
        self.devices[device].disk.lose_power();
    }

    /// The notices a device has given.
    #[must_use]
    pub fn notices(&self, device: usize) -> Vec<Notice> {
        self.devices[device]
            .events
            .iter()
            .filter_map(|event| match event {
                AppEvent::Notice(notice) => Some(notice.clone()),
                _ => None,
            })
            .collect()
    }

    /// Lets everybody sync and send until nothing is left to do. Time passes where somebody waits.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..2000 {
            let mut busy = false;
            for device in 0..self.devices.len() {
                busy |= self.pump(device);
                busy |= self.sync(device);
            }
            busy |= self.deliver_late();
            if busy {
                quiet = 0;
                continue;
            }
            // Somebody may be waiting for a time to come.
            let now = self.clock.millis();
            let mut times = Vec::new();
            for device in 0..self.devices.len() {
                if self.devices[device].online {
                    let time = self.with_engine(device, |engine| engine.next_timeout());
                    times.extend(time.and_then(Result::ok).flatten().map(Timestamp::as_millis));
                }
            }
            // Not for what ends when nobody answers, as a verification does.
            let soonest = times.into_iter().filter(|at| *at < now + 120_000).min();
            quiet += 1;
            match soonest {
                Some(at) if quiet < 20 => {
                    self.clock.advance(Duration::from_millis(at.saturating_sub(now).max(1)));
                }
                _ => return self.count_rows(),
            }
        }
        panic!("the world does not settle");
    }

    /// Has the oracle look at how much there is on the devices.
    fn count_rows(&mut self) {
        for sim in &self.devices {
            let Some(engine) = &sim.engine else { continue };
            for table in Oracle::bounded() {
                let mut rows = 0;
                let counted = engine.snapshot().scan(table, &[], None, &mut |_, _| {
                    rows += 1;
                    ScanControl::Continue(())
                });
                counted.expect("a store in memory");
                self.oracle.has_rows(&sim.device_id, table, rows);
            }
        }
    }

    /// Makes every request of a device that is due. Whether there was one.
    pub fn pump(&mut self, device: usize) -> bool {
        if !self.devices[device].online {
            return false;
        }
        let due = self.with_engine(device, |engine| engine.due_requests());
        let Some(Ok(due)) = due else { return true };
        let any = due.changed || !due.reply.is_empty();
        if due.changed {
            self.take_events(device);
        }
        for outgoing in due.reply {
            let (name, request) = names_of(&outgoing);
            let now = self.time_of(device);
            let sim = &self.devices[device];
            self.oracle.asks(sim.user_id.as_str(), &sim.device_id, now, &name, &request);
            let (fate, response) = self.exchange(device, &outgoing.http);
            match (fate, response) {
                (Fate::Delayed, Some(response)) => self.late.push((device, outgoing, response)),
                (Fate::Duplicated, Some(response)) => {
                    self.answer(device, &outgoing, Some(&response), true);
                    self.answer(device, &outgoing, Some(&response), true);
                }
                (_, response) => self.answer(device, &outgoing, response.as_ref(), true),
            }
        }
        any
    }

    /// One sync of a device. Whether it brought anything new, or failed.
    pub fn sync(&mut self, device: usize) -> bool {
        if !self.devices[device].online {
            return false;
        }
        let sliding = self.devices[device].sliding;
        let request = self.with_engine(device, |engine| {
            engine.read(|machine, snapshot| match sliding {
                true => machine.sliding_sync_request(snapshot, 0),
                false => machine.sync_request(snapshot, 0),
            })
        });
        let Some(Ok(request)) = request else { return true };
        if !self.server.has_news(&self.server_request(device, &request)) {
            return false;
        }
        let (fate, response) = self.exchange(device, &request);
        let Some(response) = response else { return true };
        if response.status != 200 {
            if sliding && response.status == 400 && has_errcode(&response, "M_UNKNOWN_POS") {
                self.with_engine(device, |engine| {
                    engine.step(|machine, snapshot, cx| machine.handle_unknown_pos(snapshot, cx))
                });
            }
            return true;
        }
        let times = if fate == Fate::Duplicated { 2 } else { 1 };
        for _ in 0..times {
            self.with_engine(device, |engine| {
                engine.step(|machine, snapshot, cx| match sliding {
                    true => machine.handle_sliding_sync(snapshot, cx, &response.body),
                    false => machine.handle_sync(snapshot, cx, &response.body),
                })
            });
        }
        self.take_events(device);
        true
    }

    /// Runs `run` on a device's engine, starting its process if need be. `None` if it died.
    fn with_engine<T>(
        &mut self,
        device: usize,
        run: impl FnOnce(&mut Engine) -> Result<T, EngineError>,
    ) -> Option<Result<T, EngineError>> {
        self.start(device);
        let sim = &mut self.devices[device];
        let engine = sim.engine.as_mut()?;
        if self.uncached {
            engine.forget_cached();
        }
        let result = run(engine);
        if sim.disk.is_dead() {
            sim.deaths += 1;
            self.end_process(device);
            return None;
        }
        self.note_encrypted(device);
        Some(result)
    }

    /// Notes which of the device's messages were waiting until now and are not any more.
    fn note_encrypted(&mut self, device: usize) {
        let sim = &mut self.devices[device];
        let Some(engine) = &sim.engine else { return };
        let snapshot = engine.snapshot();
        let rows = snapshot.list::<QueueRecord>(&[], usize::MAX).expect("the queue can be read");
        let mut ready: Vec<(OwnedTransactionId, bool)> = Vec::new();
        let (user, id) = (sim.user_id.as_str(), sim.device_id.as_str());
        for (_, row) in rows {
            match row.state {
                // After a power loss, perhaps for the second time.
                QueueState::Queued => drop(sim.waiting.insert(row.txn_id)),
                QueueState::Ready { .. } if sim.waiting.contains(&row.txn_id) => {
                    let (room, txn) = (row.room_id.as_str(), row.txn_id.as_str());
                    let in_vain = self.server.has_event_of(user, id, room, txn);
                    ready.push((row.txn_id, in_vain));
                }
                _ => {}
            }
        }
        if ready.is_empty() {
            return;
        }
        let token: Option<SyncRecord> = snapshot.load(&Only).expect("the token can be read");
        let since = token
            .and_then(|token| token.next_batch)
            .and_then(|token| HomeServer::position_of(&token))
            .unwrap_or(0);
        let position = self.server.position();
        for (txn_id, in_vain) in ready {
            sim.waiting.remove(&txn_id);
            self.encrypted.push(Encrypted { device, txn_id, since, position, in_vain });
        }
    }

    /// What was encrypted since this was last asked.
    pub fn take_encrypted(&mut self) -> Vec<Encrypted> {
        std::mem::take(&mut self.encrypted)
    }

    fn start(&mut self, device: usize) {
        let sim = &mut self.devices[device];
        if sim.engine.is_none() {
            let entropy = SeededEntropy::new(
                self.seed
                    ^ ((device as u64) << 32)
                    ^ (u64::from(sim.deaths) + 1) << 16
                    ^ sim.disk.commits(),
            );
            let engine = Engine::load(
                Box::new(sim.disk.open()),
                Arc::new(self.clock.clone()),
                Box::new(entropy),
            );
            match engine {
                Ok(mut engine) => {
                    set_workers(&mut engine, device);
                    sim.engine = Some(engine);
                }
                Err(error) => panic!("a device cannot be started again: {error}"),
            }
            // It may have died right after it had encrypted something.
            self.note_encrypted(device);
        }
    }

    /// The app takes its events and acknowledges them, which may bring more.
    fn take_events(&mut self, device: usize) {
        loop {
            let after = self.devices[device].acknowledged;
            let events = self.with_engine(device, |engine| {
                engine.read(|machine, snapshot| machine.events_after(snapshot, after, 10_000))
            });
            let Some(Ok(events)) = events else { return };
            let Some((last, _)) = events.last() else { return };
            let last = *last;
            self.devices[device].acknowledged = Some(last);
            for (_, event) in events {
                self.oracle.scan("an app event", &format!("{event:?}"));
                self.devices[device].events.push(event);
            }
            self.with_engine(device, |engine| {
                engine.step(|machine, snapshot, cx| machine.acknowledge(snapshot, cx, last))
            });
        }
    }

    /// Gives a device an answer, be it in time.
    fn answer(
        &mut self,
        device: usize,
        outgoing: &Outgoing,
        response: Option<&ServerResponse>,
        in_time: bool,
    ) {
        let limit = outgoing.response_limit().unwrap_or(usize::MAX);
        let answer = match response {
            None => Answer::Failed,
            Some(response) if response.body.len() > limit => Answer::OverLimit,
            Some(response) => Answer::Response {
                status: response.status,
                retry_after_ms: response.retry_after_ms,
                body: &response.body,
            },
        };
        let (user, id) =
            (self.devices[device].user_id.to_string(), self.devices[device].device_id.clone());
        let body = response.filter(|response| response.status == 200);
        let body = body.and_then(|body| serde_json::from_slice::<Value>(&body.body).ok());
        let (name, request) = names_of(outgoing);
        let wait = response.filter(|response| response.status == 429);
        let wait = wait.and_then(|response| response.retry_after_ms);
        let now = self.time_of(device);
        self.oracle.ended((&user, &id), now, (&name, &request), body.is_some(), wait);
        let mut gone = Vec::new();
        if let Some(body) = body.filter(|_| outgoing.http.path.ends_with("/keys/query")) {
            self.oracle.got_devices(&user, &id, &body);
            // A late answer may be too old to count.
            if in_time {
                gone = self.oracle.left_out(&user, &id, &json_of(&outgoing.http), &body);
            }
        }
        let before = if gone.is_empty() { BTreeSet::new() } else { self.outbox(device) };
        let taken = self.with_engine(device, |engine| engine.answer(outgoing, answer));
        if matches!(taken, Some(Ok(_))) {
            self.oracle.lost_devices(&user, &id, gone, &before);
        }
        self.take_events(device);
    }

    /// The time in milliseconds as a device has it.
    fn time_of(&self, device: usize) -> u64 {
        let engine = self.devices[device].engine.as_ref();
        engine.map_or(self.clock.millis(), |engine| engine.now().as_millis())
    }

    /// The ciphertexts that a device has made for others and not sent yet.
    fn outbox(&self, device: usize) -> BTreeSet<String> {
        let image = self.devices[device].disk.image();
        let rows = image.list::<OutboxBodyRecord>(&[], usize::MAX).expect("a store in memory");
        let bodies = rows.iter().filter_map(|(_, row)| serde_json::from_str(&row.body).ok());
        bodies.flat_map(|body| ciphertexts(&body)).collect()
    }

    fn deliver_late(&mut self) -> bool {
        let late = std::mem::take(&mut self.late);
        let any = !late.is_empty();
        for (device, outgoing, response) in late {
            self.answer(device, &outgoing, Some(&response), false);
        }
        any
    }

    fn exchange(&mut self, device: usize, http: &HttpRequest) -> (Fate, Option<ServerResponse>) {
        let request = self.server_request(device, http);
        let (user, id) =
            (self.devices[device].user_id.to_string(), self.devices[device].device_id.clone());
        let server = &self.server;
        let encrypted = |room: &str| {
            server.events(room).iter().any(|event| event["type"] == "m.room.encryption")
        };
        let url = http
            .query
            .iter()
            .fold(request.path.clone(), |url, (name, value)| format!("{url}&{name}={value}"));
        self.oracle.watch(&user, &id, &request.path, &request.body, &encrypted);
        self.oracle.scan("a URL", &url);
        let fate = self.faults.draw(&mut self.entropy);
        self.faults_met += u64::from(fate != Fate::Arrives);
        let now = self.clock.millis();
        let failure = |status: u16, errcode: &str, retry_after_ms| ServerResponse {
            status,
            retry_after_ms,
            content_type: "application/json".to_owned(),
            body: json!({ "errcode": errcode, "error": "a fault" }).to_string().into_bytes(),
        };
        let response = match fate {
            Fate::RequestLost => None,
            Fate::ServerError => Some(failure(502, "M_UNKNOWN", None)),
            Fate::Throttled => Some(failure(429, "M_LIMIT_EXCEEDED", Some(1500))),
            Fate::AnswerLost => {
                self.server.handle(now, &request);
                None
            }
            Fate::Truncated => {
                let mut response = self.server.handle(now, &request);
                let half = response.body.len() / 2;
                response.body.truncate(half);
                Some(response)
            }
            Fate::Duplicated => {
                self.server.handle(now, &request);
                Some(self.server.handle(now, &request))
            }
            Fate::Arrives | Fate::Delayed => Some(self.server.handle(now, &request)),
        };
        let sim = &mut self.devices[device];
        if sim.published.is_none() && self.server.has_device_keys(&user, &id) {
            sim.published = Some(self.server.position());
        }
        let response = response.map(|mut response| {
            if let Some(tamper) = &mut self.tamper {
                tamper(device, &request.path, &mut response);
            }
            response
        });
        (fate, response)
    }

    fn server_request(&self, device: usize, http: &HttpRequest) -> ServerRequest {
        let (content_type, body) = match &http.body {
            Body::Empty => (None, Vec::new()),
            Body::Json(text) => (Some("application/json".to_owned()), text.clone().into_bytes()),
            Body::Bytes { content_type, data } => (Some(content_type.clone()), data.clone()),
        };
        ServerRequest {
            method: match http.method {
                Method::Get => "GET",
                Method::Post => "POST",
                Method::Put => "PUT",
                Method::Delete => "DELETE",
            }
            .to_owned(),
            path: http.path.clone(),
            query: http.query.clone(),
            access_token: http.authenticated.then(|| self.devices[device].token.clone()),
            content_type,
            body,
        }
    }
}

fn json_of(http: &HttpRequest) -> Value {
    match &http.body {
        Body::Json(text) => serde_json::from_str(text).unwrap_or_default(),
        _ => Value::Null,
    }
}

/// What the oracle calls a request: its id, for to-device messages with the transaction, and the whole of it.
fn names_of(outgoing: &Outgoing) -> (String, String) {
    let http = &outgoing.http;
    let body = match &http.body {
        Body::Json(text) => text.as_str(),
        _ => "",
    };
    let name = match outgoing.id.as_str() {
        "sendToDevice" => http.path.clone(),
        id => id.to_owned(),
    };
    (name, format!("{} {body}", http.path))
}

fn has_errcode(response: &ServerResponse, errcode: &str) -> bool {
    let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    body["errcode"] == errcode
}

fn room_path(room: &OwnedRoomId, action: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/{action}", herold_machine::percent_encode(room.as_str()))
}
