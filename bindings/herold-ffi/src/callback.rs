//! Calls into the app: [`Caller`] makes them on a thread of its own; all of them can be ended.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

/// How long the last callbacks may take.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// The app's callback raised something. Whatever it was, it is ignored.
#[derive(Debug, thiserror::Error, uniffi::Error)]
pub enum CallbackFailed {
    /// It raised something.
    #[error("the callback failed")]
    Failed,
}

impl From<uniffi::UnexpectedUniFFICallbackError> for CallbackFailed {
    fn from(_: uniffi::UnexpectedUniFFICallbackError) -> Self {
        Self::Failed
    }
}

/// Told when there are new events: pull them with [`crate::Client::next_events`].
///
/// Called on a thread of its own. While it runs, further wake-ups become one that follows.
#[uniffi::export(with_foreign)]
pub trait WakeUp: Send + Sync {
    /// There are new events.
    ///
    /// # Errors
    /// Whatever the app raises; it is ignored.
    fn wake(&self) -> Result<(), CallbackFailed>;
}

/// A thread that calls, and the bounded queue in front of it. Dropping it lets the thread end; a call
/// that is under way is not waited for, and nothing queued is called any more.
pub(crate) struct Caller<T> {
    queue: SyncSender<T>,
    stop: Arc<AtomicBool>,
    drains: bool,
}

impl<T: Send + 'static> Caller<T> {
    /// Starts the thread.
    pub(crate) fn start(
        name: &str,
        capacity: usize,
        mut call: impl FnMut(T) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, items) = sync_channel(capacity);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            for item in items {
                if stopped.load(Ordering::Acquire) {
                    break;
                }
                let Some(_call) = UnderWay::begin() else { break };
                // What the app's code does is not this thread's end.
                let _ = catch_unwind(AssertUnwindSafe(|| call(item)));
            }
            // To let go of the callback is a call into the app, too.
            match UnderWay::begin() {
                Some(_call) => drop(call),
                None => std::mem::forget(call),
            }
        })?;
        Ok(Self { queue, stop, drains: false })
    }

    /// What is queued when it is dropped is called all the same.
    pub(crate) fn draining(mut self) -> Self {
        self.drains = true;
        self
    }

    /// Queues a call, without ever waiting; `false` if the queue is full.
    pub(crate) fn offer(&self, item: T) -> bool {
        !matches!(self.queue.try_send(item), Err(TrySendError::Full(_)))
    }
}

impl<T> Drop for Caller<T> {
    fn drop(&mut self) {
        self.stop.store(!self.drains, Ordering::Release);
    }
}

/// Whether the app is still called, and how many calls are under way.
struct Calls {
    ended: bool,
    under_way: usize,
}

static CALLS: Mutex<Calls> = Mutex::new(Calls { ended: false, under_way: 0 });
static ONE_LESS: Condvar = Condvar::new();

fn calls() -> MutexGuard<'static, Calls> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call into the app, from its beginning to its end.
struct UnderWay;

impl UnderWay {
    /// `None` when no more calls are to be made.
    fn begin() -> Option<Self> {
        let mut calls = calls();
        (!calls.ended).then(|| {
            calls.under_way += 1;
            Self
        })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        calls().under_way -= 1;
        ONE_LESS.notify_all();
    }
}

/// A future's result is announced by a call into the app, too.
struct Announcement(Waker);

impl Wake for Announcement {
    fn wake(self: Arc<Self>) {
        if let Some(_call) = UnderWay::begin() {
            self.0.wake_by_ref();
        }
    }
}

/// Polls a future that the app waits for.
pub(crate) fn poll_for_app<F: Future>(future: Pin<&mut F>, cx: &Context<'_>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::new(Announcement(cx.waker().clone())));
    future.poll(&mut Context::from_waker(&waker))
}

/// Nothing of the app is called any more, for good; waits up to two seconds for what is under way.
pub(crate) fn end_calls() {
    let mut calls = calls();
    calls.ended = true;
    let _ = ONE_LESS.wait_timeout_while(calls, END_PATIENCE, |calls| calls.under_way > 0);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::Caller;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_call_that_panics_is_not_the_last() {
        let (sender, called) = channel();
        let caller = Caller::start("test", 8, move |item: u32| {
            sender.send(item).unwrap();
            assert!(item != 1, "provoked");
        })
        .unwrap();
        assert!(caller.offer(1) && caller.offer(2));
        assert_eq!(called.recv_timeout(PATIENCE), Ok(1));
        assert_eq!(called.recv_timeout(PATIENCE), Ok(2));
    }

    #[test]
    fn what_is_queued_is_called_after_the_end_if_that_is_wanted() {
        let (sender, called) = channel();
        let caller = Caller::start("test", 8, move |item: u32| sender.send(item).unwrap()).unwrap();
        let caller = caller.draining();
        assert!(caller.offer(1) && caller.offer(2));
        drop(caller);
        assert_eq!(called.recv_timeout(PATIENCE), Ok(1));
        assert_eq!(called.recv_timeout(PATIENCE), Ok(2));
    }

    #[test]
    fn a_call_that_hangs_fills_the_queue_and_holds_up_nobody() {
        let (release, wait) = channel::<()>();
        let (sender, called) = channel();
        let caller = Caller::start("test", 2, move |item: u32| {
            let _ = sender.send(item);
            let _ = wait.recv();
        })
        .unwrap();
        assert!(caller.offer(1));
        assert_eq!(called.recv_timeout(PATIENCE), Ok(1));
        assert!(caller.offer(2) && caller.offer(3));
        assert!(!caller.offer(4), "the queue has an end");
        // What is queued is not called after the end.
        drop(caller);
        release.send(()).unwrap();
        assert!(called.recv_timeout(PATIENCE).is_err());
    }
}
