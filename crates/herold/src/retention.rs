//! Forgetting on purpose, by age.

use herold_machine::{Forgotten, Retention, RetentionCursor};

use crate::{Client, ClientError};

impl Client {
    /// How much [`Client::apply_retention`] would forget now. Changes nothing.
    ///
    /// # Errors
    /// [`ClientError::Store`], [`ClientError::Closed`].
    pub async fn preview_retention(&self, retention: &Retention) -> Result<Forgotten, ClientError> {
        all_steps(|cursor| {
            self.session().with_engine(|engine| {
                let now = engine.now();
                Ok(engine.read(|machine, snapshot| {
                    machine.preview_retention(snapshot, now, retention, cursor)
                })?)
            })
        })
        .await
    }

    /// Forgets what this says: room keys and events by their age, Olm sessions out of use. What is gone is gone from this
    /// device for good; a backup on the server is not touched. Cut short, it has done a part, and can be begun again.
    ///
    /// # Errors
    /// [`ClientError::Store`], [`ClientError::Closed`].
    pub async fn apply_retention(&self, retention: &Retention) -> Result<Forgotten, ClientError> {
        all_steps(|cursor| {
            self.session().step(|machine, snapshot, cx| {
                machine.apply_retention(snapshot, cx, retention, cursor)
            })
        })
        .await
    }
}

/// Makes step after step, letting others have a turn in between.
async fn all_steps(
    mut step: impl FnMut(
        Option<&RetentionCursor>,
    ) -> Result<(Forgotten, Option<RetentionCursor>), ClientError>,
) -> Result<Forgotten, ClientError> {
    let mut all = Forgotten::default();
    let mut cursor = None;
    loop {
        let (forgotten, next) = step(cursor.as_ref())?;
        all.add(&forgotten);
        let Some(next) = next else { return Ok(all) };
        cursor = Some(next);
        tokio::task::yield_now().await;
    }
}
