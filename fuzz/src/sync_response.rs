//! A sync response, as the server sends it.

/// One run.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    crate::subject::sync_twice(data, |subject| subject.sync(data));
}
