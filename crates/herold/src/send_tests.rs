use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use herold_machine::AppEvent;
use ruma::room_id;
use serde_json::json;

use crate::{
    TransportError,
    test_support::{MINUTE, Reply, Scripted, in_a_room, ok, refuse},
};

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
