//! A medium that keeps what was synchronised, and of the rest whatever it likes.
//!
//! Strictly what the interfaces promise and no more: synchronising a file takes its content and length to
//! the medium, not its name; synchronising a folder takes its names. Of all else any part may be there after a power
//! loss, in any order, torn at sectors of 512 bytes; a file may have been lengthened without what was
//! written there (zeros then).

use std::collections::{BTreeMap, HashMap};

use super::record::{Event, Node, ROOT, STORE, Start};
use crate::random::Random;

const SECTOR: usize = 512;

/// The files in the store's folder after a power loss; `None`: the folder is not there.
pub type Image = Option<BTreeMap<String, Vec<u8>>>;

#[derive(Clone)]
enum Change {
    Written { at: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Naming {
    Made { name: String, node: Node },
    Removed { name: String },
    Renamed { from: String, to: String },
}

#[derive(Default)]
struct Folder {
    durable: BTreeMap<String, Node>,
    pending: Vec<Naming>,
}

/// The medium after the events so far.
pub struct Medium {
    files: HashMap<Node, File>,
    folders: HashMap<Node, Folder>,
}

/// How much of what was not synchronised is kept.
#[derive(Clone, Copy)]
enum Keeping {
    Nothing,
    All,
    /// Each change, with so many chances in a hundred.
    Some(usize),
    /// Each sector of each change.
    Sectors(usize),
    /// The first so many changes in a hundred, the next one torn.
    Beginning(usize),
    /// All but what is at this place in a hundred.
    AllBut(usize),
}

impl Keeping {
    fn any(random: &mut Random) -> Self {
        match random.below(6) {
            0 => Self::Nothing,
            1 => Self::All,
            2 => Self::Some(random.below(100)),
            3 => Self::Sectors(random.below(100)),
            4 => Self::Beginning(random.below(100)),
            _ => Self::AllBut(random.below(100)),
        }
    }

    /// The chances of change `at` of `count`, and whether it may be torn.
    fn chances(self, at: usize, count: usize) -> (usize, bool) {
        let place = |percent: usize| percent * count / 100;
        match self {
            Self::Nothing => (0, false),
            Self::All => (100, false),
            Self::Some(chances) => (chances, false),
            Self::Sectors(chances) => (chances, true),
            Self::Beginning(percent) if at < place(percent) => (100, false),
            Self::Beginning(percent) if at == place(percent) => (50, true),
            Self::Beginning(_) => (0, false),
            Self::AllBut(percent) if at == place(percent) => (30, true),
            Self::AllBut(_) => (100, false),
        }
    }
}

impl Medium {
    pub fn new(start: &Start) -> Self {
        let mut medium = Self { files: HashMap::new(), folders: HashMap::new() };
        medium.folders.insert(ROOT, Folder::default());
        if let Some(files) = &start.files {
            medium.folder(ROOT).durable.insert("store".to_owned(), STORE);
            medium.folders.insert(STORE, Folder::default());
            for (place, (name, bytes)) in files.iter().enumerate() {
                let node = STORE + 1 + place;
                medium.folder(STORE).durable.insert(name.clone(), node);
                let file = File { durable: bytes.clone(), pending: Vec::new() };
                medium.files.insert(node, file);
            }
        }
        medium
    }

    fn folder(&mut self, node: Node) -> &mut Folder {
        self.folders.get_mut(&node).unwrap()
    }

    /// Whether there is anything that a power loss could take.
    pub fn is_settled(&self) -> bool {
        self.files.values().all(|file| file.pending.is_empty())
            && self.folders.values().all(|folder| folder.pending.is_empty())
    }

    pub fn take(&mut self, event: &Event) {
        match event.clone() {
            Event::Made { folder, name, node } => {
                if node == STORE {
                    self.folders.insert(STORE, Folder::default());
                } else {
                    self.files.insert(node, File::default());
                }
                self.folder(folder).pending.push(Naming::Made { name, node });
            }
            Event::Removed { folder, name } => {
                self.folder(folder).pending.push(Naming::Removed { name });
            }
            Event::Renamed { folder, from, to } => {
                self.folder(folder).pending.push(Naming::Renamed { from, to });
            }
            Event::Written { node, at, bytes } => {
                let change = Change::Written { at, bytes };
                self.files.get_mut(&node).unwrap().pending.push(change);
            }
            Event::Length { node, length } => {
                self.files.get_mut(&node).unwrap().pending.push(Change::Length(length));
            }
            Event::Synchronised { node } => {
                if let Some(file) = self.files.get_mut(&node) {
                    for change in std::mem::take(&mut file.pending) {
                        apply(&mut file.durable, &change, None);
                    }
                } else {
                    let folder = self.folder(node);
                    for naming in std::mem::take(&mut folder.pending) {
                        name(&mut folder.durable, &naming);
                    }
                }
            }
            Event::Mark(_) => {}
        }
    }

    /// What is there after a power loss now.
    pub fn after_power_loss(&self, random: &mut Random) -> Image {
        let all = Keeping::any(random);
        // Often the same for everything; else each file by itself.
        let each = random.percent(50);
        let keeping = |random: &mut Random| if each { Keeping::any(random) } else { all };
        let store = self.names(ROOT, keeping(random), random).contains_key("store");
        let names = self.folders.get(&STORE).filter(|_| store);
        let mut image = BTreeMap::new();
        names?;
        for (name, node) in self.names(STORE, keeping(random), random) {
            let file = &self.files[&node];
            let how = keeping(random);
            let mut bytes = file.durable.clone();
            for (at, change) in file.pending.iter().enumerate() {
                let (chances, torn) = how.chances(at, file.pending.len());
                if torn {
                    apply(&mut bytes, change, Some((chances, random)));
                } else if random.percent(chances) {
                    apply(&mut bytes, change, None);
                }
            }
            image.insert(name, bytes);
        }
        Some(image)
    }

    fn names(&self, node: Node, how: Keeping, random: &mut Random) -> BTreeMap<String, Node> {
        let folder = &self.folders[&node];
        let mut names = folder.durable.clone();
        for (at, naming) in folder.pending.iter().enumerate() {
            let (chances, _) = how.chances(at, folder.pending.len());
            if random.percent(chances) {
                name(&mut names, naming);
            }
        }
        names
    }
}

fn name(names: &mut BTreeMap<String, Node>, naming: &Naming) {
    match naming {
        Naming::Made { name, node } => {
            names.insert(name.clone(), *node);
        }
        Naming::Removed { name } => {
            names.remove(name);
        }
        // Where the old name never came to be, the new one does not either.
        Naming::Renamed { from, to } => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

/// Applies a change, or each sector of it with some chances.
fn apply(file: &mut Vec<u8>, change: &Change, torn: Option<(usize, &mut Random)>) {
    match (change, torn) {
        (Change::Length(length), None) => file.resize(*length, 0),
        (Change::Length(length), Some((chances, random))) => {
            if random.percent(chances) {
                file.resize(*length, 0);
            }
        }
        (Change::Written { at, bytes }, None) => put(file, *at, bytes),
        (Change::Written { at, bytes }, Some((chances, random))) => {
            let end = at + bytes.len();
            if end > file.len() && random.percent(50) {
                file.resize(end, 0);
            }
            let mut from = *at;
            while from < end {
                let to = ((from / SECTOR + 1) * SECTOR).min(end);
                if random.percent(chances) {
                    put(file, from, &bytes[from - at..to - at]);
                }
                from = to;
            }
        }
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}
