//! The suite that every store passes.
//!
//! A store's tests call [`store_conformance!`](crate::store_conformance) with a [`StoreFactory`]; it
//! expands to one `#[test]` for each fact. The facts are generic functions, so that they can be called
//! one by one as well. They panic on failure, as tests do, and have no place in a shipped program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod facts;
mod model;
mod samples;

pub use facts::*;
pub use model::any_history_reads_like_an_ordered_map;
pub use samples::{assert_samples, sample_changes, sampled_tables};

use crate::{Store, StoreError};

/// A place for one store of the kind under test. Each factory is a new, empty place.
pub trait StoreFactory {
    /// The kind of store.
    type Store: Store;

    /// Makes the store at this place, empty. Called once.
    ///
    /// # Errors
    /// Fails the test.
    fn create(&self) -> Result<Self::Store, StoreError>;

    /// Lets go of `store` and opens the same place again, as after a restart of the process.
    ///
    /// # Errors
    /// Fails the test.
    fn reopen(&self, store: Self::Store) -> Result<Self::Store, StoreError>;

    /// Makes the next commit fail in the middle: after at least one of its rows was written if it
    /// has several. `false` if this kind of store cannot be made to.
    fn fail_next_commit(&self, store: &mut Self::Store) -> bool {
        let _ = store;
        false
    }
}

/// Expands to a module `$name` with one `#[test]` for each fact of the conformance suite.
///
/// `$factory` is an expression of a [`StoreFactory`](crate::conformance::StoreFactory) type; it is
/// evaluated anew for each store.
#[macro_export]
macro_rules! store_conformance {
    ($name:ident, $factory:expr) => {
        $crate::store_conformance! { @tests $name, $factory,
            a_row_put_is_read_back_and_a_deleted_one_is_gone
            tables_do_not_share_rows
            scans_go_in_key_order_both_ways
            scans_start_at_from_and_before
            a_scan_stops_when_it_is_told_to
            a_scan_may_read_the_store
            a_prefix_of_components_finds_no_other_components_rows
            hostile_identifiers_are_stored_exactly
            long_and_empty_values_are_stored_exactly
            the_later_change_of_a_row_wins
            an_empty_change_set_changes_nothing
            a_failed_commit_changes_nothing
            both_durabilities_survive_a_reopening
            a_row_that_does_not_decode_is_corrupt_and_not_absent
            a_key_that_does_not_decode_is_corrupt
            every_record_survives_a_reopening
            any_history_reads_like_an_ordered_map
        }
    };
    (@tests $name:ident, $factory:expr, $($fact:ident)+) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[test]
                fn $fact() {
                    $crate::conformance::$fact(|| $factory);
                }
            )+
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    struct InMemory;

    impl StoreFactory for InMemory {
        type Store = MemoryStore;

        fn create(&self) -> Result<MemoryStore, StoreError> {
            Ok(MemoryStore::new())
        }

        fn reopen(&self, store: MemoryStore) -> Result<MemoryStore, StoreError> {
            Ok(store)
        }

        fn fail_next_commit(&self, store: &mut MemoryStore) -> bool {
            store.fail_next_commit();
            true
        }
    }

    crate::store_conformance!(memory, InMemory);
}
