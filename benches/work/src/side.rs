//! [`Side`]: what an implementation has to do to be measured; [`main`]: its program.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Directory, alone, exchange, works};

/// The room.
pub const ROOM: &str = "!room:bench.local";
/// The measured user and device.
pub(crate) const USER: &str = "@measured:bench.local";
pub(crate) const DEVICE: &str = "MEASURED";
/// What is said.
pub(crate) const TEXT: &str =
    "The quick brown fox jumps over the lazy dog, and the dog lets it pass without a word.";

/// What sharing a room key produced.
pub struct Shared {
    /// The bodies of `PUT /sendToDevice/m.room.encrypted/...`, as the text that goes on the wire.
    pub to_device: Vec<String>,
    /// The content of the first message with it, as JSON text.
    pub first: String,
}

/// An implementation, with its store on disk. Everything it answers is committed.
pub trait Side: Sized {
    /// Room events, in the form the implementation wants them.
    type Batch;
    /// A sync response, in the form the implementation wants it.
    type Response;

    /// Opens the store in this folder; makes a new account if it is empty.
    fn open(folder: &Path, user: &str, device: &str) -> Self;
    /// The body of its `POST /keys/upload`, taken as accepted.
    fn upload(&mut self) -> Value;
    /// Enters the encrypted room and gets everybody's device lists.
    fn enter(&mut self, server: &dyn Directory);
    /// Gives everybody a new room key and encrypts a message with it; timed.
    fn share(&mut self, server: &dyn Directory, text: &str) -> Shared;
    /// Encrypts a message by the room key everybody has, and answers its content as JSON text; timed.
    fn encrypt(&mut self, text: &str) -> String;
    /// The same with everything that comes before each message: looking whether somebody lacks the key;
    /// timed.
    fn send(&mut self, text: &str) -> String;
    /// The server has accepted that message; not timed.
    fn accepted(&mut self);
    /// Prepares room events; not timed.
    fn batch(events: &[Value]) -> Self::Batch;
    /// Decrypts them; timed.
    fn decrypt(&mut self, batch: &Self::Batch);
    /// Their texts; not timed.
    fn texts(&mut self, batch: &Self::Batch) -> Vec<String>;
    /// Prepares a sync response with these to-device events; not timed.
    fn response(&mut self, to_device: &[Value]) -> Self::Response;
    /// Takes it; timed.
    fn sync(&mut self, response: &Self::Response);
    /// How many room keys of others it has; not timed.
    fn room_keys(&mut self) -> usize;
    /// Takes the room keys out of an export (Matrix specification, "Key export format"): the JSON text that is encrypted
    /// in a key file; timed.
    fn import(&mut self, export: &[u8]);
    /// Takes the room keys out of a key backup: its private key in unpadded base64, and the body of `GET /room_keys/keys`;
    /// timed.
    fn restore(&mut self, secret: &str, body: &[u8]);
    /// From now on one processor must do.
    fn use_one_core(&mut self);
    /// Lets go of the store.
    fn close(self);
}

/// The program of a side: `SIDE measure WORK FOLDER REPORT`, or a part of the exchange.
pub fn main<S: Side>() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let report = match arguments.as_slice() {
        ["measure", work, folder, _] => works::run::<S>(work, Path::new(folder)),
        ["alone", work, folder, _] => alone::run(work, Path::new(folder)),
        ["cold", store, event, _] => works::cold::<S>(Path::new(store), Path::new(event)),
        ["introduce", user, folder, _] => exchange::introduce::<S>(user, Path::new(folder)),
        ["talk", user, folder, other, _] => {
            exchange::talk::<S>(user, Path::new(folder), &read(other))
        }
        ["listen", user, folder, other, _] => {
            exchange::listen::<S>(user, Path::new(folder), &read(other))
        }
        _ => panic!("not a command: {arguments:?}"),
    };
    let path = PathBuf::from(arguments.last().expect("a report's path"));
    std::fs::write(path, report.to_string()).expect("the report can be written");
}

fn read(path: &str) -> Value {
    let text = std::fs::read_to_string(path).expect("the file can be read");
    serde_json::from_str(&text).expect("JSON")
}
