//! Panics on purpose, for the tests.

use std::cell::Cell;

use herold::{Clock, SystemClock, Timestamp};
use serde_json::json;

use crate::{Client, HeroldError, host::guarded, input};

thread_local! {
    static FAULTY: Cell<bool> = const { Cell::new(false) };
}

/// The system's clock, which breaks once where it was told to.
pub(crate) struct FaultyClock;

impl Clock for FaultyClock {
    fn now(&self) -> Timestamp {
        if FAULTY.replace(false) {
            provoked();
        }
        SystemClock.now()
    }
}

#[expect(clippy::panic, reason = "this is what is tested")]
fn provoked() {
    panic!("provoked by a test");
}

/// Panics on the caller's thread.
///
/// # Errors
/// [`HeroldError::Bug`].
#[uniffi::export]
pub fn provoke_panic() -> Result<(), HeroldError> {
    guarded(|| {
        provoked();
        Ok(())
    })
}

#[uniffi::export]
impl Client {
    /// Panics in a task.
    ///
    /// # Errors
    /// [`HeroldError::Bug`].
    pub async fn provoke_panic(&self) -> Result<(), HeroldError> {
        self.host
            .run(|_| async {
                provoked();
                Ok(())
            })
            .await
    }

    /// Panics in the middle of a step, while the engine's lock is held.
    ///
    /// # Errors
    /// [`HeroldError::Bug`].
    pub async fn provoke_panic_in_step(&self, room_id: String) -> Result<(), HeroldError> {
        self.host
            .run(|client| async move {
                let room = input::room(&room_id)?;
                FAULTY.set(true);
                client.queue_event(&room, "m.room.message", &json!({}), None)?;
                Ok(())
            })
            .await
    }
}
