//! Alice and Bob talk, Mallory is in the room at times, and everything goes wrong that can: the input is
//! the list of steps. At the end the faults stop, and then
//!
//! - the oracle has seen nothing on the wire that must not be there (W1-W6, W9);
//! - nothing is shown in another's name, and nothing that was not said;
//! - Mallory has no key for what was said when she was known to be out, or blocked;
//! - what was said can be read by whoever was in the room all the time, if the server told no lies;
//! - whatever went before, everybody can read what is said now.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use herold::{AppEvent, Engine, EngineError, MachineError};
use herold_crypto::{InboundGroupSession, SessionId};
use herold_store::{
    SnapshotExt as _,
    records::{InboundSessionKey, InboundSessionRecord},
};
use herold_testkit::Kill;
use ruma::{OwnedRoomId, OwnedTransactionId};
use serde_json::{Value, json};

use crate::network::{Fate, Network, PLAYERS};

const ALICE: usize = 0;
const BOB: usize = 1;
const MALLORY: usize = 2;
/// Longer stories are cut.
const MAX_STEPS: usize = 60;

/// One of the three.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Alice,
    Bob,
    Mallory,
}

/// What may happen.
#[derive(Arbitrary, Debug)]
enum Step {
    Say(Who),
    Sync(Who, Fate),
    Pump(Who, [Fate; 3]),
    Good(Who),
    Late(Who),
    Restart(Who),
    KillAt(Who, u8, bool),
    PowerLoss(Who),
    Rotate(Who),
    Replay(Who, u8),
    Wait(u16),
    WaitLong,
    /// Mallory or Bob goes, by herself or by Alice's hand.
    Out(bool, bool),
    Invite(bool),
    Join(bool),
    Block(bool),
    Unblock(bool),
    Gap,
    NoKeysLeft(Who),
    Announce(Who),
    Settle,
}

/// A message.
struct Said {
    sender: usize,
    text: String,
    txn_id: OwnedTransactionId,
    /// Mallory must never have the key.
    secret: bool,
    /// It need not have been sent.
    may_be_lost: bool,
}

/// The story so far.
struct Story {
    net: Network,
    room: OwnedRoomId,
    said: Vec<Said>,
    /// Who has Mallory's device blocked.
    blocks: [bool; 2],
    /// Bob has been in the room all the time, and nobody lost state that was not synchronous.
    bob_stayed: bool,
}

/// One run.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let net = Network::new();
    let room = net.room.as_str().try_into().expect("a room id");
    let mut story = Story { net, room, said: Vec::new(), blocks: [false; 2], bob_stayed: true };
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut input) else { break };
        if std::env::var_os("HEROLD_FUZZ_TELL").is_some() {
            eprintln!("{step:?}");
        }
        story.step(&step);
    }
    story.end();
}

impl Story {
    fn step(&mut self, step: &Step) {
        let net = &mut self.net;
        match step {
            Step::Say(who) => self.say(*who as usize),
            Step::Sync(who, fate) => drop(net.sync(*who as usize, *fate)),
            Step::Pump(who, fates) => drop(net.pump(*who as usize, fates)),
            Step::Good(who) => {
                net.sync(*who as usize, Fate::Arrives);
                net.pump(*who as usize, &[]);
            }
            Step::Late(who) => drop(net.deliver_late(*who as usize)),
            Step::Restart(who) => net.restart(*who as usize),
            Step::KillAt(who, ahead, after) => {
                let disk = &net.players[*who as usize].disk;
                let at = disk.commits() + u64::from(ahead % 6);
                disk.kill(if *after { Kill::After(at) } else { Kill::Before(at) });
            }
            Step::PowerLoss(who) => {
                net.lose_power(*who as usize);
                // What waits to be sent survives the death of the process, not this.
                for said in self.said.iter_mut().filter(|said| said.sender == *who as usize) {
                    said.may_be_lost = true;
                }
            }
            Step::Rotate(who) => {
                let room = self.room.clone();
                let done = self.command(*who as usize, |engine| {
                    engine.step(|machine, store, cx| machine.discard_room_key(store, cx, &room))
                });
                done.expect("a key can be discarded");
            }
            Step::Replay(who, which) => {
                let responses = &net.players[*who as usize].responses;
                if let Some(body) = responses.get(usize::from(*which) % responses.len().max(1)) {
                    let body = body.clone();
                    net.take_sync(*who as usize, &body);
                }
            }
            Step::Wait(seconds) => net.wait(u64::from(*seconds) * 100),
            Step::WaitLong => net.wait(8 * 24 * 3_600_000),
            Step::Out(mallory, kicked) => self.out(if *mallory { MALLORY } else { BOB }, *kicked),
            Step::Invite(mallory) => self.invite(if *mallory { MALLORY } else { BOB }),
            Step::Join(mallory) => self.join(if *mallory { MALLORY } else { BOB }),
            Step::Block(bob) => self.block(usize::from(*bob), true),
            Step::Unblock(bob) => self.block(usize::from(*bob), false),
            Step::Gap => net.server.force_gap(self.room.as_str()),
            Step::NoKeysLeft(who) => {
                let player = &net.players[*who as usize];
                let (user, device) = (player.user.clone(), player.device.clone());
                net.server.drop_one_time_keys(&user, &device);
            }
            Step::Announce(who) => {
                let user = net.players[*who as usize].user.clone();
                net.server.announce_devices(&user);
            }
            Step::Settle => net.settle(),
        }
    }

    /// A command; given again if the client died over it.
    fn command<T>(
        &mut self,
        who: usize,
        run: impl Fn(&mut Engine) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        for _ in 0..8 {
            if let Some(result) = self.net.run(who, &run) {
                return result;
            }
        }
        panic!("it dies again and again");
    }

    fn path(&self, action: &str) -> String {
        let room = herold_machine::percent_encode(self.room.as_str());
        format!("/_matrix/client/v3/rooms/{room}/{action}")
    }

    fn is(&self, who: usize, membership: &str) -> bool {
        let members = self.net.server.members_of(self.room.as_str(), membership);
        members.contains(&self.net.players[who].user)
    }

    fn say(&mut self, who: usize) {
        let text = format!("{who} says {}", self.said.len());
        let secret = self.is_secret(who);
        self.queue(who, text, secret);
    }

    /// Whether what this one says now is not for Mallory: she is blocked, or out and everybody knows.
    fn is_secret(&mut self, who: usize) -> bool {
        if who == MALLORY {
            return false;
        }
        let out = !self.is(MALLORY, "join") && !self.is(MALLORY, "invite");
        let told = !self.net.players[who].lied_to;
        self.blocks[who] || out && told && self.net.has_news(who) == Some(false)
    }

    fn queue(&mut self, who: usize, text: String, secret: bool) {
        let (room, content) = (self.room.clone(), json!({ "msgtype": "m.text", "body": text }));
        let txn_id = OwnedTransactionId::from(format!("t{}-{}", self.said.len(), room));
        let queued = self.command(who, |engine| {
            engine.step(|machine, store, cx| {
                let txn_id = Some(txn_id.clone());
                machine.queue_event(store, cx, &room, "m.room.message", &content, txn_id)
            })
        });
        match queued {
            Ok(_) => {
                let may_be_lost = who == MALLORY; // she may have been thrown out first
                self.said.push(Said { sender: who, text, txn_id, secret, may_be_lost });
            }
            Err(EngineError::Machine(MachineError::NotJoined | MachineError::UnknownRoom)) => {}
            Err(error) => panic!("nothing can be said: {error}"),
        }
    }

    /// Whoever comes may get what has not been encrypted yet.
    fn no_secret_any_more(&mut self, sender: Option<usize>) {
        let sent = self.sent();
        for said in &mut self.said {
            if sender.is_none_or(|sender| sender == said.sender) && !sent.contains_key(&said.txn_id)
            {
                said.secret = false;
            }
        }
    }

    fn out(&mut self, whom: usize, kicked: bool) {
        self.bob_stayed &= whom != BOB;
        if kicked {
            let body = json!({ "user_id": self.net.players[whom].user });
            self.net.call(ALICE, "POST", &self.path("kick"), &body);
        } else {
            self.net.call(whom, "POST", &self.path("leave"), &json!({}));
        }
    }

    fn invite(&mut self, whom: usize) {
        if whom == MALLORY {
            // Blocked or not is the client's own affair, and stands.
            let blocks = self.blocks;
            for (sender, blocked) in blocks.into_iter().enumerate() {
                if !blocked {
                    self.no_secret_any_more(Some(sender));
                }
            }
        }
        let body = json!({ "user_id": self.net.players[whom].user });
        self.net.call(ALICE, "POST", &self.path("invite"), &body);
    }

    fn join(&mut self, whom: usize) {
        self.net.call(whom, "POST", &self.path("join"), &json!({}));
    }

    fn block(&mut self, by: usize, blocked: bool) {
        let player = &self.net.players[MALLORY];
        let user: ruma::OwnedUserId = player.user.as_str().try_into().expect("a user id");
        let device: ruma::OwnedDeviceId = player.device.as_str().into();
        if !blocked {
            self.no_secret_any_more(Some(by));
        }
        let done = self.command(by, |engine| {
            engine
                .step(|machine, store, cx| machine.set_blocked(store, cx, &user, &device, blocked))
        });
        // A changed answer, or a leave, can have made the device unknown.
        self.blocks[by] = if done.is_ok() { blocked } else { false };
    }

    /// Which messages the server has accepted: their event ids.
    fn sent(&mut self) -> BTreeMap<OwnedTransactionId, String> {
        let mut sent = BTreeMap::new();
        for who in 0..PLAYERS {
            let events = self.command(who, |engine| {
                engine.read(|machine, store| machine.events_after(store, None, usize::MAX))
            });
            for (_, event) in events.expect("app events") {
                if let AppEvent::Sent { txn_id, event_id, .. } = event {
                    sent.insert(txn_id, event_id.to_string());
                }
            }
        }
        sent
    }

    fn end(&mut self) {
        for player in &self.net.players {
            player.disk.kill(Kill::Before(0)); // long past: there are no more kills
        }
        self.net.server.limit_requests(0, 0);
        self.net.wait(3 * 3_600_000);
        for by in [ALICE, BOB] {
            self.block(by, false);
        }
        for who in 0..PLAYERS {
            let user = self.net.players[who].user.clone();
            self.net.server.announce_devices(&user);
        }
        self.net.settle();
        self.net.wait(3 * 3_600_000);
        self.net.settle();
        self.secrets_are_kept();
        let lies = self.net.players.iter().any(|player| player.lied_to);
        if !lies && self.bob_stayed {
            self.all_can_be_read();
        }
        self.names_are_right();
        if lies {
            self.new_room();
        }
        self.all_understand_each_other();
        self.names_are_right();
        assert_eq!(self.net.oracle.violations(), [] as [String; 0]);
    }

    /// The ciphertexts the server has, by event id: session and text.
    fn ciphertexts(&self) -> BTreeMap<String, (SessionId, String)> {
        let events = self.net.server.events(self.room.as_str()).into_iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        events
            .map(|event| {
                let content = &event["content"];
                let session_id = SessionId::new(text(&content["session_id"]));
                (text(&event["event_id"]), (session_id, text(&content["ciphertext"])))
            })
            .collect()
    }

    /// Whether a client has the key of a message.
    fn has_key(&self, who: usize, session_id: &SessionId, ciphertext: &str) -> bool {
        let store = self.net.players[who].disk.image();
        let claims = InboundSessionKey::of(&self.room, session_id);
        let claims = store.list::<InboundSessionRecord>(&claims, usize::MAX).expect("readable");
        claims.into_iter().any(|(_, record)| {
            let session = InboundGroupSession::from_record(record.pickle.as_slice());
            session.expect("a good record").decrypt(ciphertext).is_ok()
        })
    }

    fn secrets_are_kept(&mut self) {
        let (sent, ciphertexts) = (self.sent(), self.ciphertexts());
        for said in self.said.iter().filter(|said| said.secret) {
            let Some(event_id) = sent.get(&said.txn_id) else { continue };
            let Some((session_id, ciphertext)) = ciphertexts.get(event_id) else { continue };
            let readable = self.has_key(MALLORY, session_id, ciphertext);
            assert!(!readable, "Mallory can read {:?}, which is not for her", said.text);
        }
    }

    fn all_can_be_read(&mut self) {
        let (sent, ciphertexts) = (self.sent(), self.ciphertexts());
        for said in &self.said {
            let Some(event_id) = sent.get(&said.txn_id) else {
                assert!(said.may_be_lost, "{:?} was never sent", said.text);
                continue;
            };
            let (session_id, ciphertext) = &ciphertexts[event_id];
            for who in [ALICE, BOB] {
                let readable = self.has_key(who, session_id, ciphertext);
                assert!(readable, "{who} cannot read {:?}", said.text);
            }
        }
    }

    /// What is shown was said, and by the one it is shown as.
    fn names_are_right(&mut self) {
        let mut said: BTreeMap<String, String> =
            self.net.texts.iter().map(|(user, text)| (text.clone(), user.clone())).collect();
        for said_now in &self.said {
            said.insert(said_now.text.clone(), self.net.players[said_now.sender].user.clone());
        }
        let room = self.room.clone();
        for who in 0..PLAYERS {
            let shown = self.command(who, |engine| {
                engine.read(|machine, store| machine.timeline(store, &room, usize::MAX))
            });
            for event in shown.expect("a timeline") {
                let (true, Ok(body)) = (event.encrypted, &event.body) else { continue };
                let content: Value = serde_json::from_str(&body.content).expect("JSON");
                let text = content["body"].as_str().unwrap_or_default();
                let by = said.get(text).map(String::as_str);
                assert_eq!(by, Some(event.sender.as_str()), "{text:?} in a wrong name");
            }
        }
    }

    /// The server has lied, perhaps about who is in the room: in a new one it does not.
    fn new_room(&mut self) {
        let body = json!({
            "preset": "private_chat",
            "initial_state": [{ "type": "m.room.encryption", "state_key": "",
                "content": { "algorithm": "m.megolm.v1.aes-sha2" } }],
        });
        let made = self.net.call(ALICE, "POST", "/_matrix/client/v3/createRoom", &body);
        let room = made["room_id"].as_str().expect("a room was made").to_owned();
        self.room = room.as_str().try_into().expect("a room id");
        self.said.clear();
        self.net.texts.clear();
    }

    fn all_understand_each_other(&mut self) {
        for who in [BOB, MALLORY] {
            if !self.is(who, "join") {
                self.invite(who);
                self.join(who);
            }
        }
        self.net.settle();
        // What cannot be read makes the session new, once an hour at most: the third try has to do.
        for attempt in 0..3 {
            let first = self.said.len();
            for who in 0..PLAYERS {
                self.queue(who, format!("{who} at last, {attempt}"), false);
            }
            self.net.settle();
            assert_eq!(self.said.len(), first + PLAYERS, "somebody is not in the room");
            match self.unreadable(first) {
                None => return,
                Some(what) if attempt == 2 => panic!("{what}"),
                Some(_) => self.net.wait(3 * 3_600_000),
            }
            self.net.settle();
        }
    }

    /// One of the messages from `first` on that somebody has no key for.
    fn unreadable(&mut self, first: usize) -> Option<String> {
        let (sent, ciphertexts) = (self.sent(), self.ciphertexts());
        for said in &self.said[first..] {
            let event_id = sent.get(&said.txn_id).expect("the last messages are sent");
            let (session_id, ciphertext) = &ciphertexts[event_id];
            for who in 0..PLAYERS {
                if !self.has_key(who, session_id, ciphertext) {
                    return Some(format!("{who} cannot read {:?}", said.text));
                }
            }
        }
        None
    }
}
