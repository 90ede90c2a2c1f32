//! Canaries in every table, in ids, contents and keys, and then no trace of them in any file: not while a child
//! writes, not after it was killed, not in the folder for temporary files; not as they are and not in
//! hexadecimal digits, base64 or UTF-16.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use herold_crypto::{InboundGroupSession, OutboundGroupSession};
use herold_store::{ChangeSet, Store, Table, conformance};
use herold_store_sqlite::{SqliteStore, StoreKey, StoreOptions};

use crate::{Place, cheap, random::Random};

/// Where a child finds its store; only a child has it.
const CHILD: &str = "HEROLD_TEST_CANARIES";
const ID: &str = "@zq7canary-identifier:example.org";
const CONTENT: &str = "zq7canary content, quite secret";
const PASSPHRASE: &str = "zq7canary passphrase";

fn base64(bytes: &[u8], last: [u8; 2]) -> Vec<u8> {
    let mut digits: Vec<u8> = (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').collect();
    digits.extend(last);
    let groups = bytes.chunks(3).flat_map(|group| {
        let word = group.iter().fold(0, |word, byte| word << 8 | usize::from(*byte));
        let word = word << (8 * (3 - group.len()));
        [18, 12, 6, 0].map(|shift| digits[word >> shift & 63])
    });
    groups.collect()
}

/// What each canary may look like.
fn disguises(canary: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = canary.iter().map(|byte| format!("{byte:02x}")).collect();
    let utf16 = |swap: usize| -> Vec<u8> {
        canary.iter().flat_map(|byte| if swap == 0 { [*byte, 0] } else { [0, *byte] }).collect()
    };
    let mut all = vec![canary.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
    if canary.is_ascii() {
        all.extend([utf16(0), utf16(1)]);
    }
    // In the middle of something longer it stands at one of three places of a group; what its neighbours
    // decide is cut off.
    for skip in 0..3 {
        let inner = &canary[skip..];
        for last in [*b"+/", *b"-_"] {
            all.push(base64(&inner[..inner.len() / 3 * 3], last));
        }
    }
    all
}

/// The keys of the store: what opens it before and after it was re-keyed.
fn keys() -> [StoreKey; 2] {
    [raw_key(11), StoreKey::passphrase(PASSPHRASE.to_owned())]
}

fn key_bytes(seed: u64) -> [u8; 32] {
    let mut random = Random::new(seed);
    std::array::from_fn(|_| u8::try_from(random.below(256)).unwrap())
}

fn raw_key(seed: u64) -> StoreKey {
    StoreKey::raw(key_bytes(seed))
}

/// A Megolm session whose key is known: made by the child, told to the parent.
fn session() -> (OutboundGroupSession, InboundGroupSession) {
    let outbound = OutboundGroupSession::new();
    let inbound = InboundGroupSession::from_session_key(outbound.session_key().as_str()).unwrap();
    (outbound, inbound)
}

fn options() -> StoreOptions {
    // A small cache, so that a large commit spills before it is whole.
    StoreOptions { cache_kib: 64, checkpoint_pages: 100, ..cheap() }
}

fn everywhere() -> ChangeSet {
    let mut changes = conformance::sample_changes();
    for table in Table::ALL {
        changes.put_row(*table, format!("{ID} {}", table.name()).into_bytes(), CONTENT.into());
    }
    changes.require_full();
    changes
}

fn large(round: u32) -> ChangeSet {
    let mut changes = ChangeSet::new();
    for row in 0..300_u32 {
        let key = format!("{ID} {round} {row}").into_bytes();
        changes.put_row(Table::Event, key, CONTENT.repeat(60).into_bytes());
        let old = format!("{ID} {} {row}", round.wrapping_sub(2)).into_bytes();
        changes.delete_row(Table::Event, old);
    }
    changes
}

#[test]
fn child_that_writes_canaries() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let [first, second] = keys();
    let mut store = SqliteStore::create(&path, &first, &options()).unwrap();
    store.commit(&everywhere()).unwrap();
    let (outbound, inbound) = session();
    let mut changes = ChangeSet::new();
    for (at, record) in [outbound.to_record(), inbound.to_record()].iter().enumerate() {
        let key = vec![u8::try_from(at).unwrap()];
        changes.put_row(Table::InboundSession, key, record.as_slice().to_vec());
    }
    let key = outbound.session_key().as_str().as_bytes().to_vec();
    changes.put_row(Table::Secret, b"a key".to_vec(), key);
    store.commit(&changes).unwrap();
    // The parent looks for this.
    println!("\nsession {}", outbound.session_key().as_str());
    for round in 0..4 {
        store.commit(&large(round)).unwrap();
    }
    println!("phase");
    store.integrity_check().unwrap();
    store.change_key(&first, &raw_key(12), &options()).unwrap();
    let mut store = store.rekey(&second, &options()).unwrap();
    println!("phase");
    store.checkpoint().unwrap();
    store.close().unwrap();
    println!("phase");
    let mut store = SqliteStore::open(&path, &second, &options()).unwrap();
    for round in 4.. {
        store.commit(&large(round)).unwrap();
        if round % 40 == 39 {
            store = store.rekey(&second, &options()).unwrap();
        }
        println!("phase");
    }
}

/// Every file below a folder, as it is at the moment; one that goes while it is read was there before.
fn files_below(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, found);
        } else if let Ok(bytes) = fs::read(&path) {
            found.push((path, bytes));
        }
    }
}

fn assert_clean(folder: &Path, forbidden: &[Vec<u8>]) -> usize {
    let mut files = Vec::new();
    files_below(folder, &mut files);
    for (path, bytes) in &files {
        for canary in forbidden {
            let found = find(bytes, canary);
            assert!(!found, "{:?} in {path:?}", String::from_utf8_lossy(canary));
        }
    }
    files.len()
}

/// Whether `bytes` has `part` somewhere: by its first byte, which encrypted pages seldom have.
fn find(bytes: &[u8], part: &[u8]) -> bool {
    let (first, rest) = part.split_first().unwrap();
    let mut at = bytes;
    while let Some(next) = at.iter().position(|byte| byte == first) {
        at = &at[next + 1..];
        if at.starts_with(rest) {
            return true;
        }
    }
    false
}

#[test]
fn no_file_holds_a_canary_in_any_disguise_even_after_a_kill() {
    let place = Place::new();
    let folder = place.directory.path().canonicalize().unwrap();
    let temporary = folder.join("temporary");
    fs::create_dir(&temporary).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "canaries::child_that_writes_canaries", "--nocapture"])
        .arg("--test-threads=1")
        .env(CHILD, folder.join("store"))
        .envs(["TMPDIR", "SQLITE_TMPDIR"].map(|name| (name, temporary.clone())))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut next =
        |word: &str| lines.find(|line| line.starts_with(word)).expect("the child goes on");
    let session = next("session ").split_once(' ').unwrap().1.to_owned();
    let [first, second] = [11, 12].map(key_bytes);
    let mut forbidden = Vec::new();
    for canary in [ID.as_bytes(), CONTENT.as_bytes(), PASSPHRASE.as_bytes(), &first, &second] {
        forbidden.extend(disguises(canary));
    }
    // The ratchet's beginning, which the session key has in base64, and parts of it.
    let ratchet = unbase64(&session);
    forbidden.extend(disguises(&ratchet[5..53]));
    forbidden.extend(disguises(&ratchet[5 + 96..5 + 128]));
    forbidden.push(session.into_bytes());
    // What sample records hold.
    for word in ["canary", "HEROLDDEV", "m.megolm", "CREATE TABLE", "SQLite format"] {
        forbidden.push(word.as_bytes().to_vec());
    }
    let mut random = Random::new(5);
    for _ in 0..3 {
        next("phase");
        assert!(assert_clean(&folder, &forbidden) >= 4);
    }
    for _ in 0..12 {
        next("phase");
        thread::sleep(Duration::from_micros(random.next() % 20_000));
        assert!(assert_clean(&folder, &forbidden) >= 4);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(assert_clean(&folder, &forbidden) >= 4);
    // The recovery writes too.
    let [_, key] = keys();
    SqliteStore::open(folder.join("store"), &key, &options()).unwrap().close().unwrap();
    assert!(assert_clean(&folder, &forbidden) >= 4);
}

fn unbase64(text: &str) -> Vec<u8> {
    let value = |digit: u8| match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let groups = text.as_bytes().chunks_exact(4).flat_map(|group| {
        let word = group.iter().fold(0_u32, |word, digit| word << 6 | u32::from(value(*digit)));
        let [_, bytes @ ..] = word.to_be_bytes();
        bytes
    });
    groups.collect()
}

/// The search itself finds what is there.
#[test]
fn each_disguise_is_found() {
    let canary = b"zq7 some canary";
    let place = Place::new();
    fs::create_dir(place.store()).unwrap();
    let hidden: Vec<Vec<u8>> = vec![
        canary.to_vec(),
        base64(&[b"1".as_slice(), canary, b"2"].concat(), *b"+/"),
        base64(&[b"12".as_slice(), canary, b"3"].concat(), *b"-_"),
        base64(&[b"123".as_slice(), canary, b"4"].concat(), *b"-_"),
        canary.iter().flat_map(|byte| [*byte, 0]).collect(),
        canary.iter().flat_map(|byte| format!("{byte:02X}").into_bytes()).collect(),
    ];
    for bytes in hidden {
        fs::write(place.file("file"), [&[b'z'; 999], bytes.as_slice(), &[9; 99]].concat()).unwrap();
        let clean = std::panic::catch_unwind(|| assert_clean(&place.store(), &disguises(canary)));
        assert!(clean.is_err(), "{bytes:?}");
    }
}
