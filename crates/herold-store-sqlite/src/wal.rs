//! What a write-ahead log holds, read before SQLite does.
//!
//! SQLite stops at the first frame that does not check and takes the rest for never written; this
//! module counts in the same way (SQLite's documentation, "Database File Format", section 4), so that a
//! log with too little in it is found before anything is built on it. It needs no key: frames are
//! chained over the encrypted pages.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

/// The salts that name one filling of the log; each time SQLite starts it over they change.
pub(crate) type Salts = [u8; 8];

/// A log's content up to the end of its last whole commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogState {
    pub(crate) salts: Salts,
    pub(crate) frames: u32,
}

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The magic number, without the bit that tells the byte order of the sums.
const MAGIC: u32 = 0x377f_0682;

/// The salts of the log at `path` as they stand in its header, unchecked; `None` if it has none.
pub(crate) fn salts(path: &Path) -> io::Result<Option<Salts>> {
    let mut header = [0; HEADER];
    match File::open(path)?.read_exact(&mut header) {
        Ok(()) => Ok(header.get(16..24).and_then(|salts| salts.try_into().ok())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the log at `path`; `None` if there is none, or none that SQLite would take anything from.
pub(crate) fn read(path: &Path) -> io::Result<Option<LogState>> {
    match File::open(path) {
        Ok(file) => read_from(&mut BufReader::with_capacity(1 << 16, file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_from(log: &mut impl Read) -> io::Result<Option<LogState>> {
    let mut state = LogState { salts: Salts::default(), frames: 0 };
    let mut read = 0;
    let salts = walk_log(log, &mut |frame| {
        read += 1;
        if frame.database_size != 0 {
            state.frames = read;
        }
    })?;
    Ok(salts.map(|salts| LogState { salts, ..state }))
}

/// A frame of a write-ahead log: a page as it was written.
#[derive(Clone, Copy, Debug)]
pub struct LogFrame<'a> {
    /// The page's number; the first one is 1.
    pub page: u32,
    /// The size of the database after the commit, in pages, if the frame is its commit's last; else 0. Frames after
    /// the last commit do not count.
    pub database_size: u32,
    /// The page.
    pub bytes: &'a [u8],
}

/// Visits the frames of a write-ahead log of SQLite, anybody's, up to the first one that does not check. Answers the log's
/// salts; `None` if SQLite would take nothing from it.
///
/// # Errors
/// The log cannot be read.
pub fn walk_log(
    log: &mut impl Read,
    visit: &mut dyn FnMut(LogFrame<'_>),
) -> io::Result<Option<[u8; 8]>> {
    let mut header = [0; HEADER];
    if !fill(log, &mut header)? {
        return Ok(None);
    }
    let magic = number(&header, 0);
    let big_endian = magic == MAGIC | 1;
    let page_size = number(&header, 8);
    let known_size = page_size.is_power_of_two() && (512..=65_536).contains(&page_size);
    if !(magic == MAGIC || big_endian) || !known_size {
        return Ok(None);
    }
    let (summed, sums) = header.split_at(24);
    let mut sum = Sum { big_endian, s0: 0, s1: 0 };
    sum.add(summed);
    if !sum.is(sums) {
        return Ok(None);
    }
    let salts: Salts = summed.get(16..).and_then(|salts| salts.try_into().ok()).unwrap_or_default();
    let mut frame = vec![0; FRAME_HEADER + page_size as usize];
    while fill(log, &mut frame)? {
        let (header, page) = frame.split_at(FRAME_HEADER);
        let (summed, rest) = header.split_at(8);
        let (frame_salts, sums) = rest.split_at(8);
        sum.add(summed);
        sum.add(page);
        if frame_salts != salts || number(header, 0) == 0 || !sum.is(sums) {
            break;
        }
        // The size of the database after the commit; zero for all frames but a commit's last.
        visit(LogFrame { page: number(header, 0), database_size: number(header, 4), bytes: page });
    }
    Ok(Some(salts))
}

/// SQLite's running check sum.
struct Sum {
    big_endian: bool,
    s0: u32,
    s1: u32,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        let (words, _) = bytes.as_chunks::<4>();
        let (pairs, _) = words.as_chunks::<2>();
        for pair in pairs {
            let [x, y] = pair.map(|word| {
                if self.big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
            });
            self.s0 = self.s0.wrapping_add(x).wrapping_add(self.s1);
            self.s1 = self.s1.wrapping_add(y).wrapping_add(self.s0);
        }
    }

    /// Whether the sums so far are these, which are big-endian in either byte order.
    fn is(&self, sums: &[u8]) -> bool {
        (number(sums, 0), number(sums, 4)) == (self.s0, self.s1)
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    word.map_or(0, |word| u32::from_be_bytes(*word))
}

/// Fills `buffer`; `false` at the end of the log, whole frame or not.
fn fill(log: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
