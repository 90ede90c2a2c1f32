use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use herold_machine::AppEvent;
use ruma::{room_id, user_id};
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::{
    ClientBuilder, CreateRoom, Deployment, SecretString, TransportError,
    test_support::{
        PASSWORD, Reply, Scripted, TOKEN, client, joined_room, json_body, log_in, ok, refuse,
    },
};

const MINUTE: Duration = Duration::from_secs(60);

/// A client that is in `!r:example.org`, which is not encrypted.
async fn in_a_room(server: &Arc<Scripted>) -> Client {
    server.replies("/sync", vec![ok(&joined_room("s1", false))]);
    let client = client(server).await;
    client.sync_once(Duration::ZERO).await.unwrap();
    client
}

#[tokio::test(start_paused = true)]
async fn login_sends_the_password_once_in_the_body_and_makes_the_account() {
    let server = Scripted::new();
    let client = client(&server).await;
    assert_eq!(client.user_id(), "@alice:example.org");
    assert_eq!(client.device_id(), "ALICEPHONE");
    assert_eq!(client.homeserver(), "https://example.org");
    let seen = server.seen.lock().unwrap();
    let login = &seen[0];
    assert!(login.access_token.is_none());
    assert_eq!(login.http.path, "/_matrix/client/v3/login");
    let body = json_body(login);
    assert_eq!(body["type"], "m.login.password");
    assert_eq!(body["identifier"], json!({ "type": "m.id.user", "user": "alice" }));
    assert_eq!(body["password"], PASSWORD);
    assert_eq!(body["initial_device_display_name"], "Herold");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_told_at_once_and_leaves_no_account() {
    let server = Scripted::new();
    server
        .rule(|request| request.http.path.ends_with("/login").then(|| refuse(403, "M_FORBIDDEN")));
    assert!(log_in(&server).await.unwrap_err().is_matrix("M_FORBIDDEN"));
    assert_eq!(server.count("/login"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_limited_waits_and_one_that_may_have_worked_is_not_repeated() {
    let server = Scripted::new();
    let limited = Reply::Answer(429, Some(5000), b"{\"errcode\":\"M_LIMIT_EXCEEDED\"}".to_vec());
    server.replies("/login", vec![limited]);
    let start = Instant::now();
    log_in(&server).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(5));

    let server = Scripted::new();
    server.replies("/login", vec![Reply::Fail(TransportError::Interrupted)]);
    assert_eq!(log_in(&server).await.unwrap_err().code(), "transport");
    assert_eq!(server.count("/login"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_login_answer_makes_no_account() {
    for body in [
        "",
        "<html>",
        "{}",
        "{\"user_id\":\"alice\",\"device_id\":\"A\",\"access_token\":\"t\"}",
        "{\"user_id\":\"@a:b\",\"device_id\":\"A\",\"access_token\":\"a\\r\\nb\"}",
        "{\"user_id\":\"@a:b\",\"device_id\":\"\",\"access_token\":\"t\"}",
    ] {
        let server = Scripted::new();
        server.replies("/login", vec![Reply::Answer(200, None, body.as_bytes().to_vec())]);
        assert_eq!(log_in(&server).await.unwrap_err().code(), "bad_response", "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_fixes_its_homeserver_lets_nobody_log_in_elsewhere() {
    let server = Scripted::new();
    let builder = || {
        let homeserver = Some("https://fixed.example".to_owned());
        ClientBuilder::new()
            .deployment(Deployment { homeserver, ..Deployment::default() })
            .memory_store()
            .transport(server.clone())
    };
    let password = || SecretString::new(PASSWORD.to_owned());
    let elsewhere = builder().homeserver("https://other.example");
    assert_eq!(elsewhere.login("a", password(), None).await.unwrap_err().code(), "policy_denied");
    assert_eq!(server.seen.lock().unwrap().len(), 0);
    let client = builder().login("a", password(), Some("Phone")).await.unwrap();
    assert_eq!(client.homeserver(), "https://fixed.example");
}

#[tokio::test(start_paused = true)]
async fn ready_means_synced_and_keys_accepted() {
    let server = Scripted::new();
    server.replies("/keys/upload", vec![refuse(500, "M_UNKNOWN")]);
    let client = client(&server).await;
    assert_eq!(client.wait_ready(MINUTE).await.unwrap_err().code(), "timeout");
    client.start_sync().unwrap();
    client.wait_ready(MINUTE).await.unwrap();
    let seen = server.seen.lock().unwrap();
    let tokens = seen.iter().filter(|request| request.http.path != "/_matrix/client/v3/login");
    for request in tokens {
        assert_eq!(request.access_token.as_ref().unwrap().as_str(), TOKEN);
        assert!(!format!("{:?}{:?}", request.http, request.http.query).contains(TOKEN));
    }
}

#[tokio::test(start_paused = true)]
async fn the_background_sync_backs_off_and_starts_again_where_it_was() {
    let server = Scripted::new();
    let client = client(&server).await;
    server.replies(
        "/sync",
        vec![
            ok(&json!({ "next_batch": "s1" })),
            refuse(502, "M_UNKNOWN"),
            Reply::Fail(TransportError::Interrupted),
            Reply::Answer(200, None, b"<html>captive portal</html>".to_vec()),
            Reply::Answer(200, None, b"{\"next_batch\":\"s2\",\"rooms\":{".to_vec()),
            ok(&json!({ "next_batch": "s2" })),
        ],
    );
    client.start_sync().unwrap();
    tokio::time::sleep(MINUTE).await;
    let since: Vec<Option<String>> = server
        .seen
        .lock()
        .unwrap()
        .iter()
        .filter(|request| request.http.path.ends_with("/sync"))
        .map(|request| request.http.query.iter().find(|(k, _)| k == "since").map(|q| q.1.clone()))
        .collect();
    let s = |token: &str| Some(token.to_owned());
    assert_eq!(since, [None, s("s1"), s("s1"), s("s1"), s("s1"), s("s1"), s("s2")]);
    let times = server.times("/sync");
    for (index, least) in [(2, 500), (3, 1000), (4, 2000), (5, 4000)] {
        assert!(times[index] - times[index - 1] >= Duration::from_millis(least), "{index}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_background_sync_waits_as_long_as_it_is_asked_to() {
    let server = Scripted::new();
    let client = client(&server).await;
    let limited = |header, body: &str| Reply::Answer(429, header, body.as_bytes().to_vec());
    server.replies(
        "/sync",
        vec![limited(Some(90_000), "{}"), limited(None, "{\"retry_after_ms\":120000}")],
    );
    client.start_sync().unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    let times = server.times("/sync");
    assert!(times[1] - times[0] >= Duration::from_secs(90));
    assert!(times[2] - times[1] >= Duration::from_secs(120));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_at_once_for_ever_is_not_asked_in_a_loop() {
    let server = Scripted::new();
    let count = AtomicUsize::new(0);
    server.rule(move |request| {
        let batch = count.fetch_add(1, Ordering::Relaxed);
        let body = json!({ "next_batch": format!("s{batch}") });
        request.http.path.ends_with("/sync").then(|| ok(&body))
    });
    let client = client(&server).await;
    client.start_sync().unwrap();
    tokio::time::sleep(MINUTE).await;
    let times = server.times("/sync");
    assert!(times.len() > 100);
    for first in times.iter() {
        let within = times.iter().filter(|t| *t >= first && **t - *first < Duration::from_secs(3));
        assert!(within.count() <= 30);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_token_ends_everything_and_is_told() {
    let server = Scripted::new();
    let client = client(&server).await;
    client.start_sync().unwrap();
    client.wait_ready(MINUTE).await.unwrap();
    server.rule(|_| Some(refuse(401, "M_UNKNOWN_TOKEN")));
    let room = room_id!("!r:example.org");
    assert_eq!(client.join(room).await.unwrap_err().code(), "logged_out");
    assert!(client.is_logged_out());
    let events = client.next_events(MINUTE).await.unwrap();
    assert!(events.iter().any(|(_, event)| *event == AppEvent::LoggedOut));
    client.stop_sync().await;
    let before = server.seen.lock().unwrap().len();
    assert_eq!(client.join(room).await.unwrap_err().code(), "logged_out");
    assert_eq!(client.start_sync().unwrap_err().code(), "logged_out");
    assert_eq!(client.sync_once(MINUTE).await.unwrap_err().code(), "logged_out");
    tokio::time::sleep(MINUTE).await;
    assert_eq!(server.seen.lock().unwrap().len(), before, "nothing more was sent");
    let login = client.session().read(|machine, snapshot| machine.login(snapshot)).unwrap();
    assert!(login.unwrap().access_token.as_str().is_empty());
}

#[tokio::test(start_paused = true)]
async fn another_401_does_not_log_out() {
    let server = Scripted::new();
    let client = client(&server).await;
    server.rule(|request| {
        request.http.path.ends_with("/join").then(|| refuse(401, "M_UNAUTHORIZED"))
    });
    let error = client.join(room_id!("!r:example.org")).await.unwrap_err();
    assert!(error.is_matrix("M_UNAUTHORIZED"));
    assert!(!client.is_logged_out());
}

#[tokio::test(start_paused = true)]
async fn logging_out_ends_the_session_and_keeps_the_store_readable() {
    let server = Scripted::new();
    let client = in_a_room(&server).await;
    client.logout().await.unwrap();
    client.logout().await.unwrap();
    assert_eq!(server.count("/logout"), 1);
    assert_eq!(client.rooms().unwrap().len(), 1);
    let error = client.send_text(room_id!("!r:example.org"), "x").await.unwrap_err();
    assert_eq!(error.code(), "logged_out");
}

#[tokio::test(start_paused = true)]
async fn one_sync_is_one_round_trip_and_a_long_poll_gives_way_to_it() {
    let server = Scripted::new();
    let client = client(&server).await;
    client.start_sync().unwrap();
    client.wait_ready(MINUTE).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = server.count("/sync");
    let start = Instant::now();
    assert_eq!(client.sync_once(Duration::ZERO).await.unwrap().next_batch, "s1");
    assert!(start.elapsed() < Duration::from_secs(1));
    client.stop_sync().await;
    assert!(server.count("/sync") - before <= 2, "its own, and the long poll's next");
}

#[tokio::test(start_paused = true)]
async fn a_message_is_sent_with_the_same_id_and_bytes_until_it_is_accepted() {
    let server = Scripted::new();
    let client = in_a_room(&server).await;
    let attempts = AtomicUsize::new(0);
    server.rule(move |request| {
        if !request.http.path.contains("/send/") {
            return None;
        }
        Some(match attempts.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::Fail(TransportError::Unreachable),
            1 => refuse(500, "M_UNKNOWN"),
            2 => Reply::Answer(200, None, b"not json".to_vec()),
            _ => ok(&json!({ "event_id": "$sent" })),
        })
    });
    let sent = client.send_text(room_id!("!r:example.org"), "hi").await.unwrap();
    assert_eq!(sent, "$sent");
    let seen = server.seen.lock().unwrap();
    let sends: Vec<_> = seen.iter().filter(|r| r.http.path.contains("/send/")).collect();
    assert_eq!(sends.len(), 4);
    assert!(sends.iter().all(|send| send.http == sends[0].http));
    assert!(client.queue().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_is_an_error_stays_in_the_queue_and_can_be_retried() {
    let server = Scripted::new();
    let client = in_a_room(&server).await;
    let room = room_id!("!r:example.org");
    let attempts = AtomicUsize::new(0);
    server.rule(move |request| {
        request.http.path.contains("/send/").then(|| {
            match attempts.fetch_add(1, Ordering::Relaxed) {
                0 => refuse(403, "M_FORBIDDEN"),
                _ => ok(&json!({ "event_id": "$late" })),
            }
        })
    });
    let content = json!({ "body": "x" });
    let send = || client.send_event(room, "m.test", &content, Some("t1".into()));
    assert_eq!(send().await.unwrap_err().to_string(), "the event was refused: M_FORBIDDEN");
    assert_eq!(send().await.unwrap_err().code(), "send_failed", "the same id is the same event");
    assert_eq!(client.queue().unwrap().len(), 1);
    assert!(client.retry("t1".into()).unwrap());
    tokio::time::sleep(MINUTE).await;
    assert!(client.queue().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_send_that_nobody_waits_for_any_more_goes_out() {
    let server = Scripted::new();
    let client = in_a_room(&server).await;
    server.rule(|request| {
        let sent = ok(&json!({ "event_id": "$sent" }));
        request.http.path.contains("/send/").then_some(sent)
    });
    let send = client.send_text(room_id!("!r:example.org"), "hi");
    // The first poll queues it; then the future is dropped.
    let waited = tokio::time::timeout(Duration::ZERO, send).await;
    assert!(waited.is_err());
    tokio::time::sleep(MINUTE).await;
    assert!(client.queue().unwrap().is_empty());
    let events = client.events(None).unwrap();
    assert!(events.iter().any(|(_, event)| matches!(event, AppEvent::Sent { .. })));
}

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

#[tokio::test(start_paused = true)]
async fn a_closed_client_says_so_and_closing_again_is_no_error() {
    let server = Scripted::new();
    let client = client(&server).await;
    let other = client.clone();
    client.start_sync().unwrap();
    let mut changes = client.changed();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move {
            client
                .wait_for_member(
                    room_id!("!r:example.org"),
                    user_id!("@a:b"),
                    crate::Membership::Join,
                    MINUTE * 60,
                )
                .await
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (first, second) = tokio::join!(client.close(), other.close());
    first.unwrap();
    second.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), "closed");
    assert_eq!(changes.wait().await.unwrap_err().code(), "closed");
    assert_eq!(other.rooms().unwrap_err().code(), "closed");
    assert_eq!(client.start_sync().unwrap_err().code(), "closed");
    let left = client.leave(room_id!("!r:example.org")).await;
    assert_eq!(left.unwrap_err().code(), "closed");
    assert_eq!(client.sync_once(MINUTE).await.unwrap_err().code(), "closed");
}

#[tokio::test(start_paused = true)]
async fn when_the_last_handle_goes_the_tasks_end_and_the_store_is_closed() {
    let server = Scripted::new();
    let client = client(&server).await;
    client.start_sync().unwrap();
    client.wait_ready(MINUTE).await.unwrap();
    let session = Arc::downgrade(client.session());
    drop(client.clone());
    assert!(session.upgrade().is_some());
    drop(client);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(session.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_device_is_deleted_with_the_password_and_only_by_password() {
    let server = Scripted::new();
    let client = client(&server).await;
    let challenge = |stage: &str| {
        let body = json!({ "session": "u1", "flows": [{ "stages": [stage] }], "params": {} });
        Reply::Answer(401, None, body.to_string().into_bytes())
    };
    let password = || SecretString::new(PASSWORD.to_owned());
    let delete = || client.delete_device("OLD".into(), password());
    let empty = || ok(&json!({}));
    server.replies("/devices/OLD", vec![challenge("m.login.password"), empty()]);
    delete().await.unwrap();
    let body = json_body(
        server
            .seen
            .lock()
            .unwrap()
            .iter()
            .rfind(|r| r.http.path.ends_with("/devices/OLD"))
            .unwrap(),
    );
    assert_eq!(body["auth"]["session"], "u1");
    assert_eq!(body["auth"]["password"], PASSWORD);
    assert_eq!(body["auth"]["identifier"]["user"], "@alice:example.org");
    server.replies("/devices/OLD", vec![challenge("m.login.sso")]);
    assert_eq!(delete().await.unwrap_err().code(), "unsupported");
    server.replies("/devices/OLD", vec![challenge("m.login.password"), refuse(401, "M_FORBIDDEN")]);
    assert!(delete().await.unwrap_err().is_matrix("M_FORBIDDEN"));
    assert!(!client.is_logged_out());
}
