//! Dehydrated devices (MSC3814): what is said while nobody is there is readable afterwards.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;
mod behaviour_common;
mod dehydration_common;
mod identity_common;

use std::time::Duration;

use attacks_common::rows;
use behaviour_common::{clean, notices};
use dehydration_common::*;
use herold::{Method, Policy, Shield, ShieldReason};
use herold_store::{Table, records::RehydrationOutcome};
use herold_testkit::{Disk, World, homeserver::Dehydration, kill_at_each_commit, open_policy};
use identity_common::{bootstrap, is_signed};
use serde_json::{Value, json};

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn what_is_said_while_no_device_is_there_is_readable_on_the_next_one() {
    for serves in [Dehydration::Served, Dehydration::ByPostOnly] {
        let (mut world, alice, bob, room, vault) = scene(1);
        world.server.serve_dehydration(serves);
        log_out(&mut world, alice);
        // More than a page, and more than there are one-time keys for.
        let away = say(&mut world, bob, &room, 130);
        let old = dehydrated(&world);
        let second = new_device(&mut world, &vault);
        assert_eq!(read(&mut world, second, &room, &away), 0);
        assert_eq!(rehydrate(&mut world, second), RehydrationOutcome::Done);
        assert_eq!(read(&mut world, second, &room, &away), 130, "{serves:?}");
        let shield = world.event(second, &room, &away[0]).unwrap().shield;
        assert_ne!(shield, Shield::Grey(ShieldReason::AuthenticityNotGuaranteed));
        let status = status(&mut world, second);
        assert_eq!((status.events, status.room_keys), (130, 130));
        // A new one has taken its place, and is what the next device opens.
        assert!(status.enabled);
        assert_ne!(dehydrated(&world), old);
        assert_eq!(status.device_id.unwrap().as_str(), dehydrated(&world));
        for table in [Table::Rehydration, Table::RehydratedSession, Table::DehydratedUpload] {
            assert_eq!(rows(&world, second, table), 0, "{table:?}");
        }
        log_out(&mut world, second);
        let later = say(&mut world, bob, &room, 3);
        let third = new_device(&mut world, &vault);
        assert_eq!(rehydrate(&mut world, third), RehydrationOutcome::Done);
        assert_eq!(read(&mut world, third, &room, &later), 3);
        clean(&world);
    }
}

/// Making one, and opening it, with a kill at each commit of either device.
#[test]
fn nothing_is_lost_whatever_dies() {
    fn story(world: &mut World, disks: &[Disk]) {
        let alice = world.add_device_on("alice", open_policy(), disks[0].clone());
        let bob = world.add_device("bob");
        world.settle();
        again(|| try_bootstrap(world, alice));
        let rotation = json!({ "rotation_period_msgs": 1 });
        let room = world.make_room_with(&[alice, bob], rotation, "shared");
        again(|| {
            let made = world.command(alice, |engine| {
                engine.step(|machine, snapshot, cx| machine.make_dehydration_key(snapshot, cx))
            });
            made.is_some() && try_start(world, alice)
        });
        world.settle();
        let vault = vault(world, alice);
        log_out(world, alice);
        let away = say(world, bob, &room, 4);
        world.server.page_dehydrated(1);
        let second = world.add_device_on("alice", open_policy(), disks[1].clone());
        world.settle();
        again(|| try_open(world, second, &vault));
        world.settle();
        again(|| try_rehydrate(world, second));
        world.settle();
        let status = status(world, second);
        assert_eq!(status.outcome, Some(RehydrationOutcome::Done), "{status:?}");
        assert!(status.enabled && !status.busy, "{status:?}");
        assert_eq!((status.events, status.room_keys), (4, 4));
        again(|| read(world, second, &room, &away) == 4);
        assert_eq!(rows(world, second, Table::RehydratedSession), 0);
        let uploads = world.server.requests().iter().filter(|seen| {
            seen.path.ends_with(DEVICE) && seen.method == "PUT" && seen.status == 200
        });
        assert!(uploads.count() <= 3, "one each, and once more after a kill");
    }
    assert!(kill_at_each_commit(2, 2, story) > 40);
}

fn again(mut command: impl FnMut() -> bool) {
    assert!((0..4).any(|_| command()), "it dies once only");
}

fn try_bootstrap(world: &mut World, device: usize) -> bool {
    use identity_common::{SIGNING_UPLOAD, with_password};
    let body = world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| machine.prepare_identity(snapshot, cx, false))
    });
    let Some(body) = body else { return false };
    let Some(body) = body.reply else { return true };
    let body = with_password(world, device, &body);
    world.call(Some(device), "POST", SIGNING_UPLOAD, body);
    let published = world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| machine.identity_published(snapshot, cx))
    });
    world.settle();
    published.is_some()
}

fn try_open(world: &mut World, device: usize, vault: &Vault) -> bool {
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        open(world, device, vault);
    }));
    opened.is_ok()
}

#[test]
fn it_is_replaced_once_a_week_by_one_that_is_signed() {
    let (mut world, alice, bob, room, vault) = scene(3);
    let first = dehydrated(&world);
    world.clock.advance(WEEK - HOUR - HOUR);
    world.settle();
    assert_eq!(dehydrated(&world), first);
    world.restart(alice);
    world.clock.advance(HOUR + HOUR);
    world.settle();
    let second = dehydrated(&world);
    assert_ne!(second, first);
    let user = world.devices[alice].user_id.clone();
    let known = behaviour_common::known_devices(&mut world, bob, &user);
    let view = known.devices.iter().find(|view| view.device.device_id == second.as_str()).unwrap();
    assert!(view.cross_signed && view.device.dehydrated);
    assert!(known.devices.iter().all(|view| view.device.device_id != first.as_str()));
    // It gets what is said from then on.
    log_out(&mut world, alice);
    let away = say(&mut world, bob, &room, 2);
    let next = new_device(&mut world, &vault);
    assert_eq!(rehydrate(&mut world, next), RehydrationOutcome::Done);
    assert_eq!(read(&mut world, next, &room, &away), 2);
    clean(&world);
}

#[test]
fn two_devices_that_keep_one_do_not_replace_each_others() {
    let (mut world, alice, _, _, vault) = scene(4);
    let other = new_device(&mut world, &vault);
    assert!(try_start(&mut world, other));
    world.settle();
    let kept = dehydrated(&world);
    assert_eq!(status(&mut world, other).device_id.unwrap().as_str(), kept);
    for _ in 0..5 {
        world.clock.advance(HOUR + Duration::from_secs(1));
        world.settle();
    }
    assert_eq!(dehydrated(&world), kept);
    let status = status(&mut world, alice);
    assert!(status.enabled);
    assert_eq!(status.device_id.unwrap().as_str(), kept, "the other's is as good");
    clean(&world);
}

#[test]
fn one_that_was_stopped_or_removed_stays_away() {
    let (mut world, alice, _, _, vault) = scene(5);
    let other = new_device(&mut world, &vault);
    assert!(try_start(&mut world, other));
    world.settle();
    stop(&mut world, alice);
    assert_eq!(world.server.dehydrated_device("@alice:world.test"), None);
    assert!(!status(&mut world, alice).enabled);
    for _ in 0..3 {
        world.clock.advance(HOUR + Duration::from_secs(1));
        world.settle();
    }
    assert!(!status(&mut world, other).enabled);
    assert_eq!(notices(&world, other, "dehydration_stopped").len(), 1);
    world.clock.advance(WEEK);
    world.settle();
    assert_eq!(world.server.dehydrated_device("@alice:world.test"), None);
    // And comes back if it is wanted.
    assert!(try_start(&mut world, alice));
    world.settle();
    assert_eq!(status(&mut world, alice).device_id.unwrap().as_str(), dehydrated(&world));
    clean(&world);
}

#[test]
fn another_identity_has_another_dehydrated_device() {
    let (mut world, alice, bob, ..) = scene(6);
    let first = dehydrated(&world);
    bootstrap(&mut world, alice, true);
    world.settle();
    let second = dehydrated(&world);
    assert_ne!(second, first);
    assert!(is_signed(&mut world, alice, alice));
    let user = world.devices[alice].user_id.clone();
    let known = behaviour_common::known_devices(&mut world, bob, &user);
    let view = known.devices.iter().find(|view| view.device.device_id == second.as_str()).unwrap();
    assert!(view.cross_signed);
}

#[test]
fn a_server_without_them_is_told_of_and_left_alone() {
    let mut world = World::new(7);
    let alice = world.add_device("alice");
    bootstrap(&mut world, alice, false);
    world.server.serve_dehydration(Dehydration::Unknown);
    make_key(&mut world, alice);
    assert_eq!(rehydrate(&mut world, alice), RehydrationOutcome::Unsupported);
    assert!(try_start(&mut world, alice));
    world.settle();
    let known = status(&mut world, alice);
    assert_eq!(known.outcome, Some(RehydrationOutcome::Unsupported));
    assert!(!known.enabled && !known.busy);
    let asked = world.server.requests().len();
    world.clock.advance(WEEK);
    world.settle();
    let later = world.server.requests()[asked..].iter();
    assert_eq!(later.filter(|seen| seen.path.contains("dehydrated")).count(), 0);
    // It goes away between the question and the upload.
    world.server.serve_dehydration(Dehydration::Served);
    assert!(try_start(&mut world, alice));
    world.tamper = Some(Box::new(|_, path, response| {
        if path.ends_with(DEVICE) && response.status == 200 {
            response.status = 404;
            response.body = br#"{"errcode":"M_UNRECOGNIZED"}"#.to_vec();
        }
    }));
    world.settle();
    assert!(!status(&mut world, alice).enabled);
    assert_eq!(notices(&world, alice, "dehydration_stopped").len(), 1);
    clean(&world);
}

#[test]
fn without_an_identity_a_key_or_leave_none_is_made() {
    let mut world = World::new(8);
    let policy = Policy { dehydration: false, ..open_policy() };
    let (alice, bob) = (world.add_device("alice"), world.add_device_with("bob", policy));
    world.settle();
    make_key(&mut world, alice);
    assert!(!try_start(&mut world, alice), "nobody could sign it");
    assert!(!try_rehydrate(&mut world, alice), "nobody could say whose it is");
    bootstrap(&mut world, alice, false);
    bootstrap(&mut world, bob, false);
    let other = world.add_device("alice");
    world.settle();
    assert!(!try_start(&mut world, other));
    make_key(&mut world, bob);
    assert!(!try_start(&mut world, bob) && !try_rehydrate(&mut world, bob), "the policy");
    // A policy that comes later holds for the one that is there.
    start(&mut world, alice);
    let strict = Policy { dehydration: false, ..open_policy() };
    world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| machine.raise_floor(snapshot, cx, &strict))
    });
    world.settle();
    assert_eq!(world.server.dehydrated_device("@alice:world.test"), None);
    clean(&world);
}

#[test]
fn the_key_comes_with_a_self_verification_too() {
    let (mut world, alice, ..) = scene(9);
    let key = make_key(&mut world, alice);
    let second = world.add_device("alice");
    world.settle();
    let secrets = dehydration_common::vault(&mut world, alice);
    // What a verification brings about: each is sure of the other.
    open_identity_only(&mut world, second, &secrets);
    assert!(!status(&mut world, second).has_key);
    world.command(second, |engine| {
        engine.step(|machine, snapshot, cx| machine.request_secrets(snapshot, cx))
    });
    world.settle();
    assert!(status(&mut world, second).has_key);
    assert_eq!(make_key(&mut world, second), key);
    clean(&world);
}

#[test]
fn the_upload_is_what_the_proposal_asks_for() {
    let (world, ..) = scene(10);
    let mut seen = world.server.requests().iter().rev();
    let put = seen.find(|seen| seen.method == "PUT" && seen.path.ends_with(DEVICE));
    let body: Value = serde_json::from_slice(&put.unwrap().body).unwrap();
    let id = body["device_id"].as_str().unwrap();
    assert_eq!(body["device_data"]["algorithm"], "org.matrix.msc3814.v2");
    assert_eq!(body["device_keys"]["device_id"], id);
    assert_eq!(body["device_keys"]["dehydrated"], true);
    assert_eq!(body["device_keys"]["keys"][format!("curve25519:{id}")], id);
    let signatures = &body["device_keys"]["signatures"]["@alice:world.test"];
    assert_eq!(signatures.as_object().unwrap().len(), 2, "its own, and the user's");
    assert_eq!(body["one_time_keys"].as_object().unwrap().len(), 50);
    let fallback = body["fallback_keys"].as_object().unwrap();
    assert!(fallback.len() == 1 && fallback.values().all(|key| key["fallback"] == true));
}

/// The homeserver may have accepted it all the same, and given keys of it to others.
#[test]
fn an_upload_without_an_answer_is_made_anew() {
    let mut world = World::new(11);
    let alice = world.add_device("alice");
    bootstrap(&mut world, alice, false);
    let mut failed = 0;
    world.tamper = Some(Box::new(move |_, path, response| {
        if path.ends_with(DEVICE) && response.status == 200 && failed < 3 {
            failed += 1;
            response.status = 502;
        }
    }));
    start(&mut world, alice);
    let seen = world.server.requests().iter();
    let seen = seen.filter(|seen| seen.method == "PUT" && seen.path.ends_with(DEVICE));
    let bodies: Vec<Value> = seen.map(|seen| serde_json::from_slice(&seen.body).unwrap()).collect();
    assert_eq!(bodies.len(), 4);
    let ids: std::collections::BTreeSet<&str> =
        bodies.iter().map(|body| body["device_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 4);
    assert_eq!(world.server.device_ids("@alice:world.test").len(), 2, "one is left");
    clean(&world);
}

/// A process that dies between the request and its answer does not know whether it was accepted: keys of that device may have
/// been claimed since, and are not offered again.
#[test]
fn an_upload_that_may_have_been_accepted_is_made_anew_after_a_restart() {
    let mut world = World::new(12);
    let alice = world.add_device("alice");
    bootstrap(&mut world, alice, false);
    make_key(&mut world, alice);
    assert!(try_start(&mut world, alice));
    // It is asked for, and nobody hears the answer.
    let mut asked = None;
    for _ in 0..20 {
        let due = world.command(alice, |engine| engine.due_requests()).unwrap().reply;
        let upload = due.iter().find(|request| {
            request.http.method == Method::Put && request.http.path.ends_with(DEVICE)
        });
        if let Some(upload) = upload {
            asked = Some(body_of(upload));
            break;
        }
        for request in due {
            world.command(alice, |engine| {
                engine.abandon(&request.id);
                Ok(())
            });
        }
        world.pump(alice);
    }
    let asked = asked.expect("an upload");
    world.restart(alice);
    world.settle();
    let made = dehydrated(&world);
    assert!(!asked.contains(&made), "another one is made");
    assert!(status(&mut world, alice).enabled);
    clean(&world);
}

/// Who replaces the key, because somebody else may know it, is not undone by another device that has the old one; and that
/// one's user is told.
#[test]
fn a_device_under_another_key_is_not_taken_for_ones_own() {
    let (mut world, alice, bob, room, vault) = scene(13);
    let other = new_device(&mut world, &vault);
    assert!(try_start(&mut world, other));
    world.settle();
    let old = dehydrated(&world);
    world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| machine.renew_dehydration_key(snapshot, cx))
    });
    world.settle();
    for _ in 0..3 {
        world.clock.advance(HOUR + Duration::from_secs(1));
        world.settle();
    }
    let new = dehydrated(&world);
    assert_ne!(new, old, "what was made under the old key is replaced");
    assert!(!status(&mut world, other).enabled);
    assert_eq!(notices(&world, other, "dehydration_stopped").len(), 1);
    assert!(status(&mut world, alice).enabled);
    // The old key opens nothing that comes from now on.
    log_out(&mut world, alice);
    log_out(&mut world, other);
    let away = say(&mut world, bob, &room, 1);
    let third = new_device(&mut world, &vault);
    assert_ne!(rehydrate(&mut world, third), RehydrationOutcome::Done);
    assert_eq!(read(&mut world, third, &room, &away), 0);
}

/// A device that cannot make another one reads what there is, and leaves it there.
#[test]
fn what_cannot_be_replaced_is_read_and_stays() {
    let (mut world, alice, bob, room, vault) = scene(14);
    log_out(&mut world, alice);
    let away = say(&mut world, bob, &room, 2);
    let before = dehydrated(&world);
    let second = world.add_device("alice");
    world.settle();
    open_without_signing(&mut world, second, &vault);
    assert_eq!(rehydrate(&mut world, second), RehydrationOutcome::Done);
    assert_eq!(read(&mut world, second, &room, &away), 2);
    assert_eq!(dehydrated(&world), before);
    let third = new_device(&mut world, &vault);
    assert_eq!(rehydrate(&mut world, third), RehydrationOutcome::Done);
    assert_eq!(read(&mut world, third, &room, &away), 2);
    clean(&world);
}

/// Neither a bad network nor a proxy's error page costs what was sent.
#[test]
fn what_the_server_does_not_give_out_for_a_while_is_not_replaced() {
    let (mut world, alice, bob, room, vault) = scene(15);
    let second = new_device(&mut world, &vault);
    assert!(try_start(&mut world, second));
    world.settle();
    log_out(&mut world, alice);
    world.set_online(second, false);
    let away = say(&mut world, bob, &room, 2);
    let before = dehydrated(&world);
    world.set_online(second, true);
    world.tamper = Some(Box::new(move |_, path, response| {
        if path.contains(EVENTS) {
            (response.status, response.body) = (403, b"<html>".to_vec());
        }
    }));
    assert_ne!(rehydrate(&mut world, second), RehydrationOutcome::Done);
    world.tamper = None;
    assert_eq!(dehydrated(&world), before);
    assert!(status(&mut world, second).enabled);
    let third = new_device(&mut world, &vault);
    assert_eq!(rehydrate(&mut world, third), RehydrationOutcome::Done);
    assert_eq!(read(&mut world, third, &room, &away), 2);
}
