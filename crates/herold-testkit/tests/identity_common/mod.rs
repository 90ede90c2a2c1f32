//! What the stories of identities share.

#![allow(dead_code, unused_imports)]

use herold::{IdentityState, SecretString};
use herold_machine::{BackupStatus, Imported, backup_entries};
use herold_testkit::World;
use herold_trust::KeySource;
use serde_json::{Value, json};

use crate::behaviour_common::known_devices;

pub use herold_testkit::{
    IDENTITY_SECRETS as SECRETS, SIGNING_UPLOAD, create_backup, identity_published as published,
    prepare_identity as prepare, publish_identity, with_password,
};

/// Makes an identity on a device and has it accepted.
pub fn bootstrap(world: &mut World, device: usize, replace: bool) {
    publish_identity(world, device, replace);
    world.settle();
}

pub fn secret(world: &mut World, device: usize, name: &str) -> Option<SecretString> {
    world
        .command(device, |engine| engine.read(|machine, snapshot| machine.secret(snapshot, name)))
        .unwrap()
}

pub fn import(world: &mut World, device: usize, name: &str, secret: &SecretString) -> bool {
    world
        .command(device, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.import_identity_key(snapshot, cx, name, secret)
            })
        })
        .unwrap()
        .reply
}

pub fn identity_of(world: &mut World, by: usize, of: usize) -> IdentityState {
    let user = world.devices[of].user_id.clone();
    known_devices(world, by, &user).identity.expect("an identity").state()
}

pub fn is_signed(world: &mut World, by: usize, device: usize) -> bool {
    let (user, id) =
        (world.devices[device].user_id.clone(), world.devices[device].device_id.clone());
    let known = known_devices(world, by, &user);
    known.devices.iter().any(|view| view.device.device_id == id && view.cross_signed)
}

pub fn status(world: &mut World, device: usize) -> BackupStatus {
    world
        .command(device, |engine| engine.read(|machine, snapshot| machine.backup_status(snapshot)))
        .unwrap()
}

pub fn make_backup(world: &mut World, device: usize) -> String {
    let version = create_backup(world, device);
    world.settle();
    version
}

pub fn take_backup_key(world: &mut World, device: usize, secret: &SecretString) -> bool {
    let info = world.call(Some(device), "GET", "/_matrix/client/v3/room_keys/version", Value::Null);
    let info = info.to_string();
    world
        .command(device, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.import_backup_key(snapshot, cx, secret, info.as_bytes())
            })
        })
        .unwrap()
        .reply
}

pub fn download(world: &mut World, device: usize, version: &str) -> Value {
    let request = herold_machine::Machine::backup_request(version);
    world.call_http(device, &request)
}

pub fn restore(world: &mut World, device: usize, body: &Value) -> (Imported, usize) {
    let key = world
        .command(device, |engine| engine.read(|machine, snapshot| machine.backup_key(snapshot)))
        .unwrap()
        .expect("the key");
    let body = body.to_string();
    let (entries, bad) = backup_entries(body.as_bytes()).unwrap();
    let keys: Vec<_> = entries.iter().filter_map(|entry| entry.open(&key.1)).collect();
    let bad = bad + entries.len() - keys.len();
    let imported = world
        .command(device, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.import_room_keys(snapshot, cx, keys, KeySource::Backup)
            })
        })
        .unwrap()
        .reply;
    (imported, bad)
}
