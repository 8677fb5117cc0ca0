//! Names by number, in the order in which they were first seen.

use std::collections::HashMap;
use std::sync::Arc;

/// Names, each with a number.
// Sums are kept by number: a search through all the names for each of a million entries took a minute
// where there were 100,000 of them.
#[derive(Debug, Default)]
pub(crate) struct Index {
    numbers: HashMap<Arc<str>, usize>,
    names: Vec<Arc<str>>,
}

impl Index {
    /// The number of a name, which is added where it is not known.
    pub(crate) fn add(&mut self, name: &str) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let name: Arc<str> = Arc::from(name);
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, self.names.len() - 1);
        self.names.len() - 1
    }

    /// The number of a name, where it is known.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.numbers.get(name).copied()
    }

    /// All names, by number.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(AsRef::as_ref)
    }

    /// The name with a number.
    pub(crate) fn name(&self, number: usize) -> &str {
        &self.names[number]
    }
}
