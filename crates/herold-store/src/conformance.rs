//! The suite that every store passes, one's own too.
//!
//! A store's tests call [`store_conformance!`](crate::store_conformance) with a [`StoreFactory`]; it
//! expands to one `#[test]` for each fact. The facts are generic functions, so that they can be called
//! one by one as well. They panic on failure, as tests do, and have no place in a shipped program.
//!
//! The factory says how a store of this kind is made, opened again, made to fail and damaged. The last two have default
//! implementations that say "cannot be done here", and the facts that need them then prove nothing: a
//! store on a medium has to have them. What no fact can show is a power loss; see the
//! [crate's documentation](crate) for what is asked.
//!
//! ```
//! use herold_store::{MemoryStore, StoreError, conformance::StoreFactory, store_conformance};
//!
//! struct InMemory;
//!
//! impl StoreFactory for InMemory {
//!     type Store = MemoryStore;
//!
//!     fn create(&self) -> Result<MemoryStore, StoreError> {
//!         Ok(MemoryStore::new())
//!     }
//!
//!     fn reopen(&self, store: MemoryStore) -> Result<MemoryStore, StoreError> {
//!         Ok(store)
//!     }
//!
//!     fn fail_commit_after(&self, store: &mut MemoryStore, _rows: usize) -> bool {
//!         store.fail_next_commit();
//!         true
//!     }
//! }
//!
//! store_conformance!(memory, InMemory);
//! # fn main() {}
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod facts;
mod faults;
mod model;
mod samples;

pub use facts::*;
pub use faults::*;
pub use model::{
    a_reopening_between_any_two_operations_changes_nothing, any_history_reads_like_an_ordered_map,
};
pub use samples::{assert_samples, sample_changes, sampled_tables};

use crate::{Store, StoreError, Table};

/// A place for one store of the kind under test. Each factory is a new, empty place, and outlives the stores opened there.
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

    /// Makes the next commit fail after so many of its rows were written, or all of them if it has no more, as a full
    /// disk does. `false` if this kind of store cannot be made to.
    fn fail_commit_after(&self, store: &mut Self::Store, rows: usize) -> bool {
        let _ = (store, rows);
        false
    }

    /// Lets go of `store`, damages what is on the medium where the row at `key` is, and opens the place again. `None`
    /// if this kind of store has no medium. Opening may fail, and so may reading other rows.
    fn damage(
        &self,
        store: Self::Store,
        table: Table,
        key: &[u8],
    ) -> Option<Result<Self::Store, StoreError>> {
        let _ = (store, table, key);
        None
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
            a_commit_that_fails_at_any_row_changes_nothing
            a_row_that_cannot_be_read_is_an_error_and_not_absent
            both_durabilities_survive_a_reopening
            a_row_that_does_not_decode_is_corrupt_and_not_absent
            a_key_that_does_not_decode_is_corrupt
            every_record_survives_a_reopening
            any_history_reads_like_an_ordered_map
            a_reopening_between_any_two_operations_changes_nothing
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
#[allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "the example's files")]
mod tests {
    use std::fs;

    use super::*;
    use crate::{MemoryStore, file_store as example};

    struct InMemory;

    impl StoreFactory for InMemory {
        type Store = MemoryStore;

        fn create(&self) -> Result<MemoryStore, StoreError> {
            Ok(MemoryStore::new())
        }

        fn reopen(&self, store: MemoryStore) -> Result<MemoryStore, StoreError> {
            Ok(store)
        }

        fn fail_commit_after(&self, store: &mut MemoryStore, _rows: usize) -> bool {
            store.fail_next_commit();
            true
        }
    }

    crate::store_conformance!(memory, InMemory);

    /// The store of the documentation.
    struct InAFile {
        folder: tempfile::TempDir,
    }

    impl InAFile {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn path(&self) -> std::path::PathBuf {
            self.folder.path().join("rows")
        }
    }

    impl StoreFactory for InAFile {
        type Store = example::FileStore;

        fn create(&self) -> Result<example::FileStore, StoreError> {
            example::FileStore::open(&self.path())
        }

        fn reopen(&self, store: example::FileStore) -> Result<example::FileStore, StoreError> {
            drop(store);
            example::FileStore::open(&self.path())
        }

        fn fail_commit_after(&self, store: &mut example::FileStore, rows: usize) -> bool {
            store.full_after = Some(rows * 20);
            true
        }

        fn damage(
            &self,
            store: example::FileStore,
            _table: Table,
            key: &[u8],
        ) -> Option<Result<example::FileStore, StoreError>> {
            drop(store);
            let mut bytes = fs::read(self.path()).unwrap();
            let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
            bytes[at + key.len() + 9] ^= 1;
            fs::write(self.path(), bytes).unwrap();
            Some(example::FileStore::open(&self.path()))
        }
    }

    crate::store_conformance!(of_the_documentation, InAFile::new());
}
