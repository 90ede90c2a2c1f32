//! What both sides of a measurement share: [`People`] at the other end, the server's bodies, the clock and
//! the scales. A side implements [`Side`]; [`main`] does the rest.

mod alone;
mod exchange;
mod measure;
mod people;
mod side;
mod works;

pub use people::{Directory, People};
pub use side::{ROOM, Shared, Side, main};
pub use works::{ONE_TURN, WORKS};
