//! What the examples share: a homeserver in this very process, and a transport that writes down
//! everything a homeserver gets to see.

#![forbid(unsafe_code)]

mod in_process;
mod recording;

pub use in_process::InProcess;
pub use recording::{Recording, Seen};
