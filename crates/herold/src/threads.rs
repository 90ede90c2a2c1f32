//! [`Threads`]: the machine's arithmetic on several processors.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, OnceLock, PoisonError, mpsc},
    thread,
};

use herold_machine::{Piece, Workers};

/// More threads bring little: a sync response is not so large.
const MOST: usize = 8;

/// Does the machine's arithmetic on as many processors as there are, with threads that last as long as the work does. It
/// changes how long things take, and nothing else.
#[derive(Clone, Debug)]
pub struct Threads {
    width: OnceLock<usize>,
}

impl Threads {
    /// On so many processors, 8 at most.
    #[must_use]
    pub fn new(processors: NonZeroUsize) -> Self {
        Self { width: OnceLock::from(processors.get().min(MOST)) }
    }

    /// Prepares items on the processors, while this thread takes those that are ready, in whatever order they are: no more
    /// than two a processor are ready or in work at a time. Ends with the first error of `take`.
    ///
    /// # Errors
    /// That of `take`.
    pub fn feed<I: Send, P: Send, E>(
        &self,
        items: impl Iterator<Item = I> + Send,
        prepare: impl Fn(I) -> P + Sync,
        mut take: impl FnMut(P) -> Result<(), E>,
    ) -> Result<(), E> {
        let width = self.width();
        let items = Mutex::new(items);
        let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
        let (sender, prepared) = mpsc::sync_channel(width);
        // A thread that panics takes this one with it, once the others are done: nothing is passed over.
        thread::scope(|scope| {
            // On one processor nothing is won by it.
            let threads = if width > 1 { width } else { 0 };
            for _ in 0..threads {
                let sender = sender.clone();
                let work = || {
                    let sender = sender;
                    while let Some(item) = next() {
                        if sender.send(prepare(item)).is_err() {
                            return;
                        }
                    }
                };
                let _ =
                    thread::Builder::new().name("herold-work".to_owned()).spawn_scoped(scope, work);
            }
            drop(sender);
            for item in prepared {
                take(item)?;
            }
            // What no thread could be had for.
            while let Some(item) = next() {
                take(prepare(item))?;
            }
            Ok(())
        })
    }
}

impl Default for Threads {
    /// On all processors that this process may use, 8 at most. They are counted when there is enough to do.
    fn default() -> Self {
        Self { width: OnceLock::new() }
    }
}

impl Workers for Threads {
    fn width(&self) -> usize {
        let counted = || thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST);
        *self.width.get_or_init(counted)
    }

    fn run(&self, pieces: &mut [Piece]) {
        let Some((first, others)) = pieces.split_first_mut() else { return };
        let done = thread::scope(|scope| {
            let mut started = Vec::new();
            for piece in &mut *others {
                let builder = thread::Builder::new().name("herold-work".to_owned());
                // Without a thread it is done below.
                if let Ok(thread) = builder.spawn_scoped(scope, || piece.work()) {
                    started.push(thread);
                }
            }
            first.work();
            started.into_iter().all(|thread| thread.join().is_ok())
        });
        if !done {
            tracing::warn!("a worker ended early; its work is done again in turn");
        }
        for piece in others {
            piece.work();
        }
    }
}
