//! Answers to the machine's own requests, and to the app's: keys, member lists, history.
//!
//! Input: which request (a stage of the scene, then member list, page of history, event, changed devices),
//! which status, then the body.

use herold_machine::{Answer, Outgoing};
use ruma::{OwnedEventId, OwnedRoomId, RoomId};

use crate::{
    scene::{Ready, scene},
    subject::{Subject, sync_twice},
};

const STATUS: [u16; 8] = [200, 200, 200, 200, 400, 401, 429, 502];

/// One run.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let [which, status, body @ ..] = data else { return };
    let ready = scene();
    let stages = ready.scene.stages.len();
    let which = usize::from(*which) % (stages + 4);
    if which < stages {
        stage(ready, which, STATUS[usize::from(status % 8)], body);
    } else {
        let room: OwnedRoomId = ready.scene.shared.as_str().try_into().expect("a room id");
        sync_twice(body, |subject| asked(subject, which - stages, &room, body));
    }
}

/// An answer to what the app has asked.
fn asked(subject: &mut Subject, which: usize, room: &RoomId, body: &[u8]) -> bool {
    let length = body.len();
    match which {
        0 => {
            let known = subject.ask(|machine, store| machine.room(store, room));
            let generation = known.expect("readable").expect("a room").member_generation;
            let taken = subject.input(length, &|machine, store, cx| {
                machine.handle_members(store, cx, room, generation, body)
            });
            taken.is_some()
        }
        1 => {
            let taken = subject.input(length, &|machine, store, cx| {
                machine.handle_messages(store, cx, room, body)
            });
            taken.is_some()
        }
        2 => {
            // Whatever event it is, that is the one that was asked for.
            let named = serde_json::from_slice::<serde_json::Value>(body).ok();
            let named = named.and_then(|event| event["event_id"].as_str()?.try_into().ok());
            let asked: OwnedEventId = named.unwrap_or_else(|| ruma::event_id!("$asked").to_owned());
            let taken = subject.input(length, &|machine, store, cx| {
                machine.handle_event(store, cx, room, &asked, body)
            });
            taken.is_some()
        }
        _ => {
            let taken = subject
                .input(length, &|machine, store, cx| machine.handle_keys_changes(store, cx, body));
            taken.is_some()
        }
    }
}

/// An answer to a request of the machine's. No answer makes a step fail, twice is as good as once, and
/// the machine never stands still for good: the request, or what follows from it, stays due.
fn stage(ready: &Ready, which: usize, status: u16, body: &[u8]) {
    crate::random::restart(0);
    let stage = &ready.scene.stages[which];
    let now = herold_trust::Timestamp::from_millis(stage.now);
    let mut subject = Subject::new(ready.stages[which].clone(), now);
    let before = subject.store.clone();
    let requests = subject.ask(|machine, store| machine.requests(store, now)).expect("requests");
    let request: &Outgoing = requests
        .iter()
        .find(|request| request.kind() == stage.kind && request.id.as_str() == stage.id)
        .expect("the scene's request is due");
    let answer = Answer::Response { status, retry_after_ms: None, body };
    for _ in 0..2 {
        let taken = subject.input(body.len(), &|machine, store, cx| {
            machine.handle_answer(store, cx, request, answer)
        });
        assert!(taken.is_some(), "an answer has made a step fail");
        subject.check(&before);
    }
    let lost = subject
        .input(0, &|machine, store, cx| machine.handle_answer(store, cx, request, Answer::Failed));
    assert!(lost.is_some(), "no answer has made a step fail");
    subject.check(&before);
}
