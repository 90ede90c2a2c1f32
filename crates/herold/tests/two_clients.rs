//! Two clients and a homeserver model: the way an app uses the SDK.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Net, SOON, builder, device, on_disk, password, ready, room_of};
use herold::{AppEvent, AttachmentError, ClientError, QueueState, Recipients, RoomEvent, Utd};
use serde_json::{Value, json};

fn body_of(event: &RoomEvent) -> Value {
    serde_json::from_str(&event.body.as_ref().unwrap().content).unwrap()
}

#[tokio::test(start_paused = true)]
async fn messages_go_both_ways_encrypted() {
    let net = Net::new();
    let (alice, bob) = (device(&net, "alice").await, device(&net, "bob").await);
    let room = room_of(&alice, &bob).await;
    for (from, to, text) in [(&alice, &bob, "hello 🦊"), (&bob, &alice, ""), (&alice, &bob, "x")]
    {
        let event_id = from.send_text(&room, text).await.unwrap();
        let event = to.wait_for_event(&room, &event_id, SOON).await.unwrap();
        assert!(event.encrypted);
        assert_eq!(event.sender, from.user_id());
        assert_eq!(event.sender_device.as_deref(), Some(&*from.device_id()));
        assert_eq!(body_of(&event)["body"], text);
        let own = from.wait_for_event(&room, &event_id, SOON).await.unwrap();
        assert_eq!(body_of(&own)["body"], text);
    }
    let on_server = net.server.lock().unwrap().events(room.as_str());
    assert!(on_server.iter().all(|event| event["type"] != "m.room.message"));
    assert_eq!(bob.timeline(&room, 2).unwrap().len(), 2);
    alice.close().await.unwrap();
    bob.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_burst_arrives_whole_and_in_order() {
    let net = Net::new();
    let (alice, bob) = (device(&net, "alice").await, device(&net, "bob").await);
    let room = room_of(&alice, &bob).await;
    for number in 0..40 {
        alice.queue_event(&room, "m.test", &json!({ "number": number }), None).unwrap();
    }
    let last = alice.send_text(&room, "end").await.unwrap();
    bob.wait_for_event(&room, &last, SOON).await.unwrap();
    let numbers: Vec<Value> = bob
        .timeline(&room, 100)
        .unwrap()
        .iter()
        .filter(|event| event.body.as_ref().is_ok_and(|body| body.event_type == "m.test"))
        .map(|event| body_of(event)["number"].clone())
        .collect();
    assert_eq!(numbers, (0..40).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_file_is_encrypted_checked_and_comes_back() {
    let net = Net::new();
    let (alice, bob) = (device(&net, "alice").await, device(&net, "bob").await);
    let room = room_of(&alice, &bob).await;
    let data: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let sent = alice.send_file(&room, "a/ü.bin", "application/x-test", &data).await.unwrap();
    bob.wait_for_event(&room, &sent, SOON).await.unwrap();
    let file = bob.download(&room, &sent).await.unwrap();
    assert!(file.data == data);
    assert_eq!((file.name.as_str(), file.mimetype.as_str()), ("a_ü.bin", "application/x-test"));

    net.tamper(|request, response| {
        if request.http.path.contains("/media/download") {
            response.body[5] ^= 1;
        }
    });
    let error = bob.download(&room, &sent).await.unwrap_err();
    assert!(matches!(error, ClientError::Attachment(AttachmentError::HashMismatch)));
    net.tamper(|request, response| {
        if request.http.path.contains("/media/download") {
            response.body.truncate(1000);
        }
    });
    assert_eq!(bob.download(&room, &sent).await.unwrap_err().code(), "attachment");
    let text = alice.send_text(&room, "no file").await.unwrap();
    bob.wait_for_event(&room, &text, SOON).await.unwrap();
    assert_eq!(bob.download(&room, &text).await.unwrap_err().code(), "invalid_input");
}

#[tokio::test(start_paused = true)]
async fn media_comes_by_the_older_endpoint_where_the_newer_is_not_known() {
    let net = Net::new();
    let (alice, bob) = (device(&net, "alice").await, device(&net, "bob").await);
    let room = room_of(&alice, &bob).await;
    let sent = alice.send_file(&room, "f", "text/plain", b"data").await.unwrap();
    bob.wait_for_event(&room, &sent, SOON).await.unwrap();
    net.tamper(|request, response| {
        if request.http.path.contains("/client/v1/media/") {
            response.status = 404;
            response.body = br#"{"errcode":"M_UNRECOGNIZED"}"#.to_vec();
        } else if request.http.path.contains("/media/v3/download") {
            assert!(request.access_token.is_none(), "the older endpoint gets no token");
        }
    });
    assert_eq!(bob.download(&room, &sent).await.unwrap().data, b"data");
}

#[tokio::test]
async fn a_device_comes_back_from_its_store_with_its_queue() {
    let net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let bob = device(&net, "bob").await;
    let alice = on_disk(&net, folder.path()).login("alice", password(), None).await.unwrap();
    ready(&alice).await;
    let room = room_of(&alice, &bob).await;
    let keys = (alice.device_id(), alice.identity_keys());
    net.cut.lock().unwrap().push("/send/");
    let txn = alice.queue_event(&room, "m.test", &json!({ "n": 1 }), None).unwrap();
    let mut changes = alice.changed();
    let content = loop {
        match alice.queue().unwrap().remove(0).1.state {
            QueueState::Ready { content, .. } => break content,
            state => assert_eq!(state, QueueState::Queued),
        }
        changes.wait().await.unwrap();
    };

    let second = on_disk(&net, folder.path()).resume().await.unwrap_err();
    assert_eq!(second.code(), "store_locked");
    let again = on_disk(&net, folder.path()).login("alice", password(), None).await;
    assert_eq!(again.unwrap_err().code(), "store_locked");
    alice.close().await.unwrap();
    let again = on_disk(&net, folder.path()).login("alice", password(), None).await;
    assert_eq!(again.unwrap_err().code(), "already_logged_in");

    net.cut.lock().unwrap().clear();
    let alice = on_disk(&net, folder.path()).resume().await.unwrap();
    assert_eq!((alice.device_id(), alice.identity_keys()), keys);
    ready(&alice).await;
    let mut sent = None;
    while sent.is_none() {
        let events = alice.next_events(SOON).await.unwrap();
        sent = events.iter().find_map(|(_, event)| match event {
            AppEvent::Sent { txn_id, event_id, .. } if *txn_id == txn => Some(event_id.clone()),
            _ => None,
        });
        alice.acknowledge(events.last().expect("something happened").0).unwrap();
    }
    let event = bob.wait_for_event(&room, &sent.unwrap(), SOON).await.unwrap();
    assert_eq!(body_of(&event)["n"], 1);
    let events = net.server.lock().unwrap().events(room.as_str());
    let content: Value = serde_json::from_str(&content).unwrap();
    assert_eq!(events.last().unwrap()["content"], content, "the same bytes");
    alice.close().await.unwrap();
}

#[tokio::test]
async fn another_deployment_key_or_folder_does_not_open_a_store() {
    let net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let nothing = on_disk(&net, folder.path()).resume().await.unwrap_err();
    assert_eq!(nothing.code(), "not_logged_in");
    let alice = on_disk(&net, folder.path()).login("alice", password(), None).await.unwrap();
    alice.close().await.unwrap();
    let other = herold::Deployment { name: "other".to_owned(), ..common::deployment() };
    let error = on_disk(&net, folder.path()).deployment(other).resume().await.unwrap_err();
    assert_eq!(error.code(), "wrong_deployment");
    let key = herold::StoreKey::raw([8; 32]);
    let error = on_disk(&net, folder.path()).store_key(key).resume().await.unwrap_err();
    assert_eq!(error.code(), "store_wrong_key");
}

#[tokio::test(start_paused = true)]
async fn what_the_deployment_forbids_cannot_be_switched_on() {
    let net = Net::new();
    let mut strict = common::deployment();
    strict.policy.floor.recipients = Recipients::AllDevices;
    strict.policy.recipients = Recipients::OnlyTrusted;
    strict.policy.floor.recipients = Recipients::IdentityBased;
    let client = builder(&net).deployment(strict).memory_store();
    let client = client.login("alice", password(), None).await.unwrap();
    let trust = herold::DecryptTrust::Any;
    client.set_policy(Recipients::IdentityBased, trust).unwrap();
    let error = client.set_policy(Recipients::AllDevices, trust).unwrap_err();
    assert_eq!(error.code(), "policy_denied");
    assert_eq!(client.policy().unwrap().recipients, Recipients::IdentityBased);
}

#[tokio::test]
async fn a_deployment_that_has_become_stricter_is_kept_to_at_the_next_start() {
    let net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let alice = on_disk(&net, folder.path()).login("alice", password(), None).await.unwrap();
    assert_eq!(alice.policy().unwrap().recipients, Recipients::AllDevices);
    alice.close().await.unwrap();
    let mut strict = common::deployment();
    strict.policy.recipients = Recipients::IdentityBased;
    strict.policy.floor.recipients = Recipients::IdentityBased;
    let alice = on_disk(&net, folder.path()).deployment(strict).resume().await.unwrap();
    assert_eq!(alice.policy().unwrap().recipients, Recipients::IdentityBased);
    let lax = alice.set_policy(Recipients::AllDevices, herold::DecryptTrust::Any);
    assert_eq!(lax.unwrap_err().code(), "policy_denied");
}

#[tokio::test(start_paused = true)]
async fn devices_are_asked_for_when_they_are_not_known() {
    let net = Net::new();
    let (alice, bob) = (device(&net, "alice").await, device(&net, "bob").await);
    let known = alice.devices(&bob.user_id()).await.unwrap();
    assert!(known.tracked && !known.outdated);
    assert_eq!(known.devices.len(), 1);
    assert_eq!(known.devices[0].device.keys, bob.identity_keys());
    let nobody = alice.set_blocked(&bob.user_id(), "NONE".into(), true).unwrap_err();
    assert_eq!(nobody.code(), "unknown_device");
    net.cut.lock().unwrap().push("/keys/query");
    alice.refresh_devices(&bob.user_id()).unwrap();
    assert!(alice.devices(&bob.user_id()).await.unwrap().outdated, "told, not waited for for ever");
}

#[tokio::test(start_paused = true)]
async fn an_event_goes_to_one_device_by_olm() {
    let net = Net::new();
    let (alice, bob) = (device(&net, "alice").await, device(&net, "bob").await);
    let (user, device) = (bob.user_id(), bob.device_id());
    let content = json!({ "secret": "ahoy" });
    let unknown = alice.send_to_device(&user, "NONE".into(), "org.example.x", &content).await;
    assert_eq!(unknown.unwrap_err().code(), "unknown_device");
    let reserved = alice.send_to_device(&user, &device, "m.room_key", &content).await;
    assert_eq!(reserved.unwrap_err().code(), "invalid_input");
    alice.send_to_device(&user, &device, "org.example.x", &content).await.unwrap();
    let mut got = None;
    while got.is_none() {
        let events = bob.next_events(SOON).await.unwrap();
        got = events.iter().find_map(|(_, event)| match event {
            AppEvent::ToDevice { sender, event_type, content, .. } => {
                Some((sender.clone(), event_type.clone(), content.clone()))
            }
            _ => None,
        });
        bob.acknowledge(events.last().expect("something happened").0).unwrap();
    }
    let (sender, event_type, text) = got.unwrap();
    assert_eq!((sender, event_type.as_str()), (alice.user_id(), "org.example.x"));
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), content);
    let log = net.server.lock().unwrap();
    assert!(!format!("{:?}", log.to_device_log()).contains("ahoy"));
}

#[tokio::test(start_paused = true)]
async fn an_event_is_fetched_and_decrypted_without_a_room_sync() {
    let net = Net::new();
    let (alice, bob) = (device(&net, "alice").await, device(&net, "bob").await);
    let room = room_of(&alice, &bob).await;
    let first = alice.send_text(&room, "first").await.unwrap();
    bob.wait_for_event(&room, &first, SOON).await.unwrap();
    bob.stop_sync().await;
    let second = alice.send_text(&room, "second").await.unwrap();
    assert!(bob.event(&room, &second).unwrap().is_none());
    let event = bob.fetch_event(&room, &second).await.unwrap();
    assert_eq!(body_of(&event)["body"], "second");
    let missing = bob.fetch_event(&room, "$nothing".try_into().unwrap()).await.unwrap_err();
    assert!(missing.is_matrix("M_NOT_FOUND"));
    let missing = bob.wait_for_event(&room, "$nothing".try_into().unwrap(), SOON).await;
    assert_eq!(missing.unwrap_err().code(), "timeout");
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_key_does_not_come_is_answered_with_the_reason() {
    let net = Net::new();
    let (alice, bob) = (device(&net, "alice").await, device(&net, "bob").await);
    let room = room_of(&alice, &bob).await;
    alice.devices(&bob.user_id()).await.unwrap();
    alice.set_blocked(&bob.user_id(), &bob.device_id(), true).unwrap();
    let sent = alice.send_text(&room, "not for bob").await.unwrap();
    let event = bob.wait_for_event(&room, &sent, SOON).await.unwrap();
    assert!(matches!(event.body, Err(Utd::Withheld(_))), "{:?}", event.body);
    let error = bob.download(&room, &sent).await.unwrap_err();
    assert_eq!(error.code(), "undecryptable");
}

#[tokio::test(start_paused = true)]
async fn older_events_come_page_by_page_until_the_beginning() {
    let net = Net::new();
    let (alice, bob) = (device(&net, "alice").await, device(&net, "bob").await);
    let room = room_of(&alice, &bob).await;
    for number in 0..30 {
        alice.send_event(&room, "m.test", &json!({ "number": number }), None).await.unwrap();
    }
    let fresh = device(&net, "alice").await;
    let mut seen = fresh.timeline(&room, 1000).unwrap().len();
    for _ in 0..20 {
        let page = fresh.paginate(&room, 10).await.unwrap();
        seen += page.len();
        if page.is_empty() {
            break;
        }
    }
    assert!(fresh.paginate(&room, 10).await.unwrap().is_empty(), "the beginning was reached");
    let on_server = net.server.lock().unwrap().events(room.as_str()).len();
    assert_eq!(seen, on_server);
    assert_eq!(fresh.timeline(&room, 1000).unwrap().len(), on_server);
}

#[tokio::test(start_paused = true)]
async fn after_a_kick_the_member_cannot_read_the_next_message() {
    let net = Net::new();
    let (alice, bob) = (device(&net, "alice").await, device(&net, "bob").await);
    let room = room_of(&alice, &bob).await;
    alice.send_text(&room, "before").await.unwrap();
    alice.stop_sync().await;
    let sessions = |net: &Net| net.server.lock().unwrap().to_device_log().len();
    let before = sessions(&net);
    alice.kick(&room, &bob.user_id()).await.unwrap();
    let after = alice.send_text(&room, "after").await.unwrap();
    let own = alice.fetch_event(&room, &after).await.unwrap();
    assert_eq!(body_of(&own)["body"], "after");
    assert_eq!(sessions(&net), before, "no key went to the one who was kicked");
    alice.invite(&room, &bob.user_id()).await.unwrap();
    bob.wait_for_member(&room, &bob.user_id(), herold::Membership::Invite, SOON).await.unwrap();
    bob.leave(&room).await.unwrap();
    bob.forget(&room).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_deleted_device_is_logged_out_and_gets_no_more_keys() {
    let net = Net::new();
    let (alice, old) = (device(&net, "alice").await, device(&net, "alice").await);
    alice.delete_device(&old.device_id(), password()).await.unwrap();
    let mut changes = old.changed();
    while !old.is_logged_out() {
        changes.wait().await.unwrap();
    }
    let devices = alice.devices(&alice.user_id()).await.unwrap();
    assert_eq!(devices.devices.len(), 1);
}
