//! Reading tables: which keys they may and must have. What their values may be is for `value.rs`.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{problems::Problems, value::Wrong};

/// What the whole document is called.
pub(super) const ROOT: &str = "the file";

/// A value of the file, where to complain about it, and what to call it.
pub(super) struct Item<'a> {
    problems: &'a Problems<'a>,
    /// As in "`port` of service `web`".
    what: String,
    value: &'a Spanned<DeValue<'a>>,
}

/// A table of the file whose keys have been checked to be known ones.
pub(super) struct Section<'a> {
    problems: &'a Problems<'a>,
    what: String,
    span: Range<usize>,
    /// `None` when it is no table, which has been noted: all that is read from it is wrong then, but not missing.
    table: Option<&'a DeTable<'a>>,
}

impl<'a> Item<'a> {
    /// The value, read by `parse`; `None` after a problem was noted.
    pub(super) fn read<T>(&self, parse: impl Fn(&DeValue<'_>) -> Result<T, Wrong>) -> Option<Spanned<T>> {
        match parse(self.value.get_ref()) {
            Ok(value) => Some(Spanned::new(self.value.span(), value)),
            Err(wrong) => {
                self.wrong(wrong);
                None
            }
        }
    }

    fn wrong(&self, Wrong { expected, help }: Wrong) {
        let found = self.problems.quote(self.value.span());
        self.problems.note(self.value.span(), format!("{}: expected {expected}, found {found}", self.what), help);
    }

    /// The elements of an array that must not be empty; `None` after a problem was noted.
    pub(super) fn elements(&self, of_what: &str, example: &str) -> Option<Vec<Item<'a>>> {
        let Some(elements) = self.value.get_ref().as_array().filter(|elements| !elements.is_empty()) else {
            self.wrong(Wrong::new(format!("a list of at least one {of_what}"), format!("write `{example}`")));
            return None;
        };
        let item = |(index, value)| Item {
            problems: self.problems,
            what: format!("{of_what} {} in {}", index + 1, self.what),
            value,
        };
        Some(elements.iter().enumerate().map(item).collect())
    }

    /// The elements of an array that may be empty; `None` after a problem was noted.
    pub(super) fn list(&self, of_what: &str, example: &str) -> Option<Vec<Item<'a>>> {
        match self.value.get_ref().as_array() {
            Some(elements) if elements.is_empty() => Some(Vec::new()),
            _ => self.elements(of_what, example),
        }
    }

    /// Names and values of a table whose keys are for the config's author to choose, in the order of the text; `None` after
    /// a problem was noted.
    pub(super) fn entries(&self, help: &str) -> Option<Vec<(String, Item<'a>)>> {
        let Some(table) = self.value.get_ref().as_table() else {
            self.wrong(Wrong::new("a table", help));
            return None;
        };
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let item = |(key, value): (&Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)| {
            let name = key.get_ref();
            (name.to_string(), Item { problems: self.problems, what: format!("`{name}` in {}", self.what), value })
        };
        Some(entries.into_iter().map(item).collect())
    }

    /// The table that it is.
    pub(super) fn section(&self, keys: &[&str]) -> Section<'a> {
        Section::new(self.problems, &self.what, self.value, keys)
    }

    /// The value of a key that decides which other keys there may be.
    pub(super) fn peek(&self, key: &str) -> Option<Item<'a>> {
        let value = self.value.get_ref().as_table()?.get(key)?;
        Some(Item { problems: self.problems, what: format!("`{key}` of {}", self.what), value })
    }

    /// What to call it.
    pub(super) fn what(&self) -> &str {
        &self.what
    }

    /// Where it stands.
    pub(super) fn span(&self) -> Range<usize> {
        self.value.span()
    }

    /// Notes a problem of the whole value.
    pub(super) fn note(&self, message: impl Into<String>, help: impl Into<String>) {
        self.note_at(self.span(), message, help);
    }

    /// Notes a problem of a part of the value.
    pub(super) fn note_at(&self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.problems.note(span, message, help);
    }
}

impl<'a> Section<'a> {
    pub(super) fn new(problems: &'a Problems<'a>, what: &str, value: &'a Spanned<DeValue<'a>>, keys: &[&str]) -> Self {
        let table = value.get_ref().as_table();
        let section = Self { problems, what: what.to_owned(), span: value.span(), table };
        match table {
            Some(table) => {
                for key in table.keys().filter(|key| !keys.contains(&key.get_ref().as_ref())) {
                    section.note_unknown(key.span(), key.get_ref(), keys);
                }
            }
            None => {
                let found = problems.quote(value.span());
                let help = format!("write `{{ … }}` with the keys {}", list(keys));
                problems.note(value.span(), format!("{what}: expected a table, found {found}"), help);
            }
        }
        section
    }

    fn note_unknown(&self, span: Range<usize>, key: &str, keys: &[&str]) {
        let known = format!("known here: {}", list(keys));
        let help = match nearest(key, keys) {
            Some(near) => format!("did you mean `{near}`? {known}"),
            None => format!("remove it; {known}"),
        };
        self.problems.note(span, format!("unknown key `{key}` in {}", self.what), help);
    }

    /// The value of a key, if it is there.
    pub(super) fn optional_item(&self, key: &str) -> Option<Item<'a>> {
        let value = self.table?.get(key)?;
        let what = if self.what == ROOT { format!("[{key}]") } else { format!("`{key}` of {}", self.what) };
        Some(Item { problems: self.problems, what, value })
    }

    /// The value of a key, which must be there.
    pub(super) fn required_item(&self, key: &str, help: &str) -> Option<Item<'a>> {
        let item = self.optional_item(key);
        if item.is_none() && self.table.is_some() {
            self.problems.note(self.header(), format!("`{key}` is missing in {}", self.what), help);
        }
        item
    }

    /// The value of a key, which must be there, read by `parse`.
    pub(super) fn required<T>(
        &self,
        key: &str,
        example: &str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Spanned<T>> {
        self.required_item(key, &format!("add `{key} = {example}`"))?.read(parse)
    }

    /// The value of a key, or its default.
    pub(super) fn or<T>(
        &self,
        key: &str,
        default: T,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Spanned<T>> {
        match self.optional_item(key) {
            Some(item) => item.read(parse),
            None => Some(Spanned::new(self.header(), default)),
        }
    }

    /// The table of a key, which must be there.
    pub(super) fn required_section(&self, key: &str, keys: &[&str], help: &str) -> Option<Section<'a>> {
        Some(self.required_item(key, help)?.section(keys))
    }

    /// The tables of a key, at least one.
    pub(super) fn required_sections(&self, key: &str, keys: &[&str], help: &str) -> Option<Vec<Section<'a>>> {
        self.sections(&self.required_item(key, help)?, key, keys)
    }

    /// The tables of a key, none if it is not there; `None` after a problem was noted.
    pub(super) fn optional_sections(&self, key: &str, keys: &[&str]) -> Option<Vec<Section<'a>>> {
        match self.optional_item(key) {
            Some(item) => self.sections(&item, key, keys),
            None => Some(Vec::new()),
        }
    }

    fn sections(&self, item: &Item<'a>, key: &str, keys: &[&str]) -> Option<Vec<Section<'a>>> {
        let Some(tables) = item.value.get_ref().as_array().filter(|tables| !tables.is_empty()) else {
            item.wrong(Wrong::new(format!("one or more `[[{key}]]`"), format!("begin each with a line `[[{key}]]`")));
            return None;
        };
        Some(tables.iter().map(|table| Section::new(self.problems, &name(key, table), table, keys)).collect())
    }

    /// Where to complain about what is not there: the first line of the table.
    pub(super) fn header(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Notes a problem of the whole table.
    pub(super) fn note(&self, message: impl Into<String>, help: impl Into<String>) {
        self.problems.note(self.header(), message, help);
    }

    /// Notes a problem of a part of the table.
    pub(super) fn note_at(&self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.problems.note(span, message, help);
    }

    /// What to call it.
    pub(super) fn what(&self) -> &str {
        &self.what
    }
}

/// As in "service `web`".
fn name(key: &str, table: &Spanned<DeValue<'_>>) -> String {
    match table.get_ref().as_table().and_then(|table| table.get("name")?.get_ref().as_str()) {
        Some(name) => format!("{key} `{name}`"),
        None => format!("this {key}"),
    }
}

/// The known word that a wrong one was probably meant to be.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    const SIMILARITY_MIN: f64 = 0.6;
    let word = word.to_lowercase().replace('_', "-");
    let similarity = |known: &str| strsim::normalized_damerau_levenshtein(&word, &known.replace('_', "-"));
    let best = known.iter().copied().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    (similarity(best) >= SIMILARITY_MIN).then_some(best)
}

/// As in "`a`, `b`".
pub(super) fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
