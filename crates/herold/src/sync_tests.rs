use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::json;
use tokio::time::Instant;

use crate::{
    TransportError,
    test_support::{MINUTE, Reply, Scripted, TOKEN, client, ok, refuse},
};

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

/// The bodies and positions of the sliding syncs asked for.
fn sliding_requests(server: &Scripted) -> Vec<(Option<String>, serde_json::Value)> {
    let seen = server.seen.lock().unwrap();
    let syncs = seen.iter().filter(|request| request.http.path.ends_with("msc3575/sync"));
    syncs
        .map(|request| {
            let pos = request.http.query.iter().find(|(name, _)| name == "pos");
            let body = match &request.http.body {
                crate::Body::Json(text) => serde_json::from_str(text).unwrap(),
                _ => serde_json::Value::Null,
            };
            (pos.map(|(_, pos)| pos.clone()), body)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn sliding_sync_starts_over_at_once_when_its_position_is_forgotten() {
    let server = Scripted::new();
    let client = crate::test_support::builder(&server)
        .memory_store()
        .sync_mode(crate::SyncMode::Sliding)
        .login("alice", crate::SecretString::new("pw".to_owned()), None)
        .await
        .unwrap();
    let response = |pos: &str, token: &str| {
        let to_device = json!({ "next_batch": token, "events": [] });
        ok(&json!({ "pos": pos, "rooms": {}, "extensions": { "to_device": to_device } }))
    };
    server.replies(
        "msc3575/sync",
        vec![
            response("1/s1", "7"),
            refuse(400, "M_UNKNOWN_POS"),
            response("1/s2", "9"),
            refuse(400, "M_UNKNOWN_POS"),
            refuse(400, "M_UNKNOWN_POS"),
        ],
    );
    client.sync_once(Duration::ZERO).await.unwrap();
    client.sync_once(Duration::ZERO).await.unwrap();
    // A server that knows no position at all is not asked in a loop.
    let error = client.sync_once(Duration::ZERO).await.unwrap_err();
    assert!(error.is_matrix("M_UNKNOWN_POS"));
    let asked = sliding_requests(&server);
    let positions: Vec<Option<&str>> = asked.iter().map(|(pos, _)| pos.as_deref()).collect();
    assert_eq!(positions, [None, Some("1/s1"), None, Some("1/s2"), None]);
    let since = asked.iter().map(|(_, body)| body["extensions"]["to_device"]["since"].clone());
    assert_eq!(
        since.collect::<Vec<_>>(),
        [json!(null), json!("7"), json!("7"), json!("9"), json!("9")]
    );
    assert!(server.times("v3/sync").is_empty());
}
