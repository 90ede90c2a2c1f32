//! The foreign database as one piece of memory: the file, with the write-ahead log taken in.
//!
//! SQLite itself would write beside a database that it opens (`-shm`), take in its log, or miss what is in the log. So the
//! files are read as bytes, and the log is taken in here: a frame is a page, and counts up to the last whole commit
//! (SQLite's documentation, "Database File Format", sections 1.3 and 4).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Read},
    path::Path,
    time::SystemTime,
};

use herold_store_sqlite::walk_log;
use zeroize::Zeroizing;

use crate::MigrateError;

/// What a database begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const HEADER: usize = 100;
/// Larger files are refused: the whole is held in memory.
const MAX_SIZE: u64 = 4 << 30;

/// Reads the database at `path`. `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, MigrateError> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        std::path::PathBuf::from(name)
    };
    if size_of(&beside("-journal"))?.is_some_and(|size| size > 0) {
        // A commit of it was cut short; only SQLite can take that back.
        return Err(MigrateError::Damaged("it has an unfinished journal"));
    }
    let files = [path.to_owned(), beside("-wal")];
    let before = states(&files)?;
    let [Some(_), _] = before else { return Ok(None) };
    let mut image = read_file(path)?;
    take_in(&mut image, &beside("-wal"))?;
    if states(&files)? != before {
        return Err(MigrateError::InUse);
    }
    let page = page_size(&image).ok_or(MigrateError::Damaged("it is no SQLite database"))?;
    if image.len() % page != 0 || image.is_empty() {
        return Err(MigrateError::Damaged("it is cut"));
    }
    // No longer one with a log beside it.
    if let Some(versions) = image.get_mut(18..20) {
        versions.fill(1);
    }
    Ok(Some(image))
}

type State = (u64, Option<SystemTime>);

fn states(files: &[std::path::PathBuf; 2]) -> Result<[Option<State>; 2], MigrateError> {
    let state = |path: &Path| match fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.len(), metadata.modified().ok()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(MigrateError::io(&error, "looking at the old store")),
    };
    let [database, log] = files;
    Ok([state(database)?, state(log)?])
}

fn size_of(path: &Path) -> Result<Option<u64>, MigrateError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(MigrateError::io(&error, "looking at the old store")),
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, MigrateError> {
    let failed = |error: &io::Error| MigrateError::io(error, "reading the old store");
    let mut file = File::open(path).map_err(|error| failed(&error))?;
    let size = file.metadata().map_err(|error| failed(&error))?.len();
    if size > MAX_SIZE {
        return Err(MigrateError::Damaged("it is too large"));
    }
    // Reserved at once, so that growing leaves no copies.
    let mut image = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1));
    file.read_to_end(&mut image).map_err(|error| failed(&error))?;
    Ok(image)
}

/// Writes the log's pages into the image, up to the last whole commit.
fn take_in(image: &mut Zeroizing<Vec<u8>>, log: &Path) -> Result<(), MigrateError> {
    let failed = |error: &io::Error| MigrateError::io(error, "reading the old store's log");
    let file = match File::open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&error)),
    };
    let mut committed: BTreeMap<u32, Zeroizing<Vec<u8>>> = BTreeMap::new();
    let mut open = BTreeMap::new();
    let mut pages = None;
    let mut total = 0_u64;
    walk_log(&mut BufReader::with_capacity(1 << 16, file), &mut |frame| {
        total = total.saturating_add(frame.bytes.len() as u64);
        if total > MAX_SIZE {
            return;
        }
        open.insert(frame.page, Zeroizing::new(frame.bytes.to_vec()));
        if frame.database_size != 0 {
            pages = Some((frame.database_size, frame.bytes.len()));
            committed.append(&mut open);
        }
    })
    .map_err(|error| failed(&error))?;
    if total > MAX_SIZE {
        return Err(MigrateError::Damaged("it is too large"));
    }
    let Some((pages, page)) = pages else { return Ok(()) };
    if !image.is_empty() && page_size(image).is_some_and(|known| known != page) {
        return Err(MigrateError::Damaged("its log is another database's"));
    }
    let size = u64::from(pages).saturating_mul(page as u64);
    // Whatever a commit adds to the file went through the log.
    let most = (image.len() as u64).saturating_add((committed.len() as u64) * page as u64);
    if size > MAX_SIZE || size > most {
        return Err(MigrateError::Damaged("its log does not fit it"));
    }
    let size = usize::try_from(size).unwrap_or(0);
    let mut whole = Zeroizing::new(Vec::with_capacity(size));
    whole.extend_from_slice(image.get(..size.min(image.len())).unwrap_or_default());
    whole.resize(size, 0);
    for (number, bytes) in &committed {
        let at = (*number as usize).saturating_sub(1).saturating_mul(page);
        // A page that a later commit has cut off is no part of it.
        if let Some(place) = whole.get_mut(at..at.saturating_add(page)) {
            place.copy_from_slice(bytes);
        }
    }
    *image = whole;
    Ok(())
}

fn page_size(image: &[u8]) -> Option<usize> {
    let header = image.get(..HEADER)?;
    if header.get(..16)? != MAGIC {
        return None;
    }
    let size = u16::from_be_bytes(header.get(16..18)?.try_into().ok()?);
    let size = if size == 1 { 65_536 } else { usize::from(size) };
    (size.is_power_of_two() && size >= 512).then_some(size)
}
