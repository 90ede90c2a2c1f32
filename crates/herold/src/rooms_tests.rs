use std::time::Duration;

use ruma::{room_id, user_id};
use serde_json::json;

use super::*;
use crate::{
    TransportError,
    test_support::{
        MINUTE, Reply, Scripted, client, in_a_room, joined_room, json_body, ok, refuse,
    },
};

#[tokio::test(start_paused = true)]
async fn an_invitation_that_nobody_waits_for_any_more_is_taken_note_of() {
    let server = Scripted::new();
    let client = in_a_room(&server).await;
    server.rule(|request| request.http.path.ends_with("/invite").then(|| ok(&json!({}))));
    let (room, bob) = (room_id!("!r:example.org"), user_id!("@bob:example.org"));
    let invited = tokio::time::timeout(Duration::ZERO, client.invite(room, bob)).await;
    assert!(invited.is_err());
    client
        .wait_for_member(room, bob, crate::Membership::Invite, MINUTE)
        .await
        .expect("the answer was taken although nobody waited");
}

#[tokio::test(start_paused = true)]
async fn a_room_is_made_once_and_answered_when_the_sync_shows_it() {
    let server = Scripted::new();
    let client = client(&server).await;
    client.start_sync().unwrap();
    client.wait_ready(MINUTE).await.unwrap();
    client.stop_sync().await;
    server.replies("/createRoom", vec![ok(&json!({ "room_id": "!r:example.org" }))]);
    server.replies("/m.direct", vec![refuse(404, "M_NOT_FOUND"), ok(&json!({}))]);
    server.replies("/sync", vec![ok(&joined_room("s2", true))]);
    client.start_sync().unwrap();
    let bob = user_id!("@bob:example.org").to_owned();
    let wanted = CreateRoom { invite: vec![bob], direct: true, ..CreateRoom::default() };
    let room = client.create_room(wanted).await.unwrap();
    assert!(client.room(&room).unwrap().unwrap().encryption.is_some());
    let seen = server.seen.lock().unwrap();
    let direct = seen.iter().rfind(|request| request.http.path.ends_with("/m.direct")).unwrap();
    assert_eq!(json_body(direct), json!({ "@bob:example.org": ["!r:example.org"] }));
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_done_is_not_done_twice() {
    let server = Scripted::new();
    let client = client(&server).await;
    let lost = || Reply::Fail(TransportError::Interrupted);
    server.replies("/createRoom", vec![lost(), ok(&json!({ "room_id": "!r:example.org" }))]);
    let error = client.create_room(CreateRoom::default()).await.unwrap_err();
    assert_eq!(error.code(), "transport");
    assert_eq!(server.count("/createRoom"), 1);
    server.replies("/join", vec![lost(), refuse(502, "M_UNKNOWN"), ok(&json!({}))]);
    client.join(room_id!("!r:example.org")).await.unwrap();
    assert_eq!(server.count("/join"), 3, "joining twice is joining once");
}

#[test]
fn a_room_is_asked_for_with_encryption_from_the_start() {
    let room = CreateRoom {
        rotation_messages: Some(3),
        history_visibility: Some(HistoryVisibility::WorldReadable),
        ..CreateRoom::default()
    };
    let body = room.to_json();
    assert_eq!(body["preset"], "private_chat");
    let state = body["initial_state"].as_array().unwrap();
    assert_eq!(state[0]["type"], "m.room.encryption");
    assert_eq!(state[0]["content"]["algorithm"], MEGOLM);
    assert_eq!(state[0]["content"]["rotation_period_msgs"], 3);
    assert_eq!(state[1]["content"]["history_visibility"], "world_readable");
    assert!(body.get("name").is_none());
}
