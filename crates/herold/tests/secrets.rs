//! Oracle W9, attack N36: no secret in logs at any level, in URLs, in error texts, in `Debug` output, or clear in
//! the store's files. Over the default transport, so that what its libraries log counts too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    fmt::Write as _,
    path::Path,
    sync::{Arc, Mutex},
};

use common::{Net, PASSWORD, SOON, deployment, device, password, ready, room_of};
use herold::{ClientBuilder, StoreKey};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

const PLAINTEXT: &str = "canary plaintext 5af0";

/// Writes down everything that is logged, at every level.
struct Everything(Arc<Mutex<String>>);

struct Fields<'a>(&'a mut String);

impl tracing::field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl<S: tracing::Subscriber> Layer<S> for Everything {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        event.record(&mut Fields(&mut self.0.lock().unwrap()));
    }
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::span::Id,
        _: Context<'_, S>,
    ) {
        attributes.record(&mut Fields(&mut self.0.lock().unwrap()));
    }
    fn on_record(
        &self,
        _: &tracing::span::Id,
        values: &tracing::span::Record<'_>,
        _: Context<'_, S>,
    ) {
        values.record(&mut Fields(&mut self.0.lock().unwrap()));
    }
}

fn files(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        all.extend(if path.is_dir() { files(&path) } else { std::fs::read(path).unwrap() });
    }
    all
}

#[tokio::test]
async fn no_secret_is_logged_shown_or_stored_in_the_clear() {
    let logged: Arc<Mutex<String>> = Arc::default();
    tracing_subscriber::registry().with(Everything(logged.clone())).try_init().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let net = Net::new();
    let (url, wire) = common::http::serve(net.clone()).await;
    let builder = || {
        ClientBuilder::new()
            .deployment(deployment())
            .homeserver(&url)
            .store_path(folder.path().join("store"))
            .store_key(StoreKey::raw(*b"canary-store-key-0123456789abcde"))
    };
    let mut shown = format!("{:?}", builder());
    let wrong = herold::SecretString::new("canary-wrong-password".to_owned());
    let error = builder().login("alice", wrong, None).await.unwrap_err();
    write!(shown, "{error} {error:?}").unwrap();

    let bob = device(&net, "bob").await;
    let alice = builder().login("alice", password(), None).await.unwrap();
    ready(&alice).await;
    let room = room_of(&alice, &bob).await;
    let text = alice.send_text(&room, PLAINTEXT).await.unwrap();
    bob.wait_for_event(&room, &text, SOON).await.unwrap();
    let sent = alice.send_file(&room, "n", "m/t", PLAINTEXT.as_bytes()).await.unwrap();
    let event = bob.wait_for_event(&room, &sent, SOON).await.unwrap();
    let content: serde_json::Value = serde_json::from_str(&event.body.unwrap().content).unwrap();
    let file_key = content["file"]["key"]["k"].as_str().unwrap().to_owned();
    let file = bob.download(&room, &sent).await.unwrap();
    alice.devices(&bob.user_id()).await.unwrap();
    let missing = alice.fetch_event(&room, "$nothing".try_into().unwrap()).await.unwrap_err();
    net.cut.lock().unwrap().push("/join");
    let cut = tokio::time::timeout(std::time::Duration::from_secs(1), alice.join(&room)).await;
    write!(shown, "{missing} {missing:?} {cut:?} {file:?} {alice:?} {:?}", alice.changed())
        .unwrap();
    alice.logout().await.unwrap();
    alice.close().await.unwrap();
    bob.close().await.unwrap();

    let token = wire.tokens.lock().unwrap().first().unwrap().clone();
    assert!(wire.tokens.lock().unwrap().iter().all(|seen| *seen == token));
    let secrets = [
        token.as_str(),
        PASSWORD,
        "canary-wrong-password",
        "canary-store-key",
        PLAINTEXT,
        file_key.as_str(),
    ];
    let logged = logged.lock().unwrap();
    assert!(logged.len() > 1000, "the libraries below were heard: {}", logged.len());
    let targets = wire.targets.lock().unwrap().join("\n");
    let stored = files(folder.path());
    assert!(stored.len() > 10_000);
    for secret in secrets {
        assert!(!logged.contains(secret), "logged: {secret}");
        assert!(!shown.contains(secret), "shown: {secret}");
        assert!(!targets.contains(secret), "in a URL: {secret}");
        let found = stored.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "clear in the store: {secret}");
    }
}
