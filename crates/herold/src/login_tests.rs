use std::time::Duration;

use herold_machine::AppEvent;
use ruma::room_id;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    ClientBuilder, Deployment, SecretString, TransportError,
    test_support::{
        MINUTE, PASSWORD, Reply, Scripted, client, in_a_room, json_body, log_in, refuse,
    },
};

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
