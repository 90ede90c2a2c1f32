//! Dehydrated devices (MSC3814) as an app has them, over the model homeserver.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{sync::Arc, time::Duration};

use common::{Net, SOON, builder, deployment, device, on_disk, password, ready, room_of};
use herold::{Client, ClientError, OwnedEventId, OwnedRoomId, Policy, SecretString};
use herold_testkit::homeserver::Dehydration;

const ALICE: &str = "@alice:example.org";

fn dehydrated(net: &Net) -> Option<String> {
    net.server.lock().unwrap().dehydrated_device(ALICE).map(str::to_owned)
}

fn count(net: &Net, part: &str) -> usize {
    let server = net.server.lock().unwrap();
    server.requests().iter().filter(|seen| seen.path.contains(part)).count()
}

/// Alice with recovery, and Bob, who knows her devices.
async fn scene(net: &Arc<Net>) -> (Client, Client, OwnedRoomId, SecretString) {
    let (alice, bob) = (device(net, "alice").await, device(net, "bob").await);
    let recovery = alice.enable_recovery(password(), None).await.unwrap();
    let room = room_of(&bob, &alice).await;
    bob.send_text(&room, "before").await.unwrap();
    (alice, bob, room, recovery.recovery_key)
}

async fn knows(bob: &Client, device_id: &str) {
    let alice: herold::OwnedUserId = ALICE.try_into().unwrap();
    let known = async {
        loop {
            let known = bob.devices(&alice).await.unwrap();
            if known.devices.iter().any(|view| view.device.device_id == device_id) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, known).await.unwrap();
}

async fn leave(alice: Client) {
    alice.logout().await.unwrap();
    alice.close().await.unwrap();
}

async fn say_away(bob: &Client, room: &OwnedRoomId) -> Vec<OwnedEventId> {
    let mut away = Vec::new();
    for n in 0..3 {
        bob.discard_room_key(room).unwrap();
        away.push(bob.send_text(room, &format!("away {n}")).await.unwrap());
    }
    away
}

async fn reads(alice: &Client, room: &OwnedRoomId, away: &[OwnedEventId]) {
    for event in away {
        let event = alice.wait_for_event(room, event, SOON).await.unwrap();
        assert!(event.body.is_ok(), "{:?}", event.body);
    }
}

#[tokio::test(start_paused = true)]
async fn recovery_brings_what_was_said_while_nobody_was_there() {
    let net = Net::new();
    let (alice, bob, room, key) = scene(&net).await;
    assert!(matches!(alice.start_dehydration(None).await, Err(ClientError::NoDehydrationKey)));
    assert_eq!(dehydrated(&net), None);
    let wrong = SecretString::new("no recovery key".to_owned());
    assert!(matches!(alice.start_dehydration(Some(wrong)).await, Err(ClientError::RecoveryKey(_))));
    assert_eq!(alice.start_dehydration(Some(key.clone())).await.unwrap(), None);
    let first = dehydrated(&net).unwrap();
    assert_eq!(alice.dehydration_status().unwrap().device_id.unwrap().as_str(), first);
    // Once more changes nothing.
    assert_eq!(alice.start_dehydration(None).await.unwrap(), None);
    assert_eq!(dehydrated(&net).unwrap(), first);
    knows(&bob, &first).await;
    leave(alice).await;
    let away = say_away(&bob, &room).await;

    let second = device(&net, "alice").await;
    second.recover(key.clone()).await.unwrap();
    let status = second.dehydration_status().unwrap();
    assert_eq!(status.room_keys, 3);
    assert!(status.enabled);
    reads(&second, &room, &away).await;
    // A new one has taken its place, and has nothing yet.
    assert_eq!(second.start_dehydration(None).await.unwrap(), None);
    let new = dehydrated(&net).unwrap();
    assert_ne!(new, first);
    assert_eq!(second.rehydrate().await.unwrap().unwrap().room_keys, 0);
    second.stop_dehydration().await.unwrap();
    assert_eq!(dehydrated(&net), None);
    assert_eq!(second.rehydrate().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn who_has_none_recovers_as_before() {
    for serves in [Dehydration::Served, Dehydration::Unknown] {
        let net = Net::new();
        net.server.lock().unwrap().serve_dehydration(serves);
        let (alice, _, _, key) = scene(&net).await;
        if serves == Dehydration::Unknown {
            assert!(matches!(
                alice.start_dehydration(Some(key.clone())).await,
                Err(ClientError::Unsupported(_))
            ));
        }
        let second = device(&net, "alice").await;
        second.recover(key).await.expect("the backup comes all the same");
        assert!(!second.dehydration_status().unwrap().enabled);
        assert_eq!(dehydrated(&net), None);
    }
}

/// Whatever the homeserver does with the device: the backup and the identity are there.
#[tokio::test(start_paused = true)]
async fn a_dehydrated_device_that_cannot_be_had_is_no_failure_of_the_recovery() {
    let net = Net::new();
    let (alice, _, _, key) = scene(&net).await;
    alice.start_dehydration(Some(key.clone())).await.unwrap();
    let first = dehydrated(&net).unwrap();
    net.tamper(|request, response| {
        let path = &request.http.path;
        if path.ends_with("/dehydrated_device") && request.http.method.as_str() == "GET" {
            let mut body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
            body["device_data"]["nonce"] = "AAAAAAAAAAAAAAAA".into();
            response.body = body.to_string().into_bytes();
        }
    });
    let second = device(&net, "alice").await;
    second.recover(key.clone()).await.unwrap();
    assert_eq!(dehydrated(&net).unwrap(), first, "it is left for others");
    let refused = second.rehydrate().await.unwrap_err();
    assert_eq!(refused.code(), "dehydrated_device");
    assert!(refused.to_string().ends_with("wrong_key"));
    // Gone from the net altogether: the recovery does not wait for ever.
    net.cut.lock().unwrap().push("/dehydrated_device");
    let third = device(&net, "alice").await;
    third.recover(key.clone()).await.unwrap();
    assert!(matches!(third.rehydrate().await, Err(ClientError::Timeout)));
    // Who wants one all the same gets it: the one that could not be opened is replaced.
    net.cut.lock().unwrap().clear();
    second.start_dehydration(Some(key)).await.unwrap();
    assert_ne!(dehydrated(&net).unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_over_a_restart_and_is_replaced_in_time() {
    let net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let alice = on_disk(&net, folder.path()).login("alice", password(), None).await.unwrap();
    ready(&alice).await;
    let key = alice.enable_recovery(password(), None).await.unwrap().recovery_key;
    alice.start_dehydration(Some(key)).await.unwrap();
    let first = dehydrated(&net).unwrap();
    alice.close().await.unwrap();
    tokio::time::sleep(Duration::from_secs(8 * 24 * 3600)).await;
    assert_eq!(dehydrated(&net).unwrap(), first);
    let alice = on_disk(&net, folder.path()).resume().await.unwrap();
    ready(&alice).await;
    let replaced = async {
        while dehydrated(&net).unwrap() == first {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(SOON, replaced).await.unwrap();
    alice.close().await.unwrap();
}

/// Whoever makes a new secret storage keeps the key in it.
#[tokio::test(start_paused = true)]
async fn a_new_secret_storage_has_the_key_too() {
    let net = Net::new();
    let (alice, bob, room, old) = scene(&net).await;
    alice.start_dehydration(Some(old)).await.unwrap();
    let new = alice.enable_recovery(password(), None).await.unwrap().recovery_key;
    knows(&bob, &dehydrated(&net).unwrap()).await;
    leave(alice).await;
    let away = say_away(&bob, &room).await;
    let second = device(&net, "alice").await;
    second.recover(new).await.unwrap();
    reads(&second, &room, &away).await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_forbids_it() {
    let net = Net::new();
    let (_, _, _, key) = scene(&net).await;
    let mut strict = deployment();
    strict.policy = Policy { dehydration: false, ..strict.policy };
    let client = builder(&net).deployment(strict).memory_store();
    let client = client.login("alice", password(), None).await.unwrap();
    ready(&client).await;
    client.recover(key.clone()).await.unwrap();
    for refused in
        [client.start_dehydration(Some(key)).await.map(drop), client.rehydrate().await.map(drop)]
    {
        assert!(matches!(refused, Err(ClientError::PolicyDenied)), "{refused:?}");
    }
    assert_eq!(count(&net, "/dehydrated_device"), 0);
}
