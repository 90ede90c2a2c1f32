//! SQLite's errors in the contract's words.
//!
//! SQLite's own texts are left out: they quote statements, and one statement is the key.

use std::io;

use herold_store::StoreError;
use rusqlite::ErrorCode;

/// What SQLite's `error` means for somebody who was `doing` something.
pub(crate) fn from_sqlite(error: &rusqlite::Error, doing: &'static str) -> StoreError {
    let Some(code) = error.sqlite_error() else {
        // A column that is no blob, a row that should be there: not what was written.
        return StoreError::Corrupt(format!("unexpected content while {doing}"));
    };
    let text = format!("SQLite code {} while {doing}", code.extended_code);
    match (code.code, code.extended_code) {
        (
            ErrorCode::NotADatabase
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::SchemaChanged
            | ErrorCode::TypeMismatch
            // SQLCipher's word for a page whose authentication failed, SQLite's for a missing table.
            | ErrorCode::Unknown,
            _,
        )
        | (
            ErrorCode::SystemIoFailure,
            rusqlite::ffi::SQLITE_IOERR_SHORT_READ
            | rusqlite::ffi::SQLITE_IOERR_DATA
            | rusqlite::ffi::SQLITE_IOERR_CORRUPTFS,
        ) => StoreError::Corrupt(text),
        (
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed,
            _,
        ) => StoreError::Locked { holder: "another process".to_owned() },
        _ => StoreError::Io(text),
    }
}

/// A file operation that failed.
pub(crate) fn from_io(error: &io::Error, doing: &'static str) -> StoreError {
    StoreError::Io(format!("{} while {doing}", error.kind()))
}
