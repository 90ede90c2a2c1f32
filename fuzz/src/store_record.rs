//! The rows of a store, as they come out of its pages: each record's decoder, the ratchets inside, and a
//! machine that finds such a row in its store.
//!
//! Input: which row of the scene (two bytes), how (even: the bytes are the row, odd: changes to it), then
//! the bytes. The row's first pages are authenticated, so whoever changes one has the key: this is about
//! faults, not attacks. What counts is that a damaged row is an error and never a panic, nor a fresh
//! session.

use std::sync::OnceLock;

use herold_crypto::{Account, InboundGroupSession, OlmSession, OutboundGroupSession};
use herold_machine::{Context, Machine, MachineError};
use herold_store::{ChangeSet, MemoryStore, Store as _, StoreError, Table, records as r};

use crate::{
    random::Entropy,
    records::{self, Row},
    scene::scene,
};

/// The stores of the scene with all their rows.
fn stores() -> &'static [(&'static MemoryStore, Vec<Row>)] {
    static STORES: OnceLock<Vec<(&MemoryStore, Vec<Row>)>> = OnceLock::new();
    STORES.get_or_init(|| {
        let ready = scene();
        let stores = std::iter::once(&ready.store).chain(&ready.stages);
        stores.map(|store| (store, records::rows(store))).collect()
    })
}

/// One run.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let [store, row, how, bytes @ ..] = data else { return };
    crate::random::restart(0);
    let stores = stores();
    let (store, rows) = &stores[usize::from(*store) % stores.len()];
    // Rows of one table stand together and are many or few: the table first, then one of its rows.
    let tables: Vec<Table> =
        Table::ALL.iter().copied().filter(|table| rows.iter().any(|row| row.0 == *table)).collect();
    let table = tables[usize::from(*row) % tables.len()];
    let rows: Vec<&Row> = rows.iter().filter(|row| row.0 == table).collect();
    let (_, key, good) = rows[usize::from(how / 2) % rows.len()];
    let value = if how % 2 == 0 { bytes.to_vec() } else { changed(good, bytes) };
    if let Ok((_, again)) = records::decode(table, key, &value) {
        let twice = records::decode(table, key, &again);
        assert_eq!(twice.ok(), Some((key.clone(), again)), "a record changes when written again");
        ratchets(table, &value);
    }
    let _ = records::decode(table, &value, good); // as a key
    live(store, table, key, value);
}

/// A good row with parts replaced: each change is a place (two bytes), a length and that many bytes.
fn changed(good: &[u8], mut edits: &[u8]) -> Vec<u8> {
    let mut row = good.to_vec();
    while let [a, b, length, rest @ ..] = edits {
        let at = usize::from(u16::from_le_bytes([*a, *b])) % (row.len() + 1);
        let (with, rest) = rest.split_at(usize::from(length % 32).min(rest.len()));
        let end = (at + with.len()).min(row.len());
        if length & 0x80 == 0 {
            row.splice(at..end, with.iter().copied());
        } else {
            row.splice(at..at, with.iter().copied()); // grows
        }
        if length & 0x40 != 0 {
            row.truncate(at);
        }
        edits = rest;
    }
    row
}

/// The live objects in a record that reads well: made, used, and written again.
fn ratchets(table: Table, value: &[u8]) {
    use herold_store::Record as _;
    match table {
        Table::Account => {
            let Ok(record) = r::AccountRecord::decode(value) else { return };
            let Ok(mut account) = Account::from_record(record.pickle.as_slice()) else { return };
            account.generate_one_time_keys(1);
            account.generate_fallback_key();
            let keys = account.identity_keys();
            let _ = account.create_outbound_session(keys.curve25519, keys.curve25519);
            assert!(Account::from_record(account.to_record().as_slice()).is_ok());
        }
        Table::OlmSession => {
            let Ok(record) = r::OlmSessionRecord::decode(value) else { return };
            let Ok(mut session) = OlmSession::from_record(record.pickle.as_slice()) else { return };
            let peer = crate::to_device_payload::peer(0);
            if let Ok(message) = crate::to_device_payload::session(peer).encrypt(b"x") {
                let _ = session.decrypt(&message);
            }
            let _ = session.encrypt(b"x");
            assert!(OlmSession::from_record(session.to_record().as_slice()).is_ok());
        }
        Table::InboundSession => {
            let Ok(record) = r::InboundSessionRecord::decode(value) else { return };
            let inbound = InboundGroupSession::from_record(record.pickle.as_slice());
            let Ok(mut session) = inbound else { return };
            let first = session.first_known_index();
            assert!(session.export_at(first).is_some());
            let again = InboundGroupSession::from_record(session.to_record().as_slice());
            assert_eq!(again.map(|again| again.first_known_index()), Ok(first));
        }
        Table::OutboundSession => {
            let Ok(record) = r::OutboundSessionRecord::decode(value) else { return };
            for pickle in [&record.pickle, &record.initial] {
                let outbound = OutboundGroupSession::from_record(pickle.as_slice());
                let Ok(mut session) = outbound else { continue };
                let index = session.message_index();
                session.encrypt(b"x");
                assert!(session.message_index() > index, "a ratchet that stands still");
                let _ = session.to_record_ahead(64);
                assert!(OutboundGroupSession::from_record(session.to_record().as_slice()).is_ok());
            }
        }
        _ => {}
    }
}

/// A machine that finds the row in its store: whatever it is asked, it answers or says what is wrong.
fn live(store: &MemoryStore, table: Table, key: &[u8], value: Vec<u8>) {
    let ready = scene();
    let now = ready.now();
    let mut store = store.clone();
    let mut changes = ChangeSet::new();
    changes.put_row(table, key.to_vec(), value);
    store.commit(&changes).expect("memory takes a commit");
    let mut machine = match Machine::load(&store) {
        Ok(Some(machine)) => machine,
        Ok(None) => panic!("a damaged account passes for none"),
        Err(error) => return only_damage(&error),
    };
    let _ = machine.requests(&store, now).inspect_err(only_damage);
    let _ = machine.next_timeout(&store, now).inspect_err(only_damage);
    let _ = machine.events_after(&store, None, usize::MAX).inspect_err(only_damage);
    let _ = machine.queue(&store).inspect_err(only_damage);
    for (room_id, _) in machine.rooms(&store).inspect_err(only_damage).unwrap_or_default() {
        let _ = machine.timeline(&store, &room_id, usize::MAX).inspect_err(only_damage);
        let members = machine.members(&store, &room_id).inspect_err(only_damage);
        for (user_id, _) in members.unwrap_or_default() {
            let _ = machine.devices(&store, &user_id).inspect_err(only_damage);
        }
    }
    let mut cx = Context { now, entropy: &mut Entropy };
    let probe = ready.scene.probe.sync.as_bytes();
    let step = machine.handle_sync(&store, &mut cx, probe).inspect_err(only_damage);
    if let Ok(step) = step {
        step.commit(&mut store).expect("memory takes a commit").into_outputs();
    } else {
        machine.forget_cached();
    }
    let _ = machine.advance(&store, &mut cx).inspect_err(only_damage);
}

/// The only thing that can be wrong is the store.
fn only_damage(error: &MachineError) {
    assert!(
        matches!(error, MachineError::Store(StoreError::Corrupt(_))),
        "damage passes for something else: {error}"
    );
}
