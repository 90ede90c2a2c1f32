use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use herold_crypto::SeededEntropy;
use herold_store::MemoryStore;
use serde_json::json;

use super::*;
use crate::{Body, test_support::Fragile};

/// A clock that stands where it is put.
#[derive(Default)]
struct Stopped(AtomicU64);

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

struct World {
    clock: Arc<Stopped>,
    full: Arc<AtomicBool>,
    engine: Engine,
}

fn new_account(store: Box<dyn Store + Send>, clock: Arc<Stopped>) -> Result<Engine, EngineError> {
    Engine::create(
        store,
        "@alice:example.org".try_into().unwrap(),
        "ALICEPHONE".into(),
        Policy::default(),
        None,
        clock,
        Box::new(SeededEntropy::new(1)),
    )
}

fn world() -> World {
    let (clock, full) = (Arc::<Stopped>::default(), Arc::<AtomicBool>::default());
    clock.0.store(1_000_000, Ordering::Relaxed);
    let store = Fragile::new(&full);
    let engine = new_account(Box::new(store), clock.clone()).unwrap();
    World { clock, full, engine }
}

/// The key upload, if it is due; other requests are put back.
fn due(engine: &mut Engine) -> Vec<Outgoing> {
    let (uploads, others): (Vec<_>, Vec<_>) =
        engine.due_requests().unwrap().reply.into_iter().partition(|r| r.kind() == "keys_upload");
    others.iter().for_each(|request| engine.abandon(&request.id));
    uploads
}

fn accepted() -> Vec<u8> {
    json!({ "one_time_key_counts": { "signed_curve25519": 50 } }).to_string().into_bytes()
}

fn text(request: &Outgoing) -> &str {
    match &request.http.body {
        Body::Json(text) => text,
        _ => "",
    }
}

#[test]
fn an_account_is_made_once_and_found_again() {
    let World { engine, clock, .. } = world();
    let keys = engine.machine().identity_keys();
    let store = engine.into_store();
    assert!(matches!(new_account(store, clock.clone()), Err(EngineError::AccountExists)));
    let World { engine, .. } = world();
    assert_ne!(engine.machine().identity_keys(), keys);
    let mine = engine.machine().identity_keys();
    let again = Engine::load(engine.into_store(), clock, Box::new(SeededEntropy::new(2))).unwrap();
    assert_eq!(again.machine().identity_keys(), mine);
}

#[test]
fn an_empty_store_has_no_account() {
    let entropy = Box::new(SeededEntropy::new(1));
    let loaded = Engine::load(Box::new(MemoryStore::new()), Arc::<Stopped>::default(), entropy);
    assert!(matches!(loaded, Err(EngineError::NoAccount)));
}

#[test]
fn a_request_is_handed_out_once_until_it_is_answered_or_abandoned() {
    let World { mut engine, .. } = world();
    let first = due(&mut engine);
    assert_eq!(first.len(), 1);
    assert!(due(&mut engine).is_empty());
    engine.abandon(&first[0].id);
    let second = due(&mut engine);
    assert_eq!(text(&second[0]), text(&first[0]));
    let body = accepted();
    let answer = Answer::Response { status: 200, retry_after_ms: None, body: &body };
    engine.answer(&second[0], answer).unwrap();
    assert!(due(&mut engine).is_empty());
}

#[test]
fn after_a_restart_the_same_request_comes_with_the_same_bytes() {
    let World { mut engine, clock, .. } = world();
    let before = due(&mut engine);
    let mut engine =
        Engine::load(engine.into_store(), clock, Box::new(SeededEntropy::new(9))).unwrap();
    let after = due(&mut engine);
    assert_eq!(text(&after[0]), text(&before[0]));
}

#[test]
fn a_failed_request_is_due_again_when_the_engine_says() {
    let World { mut engine, clock, .. } = world();
    let request = due(&mut engine).remove(0);
    engine.answer(&request, Answer::Failed).unwrap();
    assert!(due(&mut engine).is_empty());
    let next = engine.next_timeout().unwrap().unwrap();
    assert!(next > engine.now());
    clock.0.store(next.as_millis() - 1, Ordering::Relaxed);
    assert!(due(&mut engine).is_empty());
    clock.0.store(next.as_millis(), Ordering::Relaxed);
    assert_eq!(due(&mut engine).len(), 1);
}

#[test]
fn the_wait_the_server_asks_for_is_kept() {
    let World { mut engine, .. } = world();
    let request = due(&mut engine).remove(0);
    let answer = Answer::Response { status: 429, retry_after_ms: Some(300_000), body: b"{}" };
    engine.answer(&request, answer).unwrap();
    engine.advance_clock(Duration::from_secs(299));
    assert!(due(&mut engine).is_empty());
    engine.advance_clock(Duration::from_secs(400));
    assert_eq!(due(&mut engine).len(), 1);
}

#[test]
fn a_step_that_cannot_be_committed_changes_nothing_and_can_be_tried_again() {
    let World { mut engine, full, .. } = world();
    let body = json!({ "next_batch": "s1" }).to_string();
    let token = |engine: &Engine| {
        let request = engine.read(|machine, snapshot| machine.sync_request(snapshot, 0)).unwrap();
        request.query.into_iter().find(|(name, _)| name == "since").map(|(_, value)| value)
    };
    let take = |engine: &mut Engine| {
        engine.step(|machine, snapshot, cx| machine.handle_sync(snapshot, cx, body.as_bytes()))
    };
    full.store(true, Ordering::Relaxed);
    assert!(matches!(take(&mut engine), Err(EngineError::Store(StoreError::Io(_)))));
    assert_eq!(token(&engine), None);
    full.store(false, Ordering::Relaxed);
    assert_eq!(take(&mut engine).unwrap().reply.next_batch, "s1");
    assert_eq!(token(&engine).as_deref(), Some("s1"));
}

#[test]
fn an_answer_that_cannot_be_committed_can_be_given_again() {
    let World { mut engine, full, .. } = world();
    let request = due(&mut engine).remove(0);
    let body = accepted();
    let answer = Answer::Response { status: 200, retry_after_ms: None, body: &body };
    full.store(true, Ordering::Relaxed);
    assert!(engine.answer(&request, answer).is_err());
    full.store(false, Ordering::Relaxed);
    assert!(due(&mut engine).is_empty(), "it still counts as under way");
    engine.answer(&request, answer).unwrap();
    assert!(due(&mut engine).is_empty(), "it is done");
}

#[test]
fn a_sync_response_that_is_cut_off_changes_nothing() {
    let World { mut engine, .. } = world();
    for body in ["", "{\"next_batch\":\"s1\",\"rooms\":{", "<html></html>", "[]", "{}"] {
        let taken =
            engine.step(|machine, snapshot, cx| machine.handle_sync(snapshot, cx, body.as_bytes()));
        assert!(matches!(taken, Err(EngineError::Machine(MachineError::Malformed(_)))), "{body}");
    }
}

#[test]
fn an_engine_can_be_moved_to_another_thread() {
    fn is_send<T: Send>(_: &T) {}
    let shared = Mutex::new(world().engine);
    is_send(&shared);
    assert!(format!("{shared:?}").contains("ALICEPHONE"));
}

/// The homeserver refuses whatever has one signature in it that it cannot do with, and names another one in its answer.
#[test]
fn a_signature_that_is_refused_costs_no_other() {
    use herold_machine::Notice;
    use herold_store::{
        ChangeSet,
        records::{SequenceKey, SignatureRecord},
    };

    let World { engine, clock, .. } = world();
    let mut store = engine.into_store();
    let mut changes = ChangeSet::new();
    let user_id: OwnedUserId = "@alice:example.org".try_into().unwrap();
    for sequence in 0..120 {
        let name = format!("KEY{sequence}");
        let record = SignatureRecord { user_id: user_id.clone(), name, object: "{}".to_owned() };
        changes.put(&SequenceKey { sequence }, &record);
    }
    store.commit(&changes).unwrap();
    let mut engine = Engine::load(store, clock.clone(), Box::new(SeededEntropy::new(2))).unwrap();
    let (mut accepted, mut told, mut rounds) = (Vec::new(), Vec::new(), 0);
    loop {
        let mut requests = engine.due_requests().unwrap().reply;
        requests.retain(|request| request.http.path.ends_with("/signatures/upload"));
        let Some(request) = requests.pop() else { break };
        rounds += 1;
        let body: serde_json::Value = serde_json::from_str(text(&request)).unwrap();
        let names: Vec<String> =
            body["@alice:example.org"].as_object().unwrap().keys().cloned().collect();
        let is_bad = |name: &String| name == "KEY17" || name == "KEY99";
        let failures =
            json!({ "@alice:example.org": { "KEY5": { "errcode": "M_INVALID_SIGNATURE" } } });
        let (status, body) = if names.iter().any(is_bad) {
            (400, json!({ "errcode": "M_BAD_JSON", "error": "no" }))
        } else {
            accepted.extend(names.iter().filter(|name| *name != "KEY5").cloned());
            (200, json!({ "failures": failures }))
        };
        let body = body.to_string().into_bytes();
        let answer = Answer::Response { status, retry_after_ms: None, body: &body };
        for (_, event) in engine.answer(&request, answer).unwrap().events {
            if let AppEvent::Notice(Notice::SignatureRefused { name, errcode, .. }) = event {
                told.push((name, errcode));
            }
        }
        assert!(rounds < 40, "it comes to an end");
    }
    told.sort();
    let expected =
        [("KEY17", "M_BAD_JSON"), ("KEY5", "M_INVALID_SIGNATURE"), ("KEY99", "M_BAD_JSON")];
    assert_eq!(told, expected.map(|(name, code)| (name.to_owned(), code.to_owned())));
    accepted.sort();
    accepted.dedup();
    assert_eq!(accepted.len(), 117);
}
