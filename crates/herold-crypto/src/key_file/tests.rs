use std::io::{Cursor, Write};

use super::*;
use crate::backup::tests::{SESSION_ID, SESSION_KEY, session};
use crate::entropy::SeededEntropy;
use crate::identity::SessionId;
use crate::session_data::ExportedSession;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Origin: `OlmMachine.encryptExportedRoomKeys` of matrix-sdk-crypto-wasm 18.9, 1000 rounds.
const FOREIGN: &str = include_str!("foreign_key_file.txt");
const PASSPHRASE: &str = "sésame öffne dich";

fn exported(room: usize) -> ExportedSession {
    ExportedSession {
        room_id: format!("!room{room}:example.org"),
        session_id: SessionId::new(SESSION_ID),
        data: session(),
    }
}

/// A file with few rounds.
fn file(sessions: usize) -> String {
    let mut entropy = SeededEntropy::new(1);
    let mut writer = KeyFileWriter::begin(Vec::new(), PASSPHRASE, 3, &mut entropy).unwrap();
    for room in 0..sessions {
        writer.write(&exported(room)).unwrap();
    }
    String::from_utf8(writer.finish().unwrap()).unwrap()
}

/// A file whose plaintext is this text.
fn file_of(plaintext: &str) -> String {
    let mut entropy = SeededEntropy::new(1);
    let mut writer = KeyFileWriter::begin(Vec::new(), PASSPHRASE, 3, &mut entropy).unwrap();
    // `finish` adds the bracket.
    writer.is_empty = false;
    writer.encrypt(plaintext.strip_suffix(']').unwrap().as_bytes()).unwrap();
    String::from_utf8(writer.finish().unwrap()).unwrap()
}

fn read(text: &str) -> Result<Vec<ExportedSession>, KeyFileError> {
    KeyFileReader::open(Cursor::new(text.as_bytes()), PASSPHRASE)?.collect()
}

/// The file after its decoded bytes were changed.
fn changed(text: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let mut bytes = STANDARD.decode(body).unwrap();
    change(&mut bytes);
    format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(bytes))
}

#[test]
fn a_foreign_file_is_read() {
    let sessions = read(FOREIGN).unwrap();
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].room_id, "!room:example.org");
    assert_eq!(sessions[0].data.session_key.as_str(), SESSION_KEY);
    sessions[0].data.open(&sessions[0].session_id).unwrap();
}

#[test]
fn sessions_come_back_in_order_across_many_batches() {
    for count in [0, 1, 2, 40, 200] {
        let sessions = read(&file(count)).unwrap();
        assert_eq!(sessions, (0..count).map(exported).collect::<Vec<_>>());
    }
}

#[test]
fn no_line_is_long_and_other_line_ends_are_read() {
    let text = file(3);
    assert!(text.lines().all(|line| line.len() <= 96));
    assert_eq!(read(&text.replace('\n', "\r\n")).unwrap().len(), 3);
    assert_eq!(read(&format!("a note\n\n{text}and more")).unwrap().len(), 3);
    let unpadded = text.replace('=', "");
    assert_eq!(read(&unpadded).unwrap().len(), 3);
}

#[test]
fn progress_runs_to_the_end() {
    let text = file(200);
    let mut reader = KeyFileReader::open(Cursor::new(text.as_bytes()), PASSPHRASE).unwrap();
    let mut seen = vec![reader.progress_per_mille()];
    while reader.next().is_some() {
        seen.push(reader.progress_per_mille());
    }
    assert!(seen.is_sorted() && seen.iter().any(|p| *p < 500));
    assert_eq!(seen.last(), Some(&1000));
}

#[test]
fn n44_a_flipped_bit_anywhere_imports_nothing() {
    let text = file(1);
    let length = text.len() / 4 * 3 - 70;
    for at in (1..length - 20).step_by(29) {
        // The rounds are the one field whose change is found before the MAC is.
        if (33..37).contains(&at) {
            continue;
        }
        let bad = changed(&text, |bytes| bytes[at] ^= 1);
        assert_eq!(read(&bad), Err(KeyFileError::BadMac), "{at}");
    }
    let bad = changed(&text, |bytes| *bytes.last_mut().unwrap() ^= 0x80);
    assert_eq!(read(&bad), Err(KeyFileError::BadMac));
}

#[test]
fn n44_a_wrong_passphrase_imports_nothing() {
    let opened = KeyFileReader::open(Cursor::new(FOREIGN.as_bytes()), "other");
    assert_eq!(opened.unwrap_err(), KeyFileError::BadMac);
}

#[test]
fn n44_another_version_is_refused() {
    for version in [0, 2, 255] {
        let bad = changed(&file(1), |bytes| bytes[0] = version);
        assert_eq!(read(&bad), Err(KeyFileError::Version(version)));
    }
}

#[test]
fn n44_rounds_out_of_bounds_are_refused_at_once() {
    for rounds in [0, MAX_KEY_FILE_ROUNDS + 1, 1 << 31, u32::MAX] {
        let bad = changed(&file(1), |bytes| bytes[33..37].copy_from_slice(&rounds.to_be_bytes()));
        assert_eq!(read(&bad), Err(KeyFileError::Rounds(rounds)));
    }
    for rounds in [0, 1, MIN_KEY_FILE_ROUNDS - 1, MAX_KEY_FILE_ROUNDS + 1] {
        let refused = KeyFileWriter::new(Vec::new(), "", rounds, &mut SeededEntropy::new(1));
        assert_eq!(refused.unwrap_err(), KeyFileError::Rounds(rounds));
    }
}

#[test]
fn n44_a_truncated_file_imports_nothing() {
    let text = file(2);
    let end = text.rfind(END).unwrap() + END.len();
    for at in (0..end).step_by(7) {
        let expected =
            if at <= BEGIN.len() { KeyFileError::NotAKeyFile } else { KeyFileError::Truncated };
        assert_eq!(read(&text[..at]), Err(expected), "{at}");
    }
    for length in [0, 1, 36, 37, 40, 68] {
        let bad = changed(&text, |bytes| bytes.truncate(length));
        assert_eq!(read(&bad), Err(KeyFileError::Truncated), "{length}");
    }
    let bad = changed(&text, |bytes| bytes.truncate(bytes.len() - 1));
    assert_eq!(read(&bad), Err(KeyFileError::BadMac));
}

#[test]
fn n44_what_is_no_key_file_is_refused() {
    assert_eq!(read(""), Err(KeyFileError::NotAKeyFile));
    assert_eq!(read(&"x".repeat(1 << 20)), Err(KeyFileError::NotAKeyFile));
    assert_eq!(read(&format!("{BEGIN}\n*\n{END}")), Err(KeyFileError::Malformed));
    assert_eq!(read(&format!("{BEGIN}\nAAAA\n-----END OTHER")), Err(KeyFileError::Malformed));
}

#[test]
fn a_bad_session_is_reported_and_the_rest_read() {
    let one = String::from_utf8(exported(1).to_json().as_slice().to_vec()).unwrap();
    let text = file_of(&format!("[{one}, {{}} ,{one}]"));
    let reader = KeyFileReader::open(Cursor::new(text.as_bytes()), PASSPHRASE).unwrap();
    let outcome: Vec<_> = reader.map(|session| session.map(|s| s.room_id)).collect();
    let good = Ok("!room1:example.org".to_owned());
    let bad = Err(KeyFileError::Entry(SessionDataError::Malformed));
    assert_eq!(outcome, [good.clone(), bad, good]);
}

#[test]
fn what_is_no_list_of_sessions_ends_the_reading() {
    for plaintext in ["[1]", "{}]", "[{},]", "]"] {
        let text = file_of(plaintext);
        let reader = KeyFileReader::open(Cursor::new(text.as_bytes()), PASSPHRASE).unwrap();
        assert_eq!(reader.last(), Some(Err(KeyFileError::NotSessions)), "{plaintext}");
    }
}

/// A file that is another one when it is read again.
struct Changing {
    texts: [Cursor<Vec<u8>>; 2],
    pass: usize,
}

impl std::io::Read for Changing {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.texts[self.pass].read(out)
    }
}

impl std::io::Seek for Changing {
    fn seek(&mut self, to: std::io::SeekFrom) -> io::Result<u64> {
        if let std::io::SeekFrom::Start(0) = to {
            self.pass = 1;
        }
        self.texts[self.pass].seek(to)
    }
}

#[test]
fn a_file_that_changes_between_the_passes_ends_in_an_error() {
    let good = file(100);
    for at in [5_000, 40_000] {
        let bad = changed(&good, |bytes| bytes[at] ^= 1);
        let texts = [good.clone(), bad].map(|text| Cursor::new(text.into_bytes()));
        let outcome: Result<Vec<_>, _> =
            KeyFileReader::open(Changing { texts, pass: 0 }, PASSPHRASE).unwrap().collect();
        assert!(outcome.is_err());
    }
    let shorter = file(50);
    let texts = [good, shorter].map(|text| Cursor::new(text.into_bytes()));
    let outcome: Result<Vec<_>, _> =
        KeyFileReader::open(Changing { texts, pass: 0 }, PASSPHRASE).unwrap().collect();
    assert!(outcome.is_err());
}

#[test]
fn a_full_disk_is_an_error() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut writer =
        KeyFileWriter::begin(Full(500), PASSPHRASE, 3, &mut SeededEntropy::new(1)).unwrap();
    let outcome = (0..10).try_for_each(|room| writer.write(&exported(room)));
    assert_eq!(outcome, Err(KeyFileError::Io(io::ErrorKind::StorageFull)));
}

#[test]
fn two_files_of_the_same_sessions_share_nothing() {
    let mut entropy = SeededEntropy::new(1);
    let mut files = (0..2).map(|_| {
        let mut writer = KeyFileWriter::begin(Vec::new(), PASSPHRASE, 3, &mut entropy).unwrap();
        writer.write(&exported(1)).unwrap();
        String::from_utf8(writer.finish().unwrap()).unwrap()
    });
    let (a, b) = (files.next().unwrap(), files.next().unwrap());
    assert!(a.lines().zip(b.lines()).filter(|(a, b)| a == b).count() == 2, "first and last line");
}
