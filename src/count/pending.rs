//! Pending calls: those that must follow what a stream has shown, and the least that they will use.
//!
//! A message that asks for a tool is followed by another call of the same loop, the main one or a
//! subagent's, with that message and its prompt in its own prompt. Where it is not certain that a call
//! follows, none is pending: a run must not be stopped for a call that would never have come.

use crate::count::message::Message;
use crate::count::pricer::Pricer;
use crate::count::tally::ModelId;
use crate::count::tokens::{Counts, Spend, Tokens, Usage};

/// How many loops are remembered; a real stream has a handful at a time.
const LOOPS_MAX: usize = 64;

/// A loop whose last message asked for a tool.
#[derive(Clone, Copy, Debug)]
struct Loop {
    session: u64,
    parent: Option<u64>,
    message: u64,
    model: ModelId,
    usage: Usage,
}

impl Loop {
    /// The least that its next call will use, all of it read from the cache, which costs the least.
    fn next_call(&self, pricer: &mut Pricer) -> Spend {
        let Usage { tokens, us_only, fast, .. } = self.usage;
        let cache_read = tokens.prompt().saturating_add(tokens.output);
        let tokens = Tokens { cache_read, ..Tokens::default() };
        let cost = pricer.cost(self.model, &Usage { tokens, us_only, fast, ..Usage::default() });
        Spend { tokens, micro_usd: cost.micro_usd }
    }
}

/// The loops of a stream that will call again.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    loops: Vec<Loop>,
    has_changed: bool,
}

impl Pending {
    /// Takes in what is known of a message. It `asks` for a tool, or has not so far.
    pub(crate) fn see(&mut self, message: &Message, asks: bool) {
        let Message { session, parent, key, model, usage, .. } = *message;
        let is_it = |known: &&mut Loop| known.session == session && known.parent == parent && known.message == key;
        if let Some(known) = self.loops.iter_mut().find(is_it) {
            self.has_changed |= known.usage != usage;
            known.usage = usage;
            return;
        }
        // Subagents that the main loop waits for have ended when it goes on. Those in the background have
        // not: they are pending again with their next message.
        self.drop(|known| known.session == session && (known.parent == parent || parent.is_none()));
        if asks && self.loops.len() < LOOPS_MAX {
            self.loops.push(Loop { session, parent, message: key, model, usage });
            self.has_changed = true;
        }
    }

    /// A subagent has returned, or a message of it was aborted.
    pub(crate) fn end(&mut self, session: u64, parent: Option<u64>) {
        self.drop(|known| known.session == session && known.parent == parent);
    }

    /// A turn has ended, or the conversation was made shorter: its next prompt may be any.
    pub(crate) fn end_session(&mut self, session: u64) {
        self.drop(|known| known.session == session);
    }

    /// A process has begun; one before it may have been killed.
    pub(crate) fn clear(&mut self) {
        self.drop(|_| true);
    }

    fn drop(&mut self, is_over: impl Fn(&Loop) -> bool) {
        let before = self.loops.len();
        self.loops.retain(|known| !is_over(known));
        self.has_changed |= before != self.loops.len();
    }

    /// Whether it has changed since the last call.
    pub(crate) fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// The least that all pending calls together will use.
    pub(crate) fn next_calls(&self, pricer: &mut Pricer) -> Spend {
        self.loops.iter().fold(Spend::default(), |sum, known| sum.plus(known.next_call(pricer)))
    }
}
