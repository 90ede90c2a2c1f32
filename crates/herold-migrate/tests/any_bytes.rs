//! No bytes in the source make the migration panic: in any row, in any value inside the encryption, in the file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;

use common::{FILE, NOW, PASSPHRASE, copy, dry_run, open};
use matrix_sdk_store_encryption::StoreCipher;
use proptest::prelude::*;
use rusqlite::Connection;

const TABLES: [&str; 7] = [
    "kv",
    "session",
    "inbound_group_session",
    "device",
    "identity",
    "tracked_user",
    "room_settings",
];

fn value_of(table: &str) -> &'static str {
    if table == "kv" { "value" } else { "data" }
}

/// Some bytes in place of others.
#[derive(Clone, Debug)]
struct Edit {
    table: usize,
    row: usize,
    at: usize,
    cut: usize,
    put: Vec<u8>,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = (
        0..TABLES.len(),
        0_usize..20,
        0_usize..4000,
        0_usize..40,
        prop::collection::vec(any::<u8>(), 0..40),
    )
        .prop_map(|(table, row, at, cut, put)| Edit { table, row, at, cut, put });
    prop::collection::vec(edit, 1..6)
}

fn apply(edit: &Edit, bytes: &mut Vec<u8>) {
    let at = edit.at % (bytes.len() + 1);
    let end = (at + edit.cut).min(bytes.len());
    bytes.splice(at..end, edit.put.iter().copied());
}

fn edit_rows(connection: &Connection, edits: &[Edit], cipher: Option<&StoreCipher>) {
    for edit in edits {
        let (table, column) = (TABLES[edit.table], value_of(TABLES[edit.table]));
        let rows: i64 = connection
            .query_row(&format!("SELECT count(*) FROM {table}"), (), |row| row.get(0))
            .unwrap();
        let place = edit.row as i64 % rows.max(1);
        let found = connection.query_row(
            &format!("SELECT rowid, {column} FROM {table} ORDER BY rowid LIMIT 1 OFFSET {place}"),
            (),
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)),
        );
        let Ok((rowid, mut bytes)) = found else { continue };
        let plain = cipher
            .and_then(|cipher| cipher.decrypt_value_data(rmp_serde::from_slice(&bytes).ok()?).ok());
        match (cipher, plain) {
            (Some(cipher), Some(mut plain)) => {
                apply(edit, &mut plain);
                let sealed = cipher.encrypt_value_data(plain).unwrap();
                bytes = rmp_serde::to_vec_named(&sealed).unwrap();
            }
            _ => apply(edit, &mut bytes),
        }
        connection
            .execute(&format!("UPDATE {table} SET {column} = ?1 WHERE rowid = ?2"), (bytes, rowid))
            .unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_any_row(edits in edits()) {
        let folder = copy("none");
        let connection = Connection::open(folder.path().join(FILE)).unwrap();
        edit_rows(&connection, &edits, None);
        connection.close().unwrap();
        let _ = dry_run(folder.path(), "none");
    }

    #[test]
    fn any_bytes_in_the_file_and_its_log(
        places in prop::collection::vec((any::<usize>(), any::<u8>()), 1..20),
        log_places in prop::collection::vec((any::<usize>(), any::<u8>()), 0..20),
        cut in prop::option::of(any::<usize>()),
    ) {
        let folder = copy("none");
        for (name, places) in [(FILE.to_owned(), places), (format!("{FILE}-wal"), log_places)] {
            let path = folder.path().join(name);
            let mut bytes = fs::read(&path).unwrap();
            let length = bytes.len();
            for (place, byte) in places {
                bytes[place % length] = byte;
            }
            bytes.truncate(cut.map_or(length, |cut| cut % length));
            fs::write(path, bytes).unwrap();
        }
        let _ = dry_run(folder.path(), "none");
    }
}

proptest! {
    // The passphrase takes its time.
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_inside_the_encryption(edits in edits()) {
        let folder = copy("passphrase");
        let connection = Connection::open(folder.path().join(FILE)).unwrap();
        let sealed: Vec<u8> = connection
            .query_row("SELECT value FROM kv WHERE key = 'cipher'", (), |row| row.get(0))
            .unwrap();
        let cipher = StoreCipher::import(PASSPHRASE, &sealed).unwrap();
        edit_rows(&connection, &edits, Some(&cipher));
        connection.close().unwrap();
        let _ = open(folder.path(), "passphrase").and_then(|source| source.read(NOW));
    }
}
