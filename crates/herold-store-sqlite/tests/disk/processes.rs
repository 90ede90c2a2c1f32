//! Several processes, and processes that are killed. The children are this test program itself.

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use herold_store::{ChangeSet, Snapshot, Store, StoreError, Table};
use herold_store_sqlite::{SqliteStore, StoreOptions};

use crate::{Place, cheap, raw};

/// Where a child finds its store; only a child has it.
const CHILD: &str = "HEROLD_TEST_STORE";

/// Tables that every commit of the child changes.
const TABLES: [Table; 4] = [Table::Account, Table::OlmSession, Table::Event, Table::Sync];

pub(crate) struct Running {
    pub(crate) child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Runs the test `name` of this program in a process of its own, on this store.
    pub(crate) fn start(name: &str, store: &Path) -> Self {
        Self::start_with(name, store, &[])
    }

    /// As [`Running::start`], with these in its environment.
    pub(crate) fn start_with(name: &str, store: &Path, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(CHILD, store)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The next number that the child prints; `None` when it has ended.
    pub(crate) fn next_number(&mut self) -> Option<u64> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The test harness prints lines of its own.
            if let Some(number) =
                line.trim().rsplit("committed ").next().and_then(|n| n.parse().ok())
            {
                return Some(number);
            }
        }
    }

    /// SIGKILL where there is such a thing. Returns the last number printed.
    pub(crate) fn kill(self, last: u64) -> u64 {
        self.kill_and_drain().into_iter().fold(last, u64::max)
    }

    /// As [`Running::kill`]: all the numbers that had not been read.
    pub(crate) fn kill_and_drain(mut self) -> Vec<u64> {
        let mut numbers = Vec::new();
        self.child.kill().unwrap();
        while let Some(number) = self.next_number() {
            numbers.push(number);
        }
        self.child.wait().unwrap();
        numbers
    }
}

pub(crate) fn child_store() -> Option<PathBuf> {
    env::var_os(CHILD).map(PathBuf::from)
}

fn short_log() -> StoreOptions {
    // Checkpoints every few commits, so that kills hit them too.
    StoreOptions { checkpoint_pages: 40, label: "the child".to_owned(), ..cheap() }
}

fn number_in(store: &SqliteStore, table: Table) -> u64 {
    let value = store.get(table, b"n").unwrap();
    value.map_or(0, |value| u64::from_be_bytes(value[..8].try_into().unwrap()))
}

/// Commits for ever: the same number into four tables, growing and shrinking rows around it.
#[test]
fn child_that_commits() {
    let Some(path) = child_store() else { return };
    let mut store = SqliteStore::open_or_create(path, &raw(1), &short_log()).unwrap();
    println!();
    let mut number = number_in(&store, TABLES[0]);
    println!("committed {number}");
    loop {
        number += 1;
        let mut changes = ChangeSet::new();
        for table in TABLES {
            let mut value = number.to_be_bytes().to_vec();
            value.resize(8 + usize::try_from(number * 37 % 9000).unwrap(), 0xaa);
            changes.put_row(table, b"n".to_vec(), value);
            changes.put_row(table, number.to_be_bytes().to_vec(), number.to_be_bytes().to_vec());
            if number > 20 {
                changes.delete_row(table, (number - 20).to_be_bytes().to_vec());
            }
        }
        if number.is_multiple_of(3) {
            changes.require_full();
        }
        store.commit(&changes).unwrap();
        println!("committed {number}");
    }
}

#[test]
fn a_kill_in_the_middle_of_commits_leaves_a_whole_commit_and_loses_none() {
    let place = Place::new();
    let mut last = 0;
    for round in 0..20_u64 {
        let mut running = Running::start("processes::child_that_commits", &place.store());
        let first = running.next_number().expect("the child opens the store");
        assert!(first >= last, "{first} after {last}");
        last = first;
        // Some kills by count, some in the middle of whatever goes on.
        for _ in 0..round % 7 * 5 {
            last = running.next_number().expect("the child commits");
        }
        thread::sleep(Duration::from_micros(round * 977 % 20_000));
        last = running.kill(last);

        let mut store = SqliteStore::open(place.store(), &raw(1), &short_log()).unwrap();
        let found = number_in(&store, TABLES[0]);
        assert!(found == last || found == last + 1, "{found} after {last} was committed");
        for table in TABLES {
            assert_eq!(number_in(&store, table), found, "half a commit");
            for old in 1..=found + 1 {
                let row = store.get(table, &old.to_be_bytes()).unwrap();
                let expected = old + 20 > found && old <= found;
                assert_eq!(row.is_some(), expected, "row {old} of {found}");
            }
        }
        if round % 5 == 4 {
            store.integrity_check().unwrap();
        }
        last = found;
    }
    assert!(last > 20, "only {last} commits");
}

/// Opens the store and holds it.
#[test]
fn child_that_holds() {
    let Some(path) = child_store() else { return };
    let _store = SqliteStore::open_or_create(path, &raw(1), &short_log()).unwrap();
    println!();
    println!("committed 0");
    thread::sleep(Duration::from_secs(120));
}

#[test]
fn a_second_process_learns_who_holds_the_store_and_gets_it_when_that_dies() {
    let place = Place::new();
    let mut running = Running::start("processes::child_that_holds", &place.store());
    running.next_number().expect("the child opens the store");
    let pid = running.child.id().to_string();
    for open in [SqliteStore::open, SqliteStore::open_or_create] {
        match open(place.store(), &raw(1), &cheap()) {
            Err(StoreError::Locked { holder }) => {
                assert!(holder.contains(&pid) && holder.contains("the child"), "{holder}");
            }
            other => panic!("{other:?}"),
        }
    }
    running.kill(0);
    SqliteStore::open(place.store(), &raw(1), &cheap()).unwrap();
}

#[test]
fn a_second_opening_in_one_process_is_locked_out_too() {
    let place = Place::new();
    let options = StoreOptions { label: "the\u{7} app\n".to_owned(), ..cheap() };
    let first = SqliteStore::create(place.store(), &raw(1), &options).unwrap();
    match SqliteStore::open(place.store(), &raw(1), &cheap()) {
        Err(StoreError::Locked { holder }) => assert!(holder.ends_with("(the app)"), "{holder}"),
        other => panic!("{other:?}"),
    }
    first.close().unwrap();
    SqliteStore::open(place.store(), &raw(1), &cheap()).unwrap();
}

#[test]
fn a_removed_lock_file_does_not_let_two_in() {
    let place = Place::new();
    let mut running = Running::start("processes::child_that_holds", &place.store());
    running.next_number().expect("the child opens the store");
    std::fs::remove_file(place.file("herold.lock")).unwrap();
    let error = SqliteStore::open(place.store(), &raw(1), &cheap()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    running.kill(0);
}
