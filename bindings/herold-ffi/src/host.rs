//! [`Host`]: the threads a client's work is done on, and its end.
//!
//! Each client has a runtime of its own, which goes with it: when it is closed no thread, socket or
//! file is left. All work runs as a task there, so a panic in it is caught, and the caller's thread
//! waits without doing anything itself.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    thread,
    time::Duration,
};

use herold::ClientError;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    task::{AbortHandle, JoinHandle},
};

use crate::{
    HeroldError,
    callback::{end_calls, poll_for_app},
};

/// How many threads a client works on; reading and writing files has others, which come and go.
const THREADS: usize = 2;

/// How long a client has to close in order.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// How long the threads may take to end after that.
const THREAD_PATIENCE: Duration = Duration::from_secs(5);

/// A client and its threads.
pub(crate) struct Host {
    pub(crate) user_id: String,
    pub(crate) device_id: String,
    open: Arc<Mutex<Option<Open>>>,
    closed: watch::Sender<bool>,
}

/// Every client's, as long as there is one.
static ALL: Mutex<Vec<Weak<Mutex<Option<Open>>>>> = Mutex::new(Vec::new());

/// What goes when the client is closed.
struct Open {
    client: herold::Client,
    /// The task that watches for new events.
    watcher: Option<AbortHandle>,
    threads: Threads,
}

/// A runtime that can be dropped anywhere.
struct Threads(Option<Runtime>);

impl Host {
    /// Starts the threads and makes the client on them.
    pub(crate) async fn start(
        make: impl Future<Output = Result<herold::Client, ClientError>> + Send + 'static,
    ) -> Result<Self, HeroldError> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(THREADS).thread_name("herold").enable_all().build();
        let runtime =
            runtime.map_err(|_| HeroldError::internal("the threads could not be started"))?;
        let task = Task(runtime.spawn(async { Ok(make.await?) }));
        let threads = Threads(Some(runtime));
        let client = task.await?;
        let (user_id, device_id) = (client.user_id().into(), client.device_id().into());
        let open = Arc::new(Mutex::new(Some(Open { client, watcher: None, threads })));
        let mut all = lock(&ALL);
        all.retain(|open| open.strong_count() > 0);
        all.push(Arc::downgrade(&open));
        Ok(Self { user_id, device_id, open, closed: watch::Sender::new(false) })
    }

    /// Has work done on the client's threads. When the caller stops waiting, it is not continued: in
    /// [`herold`] nothing is lost by that.
    pub(crate) async fn run<T, F>(
        &self,
        work: impl FnOnce(herold::Client) -> F + Send + 'static,
    ) -> Result<T, HeroldError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, HeroldError>> + Send + 'static,
    {
        let task = {
            let open = lock(&self.open);
            let open = open.as_ref().ok_or_else(HeroldError::closed)?;
            let client = open.client.clone();
            Task(open.runtime()?.spawn(async move { work(client).await }))
        };
        task.await
    }

    /// Runs `watch` until another takes its place or the client is closed.
    pub(crate) fn watch<F>(
        &self,
        watch: Option<impl FnOnce(herold::Client) -> F>,
    ) -> Result<(), HeroldError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut open = lock(&self.open);
        let open = open.as_mut().ok_or_else(HeroldError::closed)?;
        let next = match watch {
            Some(watch) => Some(open.runtime()?.spawn(watch(open.client.clone())).abort_handle()),
            None => None,
        };
        if let Some(last) = std::mem::replace(&mut open.watcher, next) {
            last.abort();
        }
        Ok(())
    }

    /// Ends everything, on a thread that can wait. Whoever calls it again waits for the same end.
    pub(crate) async fn close(&self) -> Result<(), HeroldError> {
        // Counted before anybody can see that it is gone.
        if let Some(open) = lock(&self.open).take() {
            // Should there be no thread for it, it is dropped with the closure: closed, but not waited for.
            let _ = open.close_on_a_thread(Some(self.closed.clone()));
        }
        let mut closed = self.closed.subscribe();
        let mut ended = pin!(closed.wait_for(|closed| *closed));
        let ended = poll_fn(|cx| poll_for_app(ended.as_mut(), cx).map_ok(drop)).await;
        ended.map_err(|_| HeroldError::internal("the client could not be closed"))
    }
}

/// Has work done for which no client is needed, on threads of its own.
pub(crate) async fn run_alone<T: Send + 'static>(
    work: impl Future<Output = Result<T, ClientError>> + Send + 'static,
) -> Result<T, HeroldError> {
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("herold").build();
    let runtime = runtime.map_err(|_| HeroldError::internal("the threads could not be started"))?;
    let task = Task(runtime.spawn(async { Ok(work.await?) }));
    // Goes without waiting, whoever drops it.
    let _threads = Threads(Some(runtime));
    task.await
}

/// Nothing of the app is called any more, no call answers any more, and every client is closed, for good.
///
/// For the end of a process that lets other threads run on while it ends: what they use goes away under
/// them. The Python module does it by itself.
#[uniffi::export]
pub fn end_everything() {
    end_calls();
    let all = std::mem::take(&mut *lock(&ALL));
    for open in all.iter().filter_map(Weak::upgrade) {
        if let Some(open) = lock(&open).take() {
            // Not on this thread: it may be one of a client's own, which cannot wait for itself.
            let _ = open.close_on_a_thread(None);
        }
    }
    let patience = CLOSE_PATIENCE + THREAD_PATIENCE;
    drop(ENDED.wait_timeout_while(lock(&CLOSING), patience, |closing| *closing > 0));
}

/// How many clients are being closed.
static CLOSING: Mutex<usize> = Mutex::new(0);
/// One of them has ended.
static ENDED: Condvar = Condvar::new();

/// A client's closing, from the decision to the end, be it a panic.
struct Closing(Option<watch::Sender<bool>>);

impl Closing {
    fn new(closed: Option<watch::Sender<bool>>) -> Self {
        *lock(&CLOSING) += 1;
        Self(closed)
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        *lock(&CLOSING) -= 1;
        ENDED.notify_all();
        if let Some(closed) = &self.0 {
            closed.send_replace(true);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Open {
    fn runtime(&self) -> Result<&Runtime, HeroldError> {
        self.threads.0.as_ref().ok_or_else(HeroldError::closed)
    }

    /// Has everything ended on a thread that can wait, and `closed` told when it has.
    fn close_on_a_thread(self, closed: Option<watch::Sender<bool>>) -> std::io::Result<()> {
        let closing = Closing::new(closed);
        let close = move || {
            self.close();
            drop(closing);
        };
        thread::Builder::new().name("herold-close".to_owned()).spawn(close).map(drop)
    }

    /// Blocks until everything has ended.
    fn close(self) {
        let Self { client, watcher, mut threads } = self;
        if let Some(watcher) = watcher {
            watcher.abort();
        }
        let Some(runtime) = threads.0.take() else { return };
        let in_order = async {
            let _ = tokio::time::timeout(CLOSE_PATIENCE, client.close()).await;
        };
        runtime.block_on(in_order);
        drop(client);
        runtime.shutdown_timeout(THREAD_PATIENCE);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A task somebody waits for. Its panic is an error; dropped, it ends.
struct Task<T>(JoinHandle<Result<T, HeroldError>>);

impl<T> Future for Task<T> {
    type Output = Result<T, HeroldError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        poll_for_app(Pin::new(&mut self.0), cx).map(|joined| match joined {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(HeroldError::panicked()),
            Err(_) => Err(HeroldError::closed()),
        })
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Does work on the caller's thread; its panic is an error.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, HeroldError>) -> Result<T, HeroldError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(HeroldError::panicked()))
}
