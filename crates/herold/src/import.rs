//! Taking room keys in: they are decrypted on all processors, and stored in the order in which the store keeps them.
//!
//! A step writes every page of the database that one of its keys belongs to. Keys in the order in which a file happens to
//! have them belong to as many pages as they are; in the store's order, to few.

use herold_machine::{Imported, RestoredKey};
use herold_trust::KeySource;

use crate::{
    ClientError, Threads,
    progress::{Progress, Report},
    session::Session,
};

/// As many entries are decrypted at once.
pub(crate) const PAGE: usize = 500;
/// As many room keys are stored in one step.
const STEP: usize = 1000;

/// As many are put in order together: what is in memory does not grow with how many there are.
fn window(source: KeySource) -> usize {
    match source {
        // The download is in memory itself, and its keys take so long to decrypt that a page written twice hardly counts.
        KeySource::Backup => 25_000,
        _ => 100_000,
    }
}

/// What became of a page of entries.
#[derive(Debug, Default)]
pub struct Opened {
    /// Those that are room keys.
    pub keys: Vec<RestoredKey>,
    /// As many are not.
    pub refused: usize,
}

/// Takes room keys in, many at a time: has each page of entries opened by `open` on these processors, and the keys, put in
/// order, stored by `take` on this thread. For whoever drives an [`Engine`](crate::Engine); `take` is then a step with
/// [`Machine::import_room_keys`](herold_machine::Machine::import_room_keys).
///
/// # Errors
/// The first of `open` or `take`. What was taken by then stays.
pub fn import_room_keys<P: Send, E: Send>(
    threads: &Threads,
    source: KeySource,
    pages: impl Iterator<Item = P> + Send,
    open: impl Fn(P) -> Result<Opened, E> + Sync,
    mut take: impl FnMut(Vec<RestoredKey>) -> Result<Imported, E>,
) -> Result<Imported, E> {
    let mut sum = Imported::default();
    let mut waiting = Vec::new();
    let mut store = |waiting: &mut Vec<RestoredKey>| {
        RestoredKey::sort(waiting);
        let mut keys = std::mem::take(waiting).into_iter();
        let mut stored = Imported::default();
        while keys.len() > 0 {
            stored += take(keys.by_ref().take(STEP).collect())?;
        }
        Ok(stored)
    };
    threads.feed(pages, open, |page| {
        let Opened { keys, refused } = page?;
        sum.refused += refused;
        waiting.extend(keys);
        if waiting.len() >= window(source) {
            sum += store(&mut waiting)?;
        }
        Ok(())
    })?;
    sum += store(&mut waiting)?;
    Ok(sum)
}

/// As [`import_room_keys`], into a client's store; `total` entries are expected.
pub(crate) fn import<P: Send>(
    session: &Session,
    source: KeySource,
    pages: impl Iterator<Item = P> + Send,
    open: impl Fn(P) -> Result<Opened, ClientError> + Sync,
    total: Option<usize>,
    report: &mut Report,
) -> Result<Imported, ClientError> {
    let mut done = 0;
    import_room_keys(&Threads::default(), source, pages, open, |keys| {
        done += keys.len();
        let imported = session
            .step(|machine, snapshot, cx| machine.import_room_keys(snapshot, cx, keys, source))?;
        report(Progress { done, total });
        Ok(imported)
    })
}
