//! The sessions of a stream, in bounded memory, found in constant time.
//!
//! The last [`RECENT_SESSIONS`] keep what their next `result` record is compared with; a forgotten one
//! stays in the total, and counts as new only if it goes on after that many others.

use std::ops::{Index, IndexMut};

use crate::count::keys::ByKey;
use crate::count::session::Session;
use crate::count::tally::{ModelId, Tally};

/// How many sessions are remembered. One stream has a handful; a loop has one after the other.
const RECENT_SESSIONS: usize = 256;

/// The sessions that were used last.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    recent: Vec<Session>,
    /// Where each stands, by the hash of its id.
    by_id: ByKey<usize>,
    /// The one used last, and how often one was used.
    last: Option<usize>,
    uses: u64,
    /// How many of them were open after they were used.
    open: usize,
    /// What forgotten sessions spent, and whether one of them was never settled.
    past: Tally<ModelId>,
    past_open: bool,
}

impl Sessions {
    /// The index of the session whose id has this hash, which becomes the one used last; a new one
    /// starts with `model`.
    pub(crate) fn find(&mut self, id: u64, model: ModelId) -> usize {
        if let Some(last) = self.last.filter(|last| self.recent[*last].id == id) {
            return last;
        }
        self.end_use();
        let at = self.by_id.get(&id).copied().unwrap_or_else(|| self.add(id, model));
        self.uses += 1;
        self.recent[at].used = self.uses;
        self.last = Some(at);
        at
    }

    /// Adds a session, in place of the one whose last use is the longest ago where there are too many.
    fn add(&mut self, id: u64, model: ModelId) -> usize {
        let session = Session::new(id, model);
        if self.recent.len() < RECENT_SESSIONS {
            self.recent.push(session);
            self.by_id.insert(id, self.recent.len() - 1);
            return self.recent.len() - 1;
        }
        let oldest = self.recent.iter().enumerate().min_by_key(|(_, session)| session.used);
        let at = oldest.map_or(0, |(at, _)| at);
        let oldest = std::mem::replace(&mut self.recent[at], session);
        self.by_id.remove(&oldest.id);
        self.by_id.insert(id, at);
        self.open -= usize::from(oldest.was_open);
        self.past_open |= oldest.is_open();
        self.past.add_all(&oldest.by_model());
        at
    }

    /// Counts the session used last as open or not.
    fn end_use(&mut self) {
        if let Some(last) = self.last {
            let session = &mut self.recent[last];
            self.open -= usize::from(session.was_open);
            session.was_open = session.is_open();
            self.open += usize::from(session.was_open);
        }
    }

    /// The index of the session used last.
    pub(crate) fn last(&self) -> Option<usize> {
        self.last
    }

    /// Whether any of them is open.
    // It is asked for each record: only the one used last can have changed.
    pub(crate) fn is_open(&self) -> bool {
        let last = self.last.map(|last| &self.recent[last]);
        let others = self.open - usize::from(last.is_some_and(|last| last.was_open));
        self.past_open || others > 0 || last.is_some_and(Session::is_open)
    }

    /// What all of them spent, by model.
    pub(crate) fn by_model(&self) -> Tally<ModelId> {
        let mut all = self.past.clone();
        self.recent.iter().for_each(|session| all.add_all(&session.by_model()));
        all
    }
}

impl Index<usize> for Sessions {
    type Output = Session;

    fn index(&self, at: usize) -> &Session {
        &self.recent[at]
    }
}

impl IndexMut<usize> for Sessions {
    fn index_mut(&mut self, at: usize) -> &mut Session {
        &mut self.recent[at]
    }
}
