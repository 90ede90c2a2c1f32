//! One function for each fact about a single store.

use std::ops::ControlFlow;

use herold_crypto::SessionId;
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId};

use super::{StoreFactory, assert_samples, sample_changes};
use crate::{
    ChangeSet, Durability, Record, RecordKey, Snapshot, SnapshotExt, Store, StoreError, Table,
    key::push_text,
    records::{
        CounterRecord, DeviceKey, DeviceRecord, NameKey, RoomSessionKey, SequenceKey, ShareKey,
        ShareRecord, ShareState, SyncRecord, TimelineKey, UserKey, WithheldRecord,
    },
};

pub(super) type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// All rows of a scan.
pub(super) fn scanned(
    store: &dyn Snapshot,
    table: Table,
    prefix: &[u8],
    from: Option<&[u8]>,
) -> Rows {
    let mut rows = Rows::new();
    store
        .scan(table, prefix, from, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .expect("a scan");
    rows
}

/// All rows of a scan back.
pub(super) fn scanned_back(
    store: &dyn Snapshot,
    table: Table,
    prefix: &[u8],
    before: Option<&[u8]>,
) -> Rows {
    let mut rows = Rows::new();
    store
        .scan_back(table, prefix, before, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .expect("a scan back");
    rows
}

fn put(store: &mut impl Store, rows: &[(Table, &[u8], &[u8])]) {
    let mut changes = ChangeSet::new();
    for (table, key, value) in rows {
        changes.put_row(*table, key.to_vec(), value.to_vec());
    }
    store.commit(&changes).expect("a commit");
}

fn keys(rows: &Rows) -> Vec<&[u8]> {
    rows.iter().map(|(key, _)| key.as_slice()).collect()
}

/// Put, get, replace, delete, in a reopened store too.
pub fn a_row_put_is_read_back_and_a_deleted_one_is_gone<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    assert_eq!(store.get(Table::Counter, b"k").unwrap(), None);
    put(&mut store, &[(Table::Counter, b"k", b"one")]);
    assert_eq!(store.get(Table::Counter, b"k").unwrap().as_deref(), Some(&b"one"[..]));
    put(&mut store, &[(Table::Counter, b"k", b"two")]);
    let mut store = place.reopen(store).expect("the store again");
    assert_eq!(store.snapshot().get(Table::Counter, b"k").unwrap().as_deref(), Some(&b"two"[..]));
    let mut changes = ChangeSet::new();
    changes.delete_row(Table::Counter, b"k".to_vec());
    changes.delete_row(Table::Counter, b"never there".to_vec());
    store.commit(&changes).expect("a commit");
    assert_eq!(store.get(Table::Counter, b"k").unwrap(), None);
    let store = place.reopen(store).expect("the store again");
    assert_eq!(store.get(Table::Counter, b"k").unwrap(), None);
}

/// The same key in every table is as many rows.
pub fn tables_do_not_share_rows<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    let mut changes = ChangeSet::new();
    for table in Table::ALL {
        changes.put_row(*table, b"same".to_vec(), table.name().as_bytes().to_vec());
    }
    store.commit(&changes).expect("a commit");
    let store = place.reopen(store).expect("the store again");
    for table in Table::ALL {
        let rows = vec![(b"same".to_vec(), table.name().as_bytes().to_vec())];
        assert_eq!(scanned(&store, *table, b"", None), rows);
        assert_eq!(scanned_back(&store, *table, b"", None), rows);
    }
}

/// Ascending and descending order of the key bytes, with and without a prefix.
pub fn scans_go_in_key_order_both_ways<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    let all: [&[u8]; 9] =
        [b"", b"\0", b"a", b"a\0", b"a\0\xff", b"a\xff", b"a\xff\xff", b"b", b"\xff\xff"];
    let rows: Vec<_> = all.iter().rev().map(|key| (Table::Event, *key, *key)).collect();
    put(&mut store, &rows);
    let rows = scanned(&store, Table::Event, b"", None);
    assert_eq!(keys(&rows), all);
    let mut back = scanned_back(&store, Table::Event, b"", None);
    back.reverse();
    assert_eq!(back, rows);
    for (prefix, found) in [
        (&b"a"[..], &all[2..7]),
        (b"a\xff", &all[5..7]),
        (b"\xff", &all[8..]),
        (b"\xff\xff", &all[8..]),
        (b"c", &[]),
    ] {
        assert_eq!(keys(&scanned(&store, Table::Event, prefix, None)), found);
        let mut back = scanned_back(&store, Table::Event, prefix, None);
        back.reverse();
        assert_eq!(keys(&back), found);
    }
}

/// `from` is inclusive, `before` exclusive; both may be no row, and may lie outside the prefix.
pub fn scans_start_at_from_and_before<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    let mut changes = ChangeSet::new();
    let room = OwnedRoomId::try_from("!room:example.org").unwrap();
    let other = OwnedRoomId::try_from("!rooms:example.org").unwrap();
    for (room_id, orders) in [(&room, 10..20_u64), (&other, 5..30)] {
        for order in orders {
            let key = TimelineKey { room_id: room_id.clone(), order };
            let value = CounterRecord { next: order };
            changes.put_row(Table::Timeline, key.to_bytes(), value.encode());
        }
    }
    store.commit(&changes).expect("a commit");
    let prefix = TimelineKey::of(&room);
    let key = |order| TimelineKey { room_id: room.clone(), order }.to_bytes();
    let orders = |rows: Rows| -> Vec<u64> {
        rows.iter().map(|(key, _)| TimelineKey::from_bytes(key).unwrap().order).collect()
    };
    let forward = |order| orders(scanned(&store, Table::Timeline, &prefix, Some(&key(order))));
    let back = |order| orders(scanned_back(&store, Table::Timeline, &prefix, Some(&key(order))));
    assert_eq!(forward(0), (10..20).collect::<Vec<_>>());
    assert_eq!(forward(17), [17, 18, 19]);
    assert!(forward(20).is_empty());
    assert_eq!(back(13), [12, 11, 10]);
    assert!(back(10).is_empty());
    assert_eq!(back(u64::MAX), (10..20).rev().collect::<Vec<_>>());
    // Bounds before and after every key with the prefix.
    let low =
        TimelineKey { room_id: OwnedRoomId::try_from("!a:b.c").unwrap(), order: 9 }.to_bytes();
    let high = TimelineKey { room_id: other, order: 9 }.to_bytes();
    assert_eq!(scanned(&store, Table::Timeline, &prefix, Some(&low)).len(), 10);
    assert_eq!(scanned(&store, Table::Timeline, &prefix, Some(&high)).len(), 0);
    assert_eq!(scanned_back(&store, Table::Timeline, &prefix, Some(&low)).len(), 0);
    assert_eq!(scanned_back(&store, Table::Timeline, &prefix, Some(&high)).len(), 10);
}

/// `Break` ends a scan at once; the typed lists keep their limit.
pub fn a_scan_stops_when_it_is_told_to<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    let mut changes = ChangeSet::new();
    for sequence in 0..20 {
        changes.put_row(
            Table::Outbox,
            SequenceKey { sequence }.to_bytes(),
            CounterRecord { next: sequence }.encode(),
        );
    }
    store.commit(&changes).expect("a commit");
    for stop in [1, 7, 20] {
        let mut seen = 0;
        let mut visit = |_: &[u8], _: &[u8]| {
            seen += 1;
            if seen % stop == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        store.scan(Table::Outbox, b"", None, &mut visit).expect("a scan");
        store.scan_back(Table::Outbox, b"", None, &mut visit).expect("a scan back");
        assert_eq!(seen, 2 * stop);
    }
    let mut changes = ChangeSet::new();
    for name in ["a", "b", "c"] {
        changes.put(&NameKey { name: name.to_owned() }, &CounterRecord { next: 1 });
    }
    store.commit(&changes).expect("a commit");
    for (limit, found) in [(0, 0), (1, 1), (3, 3), (9, 3)] {
        assert_eq!(store.list::<CounterRecord>(b"", limit).unwrap().len(), found);
        assert_eq!(store.list_back::<CounterRecord>(b"", None, limit).unwrap().len(), found);
    }
}

/// Reads inside a scan of the same table answer as reads outside do.
pub fn a_scan_may_read_the_store<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    put(&mut store, &[(Table::Queue, b"1", b"one"), (Table::Queue, b"2", b"two")]);
    let mut seen = Vec::new();
    store
        .scan(Table::Queue, b"", None, &mut |key, value| {
            assert_eq!(store.get(Table::Queue, key).unwrap().as_deref(), Some(value));
            seen.push(scanned(&store, Table::Queue, b"", Some(key)).len());
            ControlFlow::Continue(())
        })
        .expect("a scan");
    assert_eq!(seen, [2, 1]);
}

/// A component that starts with, contains, or spells the bytes of another is another.
pub fn a_prefix_of_components_finds_no_other_components_rows<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    let user = OwnedUserId::try_from("@a:b").unwrap();
    let device = OwnedDeviceId::from("D");
    // What the key of session "s" and this user looks like, put into a session id.
    let spelled = String::from_utf8([b"s".as_slice(), b"\0\0\0\x04@a:b"].concat()).unwrap();
    let ids = ["s", "", "ss", "s\0", "\0\0\0\x01s", &spelled, "S", "%", "_", "*"];
    let record = |index| ShareRecord {
        curve25519: [7; 32].into(),
        index,
        state: ShareState::Withheld("m.test".to_owned()),
    };
    let mut changes = ChangeSet::new();
    for (index, id) in (0..).zip(ids) {
        changes.put(
            &ShareKey {
                session_id: SessionId::new(id),
                user_id: user.clone(),
                device_id: device.clone(),
            },
            &record(index),
        );
    }
    store.commit(&changes).expect("a commit");
    for (index, id) in (0..).zip(ids) {
        let prefix = ShareKey::of(&SessionId::new(id));
        let rows = store.list::<ShareRecord>(&prefix, 100).unwrap();
        assert_eq!(rows.len(), 1, "{id:?}");
        assert_eq!(rows[0].0.session_id.as_str(), id);
        assert_eq!(rows[0].1, record(index));
        assert_eq!(store.list_back::<ShareRecord>(&prefix, None, 100).unwrap(), rows);
        // Deleting one row touches that row only.
        let mut changes = ChangeSet::new();
        changes.delete::<ShareRecord>(&rows[0].0);
        store.commit(&changes).expect("a commit");
        assert!(store.list::<ShareRecord>(&prefix, 100).unwrap().is_empty());
        changes.put(&rows[0].0, &rows[0].1);
        store.commit(&changes).expect("a commit");
        assert_eq!(store.list::<ShareRecord>(b"", 100).unwrap().len(), ids.len());
    }
}

/// The identifiers that injection attacks are made of, short and 64 kB long.
pub fn hostile_identifiers() -> Vec<String> {
    let pieces = [
        "'",
        "\"",
        "%",
        "_",
        "\0",
        "; --",
        "'; DROP TABLE t_account; --",
        "\") OR (\"1\"=\"1",
        "\u{202e}\u{202d}\u{200f}",
        "\u{feff}",
        "x'00'",
        "?1",
        ":k",
        "\\",
        "\r\n",
        "\u{10ffff}",
        "$(id)",
        "../..",
        "NULL",
        " ",
    ];
    let mut all: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
    all.extend(pieces.iter().map(|piece| format!("{piece}{piece}")));
    let long: String = pieces.iter().copied().cycle().take(16_000).collect();
    for end in ["", "a", "b"] {
        let mut id: String = long.chars().take(60_000).collect();
        id.truncate(id.floor_char_boundary(65_530));
        all.push(id + end);
    }
    all
}

/// Each hostile identifier finds its own row and no other's (attack N37).
pub fn hostile_identifiers_are_stored_exactly<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    let ids = hostile_identifiers();
    let room = OwnedRoomId::try_from("!r:example.org").unwrap();
    let key = |id: &str| RoomSessionKey { room_id: room.clone(), session_id: SessionId::new(id) };
    let record = |id: &str| WithheldRecord {
        code: id.to_owned(),
        sender: OwnedUserId::try_from("@u:example.org").unwrap(),
        received_at: herold_trust::Timestamp::from_millis(1),
    };
    put(&mut store, &[(Table::Account, b"", b"untouched")]);
    for id in &ids {
        let mut changes = ChangeSet::new();
        changes.put(&key(id), &record(id));
        changes.put(&NameKey { name: id.clone() }, &CounterRecord { next: id.len() as u64 });
        let mut raw = Vec::new();
        push_text(&mut raw, id);
        changes.put_row(Table::Event, raw, id.as_bytes().to_vec());
        store.commit(&changes).expect("a commit");
    }
    let store = place.reopen(store).expect("the store again");
    for id in &ids {
        assert_eq!(store.load::<WithheldRecord>(&key(id)).unwrap().unwrap(), record(id));
        let counter = store.load::<CounterRecord>(&NameKey { name: id.clone() }).unwrap().unwrap();
        assert_eq!(counter.next, id.len() as u64);
        let mut prefix = Vec::new();
        push_text(&mut prefix, id);
        let rows = scanned(&store, Table::Event, &prefix, None);
        assert_eq!(rows, [(prefix, id.as_bytes().to_vec())]);
    }
    assert_eq!(store.list::<WithheldRecord>(b"", 1000).unwrap().len(), ids.len());
    assert_eq!(store.list::<CounterRecord>(b"", 1000).unwrap().len(), ids.len());
    assert_eq!(
        scanned(&store, Table::Account, b"", None),
        [(Vec::new(), b"untouched".to_vec())],
        "another table's row"
    );
}

/// Values of every length around a page, an empty one, and one of some megabytes.
pub fn long_and_empty_values_are_stored_exactly<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    let lengths =
        (0..12_usize).chain(990..1010).chain(4000..4110).chain([8192, 65_535, 65_536, 3 << 20]);
    let value = |length: usize| -> Vec<u8> {
        (0..length).map(|at| (at as u8).wrapping_mul(31) ^ (length as u8)).collect()
    };
    let mut changes = ChangeSet::new();
    for length in lengths.clone() {
        changes.put_row(Table::Event, length.to_be_bytes().to_vec(), value(length));
    }
    store.commit(&changes).expect("a commit");
    let store = place.reopen(store).expect("the store again");
    for length in lengths {
        let found = store.get(Table::Event, &length.to_be_bytes()).unwrap().expect("the row");
        assert!(found == value(length), "a value of {length} bytes");
    }
}

/// In one change set and in appended ones, also across put and delete.
pub fn the_later_change_of_a_row_wins<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    let key = |name: &str| NameKey { name: name.to_owned() };
    let mut changes = ChangeSet::new();
    changes.put(&key("a"), &CounterRecord { next: 1 });
    changes.put(&key("a"), &CounterRecord { next: 2 });
    changes.put(&key("b"), &CounterRecord { next: 1 });
    changes.delete::<CounterRecord>(&key("b"));
    changes.delete::<CounterRecord>(&key("c"));
    changes.put(&key("c"), &CounterRecord { next: 3 });
    changes.put(&key("d"), &CounterRecord { next: 1 });
    let mut later = ChangeSet::new();
    later.put(&key("d"), &CounterRecord { next: 4 });
    later.require_full();
    changes.append(later);
    assert_eq!(changes.durability(), Durability::Full);
    assert_eq!(changes.len(), 4);
    store.commit(&changes).expect("a commit");
    let next = |name| store.load::<CounterRecord>(&key(name)).unwrap().map(|record| record.next);
    assert_eq!([next("a"), next("b"), next("c"), next("d")], [Some(2), None, Some(3), Some(4)]);
}

/// Of either durability.
pub fn an_empty_change_set_changes_nothing<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    put(&mut store, &[(Table::Sync, b"", b"token")]);
    let mut changes = ChangeSet::new();
    store.commit(&changes).expect("a commit");
    changes.require_full();
    store.commit(&changes).expect("a commit");
    assert_eq!(scanned(&store, Table::Sync, b"", None).len(), 1);
}

/// Commits of both durabilities, mixed, are there after each reopening.
pub fn both_durabilities_survive_a_reopening<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    let key = |next: u64| NameKey { name: format!("{next}") };
    for next in 0..24 {
        let mut changes = ChangeSet::new();
        changes.put(&key(next), &CounterRecord { next });
        if next % 3 != 0 {
            changes.require_full();
        }
        store.commit(&changes).expect("a commit");
        if next % 4 == 3 {
            store = place.reopen(store).expect("the store again");
        }
        for earlier in 0..=next {
            let record = store.load::<CounterRecord>(&key(earlier)).unwrap();
            assert_eq!(record, Some(CounterRecord { next: earlier }));
        }
    }
}

/// Cut short, of an unknown version, empty: an error from each typed read.
pub fn a_row_that_does_not_decode_is_corrupt_and_not_absent<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    let good = SyncRecord { next_batch: Some("a token".to_owned()) }.encode();
    let mut newer = good.clone();
    newer[0] = 200;
    let only = crate::records::Only;
    for bad in [&b""[..], &good[..good.len() - 1], &good[..1], &newer, b"\xff\xff\xff\xff"] {
        put(&mut store, &[(Table::Sync, b"", bad)]);
        assert!(store.contains::<SyncRecord>(&only).unwrap());
        for error in [
            store.load::<SyncRecord>(&only).expect_err("a bad row"),
            store.list::<SyncRecord>(b"", 9).expect_err("a bad row"),
            store.list_back::<SyncRecord>(b"", None, 9).expect_err("a bad row"),
        ] {
            assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
            assert!(!error.to_string().contains("token"));
        }
    }
    put(&mut store, &[(Table::Sync, b"", &good)]);
    assert!(store.load::<SyncRecord>(&only).unwrap().is_some());
}

/// A key of the wrong shape is not skipped.
pub fn a_key_that_does_not_decode_is_corrupt<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    let user_id = OwnedUserId::try_from("@a:b").unwrap();
    let whole =
        DeviceKey { user_id: user_id.clone(), device_id: OwnedDeviceId::from("D") }.to_bytes();
    for bad in [UserKey { user_id }.to_bytes(), [&whole[..], b"x"].concat(), b"\xff".to_vec()] {
        put(&mut store, &[(Table::Device, &bad, b"\x01")]);
        let error = store.list::<DeviceRecord>(b"", 9).expect_err("a bad key");
        assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
        let mut changes = ChangeSet::new();
        changes.delete_row(Table::Device, bad);
        store.commit(&changes).expect("a commit");
    }
}

/// One sample of each record type goes in and comes back the same.
pub fn every_record_survives_a_reopening<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    let changes = sample_changes();
    for (table, _, value) in changes.iter() {
        assert!(
            value.is_some_and(|value| !value.is_empty()),
            "a record of {} did not encode",
            table.name()
        );
    }
    store.commit(&changes).expect("a commit");
    assert_samples(&store);
    let store = place.reopen(store).expect("the store again");
    assert_samples(&store);
}
