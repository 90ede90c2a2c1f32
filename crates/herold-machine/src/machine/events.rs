//! What the app is told, until it says that it has it.

use herold_store::{Snapshot, SnapshotExt as _, records::SequenceKey};

use crate::{AppEvent, AppEventRecord, Context, Machine, MachineError, Pending, Step};

/// As many rows of app events are read at once.
const ROWS_AT_ONCE: usize = 16;

impl Machine {
    /// The events the app has not acknowledged, from after `sequence` on.
    ///
    /// # Errors
    /// Those of the store.
    pub fn events_after(
        &self,
        snapshot: &dyn Snapshot,
        sequence: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, AppEvent)>, MachineError> {
        let first = sequence.map_or(0, |sequence| sequence.saturating_add(1));
        // The row that is begun before may reach beyond where the reading starts.
        let mut after = sequence.map(|sequence| SequenceKey { sequence });
        let mut rows = match after {
            Some(_) => {
                let first = SequenceKey { sequence: first };
                snapshot.list_back::<AppEventRecord>(&[], Some(&first), 1)?
            }
            None => Vec::new(),
        };
        let mut events = Vec::new();
        loop {
            for (key, record) in &rows {
                let numbered = (key.sequence..).zip(&record.events);
                let wanted = numbered.filter(|(sequence, _)| *sequence >= first);
                let left = limit.saturating_sub(events.len());
                events.extend(wanted.take(left).map(|(sequence, event)| (sequence, event.clone())));
            }
            if events.len() >= limit {
                return Ok(events);
            }
            rows = snapshot.list_after::<AppEventRecord>(&[], after.as_ref(), ROWS_AT_ONCE)?;
            let Some((last, _)) = rows.last() else { return Ok(events) };
            after = Some(last.clone());
        }
    }

    /// The app has taken all events up to this number: they are forgotten.
    ///
    /// # Errors
    /// Those of the store.
    pub fn acknowledge(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        up_to: u64,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let mut rows = snapshot.list::<AppEventRecord>(&[], ROWS_AT_ONCE)?;
        while let Some((last, _)) = rows.last() {
            let last = last.clone();
            for (key, record) in rows {
                if key.sequence > up_to {
                    return self.end(txn, ());
                }
                txn.delete::<AppEventRecord>(&key);
                let seen = usize::try_from(up_to - key.sequence).unwrap_or(usize::MAX);
                let events: Vec<AppEvent> =
                    record.events.into_iter().skip(seen.saturating_add(1)).collect();
                if !events.is_empty() {
                    let sequence = up_to.saturating_add(1);
                    txn.put(&SequenceKey { sequence }, &AppEventRecord { events });
                }
            }
            rows = snapshot.list_after::<AppEventRecord>(&[], Some(&last), ROWS_AT_ONCE)?;
        }
        self.end(txn, ())
    }
}
