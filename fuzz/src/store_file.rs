//! The files of a store on disk, changed in every way, and opened.
//!
//! Input: which store, then a list of edits (crate `arbitrary`). What must hold: an opening either fails,
//! naming the damage and changing nothing, or gives the rows that were committed, all of them. A state
//! that was committed earlier may come back only where files were put back from another day.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use arbitrary::{Arbitrary, Unstructured};
use herold_store::{ChangeSet, Snapshot as _, Store as _, StoreError, Table};
use herold_store_sqlite::{PassphraseCost, SqliteStore, StoreKey, StoreOptions};
use sha2::{Digest as _, Sha256};

use crate::records::Row;

const NAMES: [&str; 8] = [
    "herold.db",
    "herold.db-wal",
    "herold.salt",
    "herold.mark",
    "herold.db-journal",
    "herold.db.new",
    "herold.salt.new",
    "herold.db-shm",
];
const LOG: usize = 1;
const MARK: usize = 3;
const NEW: usize = 5;
/// Where the cost of a passphrase stands in the key file: a higher one only takes longer.
const COST: std::ops::Range<usize> = 18..30;

type Files = BTreeMap<usize, Vec<u8>>;

/// One change.
#[derive(Arbitrary, Debug)]
enum Edit {
    Flip(u8, u32, u8),
    Write(u8, u32, Vec<u8>),
    Cut(u8, u32),
    Append(u8, Vec<u8>),
    Replace(u8, Vec<u8>),
    Delete(u8),
    Copy(u8, u8),
    /// Two blocks of 4 KiB change places.
    Swap(u8, u8, u8),
    /// The file as it is in another store.
    Other(u8, u8),
    /// Check sums are made to fit.
    Sum,
}

/// A store as it stands on disk, and what it may hold when it is opened.
struct Image {
    key: StoreKey,
    files: Files,
    states: Vec<Vec<Row>>,
}

struct Images {
    images: Vec<Image>,
    /// Every state that was ever committed.
    all: Vec<Vec<Row>>,
}

fn options() -> StoreOptions {
    StoreOptions { cache_kib: 512, ..StoreOptions::default() }
}

/// A place in memory if there is one.
fn place(name: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let base = Path::new("/dev/shm");
    let base = if base.is_dir() { base.to_owned() } else { std::env::temp_dir() };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    base.join(format!("herold-fuzz-{}-{name}-{number}", std::process::id()))
}

fn read(directory: &Path) -> Files {
    let mut files = Files::new();
    for (number, name) in NAMES.iter().enumerate() {
        match fs::read(directory.join(name)) {
            Ok(bytes) => drop(files.insert(number, bytes)),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
        }
    }
    files
}

fn commit(store: &mut SqliteStore, number: u8, full: bool) -> Vec<Row> {
    let mut changes = ChangeSet::new();
    changes.put_row(Table::Sync, Vec::new(), vec![number]);
    changes.put_row(Table::Account, Vec::new(), vec![number; 6000]);
    for row in 0..20 {
        changes.put_row(Table::OlmHash, vec![number, row], vec![row; usize::from(row) * 40]);
    }
    if full {
        changes.require_full();
    }
    store.commit(&changes).expect("a commit");
    crate::records::rows(store)
}

fn images() -> &'static Images {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let mut images = Vec::new();
        let mut all = Vec::new();
        let cheap = StoreOptions { passphrase_cost: PassphraseCost::new(0, 0), ..options() };
        for key in [StoreKey::raw([7; 32]), StoreKey::passphrase("a passphrase".to_owned())] {
            let directory = place("base");
            let mut store = SqliteStore::create(&directory, &key, &cheap).expect("a store");
            let first = commit(&mut store, 1, true);
            store.checkpoint().expect("a checkpoint");
            let second = commit(&mut store, 2, true);
            let third = commit(&mut store, 3, false);
            // As a kill leaves it: the third commit need not have reached the medium.
            let states = vec![second.clone(), third.clone()];
            images.push(Image { key: key.clone(), files: read(&directory), states });
            store.close().expect("it closes");
            images.push(Image { key, files: read(&directory), states: vec![third.clone()] });
            all.extend([first, second, third]);
            fs::remove_dir_all(directory).expect("removed");
        }
        Images { images, all }
    })
}

/// One run.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    crate::random::restart(0);
    let Images { images, all } = images();
    let Some((which, rest)) = data.split_first() else { return };
    let image = &images[usize::from(*which) % images.len()];
    let mut files = image.files.clone();
    let mut input = Unstructured::new(rest);
    let mut put_back = false;
    for _ in 0..16 {
        if input.is_empty() {
            break;
        }
        let Ok(edit) = Edit::arbitrary(&mut input) else { break };
        if std::env::var_os("HEROLD_FUZZ_TELL").is_some() {
            eprintln!("{edit:?}");
        }
        apply(&edit, &mut files, images, &mut put_back);
    }
    put_back |= files.get(&MARK) != image.files.get(&MARK);
    if let (Some(salt), Some(good)) = (files.get_mut(&2), image.files.get(&2))
        && salt.len() == good.len()
    {
        salt[COST].copy_from_slice(&good[COST]);
    }
    let directory = place("run");
    fs::create_dir(&directory).expect("a directory");
    for (number, bytes) in &files {
        fs::write(directory.join(NAMES[*number]), bytes).expect("a file");
    }
    check(&directory, image, &files, if put_back { all } else { &image.states });
    fs::remove_dir_all(&directory).expect("removed");
}

fn apply(edit: &Edit, files: &mut Files, images: &[Image], put_back: &mut bool) {
    let name = |which: &u8| usize::from(*which) % NAMES.len();
    let at = |bytes: &Vec<u8>, place: &u32| *place as usize % (bytes.len() + 1);
    match edit {
        Edit::Flip(file, place, with) => {
            if let Some(bytes) = files.get_mut(&name(file)) {
                let at = at(bytes, place);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= with;
                }
            }
        }
        Edit::Write(file, place, with) => {
            let bytes = files.entry(name(file)).or_default();
            let start = at(bytes, place);
            let end = (start + with.len()).min(bytes.len());
            bytes.splice(start..end, with.iter().copied());
        }
        Edit::Cut(file, place) => {
            if let Some(bytes) = files.get_mut(&name(file)) {
                let at = at(bytes, place);
                bytes.truncate(at);
            }
        }
        Edit::Append(file, with) => files.entry(name(file)).or_default().extend(with),
        Edit::Replace(file, with) => drop(files.insert(name(file), with.clone())),
        Edit::Delete(file) => drop(files.remove(&name(file))),
        Edit::Copy(from, to) => {
            if let Some(bytes) = files.get(&name(from)).cloned() {
                files.insert(name(to), bytes);
            }
        }
        Edit::Swap(file, a, b) => {
            if let Some(bytes) = files.get_mut(&name(file)) {
                let blocks = bytes.len() / 4096;
                if blocks > 0 {
                    let (a, b) = (usize::from(*a) % blocks, usize::from(*b) % blocks);
                    for byte in 0..4096 {
                        bytes.swap(a * 4096 + byte, b * 4096 + byte);
                    }
                }
            }
        }
        Edit::Other(image, file) => {
            *put_back = true;
            match images[usize::from(*image) % images.len()].files.get(&name(file)) {
                Some(bytes) => drop(files.insert(name(file), bytes.clone())),
                None => drop(files.remove(&name(file))),
            }
        }
        Edit::Sum => {
            if let Some(salt) = files.get_mut(&2) {
                let summed = salt.len().saturating_sub(32);
                sum(salt, 0, summed);
            }
            if let Some(mark) = files.get_mut(&MARK) {
                sum(mark, 0, 32);
                sum(mark, 512, 32);
            }
        }
    }
}

/// Puts the sum of `length` bytes from `start` behind them.
fn sum(bytes: &mut [u8], start: usize, length: usize) {
    let end = start + length;
    if let Some((summed, place)) = bytes.get_mut(start..end + 32).map(|b| b.split_at_mut(length)) {
        place.copy_from_slice(&Sha256::digest(summed));
    }
}

fn check(directory: &Path, image: &Image, files: &Files, states: &[Vec<Row>]) {
    let same = |number: usize| files.get(&number) == image.files.get(&number);
    let error = match SqliteStore::open(directory, &image.key, &options()) {
        Ok(mut store) => {
            if let Some(rows) = all_rows(&store) {
                assert!(states.contains(&rows), "other rows than were committed");
                again(&mut store, directory, image);
            }
            return;
        }
        Err(error) => error,
    };
    match &error {
        StoreError::NotFound => {
            assert!(!files.contains_key(&0) && !files.contains_key(&2), "a store passes for none");
            return;
        }
        StoreError::WrongKey => assert!(!same(2), "damage passes for a wrong key"),
        StoreError::TooNew { .. } => assert!(!same(2), "damage passes for a newer version"),
        StoreError::Corrupt(_) => {}
        other => panic!("damage passes for something else: {other}"),
    }
    assert!((0..NAMES.len()).any(|number| !same(number)), "a good store: {error}");
    let mut after = read(directory);
    if let Some(unnamed) = files.get(&NEW)
        && after.get(&0) == Some(unnamed)
        && !after.contains_key(&NEW)
    {
        // The making or the re-keying of a store that a kill cut short was ended: that much is allowed.
        match files.get(&0) {
            Some(old) => after.insert(0, old.clone()),
            None => after.remove(&0),
        };
        after.insert(NEW, unnamed.clone());
    }
    if !files.contains_key(&LOG) && after.get(&LOG).is_some_and(Vec::is_empty) {
        after.remove(&LOG); // an empty log is as good as none
    }
    for (number, name) in NAMES.iter().enumerate() {
        let (before, after) = (files.get(&number), after.get(&number));
        assert!(before == after, "an opening that failed ({error}) has changed {name}");
    }
}

/// Every row, or nothing if one cannot be read; that has to be damage.
fn all_rows(store: &SqliteStore) -> Option<Vec<Row>> {
    let mut rows = Vec::new();
    for table in Table::ALL {
        let scanned = store.scan(*table, &[], None, &mut |key, value| {
            rows.push((*table, key.to_vec(), value.to_vec()));
            std::ops::ControlFlow::Continue(())
        });
        match scanned {
            Ok(()) => {}
            Err(StoreError::Corrupt(_)) => return None,
            Err(error) => panic!("damage passes for something else: {error}"),
        }
    }
    Some(rows)
}

/// What can be read whole can be written to, and is there when it is opened again.
fn again(store: &mut SqliteStore, directory: &Path, image: &Image) {
    let mut changes = ChangeSet::new();
    changes.put_row(Table::Sync, Vec::new(), b"again".to_vec());
    changes.require_full();
    // Pages of free space are read only now.
    if store.commit(&changes).is_err() {
        return;
    }
    let copy = place("copy");
    fs::create_dir(&copy).expect("a directory");
    for (number, bytes) in read(directory) {
        fs::write(copy.join(NAMES[number]), bytes).expect("a file");
    }
    let opened = SqliteStore::open(&copy, &image.key, &options()).expect("it opens again");
    let row = opened.get(Table::Sync, &[]).expect("readable");
    assert_eq!(row.as_deref(), Some(&b"again"[..]), "a commit is gone after a kill");
    drop(opened);
    fs::remove_dir_all(copy).expect("removed");
}
