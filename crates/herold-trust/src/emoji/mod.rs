//! The emoji that two people compare, with their names.
//!
//! Matrix specification, Client-Server API: "SAS method: `emoji`". The symbol is what is compared; a
//! name only helps to speak about it, so a missing translation falls back to English.

mod table;

use table::{ENGLISH, SYMBOLS, TRANSLATIONS};

/// One of the 64 emoji.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Emoji(u8);

impl Emoji {
    /// The emoji with this number; `None` from 64 on.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < 64 { Some(Self(number)) } else { None }
    }

    /// The emoji of a six-bit number; higher bits do not count.
    pub(crate) const fn of_bits(bits: u8) -> Self {
        Self(bits & 63)
    }

    /// The number in the specification's table, 0 to 63.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The picture, as Unicode text.
    #[must_use]
    pub fn symbol(self) -> &'static str {
        SYMBOLS[usize::from(self.0)]
    }

    /// The name in a language, in English if there is none.
    ///
    /// `language` is a tag such as `de`, `de-AT`, `pt_BR` or `zh-Hant`; the longest known beginning
    /// counts, in either case and with either separator.
    #[must_use]
    pub fn description(self, language: &str) -> &'static str {
        let mut tag = language;
        while !tag.is_empty() {
            if let Some(name) = self.translation(tag) {
                return name;
            }
            tag = tag.rfind(['-', '_']).map_or("", |end| &tag[..end]);
        }
        self.name_in(ENGLISH).unwrap_or_default()
    }

    /// The language tags that have names of their own, English apart.
    pub fn languages() -> impl Iterator<Item = &'static str> {
        TRANSLATIONS.iter().map(|(tag, _)| *tag)
    }

    fn translation(self, tag: &str) -> Option<&'static str> {
        let same = |known: &str| {
            known.len() == tag.len()
                && known
                    .bytes()
                    .zip(tag.bytes())
                    .all(|(a, b)| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-'))
        };
        let (_, names) = TRANSLATIONS.iter().find(|(known, _)| same(known))?;
        self.name_in(names)
    }

    fn name_in(self, names: &'static str) -> Option<&'static str> {
        names.split('|').nth(usize::from(self.0)).filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_64_different_emoji_with_names() {
        let all: Vec<Emoji> = (0..64).filter_map(Emoji::new).collect();
        assert_eq!(all.len(), 64);
        assert_eq!(Emoji::new(64), None);
        let symbols: std::collections::BTreeSet<_> = all.iter().map(|e| e.symbol()).collect();
        let names: std::collections::BTreeSet<_> =
            all.iter().map(|e| e.description("en")).collect();
        assert_eq!((symbols.len(), names.len()), (64, 64));
        assert!(Emoji::languages().all(|tag| {
            TRANSLATIONS
                .iter()
                .any(|(known, names)| *known == tag && names.split('|').count() == 64)
        }));
    }

    #[test]
    fn known_entries_stand_where_the_specification_has_them() {
        // Origin: Matrix specification, "SAS method: emoji", table.
        for (number, symbol, english, german) in [
            (0, "🐶", "Dog", "Hund"),
            (37, "☂️", "Umbrella", "Regenschirm"),
            (63, "📌", "Pin", "Stecknadel"),
        ] {
            let emoji = Emoji::new(number).unwrap();
            assert_eq!(emoji.symbol(), symbol);
            assert_eq!(emoji.description("en"), english);
            assert_eq!(emoji.description("de-AT"), german);
        }
    }

    #[test]
    fn a_language_falls_back_to_its_root_and_then_to_english() {
        let dog = Emoji::new(0).unwrap();
        assert_eq!(dog.description("pt-br"), "Cachorro");
        assert_eq!(dog.description("pt_AO"), "Cão");
        assert_eq!(dog.description("zh-Hant-TW"), "狗");
        for unknown in ["", "tlh", "-", "_x", "дд", "en_GB"] {
            assert_eq!(dog.description(unknown), "Dog");
        }
        // Sinhala has four names only.
        assert_eq!(Emoji::new(63).unwrap().description("si"), "Pin");
    }
}
