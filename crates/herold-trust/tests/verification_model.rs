//! Model check of the verification flow: two honest parties, an adversary that delivers in any order,
//! loses and repeats messages, and users who confirm, deny or give up at any moment.
//!
//! Every interleaving within the bounds is walked. In none does one side end with verified keys unless
//! the user of the other side confirmed, and what is verified is always the other side's keys.

#![allow(clippy::unwrap_used, reason = "a failure to set the scene fails the test")]

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use herold_crypto::{Account, SeededEntropy};
use herold_trust::{
    CrossSigningKeys, CurrentKeys, Device, Identity, Methods, PartyKeys, Timestamp, Verification,
    VerificationMessage, VerificationState, VerifiedKey, parse_device_keys, parse_identity,
};
use ruma::{DeviceId, UserId, event_id, room_id};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn device(user: &UserId, id: &str) -> Device {
    let account = Account::new();
    let keys = account.identity_keys();
    let mut json = json!({
        "user_id": user,
        "device_id": id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {
            (format!("curve25519:{id}")): keys.curve25519.to_base64(),
            (format!("ed25519:{id}")): keys.ed25519.to_base64(),
        },
    });
    account.sign_json(user.as_str(), id, &mut json).unwrap();
    parse_device_keys(user, id.into(), &json).unwrap()
}

fn identity(user: &UserId, seed: u64) -> Identity {
    let body = CrossSigningKeys::generate(&mut SeededEntropy::new(seed)).upload_body(user).unwrap();
    let parsed = parse_identity(user, &body["master_key"], &body["self_signing_key"], None);
    Identity::pin(parsed.unwrap())
}

fn party(user: &str, id: &str, seed: u64) -> PartyKeys {
    let user = UserId::parse(user).unwrap();
    let none: [&DeviceId; 0] = [];
    PartyKeys::theirs(&device(&user, id), Some(&identity(&user, seed)), none).unwrap()
}

/// One message under way.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Letter {
    to: usize,
    kind: &'static str,
    content: String,
}

#[derive(Clone)]
struct World {
    flows: [Verification; 2],
    confirmed: [bool; 2],
    letters: Vec<Letter>,
    delivered: u8,
    lost: u8,
    repeated: u8,
}

/// How much the adversary and the users may do.
#[derive(Clone, Copy)]
struct Bounds {
    deliveries: u8,
    losses: u8,
    repetitions: u8,
    /// Whether the users scan codes too.
    scans: bool,
}

struct Check {
    parties: [PartyKeys; 2],
    bounds: Bounds,
    /// States that were walked, with the number of messages delivered so far.
    seen: HashMap<u128, u8>,
    steps: u64,
    succeeded: u64,
    one_sided: u64,
}

impl Check {
    fn new(parties: [PartyKeys; 2], bounds: Bounds) -> Self {
        Self { parties, bounds, seen: HashMap::new(), steps: 0, succeeded: 0, one_sided: 0 }
    }

    fn keys(&self, side: usize) -> CurrentKeys<'_> {
        CurrentKeys { ours: &self.parties[side], theirs: Some(&self.parties[1 - side]) }
    }

    fn key(&self, world: &World) -> u128 {
        let mut letters = world.letters.clone();
        letters.sort();
        let halves = [1u8, 2].map(|salt| {
            let mut hasher = DefaultHasher::new();
            salt.hash(&mut hasher);
            for (flow, confirmed) in world.flows.iter().zip(world.confirmed) {
                flow.to_record().as_slice().hash(&mut hasher);
                confirmed.hash(&mut hasher);
            }
            for letter in &letters {
                (letter.to, letter.kind, &letter.content).hash(&mut hasher);
            }
            (world.lost, world.repeated).hash(&mut hasher);
            hasher.finish()
        });
        u128::from(halves[0]) << 64 | u128::from(halves[1])
    }

    fn post(world: &mut World, from: usize, messages: Vec<VerificationMessage>) {
        world.letters.extend(messages.into_iter().map(|message| Letter {
            to: 1 - from,
            kind: message.event_type,
            content: message.content.to_string(),
        }));
    }

    fn deliver(&self, world: &mut World, letter: &Letter) {
        let content: Value = serde_json::from_str(&letter.content).unwrap();
        let sender = self.parties[1 - letter.to].user_id().to_owned();
        let keys = self.keys(letter.to);
        let out = world.flows[letter.to].handle(letter.kind, &content, &sender, None, keys, NOW);
        Self::post(world, letter.to, out);
    }

    /// The property.
    fn assert_sound(&mut self, world: &World) {
        let done = [0, 1].map(|side| match world.flows[side].state() {
            VerificationState::Done { verified } => Some(verified),
            _ => None,
        });
        for side in [0, 1] {
            let Some(verified) = &done[side] else { continue };
            assert!(world.confirmed[1 - side], "signed what the other side did not confirm");
            assert!(world.confirmed[side], "signed what this side did not confirm");
            assert!(!verified.is_empty());
            let other = &self.parties[1 - side];
            for key in verified {
                match key {
                    VerifiedKey::Device { user_id, device_id, .. } => {
                        assert_eq!(
                            (&**user_id, &**device_id),
                            (other.user_id(), other.device_id())
                        );
                    }
                    VerifiedKey::Master { user_id, .. } => assert_eq!(&**user_id, other.user_id()),
                }
            }
        }
        match done {
            [Some(_), Some(_)] => self.succeeded += 1,
            [Some(_), None] | [None, Some(_)] => self.one_sided += 1,
            [None, None] => {}
        }
    }

    /// One user scans the code that the other device shows.
    fn scan(&mut self, world: &World, side: usize) {
        if !self.bounds.scans {
            return;
        }
        let mut next = world.clone();
        let Some(code) = next.flows[1 - side].show_qr(&mut SeededEntropy::new(side as u64)) else {
            return;
        };
        let bytes = code.to_bytes();
        let keys = self.keys(side);
        if let Ok(out) = next.flows[side].scan_qr(bytes.as_slice(), keys, NOW) {
            next.confirmed[side] = next.flows[side].state() == VerificationState::Confirmed;
            Self::post(&mut next, side, out);
            self.walk(&next);
        }
    }

    fn walk(&mut self, world: &World) {
        let key = self.key(world);
        if self.seen.get(&key).is_some_and(|delivered| *delivered <= world.delivered) {
            return;
        }
        self.seen.insert(key, world.delivered);
        self.steps += 1;
        self.assert_sound(world);

        // The users.
        for side in [0, 1] {
            let state = world.flows[side].state();
            if state.is_over() {
                continue;
            }
            let mut acts: Vec<fn(&mut Verification, CurrentKeys<'_>) -> Vec<VerificationMessage>> =
                vec![|flow, _| flow.cancel()];
            match state {
                VerificationState::Requested { by_us: false } => {
                    acts.push(|flow, keys| flow.accept(Methods::ALL, keys, NOW));
                }
                VerificationState::Ready { .. } => {
                    acts.push(|flow, keys| flow.start_sas(keys, NOW));
                }
                VerificationState::KeysExchanged(_) | VerificationState::Scanned => {
                    acts.push(|flow, keys| flow.confirm(keys, NOW));
                    acts.push(|flow, _| flow.mismatch());
                }
                _ => {}
            }
            for act in acts {
                let mut next = world.clone();
                let before = next.flows[side].state();
                let out = act(&mut next.flows[side], self.keys(side));
                let after = next.flows[side].state();
                let asked = matches!(
                    before,
                    VerificationState::KeysExchanged(_) | VerificationState::Scanned
                );
                if asked && !matches!(after, VerificationState::Cancelled { .. }) {
                    next.confirmed[side] = true;
                }
                Self::post(&mut next, side, out);
                self.walk(&next);
            }
            self.scan(world, side);
        }

        // The adversary.
        if world.delivered == self.bounds.deliveries {
            return;
        }
        for at in 0..world.letters.len() {
            let mut next = world.clone();
            let letter = next.letters.remove(at);
            if world.lost < self.bounds.losses {
                let mut lost = next.clone();
                lost.lost += 1;
                self.walk(&lost);
            }
            if world.repeated < self.bounds.repetitions {
                let mut repeated = world.clone();
                repeated.repeated += 1;
                repeated.delivered += 1;
                self.deliver(&mut repeated, &letter);
                self.walk(&repeated);
            }
            next.delivered += 1;
            self.deliver(&mut next, &letter);
            self.walk(&next);
        }
    }
}

/// Both sides of a request that has arrived, ready to be walked from.
fn requested(check: &Check, entropy: &mut SeededEntropy) -> World {
    let [a, b] = &check.parties;
    let (room, event) = (room_id!("!room:example.org"), event_id!("$request"));
    let content = Verification::room_request(a, b.user_id(), Methods::ALL, "");
    let ours = Verification::request_in_room(
        a.clone(),
        b.user_id().to_owned(),
        room,
        event,
        Methods::ALL,
        NOW,
        entropy,
    );
    let theirs = Verification::receive_room_request(
        &content,
        a.user_id(),
        room,
        event,
        NOW,
        check.keys(1),
        NOW,
        entropy,
    );
    World {
        flows: [ours, theirs.unwrap()],
        confirmed: [false; 2],
        letters: Vec::new(),
        delivered: 0,
        lost: 0,
        repeated: 0,
    }
}

fn explore(parties: [PartyKeys; 2], bounds: Bounds) {
    let mut check = Check::new(parties, bounds);
    let world = requested(&check, &mut SeededEntropy::new(7));
    check.walk(&world);
    println!(
        "{} states, {} with success on both sides, {} on one so far",
        check.steps, check.succeeded, check.one_sided
    );
    assert!(check.steps > 1_000 && check.succeeded > 0);
}

fn users() -> [PartyKeys; 2] {
    [party("@alice:example.org", "ALICE", 1), party("@bob:example.org", "BOB", 2)]
}

#[test]
fn no_interleaving_of_a_whole_sas_signs_what_was_not_confirmed() {
    // Nine messages are a whole flow, one of them repeated is ten.
    explore(users(), Bounds { deliveries: 10, losses: 1, repetitions: 1, scans: false });
}

#[test]
fn no_interleaving_between_own_devices_signs_what_was_not_confirmed() {
    let parties =
        [party("@alice:example.org", "NEWER", 1), party("@alice:example.org", "OLDER", 1)];
    explore(parties, Bounds { deliveries: 9, losses: 1, repetitions: 0, scans: false });
}

#[test]
fn no_interleaving_of_scans_and_strings_signs_what_was_not_confirmed() {
    explore(users(), Bounds { deliveries: 8, losses: 1, repetitions: 1, scans: true });
}
