//! [`Threads`]: the machine's arithmetic on several processors.

use std::{num::NonZeroUsize, thread};

use herold_machine::{Piece, Workers};

/// More threads bring little: a sync response is not so large.
const MOST: usize = 8;

/// Does the machine's arithmetic on as many processors as there are, with threads that last as long as the work does. It
/// changes how long things take, and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    width: usize,
}

impl Threads {
    /// On so many processors, 8 at most.
    #[must_use]
    pub fn new(processors: NonZeroUsize) -> Self {
        Self { width: processors.get().min(MOST) }
    }
}

impl Default for Threads {
    /// On all processors that this process may use, 8 at most.
    fn default() -> Self {
        Self::new(thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }
}

impl Workers for Threads {
    fn width(&self) -> usize {
        self.width
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
