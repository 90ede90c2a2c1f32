//! What the stories of dehydrated devices share.

#![allow(dead_code)]

use herold::{OwnedEventId, OwnedRoomId, SecretString};
use herold_crypto::{OlmSession, curve25519_from_base64};
use herold_machine::DehydrationStatus;
use herold_store::records::{RehydrationOutcome, RehydrationRefusal};
use herold_testkit::{Attacker, World};
use serde_json::{Value, json};

use crate::identity_common::{SECRETS, bootstrap, import, secret};

pub const KEY: &str = "org.matrix.msc3814";
/// The end of the path of the device, and what is in the path of its events.
pub const DEVICE: &str = "/dehydrated_device";
pub const EVENTS: &str = "/events";

/// What a new device is given out of secret storage.
pub struct Vault(Vec<(&'static str, SecretString)>);

/// Alice, who has an identity and a dehydrated device, and Bob in a room in which each message has its own key.
pub fn scene(seed: u64) -> (World, usize, usize, OwnedRoomId, Vault) {
    let mut world = World::new(seed);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    bootstrap(&mut world, alice, false);
    let room = world.make_room_with(&[alice, bob], json!({ "rotation_period_msgs": 1 }), "shared");
    start(&mut world, alice);
    let vault = vault(&mut world, alice);
    (world, alice, bob, room, vault)
}

/// Has a device make a dehydrated one.
pub fn start(world: &mut World, device: usize) {
    make_key(world, device);
    assert!(try_start(world, device), "it can be started");
    world.settle();
    let status = status(world, device);
    assert!(status.enabled && !status.busy, "{status:?}");
    let user = world.devices[device].user_id.to_string();
    assert_eq!(status.device_id.unwrap().as_str(), world.server.dehydrated_device(&user).unwrap());
}

pub fn make_key(world: &mut World, device: usize) -> SecretString {
    world
        .command(device, |engine| {
            engine.step(|machine, snapshot, cx| machine.make_dehydration_key(snapshot, cx))
        })
        .unwrap()
        .reply
}

pub fn try_start(world: &mut World, device: usize) -> bool {
    let started = world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| machine.start_dehydration(snapshot, cx))
    });
    started.is_some()
}

pub fn stop(world: &mut World, device: usize) {
    let stopped = world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| machine.stop_dehydration(snapshot, cx))
    });
    assert!(stopped.is_some());
    world.settle();
}

pub fn vault(world: &mut World, device: usize) -> Vault {
    let names = SECRETS.into_iter().chain([KEY]);
    Vault(names.map(|name| (name, secret(world, device, name).unwrap())).collect())
}

/// A device is logged out: it is gone from the server, and never heard of again.
pub fn log_out(world: &mut World, device: usize) {
    let (user, id) =
        (world.devices[device].user_id.to_string(), world.devices[device].device_id.clone());
    world.set_online(device, false);
    world.server.end_token(&user, &id, false);
}

/// A new device of Alice's that has everything out of the vault.
pub fn new_device(world: &mut World, vault: &Vault) -> usize {
    let device = world.add_device("alice");
    world.settle();
    open(world, device, vault);
    device
}

pub fn open(world: &mut World, device: usize, vault: &Vault) {
    for (name, secret) in &vault.0 {
        if *name == KEY {
            assert!(import_key(world, device, secret));
        } else {
            assert!(import(world, device, name, secret), "{name}");
        }
    }
    world.settle();
}

/// What a self-verification brings about, without the secrets that come by gossip.
pub fn open_identity_only(world: &mut World, device: usize, vault: &Vault) {
    for (name, secret) in vault.0.iter().filter(|(name, _)| *name != KEY) {
        assert!(import(world, device, name, secret), "{name}");
    }
    world.settle();
}

/// As [`open`], but for the self-signing key, which nobody has sent.
pub fn open_without_signing(world: &mut World, device: usize, vault: &Vault) {
    for (name, secret) in &vault.0 {
        if *name == KEY {
            assert!(import_key(world, device, secret));
        } else if !name.contains("self_signing") {
            assert!(import(world, device, name, secret), "{name}");
        }
    }
    world.settle();
}

/// The body of a request, as text.
pub fn body_of(request: &herold_machine::Outgoing) -> String {
    match &request.http.body {
        herold_machine::Body::Json(text) => text.clone(),
        _ => String::new(),
    }
}

pub fn import_key(world: &mut World, device: usize, secret: &SecretString) -> bool {
    world
        .command(device, |engine| {
            engine
                .step(|machine, snapshot, cx| machine.import_dehydration_key(snapshot, cx, secret))
        })
        .unwrap()
        .reply
}

pub fn try_rehydrate(world: &mut World, device: usize) -> bool {
    let begun = world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| machine.rehydrate(snapshot, cx))
    });
    begun.is_some()
}

/// Has a device open the dehydrated one, and says what became of it.
pub fn rehydrate(world: &mut World, device: usize) -> RehydrationOutcome {
    assert!(try_rehydrate(world, device), "it can be begun");
    world.settle();
    let status = status(world, device);
    assert!(!status.busy, "{status:?}");
    status.outcome.expect("an outcome")
}

pub fn refused(world: &mut World, device: usize) -> RehydrationRefusal {
    match rehydrate(world, device) {
        RehydrationOutcome::Refused(reason) => reason,
        outcome => panic!("{outcome:?}"),
    }
}

pub fn status(world: &mut World, device: usize) -> DehydrationStatus {
    let status = world
        .command(device, |engine| engine.read(|machine, snapshot| machine.dehydration(snapshot)));
    status.unwrap()
}

/// The id of Alice's dehydrated device.
pub fn dehydrated(world: &World) -> String {
    world.server.dehydrated_device("@alice:world.test").expect("there is one").to_owned()
}

/// The messages, each under its own key.
pub fn say(world: &mut World, by: usize, room: &OwnedRoomId, count: usize) -> Vec<OwnedEventId> {
    (0..count).map(|n| world.send(by, room, &format!("away {n}"))).collect()
}

/// How many of them a device reads. They are fetched one by one, as an app does that scrolls back.
pub fn read(
    world: &mut World,
    device: usize,
    room: &OwnedRoomId,
    events: &[OwnedEventId],
) -> usize {
    let mut read = 0;
    for (n, event) in events.iter().enumerate() {
        let request = herold_machine::Machine::event_request(room, event);
        let body = world.call_http(device, &request).to_string();
        world.command(device, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.handle_event(snapshot, cx, room, event, body.as_bytes())
            })
        });
        let text = world.text(device, room, event);
        read += usize::from(text.as_deref() == Ok(&format!("away {n}")));
    }
    read
}

/// Changes the answers about the dehydrated device to one device.
pub fn rewrite(
    world: &mut World,
    device: usize,
    ending: &'static str,
    mut change: impl FnMut(&mut Value) + 'static,
) {
    world.tamper = Some(Box::new(move |of, path, response| {
        if of == device
            && path.contains("/dehydrated_device")
            && path.ends_with(ending)
            && response.status == 200
        {
            let mut body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
            change(&mut body);
            response.body = body.to_string().into_bytes();
        }
    }));
}

/// An Olm channel of an attacker's to the dehydrated device. What it needs is asked for with Bob's token.
pub struct Mailer {
    pub attacker: Attacker,
    device_id: String,
    keys: Value,
    session: OlmSession,
}

impl Mailer {
    pub fn new(world: &mut World, attacker: Attacker) -> Self {
        let device_id = dehydrated(world);
        let user = "@alice:world.test";
        let asked = json!({ "device_keys": { user: [] } });
        let known = world.call(Some(1), "POST", "/_matrix/client/v3/keys/query", asked);
        let keys = known["device_keys"][user][&device_id]["keys"].clone();
        let wanted = json!({ "one_time_keys": { user: { &device_id: "signed_curve25519" } } });
        let claimed = world.call(Some(1), "POST", "/_matrix/client/v3/keys/claim", wanted);
        let one_time = claimed["one_time_keys"][user][&device_id].as_object().unwrap();
        let one_time = one_time.values().next().unwrap()["key"].as_str().unwrap();
        let session = attacker
            .account
            .create_outbound_session(
                curve25519_from_base64(&device_id).unwrap(),
                curve25519_from_base64(one_time).unwrap(),
            )
            .unwrap();
        Self { attacker, device_id, keys, session }
    }

    /// The payload that a well-behaved device would send.
    pub fn payload(&self, kind: &str, content: &Value) -> Value {
        json!({
            "type": kind,
            "content": content,
            "sender": self.attacker.user_id,
            "recipient": "@alice:world.test",
            "recipient_keys": { "ed25519": self.keys[format!("ed25519:{}", self.device_id)] },
            "keys": { "ed25519": self.attacker.keys().ed25519.to_base64() },
        })
    }

    pub fn send(&mut self, world: &mut World, payload: &Value) {
        let message = self.session.encrypt(payload.to_string().as_bytes()).unwrap();
        let curve = self.attacker.keys().curve25519.to_base64();
        let content = json!({
            "algorithm": "m.olm.v1.curve25519-aes-sha2",
            "sender_key": curve,
            "ciphertext": {
                &self.device_id: { "type": message.message_type(), "body": message.body() },
            },
        });
        let event = json!({
            "type": "m.room.encrypted", "sender": self.attacker.user_id, "content": content,
        });
        assert!(world.server.inject_to_device("@alice:world.test", &self.device_id, event));
    }
}
