//! [`Faults`]: what a network does to an exchange.

use herold::Entropy;

/// What happens to one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing out of the ordinary.
    Arrives,
    /// The request never reaches the server.
    RequestLost,
    /// The server acts, but its answer is lost.
    AnswerLost,
    /// The request reaches the server twice, and so does the answer the client.
    Duplicated,
    /// The answer comes later than others.
    Delayed,
    /// The answer is cut off.
    Truncated,
    /// The server fails before acting.
    ServerError,
    /// The server asks to wait.
    Throttled,
}

/// How often each fault occurs, in thousandths of all exchanges. The sum must be below 1000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// [`Fate::RequestLost`]
    pub request_lost: u64,
    /// [`Fate::AnswerLost`]
    pub answer_lost: u64,
    /// [`Fate::Duplicated`]
    pub duplicated: u64,
    /// [`Fate::Delayed`]
    pub delayed: u64,
    /// [`Fate::Truncated`]
    pub truncated: u64,
    /// [`Fate::ServerError`]
    pub server_error: u64,
    /// [`Fate::Throttled`]
    pub throttled: u64,
}

impl Faults {
    /// No faults.
    pub const NONE: Self = Self {
        request_lost: 0,
        answer_lost: 0,
        duplicated: 0,
        delayed: 0,
        truncated: 0,
        server_error: 0,
        throttled: 0,
    };

    /// A bad day: a third of all exchanges goes wrong in one way or another.
    pub const BAD_DAY: Self = Self {
        request_lost: 60,
        answer_lost: 60,
        duplicated: 60,
        delayed: 60,
        truncated: 40,
        server_error: 30,
        throttled: 20,
    };

    /// The fate of the next exchange.
    pub fn draw(&self, entropy: &mut dyn Entropy) -> Fate {
        let mut bytes = [0; 8];
        entropy.fill(&mut bytes);
        let mut roll = u64::from_le_bytes(bytes) % 1000;
        for (rate, fate) in [
            (self.request_lost, Fate::RequestLost),
            (self.answer_lost, Fate::AnswerLost),
            (self.duplicated, Fate::Duplicated),
            (self.delayed, Fate::Delayed),
            (self.truncated, Fate::Truncated),
            (self.server_error, Fate::ServerError),
            (self.throttled, Fate::Throttled),
        ] {
            if roll < rate {
                return fate;
            }
            roll -= rate;
        }
        Fate::Arrives
    }
}
