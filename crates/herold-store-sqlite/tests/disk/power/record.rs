//! What the recorder has noted, as changes of files and names.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

/// A file or a folder, whatever its name at the moment.
pub type Node = usize;

/// One thing that happened below the folder.
#[derive(Clone, Debug)]
pub enum Event {
    /// A name came to be, for a new file or folder.
    Made { folder: Node, name: String, node: Node },
    /// A name went.
    Removed { folder: Node, name: String },
    /// A name became another, in place of any that was there.
    Renamed { folder: Node, from: String, to: String },
    /// Bytes were written into a file.
    Written { node: Node, at: usize, bytes: Vec<u8> },
    /// A file was cut or lengthened.
    Length { node: Node, length: usize },
    /// All that had been done to a file, or to the names in a folder, was taken to the medium.
    Synchronised { node: Node },
    /// The program has said this.
    Mark(String),
}

/// What is there before the first event, all of it on the medium.
#[derive(Clone, Default)]
pub struct Start {
    /// The files in the store's folder; `None`: there is no folder.
    pub files: Option<BTreeMap<String, Vec<u8>>>,
}

/// The folder that everything is below.
pub const ROOT: Node = 0;
/// The store's folder.
pub const STORE: Node = 1;

/// Follows names and descriptors while the notes are read.
struct Reader {
    names: HashMap<(Node, String), Node>,
    open: HashMap<i32, Node>,
    next: Node,
    events: Vec<Event>,
}

/// Reads the notes in the file `path`; `start` was there before.
pub fn read(path: &Path, root: &Path, start: &Start) -> Vec<Event> {
    let mut reader =
        Reader { names: HashMap::new(), open: HashMap::new(), next: STORE + 1, events: Vec::new() };
    if let Some(files) = &start.files {
        reader.names.insert((ROOT, "store".to_owned()), STORE);
        for name in files.keys() {
            reader.names.insert((STORE, name.clone()), reader.next);
            reader.next += 1;
        }
    }
    let notes = fs::read(path).unwrap();
    let mut notes = notes.as_slice();
    while let Some((header, rest)) = notes.split_first_chunk::<24>() {
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let what = u32::from_le_bytes(header[..4].try_into().unwrap());
        let fd = i32::from_le_bytes(header[4..8].try_into().unwrap());
        let (bytes, rest) = rest.split_at(usize::try_from(number(16)).unwrap());
        let at = usize::try_from(number(8)).unwrap();
        reader.take(root, what, fd, at, bytes);
        notes = rest;
    }
    assert!(notes.is_empty(), "half a note");
    reader.events
}

impl Reader {
    fn take(&mut self, root: &Path, what: u32, fd: i32, number: usize, bytes: &[u8]) {
        let text = || String::from_utf8(bytes.to_vec()).unwrap();
        match what {
            1 => {
                let node = match self.place(root, &text()) {
                    None => ROOT,
                    Some((folder, name)) if number & 1 == 1 => self.make(folder, name),
                    Some(place) => *self.names.get(&place).expect("it was there"),
                };
                self.open.insert(fd, node);
                if number & 3 == 2 {
                    self.events.push(Event::Length { node, length: 0 });
                }
            }
            2 => {
                self.open.remove(&fd);
            }
            3 => {
                let node = self.open[&fd];
                self.events.push(Event::Written { node, at: number, bytes: bytes.to_vec() });
            }
            4 => self.events.push(Event::Length { node: self.open[&fd], length: number }),
            5 => self.events.push(Event::Synchronised { node: self.open[&fd] }),
            6 => {
                let (folder, name) = self.place(root, &text()).unwrap();
                self.names.remove(&(folder, name.clone())).expect("it was there");
                self.events.push(Event::Removed { folder, name });
            }
            7 => {
                let (from, to) = bytes.split_at(number);
                let (folder, from) = self.place(root, std::str::from_utf8(from).unwrap()).unwrap();
                let (into, to) = self.place(root, std::str::from_utf8(to).unwrap()).unwrap();
                assert_eq!(folder, into, "moved to another folder");
                let node = self.names.remove(&(folder, from.clone())).expect("it was there");
                self.names.insert((folder, to.clone()), node);
                self.events.push(Event::Renamed { folder, from, to });
            }
            8 => {
                let (folder, name) = self.place(root, &text()).unwrap();
                self.make(folder, name);
            }
            9 => self.events.extend(text().lines().map(|line| Event::Mark(line.to_owned()))),
            _ => panic!("a note of kind {what}"),
        }
    }

    /// The folder and the name that a path has there; `None` for the root itself.
    fn place(&self, root: &Path, path: &str) -> Option<(Node, String)> {
        let below = Path::new(path).strip_prefix(root).unwrap();
        let parts: Vec<_> = below.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        match parts.as_slice() {
            [] => None,
            [name] => Some((ROOT, name.clone())),
            [folder, name] => Some((self.names[&(ROOT, folder.clone())], name.clone())),
            _ => panic!("deeper than a store is: {path}"),
        }
    }

    fn make(&mut self, folder: Node, name: String) -> Node {
        let node = if folder == ROOT && name == "store" { STORE } else { self.next };
        self.next += usize::from(node != STORE);
        self.names.insert((folder, name.clone()), node);
        self.events.push(Event::Made { folder, name, node });
        node
    }
}
