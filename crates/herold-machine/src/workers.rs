//! [`Workers`]: arithmetic that may be done several pieces at a time.
//!
//! The machine spawns nothing. It says what is to be decrypted with which session; whoever drives it may have that
//! done on several processors. The outcome is the same however it is done, and in whatever order.

use std::fmt;

use herold_crypto::{InboundGroupSession, MegolmError};
use zeroize::Zeroizing;

/// What came of a message: its plaintext and its index.
pub(crate) type Outcome = Result<(Zeroizing<Vec<u8>>, u32), MegolmError>;

/// Does pieces of work. It must have done all of them when it comes back; which first, and how many at a time, makes no
/// difference.
pub trait Workers: Send + Sync {
    /// Into how many pieces work is worth being cut.
    fn width(&self) -> usize;

    /// Fewer messages than this are not worth waking anybody up for.
    fn least(&self) -> usize {
        16
    }

    /// Calls [`Piece::work`] on each.
    fn run(&self, pieces: &mut [Piece]);
}

/// Does one piece after the other.
pub(crate) struct InTurn;

impl Workers for InTurn {
    fn width(&self) -> usize {
        1
    }

    fn run(&self, pieces: &mut [Piece]) {
        for piece in pieces {
            piece.work();
        }
    }
}

/// Some messages of some sessions, to be decrypted. Secret; opaque to whoever has it worked on.
pub struct Piece {
    runs: Vec<Run>,
    messages: usize,
}

/// Messages of one session, and a copy of the session.
pub(crate) struct Run {
    /// Which run it is: the caller's number.
    pub(crate) number: usize,
    pub(crate) session: InboundGroupSession,
    /// Ciphertexts, and what came of them.
    pub(crate) messages: Vec<(String, Option<Outcome>)>,
}

impl Piece {
    /// Decrypts what is in it. Done twice, it is the same.
    pub fn work(&mut self) {
        for Run { session, messages, .. } in &mut self.runs {
            for (ciphertext, outcome) in messages {
                if outcome.is_none() {
                    *outcome = Some(session.decrypt(ciphertext));
                }
            }
        }
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Piece").field("messages", &self.messages).finish_non_exhaustive()
    }
}

/// Deals runs out to so many pieces, so that each has about as many messages. A long run is cut, each part with a copy
/// of the session; the last part has the run's last messages.
pub(crate) fn deal(runs: Vec<Run>, pieces: usize) -> Vec<Piece> {
    let total: usize = runs.iter().map(|run| run.messages.len()).sum();
    let share = total.div_ceil(pieces.max(1)).max(1);
    let mut dealt = vec![Piece { runs: Vec::new(), messages: 0 }];
    for mut run in runs {
        while !run.messages.is_empty() {
            let full = dealt.last().is_none_or(|piece| piece.messages >= share);
            if full {
                dealt.push(Piece { runs: Vec::new(), messages: 0 });
            }
            let Some(piece) = dealt.last_mut() else { break };
            let rest = run.messages.split_off(run.messages.len().min(share - piece.messages));
            piece.messages += run.messages.len();
            let session = run.session.clone();
            let part = std::mem::replace(&mut run.messages, rest);
            piece.runs.push(Run { number: run.number, session, messages: part });
        }
    }
    dealt
}

/// The runs of these pieces.
pub(crate) fn collect(pieces: Vec<Piece>) -> impl Iterator<Item = Run> {
    pieces.into_iter().flat_map(|piece| piece.runs)
}

#[cfg(test)]
mod tests {
    use herold_crypto::OutboundGroupSession;

    use super::*;

    /// Runs of sessions with so many messages each.
    fn runs(lengths: &[usize]) -> Vec<Run> {
        let run = |(number, length): (usize, &usize)| {
            let mut writer = OutboundGroupSession::new();
            let session =
                InboundGroupSession::from_session_key(writer.session_key().as_str()).unwrap();
            let text = |n| format!("{number} {n}");
            let messages =
                (0..*length).map(|n| (writer.encrypt(text(n).as_bytes()), None)).collect();
            Run { number, session, messages }
        };
        lengths.iter().enumerate().map(run).collect()
    }

    #[test]
    fn each_message_is_in_one_piece_and_is_decrypted_whatever_the_order() {
        for width in 1..6 {
            let mut pieces = deal(runs(&[7, 0, 1, 20, 3]), width);
            assert!(pieces.len() <= width, "{} pieces of {width}", pieces.len());
            let most = pieces.iter().map(|piece| piece.messages).max().unwrap();
            assert!(most <= 31_usize.div_ceil(width));
            pieces.reverse();
            InTurn.run(&mut pieces);
            let mut texts: Vec<(usize, String)> = Vec::new();
            for run in collect(pieces) {
                for (_, outcome) in run.messages {
                    let (text, _) = outcome.unwrap().unwrap();
                    texts.push((run.number, String::from_utf8(text.to_vec()).unwrap()));
                }
            }
            texts.sort();
            let mut expected: Vec<(usize, String)> = [7, 0, 1, 20, 3]
                .iter()
                .enumerate()
                .flat_map(|(number, length)| {
                    (0..*length).map(move |n| (number, format!("{number} {n}")))
                })
                .collect();
            expected.sort();
            assert_eq!(texts, expected);
        }
    }

    #[test]
    fn what_is_not_a_message_is_an_error_in_its_place() {
        let mut all = runs(&[2]);
        all[0].messages.insert(1, ("not a message".to_owned(), None));
        let mut pieces = deal(all, 2);
        InTurn.run(&mut pieces);
        let outcomes: Vec<bool> = collect(pieces)
            .flat_map(|run| run.messages)
            .map(|(_, outcome)| outcome.unwrap().is_ok())
            .collect();
        assert_eq!(outcomes, [true, false, true]);
    }
}
