use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ruma::{room_id, user_id};
use serde_json::json;

use crate::{
    SecretString,
    test_support::{
        Fragile, MINUTE, PASSWORD, Reply, Scripted, client, joined_room, json_body, log_in_with,
        ok, refuse,
    },
};

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
async fn a_device_is_deleted_with_the_password_where_that_is_enough() {
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
    assert_eq!(delete().await.unwrap_err().code(), "authentication_needed");
    server.replies("/devices/OLD", vec![challenge("m.login.password"), refuse(401, "M_FORBIDDEN")]);
    assert!(delete().await.unwrap_err().is_matrix("M_FORBIDDEN"));
    assert!(!client.is_logged_out());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_waited_out_and_nothing_is_lost_or_sent_in_a_loop() {
    let server = Scripted::new();
    let full = Arc::<AtomicBool>::default();
    let client = log_in_with(&server, Box::new(Fragile::new(&full))).await.unwrap();
    full.store(true, Ordering::Relaxed);
    client.start_sync().unwrap();
    tokio::time::sleep(MINUTE).await;
    assert_eq!(server.count("/keys/upload"), 1, "the answer is kept until it can be taken");
    let syncs = server.count("/sync");
    assert!((2..20).contains(&syncs), "{syncs}");
    let lost = client.sync_once(Duration::ZERO).await.unwrap_err();
    assert_eq!(lost.code(), "store_io");
    server.replies("/sync", vec![ok(&joined_room("s7", true))]);
    full.store(false, Ordering::Relaxed);
    client.wait_ready(MINUTE * 10).await.unwrap();
    assert_eq!(client.rooms().unwrap().len(), 1);
    assert_eq!(server.count("/keys/upload"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_full_at_login_leaves_no_device_behind() {
    let server = Scripted::new();
    let full = Arc::new(AtomicBool::new(true));
    let error = log_in_with(&server, Box::new(Fragile::new(&full))).await.unwrap_err();
    assert_eq!(error.code(), "store_io");
    assert_eq!(server.count("/logout"), 1);
}
