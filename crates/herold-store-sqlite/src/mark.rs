//! The mark: how much the write-ahead log has to hold at least.
//!
//! Written after each commit that reached the medium, and before the log is emptied or rewound. Between the two
//! the order makes it safe to leave most writes to the operating system's leisure:
//!
//! - A mark is written *after* the frames that it asks for are on the medium, so a mark that a power loss
//!   has spared never asks for frames that it has not.
//! - The mark that asks for nothing is on the medium *before* the log is emptied or rewound.
//! - The first commit after either is taken to the medium and marked, whatever it asked for. So whenever
//!   there are commits in the log, the mark asks for a log.
//!
//! Two slots are written in turn, each with a check sum: one of them is always whole.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use herold_store::StoreError;
use sha2::{Digest, Sha256};

use crate::{
    error::from_io,
    files::private,
    wal::{LogState, Salts},
};

const MAGIC: &[u8; 8] = b"hmark\0\0\x01";
const SLOT: usize = 64;
/// Slots stand in sectors of their own.
const STRIDE: u64 = 512;

/// What the log has to hold: nothing, or this filling with so many frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    salts: Salts,
    frames: u32,
}

impl Demand {
    pub(crate) fn new(salts: Salts, frames: u32) -> Self {
        Self { salts, frames }
    }

    /// Whether a log holds it.
    pub(crate) fn is_met_by(&self, log: Option<&LogState>) -> bool {
        self.frames == 0
            || log.is_some_and(|log| log.salts == self.salts && log.frames >= self.frames)
    }
}

impl Demand {
    /// Whether it asks for this very filling of the log.
    pub(crate) fn asks_for(&self, log: Option<&LogState>) -> bool {
        self.frames > 0 && log.is_some_and(|log| log.salts == self.salts)
    }
}

/// The open mark file.
pub(crate) struct Mark {
    file: File,
    sequence: u64,
}

impl Mark {
    /// Makes a mark that demands nothing, in place of any that is there.
    pub(crate) fn create(path: &Path) -> Result<(), StoreError> {
        let make = || -> io::Result<()> {
            let file = private().write(true).create(true).truncate(true).open(path)?;
            let mut mark = Self { file, sequence: 0 };
            mark.write(Demand::default())?;
            mark.write(Demand::default())?;
            mark.file.sync_all()
        };
        make().map_err(|error| from_io(&error, "making the mark"))
    }

    /// Opens the mark, and reads what it demands.
    pub(crate) fn open(path: &Path) -> Result<(Self, Demand), StoreError> {
        let damaged = || StoreError::Corrupt("the mark is missing or damaged".to_owned());
        let mut file = match File::options().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged()),
            Err(error) => return Err(from_io(&error, "reading the mark")),
        };
        let mut bytes = Vec::new();
        (&mut file)
            .take(2 * STRIDE)
            .read_to_end(&mut bytes)
            .map_err(|error| from_io(&error, "reading the mark"))?;
        let (sequence, demand) = [0, STRIDE as usize]
            .into_iter()
            .filter_map(|at| decode(bytes.get(at..at + SLOT)?))
            .max_by_key(|(sequence, _)| *sequence)
            .ok_or_else(damaged)?;
        Ok((Self { file, sequence }, demand))
    }

    /// Demands what is on the medium already.
    pub(crate) fn demand(&mut self, demand: Demand) -> io::Result<()> {
        self.write(demand)
    }

    /// Demands nothing any more; on the medium when it returns.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.write(Demand::default())?;
        self.file.sync_data()
    }

    /// Counts the writes, over all openings.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    fn write(&mut self, demand: Demand) -> io::Result<()> {
        let sequence = self.sequence + 1;
        self.file.seek(SeekFrom::Start(sequence % 2 * STRIDE))?;
        self.file.write_all(&encode(sequence, demand))?;
        self.sequence = sequence;
        Ok(())
    }
}

fn encode(sequence: u64, demand: Demand) -> Vec<u8> {
    let mut slot = Vec::with_capacity(SLOT);
    slot.extend_from_slice(MAGIC);
    slot.extend_from_slice(&sequence.to_be_bytes());
    slot.extend_from_slice(&demand.salts);
    slot.extend_from_slice(&u64::from(demand.frames).to_be_bytes());
    slot.extend_from_slice(&Sha256::digest(&slot));
    slot
}

fn decode(slot: &[u8]) -> Option<(u64, Demand)> {
    let (body, sum) = slot.split_last_chunk::<32>()?;
    if Sha256::digest(body).as_slice() != sum {
        return None;
    }
    let (sequence, rest) = body.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    let (salts, frames) = rest.split_first_chunk::<8>()?;
    let frames = u64::from_be_bytes(frames.try_into().ok()?);
    let demand = Demand { salts: *salts, frames: u32::try_from(frames).ok()? };
    Some((u64::from_be_bytes(*sequence), demand))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_demand_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        Mark::create(&path).unwrap();
        for frames in 0..5 {
            let (mut mark, _) = Mark::open(&path).unwrap();
            mark.demand(Demand::new([7; 8], frames)).unwrap();
            assert_eq!(Mark::open(&path).unwrap().1, Demand::new([7; 8], frames));
        }
        Mark::open(&path).unwrap().0.clear().unwrap();
        assert_eq!(Mark::open(&path).unwrap().1, Demand::default());
    }

    #[test]
    fn a_torn_write_leaves_the_demand_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        Mark::create(&path).unwrap();
        let (mut mark, _) = Mark::open(&path).unwrap();
        mark.demand(Demand::new([1; 8], 10)).unwrap();
        mark.demand(Demand::new([1; 8], 11)).unwrap();
        let at = usize::try_from(mark.sequence % 2 * STRIDE).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..SLOT {
            let mut torn = whole.clone();
            torn[at + cut] ^= 0x40;
            std::fs::write(&path, torn).unwrap();
            assert_eq!(Mark::open(&path).unwrap().1, Demand::new([1; 8], 10));
        }
        let mut both = whole;
        both[20] ^= 1;
        both[20 + usize::try_from(STRIDE).unwrap()] ^= 1;
        std::fs::write(&path, both).unwrap();
        assert!(matches!(Mark::open(&path), Err(StoreError::Corrupt(_))));
    }

    #[test]
    fn a_demand_is_met_by_the_same_filling_with_as_many_frames() {
        let log = |salts, frames| LogState { salts, frames };
        let demand = Demand::new([1; 8], 5);
        assert!(demand.is_met_by(Some(&log([1; 8], 5))));
        assert!(demand.is_met_by(Some(&log([1; 8], 6))));
        assert!(!demand.is_met_by(Some(&log([1; 8], 4))));
        assert!(!demand.is_met_by(Some(&log([2; 8], 5))));
        assert!(!demand.is_met_by(None));
        assert!(Demand::default().is_met_by(None));
        assert!(demand.asks_for(Some(&log([1; 8], 6))));
        assert!(!demand.asks_for(Some(&log([2; 8], 6))) && !demand.asks_for(None));
        assert!(!Demand::new([1; 8], 0).asks_for(Some(&log([1; 8], 6))));
    }
}
