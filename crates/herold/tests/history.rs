//! A room's history, shared by whoever invites, over the model homeserver.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{sync::Arc, time::Duration};

use common::{Net, PASSWORD, SOON, builder, deployment, device, on_disk, password, ready};
use herold::{
    Client, CreateRoom, HistoryVisibility, Membership, OwnedEventId, OwnedRoomId, Policy,
    SharedHistory, Shield, ShieldReason,
};

fn register(net: &Net, user: &str) {
    net.server.lock().unwrap().register(user, PASSWORD);
}

/// A device whose user has an identity.
async fn signed(net: &Arc<Net>, user: &str) -> Client {
    register(net, user);
    let client = device(net, user).await;
    client.enable_recovery(password(), None).await.unwrap();
    client
}

async fn room_with(
    alice: &Client,
    visibility: HistoryVisibility,
) -> (OwnedRoomId, Vec<OwnedEventId>) {
    let wanted = CreateRoom { history_visibility: Some(visibility), ..CreateRoom::default() };
    let room = alice.create_room(wanted).await.unwrap();
    let mut old = Vec::new();
    for body in ["old 0", "old 1"] {
        old.push(alice.send_text(&room, body).await.unwrap());
    }
    (room, old)
}

async fn invited(bob: &Client, room: &OwnedRoomId) {
    bob.wait_for_member(room, &bob.user_id(), Membership::Invite, SOON).await.unwrap();
}

fn count(net: &Net, part: &str) -> usize {
    let server = net.server.lock().unwrap();
    server.requests().iter().filter(|seen| seen.path.contains(part)).count()
}

#[tokio::test(start_paused = true)]
async fn who_is_invited_with_the_history_reads_it_and_sees_who_has_shared_it() {
    for older_endpoint in [false, true] {
        reads_the_history(older_endpoint).await;
    }
}

async fn reads_the_history(older_endpoint: bool) {
    let net = Net::new();
    let (alice, bob) = (signed(&net, "alice").await, signed(&net, "bob").await);
    if older_endpoint {
        net.tamper(|request, response| {
            if request.http.path.contains("/client/v1/media/") {
                response.status = 404;
                response.body = br#"{"errcode":"M_UNRECOGNIZED"}"#.to_vec();
            } else if request.http.path.contains("/media/v3/download") {
                assert!(request.access_token.is_none(), "the older endpoint gets no token");
            }
        });
    }
    let (room, old) = room_with(&alice, HistoryVisibility::Shared).await;
    let shared = alice.invite_with_history(&room, &bob.user_id()).await.unwrap();
    assert_eq!(shared, SharedHistory::Keys(1));
    invited(&bob, &room).await;
    assert_eq!(count(&net, "/media/download/"), 0);
    bob.join(&room).await.unwrap();
    for event in &old {
        let event = bob.wait_for_event(&room, event, SOON).await.unwrap();
        assert!(event.body.is_ok(), "{:?}", event.body);
        assert_eq!(event.shield, Shield::Grey(ShieldReason::AuthenticityNotGuaranteed));
        assert_eq!(event.shared_by, Some(alice.user_id()));
    }
    let older = usize::from(older_endpoint);
    assert_eq!(count(&net, "/client/v1/media/download/"), 1);
    assert_eq!(count(&net, "/media/v3/download/"), older);
}

/// The keys of a device that the inviter has no more are in the backup.
#[tokio::test(start_paused = true)]
async fn keys_that_only_the_backup_has_are_shared_too() {
    let net = Net::new();
    let old_phone = device(&net, "alice").await;
    let recovery = old_phone.enable_recovery(password(), None).await.unwrap();
    let (room, old) = room_with(&old_phone, HistoryVisibility::Shared).await;
    let alice = device(&net, "alice").await;
    alice.recover(recovery.recovery_key).await.unwrap();
    // What is said now is in a session that the new phone is given only from here on, and in none it has made.
    old_phone.discard_room_key(&room).ok();
    old_phone.wait_for_backup(SOON).await.unwrap();
    let bob = signed(&net, "bob").await;
    let shared = alice.invite_with_history(&room, &bob.user_id()).await.unwrap();
    assert!(matches!(shared, SharedHistory::Keys(1..)), "{shared:?}");
    invited(&bob, &room).await;
    bob.join(&room).await.unwrap();
    for event in &old {
        let event = bob.wait_for_event(&room, event, SOON).await.unwrap();
        assert!(event.body.is_ok(), "{:?}", event.body);
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_says_why_nothing_was_shared_and_the_user_is_invited_all_the_same() {
    let net = Net::new();
    let (alice, bob) = (signed(&net, "alice").await, signed(&net, "bob").await);
    let (room, _) = room_with(&alice, HistoryVisibility::Joined).await;
    let shared = alice.invite_with_history(&room, &bob.user_id()).await.unwrap();
    assert_eq!(shared, SharedHistory::Closed);
    invited(&bob, &room).await;
    let room = alice.create_room(CreateRoom::default()).await.unwrap();
    let shared = alice.invite_with_history(&room, &bob.user_id()).await.unwrap();
    assert_eq!(shared, SharedHistory::Nothing);
    invited(&bob, &room).await;
    register(&net, "dora");
    let dora = device(&net, "dora").await;
    let (room, _) = room_with(&dora, HistoryVisibility::Shared).await;
    let shared = dora.invite_with_history(&room, &bob.user_id()).await.unwrap();
    assert_eq!(shared, SharedHistory::NotSigned);
    invited(&bob, &room).await;
    assert_eq!(count(&net, "/media/"), 0);
}

#[tokio::test]
async fn a_deployment_that_has_come_to_forbid_it_is_kept_to_from_the_next_start_on() {
    let net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let alice = on_disk(&net, folder.path()).login("alice", password(), None).await.unwrap();
    ready(&alice).await;
    alice.enable_recovery(password(), None).await.unwrap();
    let (room, _) = room_with(&alice, HistoryVisibility::Shared).await;
    alice.close().await.unwrap();
    let policy = Policy { share_history: false, ..deployment().policy };
    let strict = herold::Deployment { policy, ..deployment() };
    let alice = on_disk(&net, folder.path()).deployment(strict).resume().await.unwrap();
    ready(&alice).await;
    let bob = signed(&net, "bob").await;
    let refused = alice.invite_with_history(&room, &bob.user_id()).await.unwrap_err();
    assert_eq!(refused.code(), "policy_denied");
    let members = alice.members(&room).await.unwrap();
    assert_eq!(members.len(), 1, "the user was not invited");
    alice.close().await.unwrap();
    // It stays so, should the deployment change its mind.
    let alice = on_disk(&net, folder.path()).resume().await.unwrap();
    ready(&alice).await;
    let refused = alice.invite_with_history(&room, &bob.user_id()).await.unwrap_err();
    assert_eq!(refused.code(), "policy_denied");
}

#[tokio::test(start_paused = true)]
async fn whoever_accepts_no_history_downloads_none() {
    let net = Net::new();
    let alice = signed(&net, "alice").await;
    let (room, _) = room_with(&alice, HistoryVisibility::Shared).await;
    let policy = Policy { accept_history: false, ..deployment().policy };
    let deaf = herold::Deployment { policy, ..deployment() };
    let bob = builder(&net).deployment(deaf).memory_store();
    let bob = bob.login("bob", password(), None).await.unwrap();
    ready(&bob).await;
    bob.enable_recovery(password(), None).await.unwrap();
    let carol = signed(&net, "carol").await;
    for other in [&bob, &carol] {
        alice.invite_with_history(&room, &other.user_id()).await.unwrap();
        invited(other, &room).await;
    }
    bob.join(&room).await.unwrap();
    carol.join_without_history(&room).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(count(&net, "/media/download/"), 0);
}
