//! [`Changed`]: what other processes have changed in a store that is shared.

use std::collections::{BTreeMap, BTreeSet};

use crate::Table;

/// As many rows of one table are told one by one; more, and it is the whole table.
const MAX_ROWS: usize = 256;

/// What others have changed in a store while it was let go: which rows, by table and key.
///
/// Whoever keeps something that was made from rows asks it what has to go. It may name rows that are as they were;
/// it never leaves one out that is not. `Debug` prints tables and numbers of rows, no keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Changed {
    everything: bool,
    /// `None`: the whole table.
    tables: BTreeMap<Table, Option<BTreeSet<Vec<u8>>>>,
}

impl Changed {
    /// Nothing has changed.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Anything may have changed.
    #[must_use]
    pub fn everything() -> Self {
        Self { everything: true, tables: BTreeMap::new() }
    }

    /// Adds a row.
    pub fn add(&mut self, table: Table, key: &[u8]) {
        if self.everything {
            return;
        }
        let rows = self.tables.entry(table).or_insert_with(|| Some(BTreeSet::new()));
        if let Some(keys) = rows {
            keys.insert(key.to_vec());
            if keys.len() > MAX_ROWS {
                *rows = None;
            }
        }
    }

    /// Adds all rows of a table.
    pub fn add_table(&mut self, table: Table) {
        if !self.everything {
            self.tables.insert(table, None);
        }
    }

    /// Adds what `other` names.
    pub fn append(&mut self, other: &Self) {
        if other.everything {
            *self = Self::everything();
        }
        for (table, rows) in &other.tables {
            match rows {
                None => self.add_table(*table),
                Some(keys) => keys.iter().for_each(|key| self.add(*table, key)),
            }
        }
    }

    /// Whether nothing has changed.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        !self.everything && self.tables.is_empty()
    }

    /// Whether anything may have changed: what changed is not known.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    /// Whether a row of the table may have changed.
    #[must_use]
    pub fn touches_table(&self, table: Table) -> bool {
        self.everything || self.tables.contains_key(&table)
    }

    /// Whether the row may have changed.
    #[must_use]
    pub fn touches(&self, table: Table, key: &[u8]) -> bool {
        self.everything
            || self
                .tables
                .get(&table)
                .is_some_and(|rows| rows.as_ref().is_none_or(|keys| keys.contains(key)))
    }

    /// Whether a row with such a key may have changed, come or gone.
    #[must_use]
    pub fn touches_prefix(&self, table: Table, prefix: &[u8]) -> bool {
        let first = |keys: &BTreeSet<Vec<u8>>| {
            keys.range(prefix.to_vec()..).next().is_some_and(|key| key.starts_with(prefix))
        };
        self.everything
            || self.tables.get(&table).is_some_and(|rows| rows.as_ref().is_none_or(first))
    }

    /// The keys of the table's rows that may have changed, in order; `None` if it may be any of them.
    #[must_use]
    pub fn rows(&self, table: Table) -> Option<Vec<&[u8]>> {
        if self.everything {
            return None;
        }
        match self.tables.get(&table) {
            None => Some(Vec::new()),
            Some(None) => None,
            Some(Some(keys)) => Some(keys.iter().map(Vec::as_slice).collect()),
        }
    }
}

impl std::fmt::Debug for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.everything {
            return f.write_str("Changed(everything)");
        }
        let rows = |keys: &Option<BTreeSet<_>>| keys.as_ref().map(BTreeSet::len);
        f.debug_map()
            .entries(self.tables.iter().map(|(table, keys)| (table.name(), rows(keys))))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_tables_and_everything_are_told_apart() {
        let mut changed = Changed::nothing();
        assert!(changed.is_nothing() && !changed.touches_table(Table::Event));
        changed.add(Table::Event, b"ab1");
        assert!(changed.touches(Table::Event, b"ab1") && !changed.touches(Table::Event, b"ab"));
        assert!(changed.touches_prefix(Table::Event, b"ab"));
        assert!(!changed.touches_prefix(Table::Event, b"aa"));
        assert!(!changed.touches_prefix(Table::Event, b"b"));
        assert!(!changed.touches_prefix(Table::Room, b""));
        assert_eq!(changed.rows(Table::Event), Some(vec![b"ab1".as_slice()]));
        assert_eq!(changed.rows(Table::Room), Some(Vec::new()));
        changed.add_table(Table::Room);
        assert!(changed.touches(Table::Room, b"any") && changed.rows(Table::Room).is_none());
        assert_eq!(format!("{changed:?}"), r#"{"room": None, "event": Some(1)}"#);
        let mut other = Changed::everything();
        other.add(Table::Sync, b"");
        changed.append(&other);
        assert!(changed.is_everything() && changed.touches_prefix(Table::Device, b"x"));
    }

    #[test]
    fn many_rows_are_their_whole_table() {
        let mut changed = Changed::nothing();
        for number in 0..=MAX_ROWS {
            changed.add(Table::Event, &number.to_be_bytes());
        }
        assert!(changed.touches(Table::Event, b"another"));
        changed.add(Table::Event, b"one more");
        assert_eq!(changed.rows(Table::Event), None);
        assert!(!changed.touches_table(Table::Room));
    }
}
