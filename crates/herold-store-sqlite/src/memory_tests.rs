//! After a store is closed the process's memory has none of its keys: not the store key, not the passphrase, not the
//! database's own key, as bytes or as digits. Looked at from outside, by the test that started the process.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use herold_store::{ChangeSet, Snapshot, Store, Table, conformance};
use zeroize::Zeroizing;

use crate::{PassphraseCost, SqliteStore, StoreKey, StoreOptions, header};

/// Where a child finds its store; only a child has it.
const CHILD: &str = "HEROLD_TEST_MEMORY";

fn options() -> StoreOptions {
    StoreOptions { passphrase_cost: PassphraseCost::new(0, 0), ..StoreOptions::default() }
}

/// Bytes that stand nowhere in the program.
fn secret(seed: u64, bytes: &mut [u8]) {
    let mut state = seed;
    for byte in bytes {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        *byte = (state >> 56) as u8;
    }
}

fn raw() -> StoreKey {
    let mut key = Zeroizing::new([0; 32]);
    secret(1, key.as_mut_slice());
    StoreKey::Raw(key)
}

fn passphrase_text() -> String {
    let mut bytes = Zeroizing::new([0; 24]);
    secret(2, bytes.as_mut_slice());
    bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

/// Says where it is, and waits until it was looked at.
fn pause(at: &str) {
    println!("\n{at}");
    std::io::stdout().flush().unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[inline(never)]
fn use_and_close(path: &Path) {
    let mut store = SqliteStore::create(path, &raw(), &options()).unwrap();
    store.commit(&conformance::sample_changes()).unwrap();
    store.close().unwrap();
    let mut store = SqliteStore::open(path, &raw(), &options()).unwrap();
    for at in 0..50_u8 {
        let mut changes = ChangeSet::new();
        changes.put_row(Table::Event, vec![at], vec![at; 2000]);
        store.commit(&changes).unwrap();
    }
    store.get(Table::Event, &[1]).unwrap().unwrap();
    store.checkpoint().unwrap();
    let passphrase = StoreKey::passphrase(passphrase_text());
    store.change_key(&raw(), &passphrase, &options()).unwrap();
    let header = fs::read(path.join("herold.salt")).unwrap();
    let held = header::unseal(&header, &passphrase).unwrap();
    pause("open");
    drop(held);
    store.close().unwrap();
    SqliteStore::open(path, &passphrase, &options()).unwrap().close().unwrap();
}

/// Goes over the part of the stack that was used, as whatever the program did next would.
#[inline(never)]
fn go_on() {
    let mut stack = [0_u8; 1 << 18];
    for (at, byte) in stack.iter_mut().enumerate() {
        *byte = std::hint::black_box(at as u8);
    }
    std::hint::black_box(&stack);
}

#[test]
fn child_that_closes_its_store() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    use_and_close(&path);
    go_on();
    pause("closed");
}

/// Where in a process's memory these bytes are: the kind of memory and what follows.
fn find(process: u32, secrets: &[(&str, Vec<u8>)]) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let mut memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let mut found = Vec::new();
    let mut looked_at = 0;
    for map in maps.lines() {
        let mut fields = map.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).unwrap());
        let name = fields.nth(3).unwrap_or("allocated");
        if !rights.starts_with("rw") || name.starts_with("[v") {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        memory.seek(SeekFrom::Start(from)).unwrap();
        memory.read_exact(&mut bytes).unwrap();
        looked_at += bytes.len();
        for (what, secret) in secrets {
            for (at, window) in bytes.windows(secret.len()).enumerate() {
                if window == secret.as_slice() {
                    found.push(format!("{what} in {name} at {at:#x}"));
                }
            }
        }
    }
    assert!(looked_at > 1 << 18, "{looked_at} bytes");
    found
}

#[test]
fn after_closing_no_key_is_left_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory_tests::child_that_closes_its_store", "--nocapture"])
        .arg("--test-threads=1")
        .env(CHILD, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = |at: &str| assert!(lines.by_ref().any(|line| line.unwrap() == at), "{at}");
    until("open");
    let text = passphrase_text();
    let header = fs::read(path.join("herold.salt")).unwrap();
    let data_key = header::unseal(&header, &StoreKey::passphrase(text.clone())).unwrap().data_key;
    let StoreKey::Raw(key) = raw() else { panic!("another kind") };
    let digits =
        |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let (half, half_digits) = (&data_key.secret[8..24], digits(&data_key.secret[8..24]));
    let secrets = [
        ("the store key", key[8..24].to_vec()),
        ("the store key's digits", digits(&key[8..24]).into_bytes()),
        ("the passphrase", text.into_bytes()),
        ("the database's key", half.to_vec()),
        ("the database's key's digits", half_digits.clone().into_bytes()),
        ("the database's key's digits", half_digits.to_uppercase().into_bytes()),
    ];
    let mut input = child.stdin.take().unwrap();
    // What is held on purpose is found. (SQLCipher keeps its own copy masked.)
    let found = find(child.id(), &secrets);
    assert!(found.iter().any(|found| found.starts_with("the database's key")), "{found:#?}");
    assert!(found.iter().any(|found| found.starts_with("the passphrase")), "{found:#?}");
    input.write_all(b"\n").unwrap();
    until("closed");
    let found = find(child.id(), &secrets);
    input.write_all(b"\n").unwrap();
    child.wait().unwrap();
    assert!(found.is_empty(), "{found:#?}");
}
