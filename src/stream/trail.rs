//! What a record has at the paths of the table of dialects, and the way to them.
//!
//! A record is read once, key by key, for Claude Code and for all rows of the table together.

use crate::count::tokens::Tokens;
use crate::stream::dialect::{Adds, Cached, Dialect, Item, ROWS};
use crate::stream::number;
use crate::stream::paths::Scalar;
use crate::stream::told::{Figures, Told};

/// How many paths the rows have together.
const PATHS_COUNT: usize = {
    let (mut row, mut count) = (0, 0);
    while row < ROWS.len() {
        count += ROWS[row].paths.len();
        row += 1;
    }
    count
};

/// A set of paths, by their index.
// It must have a bit for each path, which the definition of `ALL` checks.
pub(crate) type PathSet = u64;

/// The paths of all rows: row, what stands there, path.
static PATHS: [(usize, Item, &str); PATHS_COUNT] = {
    let mut paths = [(0, Item::Input, ""); PATHS_COUNT];
    let (mut row, mut count) = (0, 0);
    while row < ROWS.len() {
        let mut at = 0;
        while at < ROWS[row].paths.len() {
            let (item, path) = ROWS[row].paths[at];
            paths[count] = (row, item, path);
            count += 1;
            at += 1;
        }
        row += 1;
    }
    paths
};

const ALL: PathSet = PathSet::MAX >> (PathSet::BITS as usize - PATHS_COUNT);

/// The paths of each row; those of rows whose records have Claude Code's form; those of sessions and marks,
/// which a record of any `type` may have; and those of marks.
const OF_ROWS: [PathSet; ROWS.len()] = SETS.0;
const AS_CLAUDE: PathSet = SETS.1;
const OF_ALL: PathSet = SETS.2;
const MARKS: PathSet = SETS.3;
const SETS: ([PathSet; ROWS.len()], PathSet, PathSet, PathSet) = {
    let mut sets = ([0; ROWS.len()], 0, 0, 0);
    let mut path = 0;
    while path < PATHS_COUNT {
        let (row, item, _) = PATHS[path];
        sets.0[row] |= 1 << path;
        if matches!(ROWS[row].adds, Adds::AsClaude) && !matches!(item, Item::Mark) {
            sets.1 |= 1 << path;
        }
        if matches!(item, Item::Session | Item::Mark) {
            sets.2 |= 1 << path;
        }
        if matches!(item, Item::Mark) {
            sets.3 |= 1 << path;
        }
        path += 1;
    }
    sets
};

/// A bit for the first byte and the length of each key at the start of a path.
// Most keys of a record are none: one look at this spares the comparison with all paths.
const FIRST_KEYS: u64 = {
    let (mut at, mut bits) = (0, 0);
    while at < PATHS_COUNT {
        let path = PATHS[at].2.as_bytes();
        let mut len = 0;
        while len < path.len() && path[len] != b'.' {
            len += 1;
        }
        bits |= 1 << first_key(path[0], len);
        at += 1;
    }
    bits
};

// With this factor no key that most records have, such as `type`, has the bit of one of the table.
const fn first_key(first: u8, len: usize) -> usize {
    (first as usize + len * 38) & 63
}

/// The paths that go on below a place in a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trail {
    paths: PathSet,
    /// Where in those paths the next key begins.
    at: usize,
    /// A bit for the first byte of each of those keys.
    firsts: u32,
    /// The key before was the name of a model.
    pub(crate) is_model: bool,
}

impl Trail {
    /// The root of a record.
    pub(crate) const ROOT: Trail = Trail { paths: ALL, at: 0, firsts: u32::MAX, is_model: false };

    pub(crate) fn is_empty(self) -> bool {
        self.paths == 0
    }

    /// The paths that end with this key, and those that go on below it, of those that are `active`.
    pub(crate) fn step(self, key: &[u8], active: PathSet) -> (PathSet, Trail) {
        let (mut here, mut below) = (0, Trail::default());
        let may_match = |first: &u8| match self.at {
            0 => FIRST_KEYS >> first_key(*first, key.len()) & 1 == 1,
            _ => self.firsts >> (first & 31) & 1 == 1,
        };
        let paths = self.paths & active;
        if paths == 0 || !key.first().is_some_and(may_match) {
            return (here, below);
        }
        for path in each(paths) {
            let whole = PATHS[path].2;
            let rest = &whole[self.at..];
            let (is_model, after) = match rest.strip_prefix('*') {
                Some(after) => (true, Some(after)),
                // No key of a path has a dot in it.
                None => (false, strip_key(rest, key)),
            };
            match after {
                Some("") => here |= 1 << path,
                Some(after) if after.starts_with('.') => {
                    let at = whole.len() - after.len() + 1;
                    let first = whole.as_bytes()[at];
                    // A model's name may begin with any byte.
                    let firsts = below.firsts | if first == b'*' { u32::MAX } else { 1 << (first & 31) };
                    below = Trail { paths: below.paths | 1 << path, at, firsts, is_model };
                }
                _ => {}
            }
        }
        (here, below)
    }
}

/// What stands behind a key in the rest of a path.
fn strip_key<'a>(rest: &'a str, key: &[u8]) -> Option<&'a str> {
    // No key of a path has a dot in it.
    rest.as_bytes().starts_with(key).then(|| rest.get(key.len()..)).flatten().filter(|_| !key.contains(&b'.'))
}

/// The indices in a set.
fn each(paths: PathSet) -> impl Iterator<Item = usize> {
    let mut left = paths;
    std::iter::from_fn(move || {
        let path = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (path < PATHS_COUNT).then_some(path)
    })
}

/// The longest texts that are kept of a record, in bytes.
const TEXTS_MAX: usize = 64 * 1024;

/// How many models a record may name; the further ones do not count.
pub(crate) const MODELS_MAX: usize = 256;

/// The values that a record has at the paths of the table.
#[derive(Debug)]
pub(crate) struct TableValues {
    present: PathSet,
    /// The paths that a record of this `type` may have; all of them until that is known.
    // Agents write it first, so that records that are none of theirs cost nothing.
    active: PathSet,
    numbers: [u64; PATHS_COUNT],
    texts: Vec<(usize, String)>,
    /// The model whose object is open, and those that have been closed.
    model: String,
    by_model: Vec<(usize, String, Figures)>,
}

impl Default for TableValues {
    fn default() -> Self {
        let (texts, by_model) = (Vec::new(), Vec::new());
        TableValues { present: 0, active: ALL, numbers: [0; PATHS_COUNT], texts, model: String::new(), by_model }
    }
}

impl TableValues {
    /// Forgets everything, for the next record.
    pub(crate) fn clear(&mut self) {
        (self.present, self.active) = (0, ALL);
        self.texts.clear();
        self.by_model.clear();
    }

    /// The `type` of the record is known.
    pub(crate) fn set_kind(&mut self, kind: &str) {
        let carriers = ROWS.iter().zip(OF_ROWS).filter(|(row, _)| row.carrier == kind);
        self.active = carriers.fold(OF_ALL, |active, (_, paths)| active | paths);
    }

    pub(crate) fn active(&self) -> PathSet {
        self.active
    }

    /// Takes in that a key stands here again: of duplicate keys the last one counts.
    pub(crate) fn forget(&mut self, here: PathSet, below: Trail) {
        let gone = here | below.paths;
        if self.present & gone != 0 {
            self.present &= !gone;
            self.texts.retain(|(path, _)| gone >> path & 1 == 0);
        }
        if !below.is_model && !below.is_empty() && !self.by_model.is_empty() {
            self.by_model.retain(|(row, ..)| !each(below.paths).any(|path| PATHS[path].0 == *row));
        }
    }

    /// Takes in the value at these paths.
    pub(crate) fn put(&mut self, here: PathSet, scalar: Scalar<'_>) {
        for path in each(here) {
            let number = match (PATHS[path].1, scalar) {
                (Item::Session | Item::Model, Scalar::Text(text)) => {
                    let kept: usize = self.texts.iter().map(|(_, text)| text.len()).sum();
                    if kept + text.len() > TEXTS_MAX {
                        continue;
                    }
                    self.texts.push((path, text.to_owned()));
                    0
                }
                (Item::Is(wanted), Scalar::Text(text)) if wanted == text => 0,
                (Item::Mark, Scalar::Text(_)) => 0,
                (Item::Session | Item::Model | Item::Mark | Item::Is(_), _) => continue,
                (Item::Cost, Scalar::Number(text)) => number::micro_dollars(text),
                (_, Scalar::Number(text)) => number::count(text),
                _ => continue,
            };
            self.numbers[path] = number;
            self.present |= 1 << path;
        }
    }

    /// The object of a model begins.
    pub(crate) fn open_model(&mut self, name: &str, below: Trail) {
        self.present &= !below.paths;
        self.model.clear();
        self.model.push_str(name);
    }

    /// The object of a model ends.
    pub(crate) fn close_model(&mut self, below: Trail) {
        self.by_model.retain(|(_, name, _)| *name != self.model);
        let names: usize = self.by_model.iter().map(|(_, name, _)| name.len()).sum();
        let Some(path) = each(below.paths).next() else { return };
        let row = PATHS[path].0;
        let figures = self.figures(row);
        let has_room = self.by_model.len() < MODELS_MAX && names + self.model.len() <= TEXTS_MAX;
        // Others may have objects of models at the same place, with other figures in them.
        if has_room && figures.has_usage() {
            self.by_model.push((row, self.model.clone(), figures));
        }
    }

    fn figures(&self, of: usize) -> Figures {
        let mut figures = Figures::default();
        for path in each(self.present).filter(|path| PATHS[*path].0 == of) {
            let number = self.numbers[path];
            match PATHS[path].1 {
                Item::Input => figures.input = Some(number),
                Item::Output => figures.output = Some(number),
                Item::CacheWrite => figures.cache_write = number,
                Item::CacheRead => figures.cache_read = number,
                Item::Reasoning => figures.reasoning = number,
                Item::Total => figures.total = Some(number),
                Item::Cost => figures.cost = Some(number),
                Item::Session | Item::Model | Item::Mark | Item::Is(_) => {}
            }
        }
        figures
    }

    fn text(&self, of: usize, item: Item) -> Option<&str> {
        let is_it = |(path, _): &&(usize, String)| (PATHS[*path].0, PATHS[*path].1) == (of, item);
        self.texts.iter().find(is_it).map(|(_, text)| text.as_str())
    }

    /// Whether all texts that a row demands are there.
    fn is_carrier(&self, of: usize) -> bool {
        let mut demanded = PATHS.iter().enumerate().filter(|(_, (row, ..))| *row == of);
        demanded.all(|(path, (_, item, _))| !matches!(item, Item::Is(_)) || self.present >> path & 1 == 1)
    }

    /// The row of a record of this `type` that has the form of Claude Code's, but cached tokens inside its
    /// `input`; and what its `tokens` are in the four classes.
    pub(crate) fn as_claude(&self, kind: &str, tokens: &Tokens) -> Option<(&'static Dialect, Tokens)> {
        if self.present & AS_CLAUDE == 0 {
            return None;
        }
        let Tokens { input, output, cache_write, cache_read } = *tokens;
        let (own, cached) = (input.saturating_add(output), cache_write.saturating_add(cache_read));
        // A gateway may add a total to usage whose cached tokens are beside: what that has beyond the parts
        // are those, and no reasoning.
        let is_ours = |beyond: u64| beyond == 0 || ![cached, cache_write, cache_read].contains(&beyond);
        let is_row = |row: &Dialect| (row.adds, row.cached, row.carrier) == (Adds::AsClaude, Cached::Inside, kind);
        let row = ROWS.iter().enumerate().find(|(_, row)| is_row(row))?;
        let total = self.figures(row.0).total?;
        let fits = cached <= input && total.checked_sub(own).is_some_and(is_ours);
        let figures =
            Figures { input: Some(input), output: Some(output), cache_write, cache_read, ..Figures::default() };
        fits.then(|| (row.1, row.1.told(None, &Figures { total: Some(total), ..figures }).usage.tokens))
    }

    /// The row by which a record of this `type` carries usage.
    pub(crate) fn carrier(&self, kind: &str) -> Option<(usize, &'static Dialect)> {
        if self.present == 0 && self.by_model.is_empty() {
            return None;
        }
        let mut rows = ROWS.iter().enumerate().filter(|(_, of)| of.carrier == kind && of.adds != Adds::AsClaude);
        rows.find(|(row, _)| {
            let has_usage = self.figures(*row).has_usage();
            self.is_carrier(*row) && (has_usage || self.by_model.iter().any(|(of, ..)| of == row))
        })
    }

    /// The agent that wrote a record, and the thread or session that it names.
    pub(crate) fn thread(&self) -> Option<(&'static Dialect, &str)> {
        let (path, text) = self.texts.iter().find(|(path, _)| PATHS[*path].1 == Item::Session)?;
        Some((&ROWS[PATHS[*path].0], text))
    }

    /// The agent whose mark a record has.
    pub(crate) fn marked(&self) -> Option<&'static Dialect> {
        each(self.present & MARKS).next().map(|path| &ROWS[PATHS[path].0])
    }

    /// What a record says by a row, model by model.
    pub(crate) fn told(&self, row: usize) -> Vec<Told<'_>> {
        let of = &ROWS[row];
        let by_model = self.by_model.iter().filter(|(of, ..)| *of == row);
        let mut told: Vec<_> = by_model.map(|(_, name, figures)| of.told(Some(name), figures)).collect();
        if told.is_empty() {
            told.push(of.told(self.text(row, Item::Model), &self.figures(row)));
        }
        told
    }
}
