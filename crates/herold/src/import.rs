//! Taking room keys in: while one page of them is stored, the next are decrypted.

use herold_machine::{Imported, RestoredKey};
use herold_trust::KeySource;

use crate::{
    ClientError, Threads,
    progress::{Progress, Report},
    session::Session,
};

/// As many room keys are stored in one step: what is in memory does not grow with how many there are.
pub(crate) const PAGE: usize = 500;

/// A page's keys that are good.
pub(crate) struct Opened {
    pub(crate) keys: Vec<RestoredKey>,
    /// As many entries are bad.
    pub(crate) refused: usize,
}

/// Takes in what `open` makes of these pages; `total` entries are expected.
pub(crate) fn import<P: Send>(
    session: &Session,
    source: KeySource,
    pages: impl Iterator<Item = P> + Send,
    open: impl Fn(P) -> Result<Opened, ClientError> + Sync,
    total: Option<usize>,
    report: &mut Report,
) -> Result<Imported, ClientError> {
    let mut sum = Imported::default();
    Threads::default().feed(pages, open, |page: Result<Opened, ClientError>| {
        let Opened { keys, refused } = page?;
        sum.refused += refused;
        sum += session
            .step(|machine, snapshot, cx| machine.import_room_keys(snapshot, cx, keys, source))?;
        report(Progress { done: sum.total(), total });
        Ok::<_, ClientError>(())
    })?;
    Ok(sum)
}
