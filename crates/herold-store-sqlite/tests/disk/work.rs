//! What a child does with a store, what it was promised meanwhile, and what has to be in the store then.
//!
//! The content of commit `n` follows from `n`, so that whatever is found can be compared with what the first so
//! many commits make.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use herold_store::StoreError;

use herold_store::{ChangeSet, Snapshot, Store, Table};
use herold_store_sqlite::{RollbackGuard, SqliteStore, StoreOptions};

use crate::{cheap, random::Random, raw};

/// A table of its own, a large one, one that shares its place with others, and one that is kept in memory.
const TABLES: [Table; 4] = [Table::Account, Table::Event, Table::Sync, Table::Queue];

/// Secure hardware that does what it should, and says so in the file of marks if it has one.
#[derive(Debug)]
pub struct Hardware {
    sealed: Mutex<u64>,
    marks: Option<Arc<Mutex<File>>>,
}

impl RollbackGuard for Hardware {
    fn sealed(&self) -> Result<u64, StoreError> {
        Ok(*self.sealed.lock().unwrap())
    }

    fn raise(&self, to: u64) -> Result<(), StoreError> {
        let mut sealed = self.sealed.lock().unwrap();
        if *sealed < to {
            *sealed = to;
            if let Some(marks) = &self.marks {
                say(marks, &format!("sealed {to}"));
            }
        }
        Ok(())
    }

    fn every(&self) -> u32 {
        4
    }
}

fn options(sealed: u64, marks: Option<Arc<Mutex<File>>>) -> StoreOptions {
    StoreOptions {
        // Checkpoints every few commits.
        checkpoint_pages: 30,
        label: "the child".to_owned(),
        rollback_guard: Some(Arc::new(Hardware { sealed: Mutex::new(sealed), marks })),
        ..cheap()
    }
}

/// Opens a store whose hardware has this number. This process, or one that was killed, may have let go of it just now: a
/// child of another test that is being made at that moment has the lock, too, until it runs its own program.
pub fn open(store: &Path, key: u8, sealed: u64) -> Result<SqliteStore, StoreError> {
    for _ in 0..200 {
        match SqliteStore::open(store, &raw(key), &options(sealed, None)) {
            Err(StoreError::Locked { .. }) => std::thread::sleep(Duration::from_millis(5)),
            opened => return opened,
        }
    }
    SqliteStore::open(store, &raw(key), &options(sealed, None))
}

/// One line of the file of marks, in one write.
fn say(marks: &Mutex<File>, what: &str) {
    marks.lock().unwrap().write_all(format!("{what}\n").as_bytes()).unwrap();
}

/// The changes of commit `number`.
fn changes(number: usize) -> ChangeSet {
    let bytes = number.to_be_bytes().to_vec();
    let mut changes = ChangeSet::new();
    for table in TABLES {
        let mut value = bytes.clone();
        value.resize(8 + number * 997 % 5000, 0xaa);
        changes.put_row(table, b"n".to_vec(), value);
        changes.put_row(table, bytes.clone(), bytes.clone());
        if number > 7 {
            changes.delete_row(table, (number - 7).to_be_bytes().to_vec());
        }
    }
    // Now and then a large one, whose rows go with the next.
    for row in 0..40_u8 {
        let key = [b"large".as_slice(), &[row]].concat();
        if number % 9 == 4 {
            changes.put_row(Table::Event, key, vec![row; 2000]);
        } else if number % 9 == 5 {
            changes.delete_row(Table::Event, key);
        }
    }
    if is_full(number) {
        changes.require_full();
    }
    changes
}

fn is_full(number: usize) -> bool {
    number % 3 == 1 || number % 9 == 4
}

pub fn commit(store: &mut SqliteStore, number: usize) {
    store.commit(&changes(number)).unwrap();
}

pub fn number_in(store: &SqliteStore) -> usize {
    let value = store.get(TABLES[0], b"n").unwrap();
    value.map_or(0, |value| usize::from_be_bytes(value[..8].try_into().unwrap()))
}

/// The rows that the first so many commits make.
#[derive(Clone, Default)]
pub struct Model {
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

impl Model {
    pub fn of(number: usize) -> Arc<Self> {
        static MADE: Mutex<Vec<Arc<Model>>> = Mutex::new(Vec::new());
        let mut made = MADE.lock().unwrap();
        if made.is_empty() {
            made.push(Arc::default());
        }
        while made.len() <= number {
            let mut next = Model::clone(made.last().unwrap());
            for (table, key, value) in changes(made.len()).iter() {
                match value {
                    Some(value) => next.rows.insert((table, key.to_vec()), value.to_vec()),
                    None => next.rows.remove(&(table, key.to_vec())),
                };
            }
            made.push(Arc::new(next));
        }
        Arc::clone(&made[number])
    }

    /// Every row of every table; what differs, if anything does.
    pub fn compare(&self, store: &SqliteStore) -> Result<(), String> {
        let mut expected = self.rows.iter();
        let mut difference = None;
        for table in Table::ALL {
            store
                .scan(*table, b"", None, &mut |key, value| {
                    let same = expected.next().is_some_and(|((in_table, its_key), its_value)| {
                        in_table == table && its_key == key && its_value == value
                    });
                    if same {
                        return ControlFlow::Continue(());
                    }
                    difference = Some(format!("row {key:?} of {}", table.name()));
                    ControlFlow::Break(())
                })
                .map_err(|error| format!("{error:?}"))?;
        }
        if difference.is_none() && expected.next().is_some() {
            difference = Some("rows are missing".to_owned());
        }
        difference.map_or(Ok(()), Err)
    }
}

/// What the store has promised so far, by what the child has said.
#[derive(Clone, Debug)]
pub struct Promise {
    /// The making has returned.
    pub made: bool,
    /// The last commit that must be there.
    pub least: usize,
    /// The last commit that may be there.
    pub most: usize,
    /// The last commit that has returned.
    done: usize,
    key: u8,
    /// The key that is taking the other's place.
    next_key: Option<u8>,
    /// What the hardware has.
    pub sealed: u64,
}

impl Default for Promise {
    fn default() -> Self {
        Self { made: false, least: 0, most: 0, done: 0, key: 1, next_key: None, sealed: 0 }
    }
}

impl Promise {
    pub fn take(&mut self, mark: &str) {
        let (what, number) = mark.split_once(' ').unwrap_or((mark, "0"));
        let number: usize = number.parse().unwrap();
        match what {
            "made" => self.made = true,
            "begin" => self.most = number,
            "done" => {
                self.done = number;
                if is_full(number) {
                    self.least = number;
                }
            }
            // Everything is in the database.
            "closed" => self.least = self.done,
            "key" => self.next_key = Some(u8::try_from(number).unwrap()),
            "keyed" | "rekeyed" => {
                if what == "rekeyed" {
                    self.least = self.done;
                }
                self.key = u8::try_from(number).unwrap();
                self.next_key = None;
            }
            "sealed" => self.sealed = u64::try_from(number).unwrap(),
            "opened" | "end" => {}
            _ => panic!("a mark {mark:?}"),
        }
    }

    /// The keys of which one opens the store.
    pub fn keys(&self) -> Vec<u8> {
        std::iter::once(self.key).chain(self.next_key).collect()
    }

    /// The key that opened it before.
    pub fn former_key(&self) -> Option<u8> {
        (self.next_key.is_none() && self.key > 1).then(|| self.key - 1)
    }

    /// What is promised to those who go on from a state that has been looked at.
    pub fn after(&self, found: Option<(usize, u8)>) -> Self {
        let sealed = self.sealed;
        let Some((number, key)) = found else { return Self { sealed, ..Self::default() } };
        // It was only looked at in a copy: what was not on the medium before is still not.
        Self { made: true, least: number, most: number, done: number, key, next_key: None, sealed }
    }

    /// A kill takes nothing that has returned.
    pub fn after_kill(mut self) -> Self {
        self.least = self.done;
        self
    }
}

/// Works on the store, as a seed decides, and says so in the file `marks`, for so many commits.
pub fn work(path: &Path, marks: &Path, seed: u64, sealed: u64, commits: usize) {
    let mut random = Random::new(seed);
    let marks = Arc::new(Mutex::new(File::create(marks).unwrap()));
    let say = |what: String| say(&marks, &what);
    // After a power loss in the middle of a change of keys nobody knows which it is.
    let without_guard = StoreOptions { rollback_guard: None, ..options(sealed, None) };
    let opens = |key| SqliteStore::open(path, &raw(key), &without_guard);
    let mut key =
        (1..=u8::MAX).find(|key| !matches!(opens(*key), Err(StoreError::WrongKey))).unwrap();
    let options = options(sealed, Some(Arc::clone(&marks)));
    let mut store = SqliteStore::open_or_create(path, &raw(key), &options).unwrap();
    say(format!("keyed {key}"));
    say("made 0".to_owned());
    let first = number_in(&store);
    let mut number = first;
    while number < first + commits {
        number += 1;
        say(format!("begin {number}"));
        commit(&mut store, number);
        say(format!("done {number}"));
        match random.below(12) {
            0 => {
                store.close().unwrap();
                say("closed 0".to_owned());
                store = SqliteStore::open(path, &raw(key), &options).unwrap();
                say("opened 0".to_owned());
            }
            1 => {
                store.checkpoint().unwrap();
                say("closed 0".to_owned());
            }
            2 if key < u8::MAX => {
                say(format!("key {}", key + 1));
                store.change_key(&raw(key), &raw(key + 1), &options).unwrap();
                key += 1;
                say(format!("keyed {key}"));
            }
            3 | 4 if key < u8::MAX => {
                say(format!("key {}", key + 1));
                store = store.rekey(&raw(key + 1), &options).unwrap();
                key += 1;
                say(format!("rekeyed {key}"));
            }
            _ => {}
        }
    }
    drop(store);
    say("end 0".to_owned());
}

/// Opens what is left and compares it with what was promised, every row. Returns the store, the number of the last
/// commit in it, and the key that opened it; `None` if no store was made yet.
pub fn look(store: &Path, promise: &Promise, what: &str) -> Option<(SqliteStore, usize, u8)> {
    let what = || format!("{} {promise:?}", what.chars().take(300).collect::<String>());
    if let Some(former) = promise.former_key() {
        let opened = open(store, former, promise.sealed);
        assert!(matches!(opened, Err(StoreError::WrongKey)), "{opened:?} {}", what());
    }
    for key in promise.keys() {
        match open(store, key, promise.sealed) {
            Ok(opened) => {
                let found = number_in(&opened);
                assert!(
                    (promise.least..=promise.most).contains(&found),
                    "{found} of {}..={} {}",
                    promise.least,
                    promise.most,
                    what()
                );
                let same = Model::of(found).compare(&opened);
                same.unwrap_or_else(|difference| panic!("{difference} {}", what()));
                return Some((opened, found, key));
            }
            Err(StoreError::WrongKey) if promise.keys().len() > 1 => {}
            Err(StoreError::NotFound) if !promise.made => {}
            Err(error) => panic!("{error:?} {}", what()),
        }
    }
    assert!(!promise.made, "no store {}", what());
    None
}
