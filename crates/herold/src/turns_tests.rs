use std::{path::Path, time::Duration};

use herold_store::{Snapshot as _, Store as _, StoreError, Table};
use herold_store_sqlite::{SqliteStore, StoreKey, StoreOptions};
use serde_json::json;

use crate::{
    Client, ClientError, SecretString,
    test_support::{PASSWORD, Scripted, builder, ok},
};

const SOON: Duration = Duration::from_secs(60);

fn key() -> StoreKey {
    StoreKey::raw([7; 32])
}

async fn on_disk(server: &std::sync::Arc<Scripted>, folder: &Path, shared: bool) -> Client {
    let builder = builder(server).store_path(folder.join("store")).store_key(key());
    let builder = builder.shared_store(shared);
    builder.login("alice", SecretString::new(PASSWORD.to_owned()), None).await.unwrap()
}

fn open(folder: &Path, shared: bool) -> Result<SqliteStore, StoreError> {
    let patience = Duration::from_secs(if shared { 60 } else { 0 });
    let options = StoreOptions { shared, patience, ..StoreOptions::default() };
    SqliteStore::open(folder.join("store"), &key(), &options)
}

fn is_suspended<T: std::fmt::Debug>(result: Result<T, ClientError>) -> bool {
    result.is_err_and(|error| {
        assert_eq!(error.code(), "store_suspended");
        matches!(error, ClientError::Store(StoreError::Suspended))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_client_holds_no_lock_and_goes_on_when_it_is_resumed() {
    for shared in [false, true] {
        let (server, folder) = (Scripted::new(), tempfile::tempdir().unwrap());
        let client = on_disk(&server, folder.path(), shared).await;
        client.start_sync().unwrap();
        client.wait_ready(SOON).await.unwrap();
        client.suspend().await.unwrap();
        client.suspend().await.unwrap();
        // At once, and without waiting.
        drop(open(folder.path(), false).unwrap());
        assert!(is_suspended(client.rooms()) && is_suspended(client.sync_once(SOON).await));
        let calls = server.count("/sync");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(server.count("/sync"), calls, "it rests");
        drop(open(folder.path(), false).unwrap());
        client.resume().await.unwrap();
        client.rooms().unwrap();
        client.sync_once(Duration::ZERO).await.unwrap();
        client.suspend().await.unwrap();
        // Closing is possible whenever one likes.
        tokio::time::timeout(SOON, client.close()).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_store_is_free_while_there_is_nothing_to_do() {
    let (server, folder) = (Scripted::new(), tempfile::tempdir().unwrap());
    let client = on_disk(&server, folder.path(), true).await;
    client.start_sync().unwrap();
    client.wait_ready(SOON).await.unwrap();
    for _ in 0..3 {
        let mut other = open(folder.path(), true).unwrap();
        assert!(other.get(Table::Account, &[]).is_ok());
        other.suspend().unwrap();
        client.rooms().unwrap();
    }
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_by_another_process_is_learnt() {
    let (server, folder) = (Scripted::new(), tempfile::tempdir().unwrap());
    let client = on_disk(&server, folder.path(), true).await;
    client.wait_ready(Duration::from_millis(1)).await.unwrap_err();
    let other = builder(&server).store_path(folder.path().join("store")).store_key(key());
    let other = other.shared_store(true).resume().await.unwrap();
    other.logout().await.unwrap();
    // It learns when it next takes the store, whichever of its tasks that is.
    let learnt = async {
        while !client.is_logged_out() {
            assert!(client.rooms().unwrap().is_empty());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, learnt).await.unwrap();
    assert!(matches!(client.sync_once(SOON).await, Err(ClientError::LoggedOut)));
    other.close().await.unwrap();
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_another_process_was_quicker_than_is_asked_for_again() {
    let (server, folder) = (Scripted::new(), tempfile::tempdir().unwrap());
    let client = on_disk(&server, folder.path(), true).await;
    server.replies("/sync", vec![ok(&json!({ "next_batch": "s1" }))]);
    client.sync_once(Duration::ZERO).await.unwrap();
    let other = builder(&server).store_path(folder.path().join("store")).store_key(key());
    let other = other.shared_store(true).resume().await.unwrap();
    // The other one syncs while this one's answer is on its way.
    let place = folder.path().to_owned();
    let mut round = 0;
    server.rule(move |request| {
        if !request.http.path.ends_with("/sync") {
            return None;
        }
        round += 1;
        if round > 1 {
            return Some(ok(&json!({ "next_batch": "s10" })));
        }
        let mut store = open(&place, true).unwrap();
        let mut changes = herold_store::ChangeSet::new();
        let record = herold_store::records::SyncRecord { next_batch: Some("s9".to_owned()) };
        changes.put(&herold_store::records::Only, &record);
        store.commit(&changes).unwrap();
        Some(ok(&json!({ "next_batch": "s2" })))
    });
    let report = client.sync_once(Duration::ZERO).await.unwrap();
    assert_eq!(report.next_batch, "s10");
    {
        let seen = server.seen.lock().unwrap();
        let since: Vec<&str> = seen
            .iter()
            .filter(|request| request.http.path.ends_with("/sync"))
            .filter_map(|request| request.http.query.iter().find(|(name, _)| name == "since"))
            .map(|(_, token)| token.as_str())
            .collect();
        assert_eq!(since, ["s1", "s9"], "never from a token that is not the stored one");
    }
    other.close().await.unwrap();
    client.close().await.unwrap();
}
