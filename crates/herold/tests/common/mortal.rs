//! A client that dies at a given point: before or after a commit, before or after the homeserver has seen a request.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use herold::{
    Changed, Client, ClientBuilder, Exchange, MemoryStore, Store, StoreError, Transport,
    TransportError, TransportRequest,
};
use herold_store::{ChangeSet, ScanControl, Snapshot, Table};

use super::{Net, TokioClock, Wire, deployment, password, ready};

/// When it dies.
#[derive(Default)]
pub struct Fate {
    left: AtomicUsize,
    armed: AtomicBool,
    dead: AtomicBool,
}

impl Fate {
    /// From now on this many points are passed alive.
    pub fn arm(&self, points: usize) {
        self.left.store(points, Ordering::SeqCst);
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Whether it has died.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Lives on whatever happens.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::SeqCst);
    }

    /// A point at which it may die: whether it is dead now.
    fn passes(&self) -> bool {
        if self.armed.load(Ordering::SeqCst) && !self.is_dead() {
            let left = self.left.load(Ordering::SeqCst);
            self.left.store(left.saturating_sub(1), Ordering::SeqCst);
            self.dead.store(left == 0, Ordering::SeqCst);
        }
        self.is_dead()
    }
}

/// What is left of it.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<MemoryStore>>);

struct MortalStore(Disk, Arc<Fate>);

impl Snapshot for MortalStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.0.lock().unwrap().get(table, key)
    }
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        self.0.0.lock().unwrap().scan(table, prefix, from, visit)
    }
    fn scan_back(
        &self,
        table: Table,
        prefix: &[u8],
        before: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        self.0.0.lock().unwrap().scan_back(table, prefix, before, visit)
    }
}

impl Store for MortalStore {
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError> {
        let dead = || StoreError::Io("dead".to_owned());
        if self.1.passes() {
            return Err(dead());
        }
        self.0.0.lock().unwrap().commit(changes)?;
        if self.1.passes() { Err(dead()) } else { Ok(()) }
    }
    fn snapshot(&self) -> &dyn Snapshot {
        self
    }
    fn resume(&mut self) -> Result<Changed, StoreError> {
        Ok(Changed::nothing())
    }
}

struct MortalWire(Arc<Net>, Arc<Fate>);

impl Transport for MortalWire {
    fn send(&self, request: TransportRequest) -> Exchange<'_> {
        Box::pin(async move {
            // What waits for news is under way all the time.
            let counts = !request.http.query.iter().any(|(name, _)| name == "since");
            let dies = || if counts { self.1.passes() } else { self.1.is_dead() };
            if dies() {
                return Err(TransportError::Interrupted);
            }
            let answer = Wire(self.0.clone()).send(request).await?;
            if dies() { Err(TransportError::Interrupted) } else { Ok(answer) }
        })
    }
}

fn builder(net: &Arc<Net>, disk: &Disk, fate: &Arc<Fate>) -> ClientBuilder {
    ClientBuilder::new()
        .deployment(deployment())
        .homeserver("https://example.org")
        .transport(Arc::new(MortalWire(net.clone(), fate.clone())))
        .clock(Arc::new(TokioClock(net.clone())))
        .store(Box::new(MortalStore(disk.clone(), fate.clone())))
}

/// A new device that has not died yet, syncing and ready.
pub async fn mortal(net: &Arc<Net>, user: &str, disk: &Disk, fate: &Arc<Fate>) -> Client {
    let client = builder(net, disk, fate).login(user, password(), None).await.unwrap();
    ready(&client).await;
    client
}

/// The same device as it comes back, with another fate.
pub async fn reborn(net: &Arc<Net>, disk: &Disk, fate: &Arc<Fate>) -> Client {
    let client = builder(net, disk, fate).resume().await.unwrap();
    ready(&client).await;
    client
}
