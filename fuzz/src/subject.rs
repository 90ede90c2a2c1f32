//! The device under test: a machine on a store in memory, and what has to hold after each input.

use herold_machine::{Context, Machine, MachineError, Outputs, Pending, RoomEvent, Step};
use herold_store::{
    MemoryStore, RecordKey as _, SnapshotExt as _, Table,
    records::{
        Decryption, DeviceRecord, EventRecord, InboundSessionKey, InboundSessionRecord, NameKey,
    },
};
use herold_trust::{KeySource, Timestamp};
use ruma::{OwnedRoomId, RoomId};
use serde_json::json;

use crate::{
    random::Entropy,
    records,
    scene::{Ready, scene},
};

/// A step may write so many bytes for each byte of its input...
const GROWTH: usize = 64;
/// ...and so many whatever its input is: the account with all its keys, and then some.
const GROWTH_BASE: usize = 256 * 1024;
/// After so many moves in a row the send queue must have come to rest.
const MAX_ADVANCES: usize = 64;

/// What decides a step.
type Decide<'a, T> = &'a dyn Fn(
    &mut Machine,
    &MemoryStore,
    &mut Context<'_>,
) -> Result<Step<Pending, T>, MachineError>;

/// A machine on its store.
pub struct Subject {
    /// The store.
    pub store: MemoryStore,
    machine: Machine,
    now: Timestamp,
}

impl Subject {
    /// The machine of the account in `store`.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn new(store: MemoryStore, now: Timestamp) -> Self {
        let machine = Machine::load(&store);
        let machine =
            machine.expect("records have changed: record the scene anew").expect("an account");
        Self { store, machine, now }
    }

    /// Alice after the conversation.
    #[must_use]
    pub fn alice() -> Self {
        let ready = scene();
        Self::new(ready.store.clone(), ready.now())
    }

    /// Asks the machine something.
    pub fn ask<T>(&self, ask: impl FnOnce(&Machine, &MemoryStore) -> T) -> T {
        ask(&self.machine, &self.store)
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Takes an input of `length` bytes: once in vain, as if the commit had failed, and then for good.
    /// `None` if it was refused.
    ///
    /// # Panics
    /// Something about the step is not as it must be.
    pub fn input<T>(&mut self, length: usize, decide: Decide<'_, T>) -> Option<Outputs<T>> {
        let position = crate::random::position();
        let lost = self.decide(decide).map(|step| touched(&step));
        self.machine.forget_cached();
        crate::random::go_back(position);
        let step = match self.decide(decide) {
            Ok(step) => step,
            Err(error) => {
                assert!(lost.is_err(), "taken first, then refused: {error}");
                assert!(
                    !matches!(error, MachineError::Store(_)),
                    "an input from outside passes for a fault of the store: {error}"
                );
                return None;
            }
        };
        assert_eq!(lost.ok(), Some(touched(&step)), "a step that was lost has left something");
        let mut written = 0;
        for (table, key, value) in step.changes().iter() {
            let Some(value) = value else { continue };
            written += key.len() + value.len();
            let read = records::decode(table, key, value);
            let (again, same) = (read.as_ref().ok(), (key.to_vec(), value.to_vec()));
            assert_eq!(again, Some(&same), "a row of {} cannot be read back", table.name());
        }
        assert!(written <= GROWTH_BASE + GROWTH * length, "{written} bytes written for {length}");
        Some(step.commit(&mut self.store).expect("memory takes a commit").into_outputs())
    }

    fn decide<T>(&mut self, decide: Decide<'_, T>) -> Result<Step<Pending, T>, MachineError> {
        let mut cx = Context { now: self.now, entropy: &mut Entropy };
        decide(&mut self.machine, &self.store, &mut cx)
    }

    /// Takes a sync response.
    pub fn sync(&mut self, body: &[u8]) -> bool {
        let taken =
            self.input(body.len(), &|machine, store, cx| machine.handle_sync(store, cx, body));
        taken.is_some()
    }

    /// Takes a sync response with this to-device event.
    pub fn to_device(&mut self, sender: &str, kind: &str, content: &str) -> bool {
        let (kind, sender) = (json!(kind), json!(sender));
        self.sync(
            format!(
                r#"{{"next_batch":"f","to_device":{{"events":[{{"type":{kind},"sender":{sender},"content":{content}}}]}}}}"#
            )
            .as_bytes(),
        )
    }

    /// Takes a sync response with this event in the room `shared`.
    pub fn room_event(&mut self, sender: &str, kind: &str, event_id: &str, content: &str) -> bool {
        let room = json!(scene().scene.shared).to_string();
        let (kind, sender, event_id) = (json!(kind), json!(sender), json!(event_id));
        self.sync(
            format!(
                r#"{{"next_batch":"f","rooms":{{"join":{{{room}:{{"timeline":{{"events":[{{"type":{kind},"sender":{sender},"event_id":{event_id},"origin_server_ts":1,"content":{content}}}]}}}}}}}}}}"#
            )
            .as_bytes(),
        )
    }

    /// Every event as it would be shown.
    ///
    /// # Panics
    /// One cannot be looked up.
    #[must_use]
    pub fn shown(&self) -> Vec<RoomEvent> {
        let keys = self.store.list::<EventRecord>(&[], usize::MAX).expect("readable events");
        keys.into_iter()
            .map(|(key, _)| {
                let event = self.machine.room_event(&self.store, &key.room_id, &key.event_id);
                event.expect("an event can be shown").expect("it is there")
            })
            .collect()
    }

    /// What has to hold at any time. `before` is the store before the input.
    ///
    /// # Panics
    /// It does not.
    pub fn check(&mut self, before: &MemoryStore) {
        self.getters();
        self.senders();
        self.pins(before);
        self.comes_to_rest();
    }

    /// All the questions there are; none may fail.
    fn getters(&self) {
        let (machine, store) = (&self.machine, &self.store);
        machine.requests(store, self.now).expect("requests");
        machine.next_timeout(store, self.now).expect("a time-out");
        machine.sync_request(store, 0).expect("a sync request");
        machine.events_after(store, None, usize::MAX).expect("app events");
        machine.queue(store).expect("a queue");
        machine.login(store).expect("a login");
        for (room_id, _) in machine.rooms(store).expect("rooms") {
            machine.timeline(store, &room_id, usize::MAX).expect("a timeline");
            machine.messages_request(store, &room_id, 10).expect("a request for history");
            for (user_id, _) in machine.members(store, &room_id).expect("members") {
                machine.devices(store, &user_id).expect("devices");
            }
        }
    }

    /// A plaintext is kept under the name of its session's owner, and of nobody else.
    fn senders(&self) {
        for (key, event) in self.store.list::<EventRecord>(&[], usize::MAX).expect("readable") {
            let Decryption::Decrypted { session_id, .. } = event.decryption else { continue };
            let claims = InboundSessionKey::of(&key.room_id, &session_id);
            let claims = self.store.list::<InboundSessionRecord>(&claims, usize::MAX);
            let claims = claims.expect("readable");
            let hers = claims.iter().any(|(_, claim)| {
                claim.source != KeySource::Olm || claim.sender.as_ref() == Some(&event.sender)
            });
            assert!(hers || claims.is_empty(), "kept in another's name");
        }
    }

    /// What was once believed of keys stands, whatever comes later.
    fn pins(&self, before: &MemoryStore) {
        let sessions = before.list::<InboundSessionRecord>(&[], usize::MAX).expect("readable");
        for (key, known) in sessions {
            let now = self.store.load::<InboundSessionRecord>(&key).expect("readable");
            let Some(now) = now else {
                let claims = InboundSessionKey::of(&key.room_id, &key.session_id);
                let claims = self.store.list::<InboundSessionRecord>(&claims, usize::MAX);
                assert!(claims.expect("readable").len() > 1, "a room key does not go");
                continue; // it has given way to another claim
            };
            assert_eq!(
                (&now.sender, now.sender_key, now.sender_ed25519),
                (&known.sender, known.sender_key, known.sender_ed25519),
                "a room key has another owner"
            );
            assert!(now.first_known_index <= known.first_known_index, "a room key got worse");
        }
        for (key, known) in before.list::<DeviceRecord>(&[], usize::MAX).expect("readable") {
            if let Some(now) = self.store.load::<DeviceRecord>(&key).expect("readable") {
                assert_eq!(now.device.keys, known.device.keys, "a known device has other keys");
            }
        }
    }

    /// The send queue comes to rest, with no error.
    fn comes_to_rest(&mut self) {
        for _ in 0..MAX_ADVANCES {
            let mut cx = Context { now: self.now, entropy: &mut Entropy };
            let step = self.machine.advance(&self.store, &mut cx).expect("moving on");
            let idle = step.changes().iter().all(|(table, key, value)| {
                use herold_store::Snapshot as _;
                self.store.get(table, key).expect("readable").as_deref() == value
            });
            if idle {
                return;
            }
            step.commit(&mut self.store).expect("memory takes a commit").into_outputs();
        }
        panic!("the send queue does not come to rest");
    }

    /// Sends to the room `shared`: everybody known is looked at, keys are made and shared.
    ///
    /// # Panics
    /// It fails for another reason than that Alice is not in the room.
    pub fn talk(&mut self) {
        let room: OwnedRoomId = scene().scene.shared.as_str().try_into().expect("a room id");
        let content = json!({ "msgtype": "m.text", "body": "x" });
        let queued = self.decide(&|machine, store, cx| {
            machine.queue_event(store, cx, &room, "m.room.message", &content, None)
        });
        match queued {
            Ok(step) => drop(step.commit(&mut self.store).expect("memory takes a commit")),
            Err(MachineError::NotJoined | MachineError::UnsupportedAlgorithm) => return,
            Err(error) => panic!("nothing can be sent any more: {error}"),
        }
        self.comes_to_rest();
        self.machine.requests(&self.store, self.now).expect("requests");
    }

    /// The genuine message arrives: with the objects that are cached, or without them.
    ///
    /// # Panics
    /// It does not.
    pub fn probe(mut self, cached: bool) {
        if !cached {
            self.machine.forget_cached();
        }
        self.arrives(scene());
    }

    fn arrives(&mut self, ready: &Ready) {
        let probe = &ready.scene.probe;
        let mut cx = Context { now: self.now, entropy: &mut Entropy };
        let step = self.machine.handle_sync(&self.store, &mut cx, probe.sync.as_bytes());
        let step = step.expect("a good sync").commit(&mut self.store);
        step.expect("memory takes a commit").into_outputs();
        let room = <&RoomId>::try_from(ready.scene.shared.as_str()).expect("a room id");
        let event_id = probe.event_id.as_str().try_into().expect("an event id");
        let event = self.machine.room_event(&self.store, room, event_id).expect("readable");
        let event = event.expect("the event is there");
        assert_eq!(event.sender.as_str(), ready.scene.bob.user_id);
        let body = event.body.expect("a genuine message can be read");
        assert!(body.content.contains(&probe.text), "another text was shown");
    }
}

/// The rows that a step touches, and what becomes of them. App events have other numbers when the machine
/// begins anew after a lost step, so of these only what they say is compared.
fn touched<T>(step: &Step<Pending, T>) -> Vec<(Table, Vec<u8>, Option<Vec<u8>>)> {
    let counts = |name: &str| NameKey { name: name.to_owned() }.to_bytes();
    let counters = [counts("app_event"), counts("app_event_reserved")];
    let row = |(table, key, value): (Table, &[u8], Option<&[u8]>)| {
        let key = if table == Table::AppEvent { &[] } else { key };
        // Without a generator that goes back, other keys are drawn the second time.
        let value = value.filter(|_| cfg!(getrandom_backend = "custom"));
        (table, key.to_vec(), value.map(<[u8]>::to_vec))
    };
    let counted = |row: &(Table, &[u8], Option<&[u8]>)| {
        row.0 == Table::Counter && counters.iter().any(|counter| row.1 == counter.as_slice())
    };
    step.changes().iter().filter(|row| !counted(row)).map(row).collect()
}

/// Takes a sync body as a fuzz input: everything has to hold after it, it may come twice, and what is
/// genuine has to arrive after it.
///
/// # Panics
/// On a finding.
pub fn sync_twice(body: &[u8], sync: impl Fn(&mut Subject) -> bool) {
    crate::random::restart(0);
    let mut subject = Subject::alice();
    let before = subject.store.clone();
    let taken = sync(&mut subject);
    if taken {
        subject.check(&before);
        let shown = subject.shown();
        assert!(sync(&mut subject), "taken once, refused the second time");
        subject.check(&before);
        assert_eq!(subject.shown(), shown, "the same input again has changed what is shown");
        if body.len() % 4 == 0 {
            subject.talk();
            subject.check(&before);
        }
    } else {
        assert_eq!(records::rows(&subject.store), records::rows(&before), "a refused input");
        if body.len() % 8 != 0 {
            return; // most refusals are alike, and the probe is what costs
        }
    }
    subject.probe(body.len() % 2 == 0);
}
