//! The messages that may get further records, in bounded memory, found in constant time.

use std::collections::VecDeque;

use crate::count::keys::ByKey;
use crate::count::message::Message;

/// How many messages are remembered.
// A map of all ids, for ever, cost 230 bytes and 1.3 microseconds for each. A forgotten message stays in the total,
// and could be counted twice only if a record of it came after that many others had begun. In real
// streams the records of a message are a few dozen messages apart at most: those of the subagents
// that run beside it.
const RECENT_MESSAGES: usize = 1024;

/// How many subagents are remembered whose last call may be in flight when a `result` comes.
const RECENT_AGENTS: usize = 32;

/// A subagent, with the serial numbers of its last message and of the calls billed beside that.
#[derive(Debug)]
struct Agent {
    session: u64,
    parent: u64,
    last: u64,
    beside: Vec<u64>,
}

/// The last messages, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    recent: VecDeque<Message>,
    /// The serial number of the first of them.
    first: u64,
    /// The serial number of the newest message of each key.
    by_key: ByKey<u64>,
    /// That of the message of each loop that started last.
    started: ByKey<u64>,
    /// The agents that went on last, the last of them last.
    agents: VecDeque<Agent>,
}

/// A key for the main loop of a session, or a subagent's.
fn key_of_loop(session: u64, parent: Option<u64>) -> u64 {
    // Both are hashes with the same seed, and no main loop has the key of a subagent.
    parent.map_or(session, |parent| session.rotate_left(32) ^ parent)
}

impl Messages {
    /// The index of the newest message that `is_it`.
    pub(crate) fn find(&self, is_it: impl Fn(&Message) -> bool) -> Option<usize> {
        self.recent.iter().rposition(is_it)
    }

    /// The index of the newest message with a key.
    pub(crate) fn find_key(&self, key: u64) -> Option<usize> {
        self.by_key.get(&key).and_then(|serial| self.index(*serial))
    }

    /// The index of the message of a loop that started last: deltas belong to it.
    pub(crate) fn find_started(&self, session: u64, parent: Option<u64>) -> Option<usize> {
        self.started.get(&key_of_loop(session, parent)).and_then(|serial| self.index(*serial))
    }

    fn index(&self, serial: u64) -> Option<usize> {
        usize::try_from(serial.checked_sub(self.first)?).ok()
    }

    fn serial(&self, at: usize) -> u64 {
        self.first + at as u64
    }

    /// Adds a message as the newest, and forgets the oldest where there are too many. Returns its
    /// index.
    pub(crate) fn push(&mut self, message: Message) -> usize {
        if self.recent.len() == RECENT_MESSAGES {
            self.forget_oldest();
        }
        let serial = self.serial(self.recent.len());
        self.by_key.insert(message.key, serial);
        self.go_on(&message, serial);
        self.recent.push_back(message);
        self.recent.len() - 1
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.recent.pop_front() else { return };
        if self.by_key.get(&oldest.key) == Some(&self.first) {
            self.by_key.remove(&oldest.key);
        }
        if let Some(parent) = oldest.started_by {
            let key = key_of_loop(oldest.session, parent);
            if self.started.get(&key) == Some(&self.first) {
                self.started.remove(&key);
            }
        }
        self.first += 1;
    }

    /// Takes in that a message is its subagent's last, or is billed beside that.
    fn go_on(&mut self, message: &Message, serial: u64) {
        let Some(parent) = message.parent else { return };
        let is_it = |agent: &Agent| (agent.session, agent.parent) == (message.session, parent);
        let known = self.agents.iter().rposition(is_it).and_then(|at| self.agents.remove(at));
        let mut agent = known.unwrap_or(Agent { session: message.session, parent, last: serial, beside: Vec::new() });
        if message.is_beside {
            agent.beside.push(serial);
        } else {
            agent.last = serial;
            agent.beside.clear();
        }
        if self.agents.len() == RECENT_AGENTS {
            self.agents.pop_front();
        }
        self.agents.push_back(agent);
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> &mut Message {
        &mut self.recent[at]
    }

    pub(crate) fn get(&self, at: usize) -> &Message {
        &self.recent[at]
    }

    /// A `message_start` event of a loop named a message: the deltas that follow belong to it.
    pub(crate) fn start(&mut self, at: usize, parent: Option<u64>) {
        let serial = self.serial(at);
        let message = &mut self.recent[at];
        message.started_by = Some(parent);
        self.started.insert(key_of_loop(message.session, parent), serial);
    }

    /// The last message of each subagent of a session, newest first, with the calls billed beside it: it
    /// may not have ended, so that no `result` can contain it yet.
    pub(crate) fn last_of_agents(&self, session: u64) -> impl Iterator<Item = usize> {
        let of_session = self.agents.iter().rev().filter(move |agent| agent.session == session);
        of_session.flat_map(|agent| {
            let last = self.index(agent.last).filter(|at| !self.recent[*at].complete && !self.recent[*at].aborted);
            agent.beside.iter().rev().filter_map(|serial| self.index(*serial)).chain(last)
        })
    }
}
