//! What is damaged, or not what it is filed as, is left out and named; the rest is taken.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;

use common::{FILE, FIXTURES, PASSPHRASE, changed, copy, dry_run, open, secret, world};
use herold_crypto::SecretString;
use herold_migrate::{Kind, MigrateError, Reason, Report, Source, SourceKey, SourceSecret};
use matrix_sdk_store_encryption::StoreCipher;
use rusqlite::Connection;

/// The tables, their column with the value, and what is in them.
const TABLES: [(&str, Kind); 6] = [
    ("session", Kind::OlmSession),
    ("inbound_group_session", Kind::RoomKey),
    ("device", Kind::Device),
    ("identity", Kind::Identity),
    ("tracked_user", Kind::TrackedUser),
    ("room_settings", Kind::EncryptedRoom),
];

fn run(connection: &Connection, sql: &str) {
    connection.execute_batch(sql).unwrap();
}

/// What was taken of everything but `kind` and what depends on it.
fn others(report: &Report, kinds: &[Kind]) -> Vec<(Kind, u64)> {
    let concerned = |kind: &Kind| kinds.contains(kind);
    report
        .taken
        .iter()
        .map(|(kind, count)| (*kind, *count))
        .filter(|(k, _)| !concerned(k))
        .collect()
}

#[test]
fn a_damaged_row_of_each_kind_is_named_and_the_rest_taken() {
    for fixture in FIXTURES {
        let whole = dry_run(copy(fixture).path(), fixture).unwrap();
        for (table, kind) in TABLES {
            let folder = changed(fixture, |connection| {
                run(
                    connection,
                    &format!(
                        "UPDATE {table} SET data = x'c1' || substr(data, 2) \
                         WHERE rowid = (SELECT min(rowid) FROM {table})"
                    ),
                );
            });
            let report = dry_run(folder.path(), fixture).unwrap();
            let named =
                report.left(kind, Reason::Damaged) + report.left(kind, Reason::Contradiction);
            assert_eq!(named, 1, "{fixture} {table}: {report:#?}");
            if kind == Kind::EncryptedRoom {
                // It is known from its room keys.
                assert_eq!(report.taken(kind), whole.taken(kind));
            } else {
                assert_eq!(report.taken(kind), whole.taken(kind) - 1, "{fixture} {table}");
            }
            let dependent = [
                kind,
                Kind::RoomKeySender,
                Kind::RoomKeyBackedUp,
                Kind::BlockedDevice,
                Kind::CrossSigningKey,
                Kind::OwnVerification,
                Kind::UserVerification,
            ];
            assert_eq!(others(&report, &dependent), others(&whole, &dependent), "{table}");
        }
    }
}

#[test]
fn a_damaged_value_by_name_is_named_and_the_rest_taken() {
    for fixture in FIXTURES {
        for (name, kind) in [
            ("identity", Kind::CrossSigningKey),
            ("recovery_key_v1", Kind::BackupKey),
            ("backup_version_v1", Kind::BackupVersion),
        ] {
            let folder = changed(fixture, |connection| {
                run(connection, &format!("UPDATE kv SET value = x'c1' WHERE key = '{name}'"));
            });
            let report = dry_run(folder.path(), fixture).unwrap();
            assert_eq!(report.left(kind, Reason::Damaged), 1, "{name}: {report:#?}");
            assert!(report.taken(Kind::RoomKey) > 0);
            assert_eq!(report.taken(Kind::Account), 1);
        }
    }
}

/// A row's value that stands in another row's place is what somebody does who can write the file and not read it.
#[test]
fn a_row_in_anothers_place_is_not_taken() {
    for fixture in FIXTURES {
        for (table, kind) in TABLES.into_iter().filter(|(table, _)| *table != "room_settings") {
            let folder = changed(fixture, |connection| {
                run(
                    connection,
                    &format!(
                        "UPDATE {table} SET data = \
                           (SELECT data FROM {table} WHERE rowid = \
                             (SELECT max(rowid) FROM {table})) \
                         WHERE rowid = (SELECT min(rowid) FROM {table})"
                    ),
                );
            });
            let report = dry_run(folder.path(), fixture).unwrap();
            assert_eq!(report.left(kind, Reason::Contradiction), 1, "{table}: {report:#?}");
        }
    }
}

#[test]
fn a_room_key_filed_under_another_room_is_not_taken() {
    let folder = changed("none", |connection| {
        run(
            connection,
            "UPDATE inbound_group_session SET room_id = CAST('!other:example.org' AS BLOB) \
             WHERE rowid = 1",
        );
    });
    let report = dry_run(folder.path(), "none").unwrap();
    assert_eq!(report.left(Kind::RoomKey, Reason::Contradiction), 1);
}

#[test]
fn a_table_that_is_gone_is_named() {
    let folder = changed("none", |connection| run(connection, "DROP TABLE session"));
    let report = dry_run(folder.path(), "none").unwrap();
    assert_eq!(report.left(Kind::OlmSession, Reason::Unreadable), 1);
    assert!(report.taken(Kind::RoomKey) > 0);
}

#[test]
fn without_the_account_nothing_is_taken() {
    for fixture in FIXTURES {
        let gone = changed(fixture, |connection| {
            run(connection, "DELETE FROM kv WHERE key = 'account'");
        });
        assert!(matches!(dry_run(gone.path(), fixture), Err(MigrateError::NoAccount)));
        let damaged = changed(fixture, |connection| {
            run(connection, "UPDATE kv SET value = x'80' WHERE key = 'account'");
        });
        assert!(matches!(dry_run(damaged.path(), fixture), Err(MigrateError::Account(_))));
    }
}

#[test]
fn without_its_own_device_in_the_list_the_account_is_taken() {
    let folder = changed("none", |connection| {
        run(connection, "DELETE FROM device WHERE device_id = CAST('ALICEDEV' AS BLOB)");
    });
    let report = dry_run(folder.path(), "none").unwrap();
    assert_eq!(report.taken(Kind::Account), 1);
}

/// The private half proves it. Without that, the mark in the file says nothing.
#[test]
fn who_is_verified_has_to_be_proved() {
    let no_private_keys = changed("none", |connection| {
        run(connection, "DELETE FROM kv WHERE key = 'identity'");
    });
    // This device has signed the master key when it was made.
    let report = dry_run(no_private_keys.path(), "none").unwrap();
    assert_eq!(report.taken(Kind::CrossSigningKey), 0);
    assert_eq!(report.taken(Kind::OwnVerification), 1, "{report:#?}");
    assert_eq!(report.taken(Kind::UserVerification), 1);
    // Another account's device has not.
    let other = copy("none");
    let theirs = copy("passphrase");
    let account = their_account(theirs.path());
    let connection = Connection::open(other.path().join(FILE)).unwrap();
    run(&connection, "DELETE FROM kv WHERE key = 'identity'");
    connection.execute("UPDATE kv SET value = ?1 WHERE key = 'account'", [account]).unwrap();
    connection.close().unwrap();
    let report = dry_run(other.path(), "none").unwrap();
    assert_eq!(report.taken(Kind::OwnVerification), 0);
    assert_eq!(report.left(Kind::OwnVerification, Reason::Unproved), 1);
    assert_eq!(report.taken(Kind::UserVerification), 0);
    let bob = report.left.iter().find(|left| left.kind == Kind::UserVerification).unwrap();
    assert_eq!(
        (bob.reason, bob.names.as_slice()),
        (Reason::Unproved, &["@bob:example.org".to_owned()][..])
    );
    // Olm sessions that the other device began are not this one's.
    assert!(report.left(Kind::OlmSession, Reason::Contradiction) > 0);
}

/// The account of the encrypted fixture, in clear: another device's of the same name.
fn their_account(folder: &std::path::Path) -> Vec<u8> {
    let connection = Connection::open(folder.join(FILE)).unwrap();
    let named = |name: &str| -> Vec<u8> {
        connection
            .query_row("SELECT value FROM kv WHERE key = ?1", [name], |row| row.get(0))
            .unwrap()
    };
    let cipher = StoreCipher::import(PASSPHRASE, &named("cipher")).unwrap();
    cipher.decrypt_value_data(rmp_serde::from_slice(&named("account")).unwrap()).unwrap()
}

#[test]
fn private_keys_of_another_identity_are_left_out() {
    let mine = copy("none");
    let theirs = copy("passphrase");
    let connection = Connection::open(theirs.path().join(FILE)).unwrap();
    let named = |name: &str| -> Vec<u8> {
        connection
            .query_row("SELECT value FROM kv WHERE key = ?1", [name], |row| row.get(0))
            .unwrap()
    };
    let cipher = StoreCipher::import(PASSPHRASE, &named("cipher")).unwrap();
    let keys =
        cipher.decrypt_value_data(rmp_serde::from_slice(&named("identity")).unwrap()).unwrap();
    let connection = Connection::open(mine.path().join(FILE)).unwrap();
    connection.execute("UPDATE kv SET value = ?1 WHERE key = 'identity'", [keys]).unwrap();
    connection.close().unwrap();
    let report = dry_run(mine.path(), "none").unwrap();
    assert_eq!(report.taken(Kind::CrossSigningKey), 0);
    assert_eq!(report.left(Kind::CrossSigningKey, Reason::NotPublished), 3);
}

#[test]
fn a_wrong_passphrase_is_told_from_damage() {
    let folder = copy("passphrase");
    let wrong = SourceSecret::Passphrase(SecretString::new("wrong".to_owned()));
    let opened = Source::open(folder.path(), Some(&wrong));
    assert!(matches!(opened, Err(MigrateError::WrongSecret)));
    let opened = Source::open(folder.path(), None);
    assert!(matches!(opened, Err(MigrateError::SecretNeeded)));
    let key = SourceSecret::Key(SourceKey::new([7; 32]));
    let opened = Source::open(folder.path(), Some(&key));
    assert!(matches!(opened, Err(MigrateError::OtherSecret("a passphrase"))));
    let plain = copy("none");
    let opened = Source::open(plain.path(), secret("passphrase").as_ref());
    assert!(matches!(opened, Err(MigrateError::NotEncrypted)));
    let no_cipher = changed("passphrase", |connection| {
        run(connection, "UPDATE kv SET value = x'81' WHERE key = 'cipher'");
    });
    let opened = open(no_cipher.path(), "passphrase");
    assert!(matches!(opened, Err(MigrateError::Damaged(_))));
}

#[test]
fn a_store_with_a_key_is_opened_with_the_key() {
    let folder = changed("passphrase", |connection| {
        let sealed: Vec<u8> = connection
            .query_row("SELECT value FROM kv WHERE key = 'cipher'", (), |row| row.get(0))
            .unwrap();
        let cipher = StoreCipher::import(PASSPHRASE, &sealed).unwrap();
        let sealed = cipher.export_with_key(&[7; 32]).unwrap();
        connection.execute("UPDATE kv SET value = ?1 WHERE key = 'cipher'", [sealed]).unwrap();
    });
    let open = |key| Source::open(folder.path(), Some(&SourceSecret::Key(SourceKey::new(key))));
    let found = open([7; 32]).unwrap().read(common::NOW).unwrap();
    assert_eq!(found.report().user_id.as_str(), world(folder.path())["user_id"]);
    assert!(matches!(open([8; 32]), Err(MigrateError::WrongSecret)));
    let passphrase = Source::open(folder.path(), secret("passphrase").as_ref());
    assert!(matches!(passphrase, Err(MigrateError::OtherSecret("a key"))));
}

#[test]
fn other_versions_are_named() {
    let with = |version: u8| {
        changed("none", |connection| {
            connection
                .execute("UPDATE kv SET value = ?1 WHERE key = 'version'", [vec![version]])
                .unwrap();
        })
    };
    assert!(matches!(
        open(with(18).path(), "none"),
        Err(MigrateError::TooNew { found: 18, supported: 17 })
    ));
    assert!(matches!(
        open(with(8).path(), "none"),
        Err(MigrateError::TooOld { found: 8, supported: 9 })
    ));
    assert!(open(with(17).path(), "none").is_ok());
}

#[test]
fn what_is_no_store_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(open(folder.path(), "none"), Err(MigrateError::NotFound)));
    assert!(matches!(open(&folder.path().join("nowhere"), "none"), Err(MigrateError::NotFound)));
    for bytes in [&b""[..], b"x", &[0; 5000], b"SQLite format 3\0"] {
        fs::write(folder.path().join(FILE), bytes).unwrap();
        let opened = open(folder.path(), "none");
        assert!(matches!(opened, Err(MigrateError::Damaged(_))), "{opened:?}");
    }
    // A database, but somebody else's.
    fs::remove_file(folder.path().join(FILE)).unwrap();
    let connection = Connection::open(folder.path().join(FILE)).unwrap();
    run(&connection, "CREATE TABLE t (x)");
    connection.close().unwrap();
    assert!(matches!(open(folder.path(), "none"), Err(MigrateError::Damaged(_))));
}

#[test]
fn an_unfinished_journal_is_named() {
    let folder = copy("none");
    fs::write(folder.path().join(format!("{FILE}-journal")), [1; 600]).unwrap();
    assert!(matches!(open(folder.path(), "none"), Err(MigrateError::Damaged(_))));
}
