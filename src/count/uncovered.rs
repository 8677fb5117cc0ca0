//! What a settlement does not cover: tokens that were counted live and that its figures do not have.
//!
//! A message is in them or it is not, but a settlement also has calls that the stream never showed, so
//! that the difference may be smaller than what is missing. Most of those are a helper model's: the
//! models are compared one by one wherever the settlement names them all.

use crate::count::message::Part;
use crate::count::messages::Messages;
use crate::count::pricer::Pricer;
use crate::count::session::Session;
use crate::count::tally::{ModelId, Tally};
use crate::count::tokens::{Class, Counts, Spend, Tokens};

/// Of so many messages in flight every choice is tried for the one that fits best.
const CHOICES_OF: usize = 8;

/// Tokens of the live count that a settlement does not have.
#[derive(Debug)]
pub(crate) struct Uncovered {
    /// Each model of the live count, with the one under which `left` has it.
    groups: Vec<(ModelId, ModelId)>,
    left: Tally<ModelId>,
    /// The settlement names all the models.
    is_by_model: bool,
}

/// A message that may be in flight: its place among the messages, and all that was counted of it.
// A part of it may have been taken for told at an earlier settlement, when hidden calls looked like it.
struct Candidate {
    at: usize,
    model: ModelId,
    spend: Spend,
}

impl Uncovered {
    pub(crate) fn new(live: &Tally<ModelId>, told: &Tally<ModelId>, pricer: &Pricer) -> Self {
        let named = |model| told.iter().any(|(told, _)| pricer.is_same(model, *told));
        let is_by_model = live.iter().all(|(model, spend)| spend.tokens.prompt() == 0 || named(*model));
        let group = |model| {
            let mut models = live.iter().map(|(known, _)| *known);
            models.find(|known| !is_by_model || pricer.is_same(*known, model))
        };
        let mut left = Tally::default();
        let mut groups = Vec::new();
        for (model, spend) in live.iter() {
            let first = group(*model).unwrap_or(*model);
            groups.push((*model, first));
            left.add(&first, Spend::from(spend.tokens));
        }
        for (model, spend) in told.iter() {
            if let Some(first) = group(*model) {
                left.subtract(first, Spend::from(spend.tokens));
            }
        }
        Uncovered { groups, left, is_by_model }
    }

    fn is_zero(&self) -> bool {
        self.left.iter().all(|(_, spend)| spend.tokens.prompt() == 0)
    }

    fn group(&self, model: ModelId) -> ModelId {
        self.groups.iter().find(|(known, _)| *known == model).map_or(model, |(_, group)| *group)
    }

    /// Whether all of a prompt is uncovered.
    pub(crate) fn has(&self, model: ModelId, tokens: Tokens) -> bool {
        prompt_of(self.left.get(&self.group(model)).tokens.min(tokens)) == prompt_of(tokens)
    }

    /// Takes off as much of a prompt as is uncovered. Returns it.
    fn take(&mut self, model: ModelId, tokens: Tokens) -> Tokens {
        let group = self.group(model);
        let part = prompt_of(self.left.get(&group).tokens.min(tokens));
        self.left.subtract(group, Spend::from(part));
        part
    }

    /// Keeps live what may be in flight in a session: the part of its subagents' last prompts that is
    /// uncovered, which then counts in the next epoch. Returns it by model.
    pub(crate) fn keep(
        &mut self,
        session: u64,
        messages: &mut Messages,
        epoch: u32,
        pricer: &mut Pricer,
    ) -> Tally<ModelId> {
        let mut kept = Tally::default();
        if self.is_zero() {
            return kept;
        }
        let candidate = |at: usize| {
            let message = messages.get(at);
            Candidate { at, model: message.model, spend: message.spend }
        };
        let mut candidates: Vec<_> = messages.last_of_agents(session).map(candidate).collect();
        let fitting = self.fitting(&candidates);
        candidates.sort_by_key(|candidate| !fitting.contains(&candidate.at));
        for Candidate { at, model, spend } in candidates {
            let part = self.take(model, spend.tokens);
            if part.is_zero() {
                continue;
            }
            // Of a message that is not kept whole, its output may have been told with the rest.
            let is_whole = part == prompt_of(spend.tokens);
            let part = if is_whole { spend } else { pricer.priced(model, part).min(spend) };
            kept.add(&model, part);
            messages.get_mut(at).live = Part::new(epoch.wrapping_add(1), part);
        }
        kept
    }

    /// The messages that must be in flight: those whose prompts contain what is uncovered of their
    /// models, and as little beyond it as can be. What there is beyond it is due to hidden calls.
    // Of two subagents of which one has ended, the figures alone tell which.
    fn fitting(&self, candidates: &[Candidate]) -> Vec<usize> {
        let mut fitting = Vec::new();
        for (group, left) in self.left.iter() {
            let of_group = candidates.iter().filter(|candidate| self.group(candidate.model) == *group);
            let of_group: Vec<_> = of_group.take(CHOICES_OF).collect();
            // The sum of each choice, which has one message more than a choice before it.
            let mut sums = vec![Tokens::default()];
            for candidate in &of_group {
                sums.extend(sums.clone().into_iter().map(|sum| sum.plus(candidate.spend.tokens)));
            }
            let contains = |(_, sum): &(usize, &Tokens)| !sum.is_below(&left.tokens, &Class::PROMPT);
            let choices = sums.iter().enumerate().filter(contains);
            let best = choices.min_by_key(|(_, sum)| sum.minus(left.tokens).prompt()).map_or(0, |(choice, _)| choice);
            let chosen = of_group.iter().enumerate().filter(|(bit, _)| best >> bit & 1 == 1);
            fitting.extend(chosen.map(|(_, candidate)| candidate.at));
        }
        fitting
    }

    /// What is still uncovered, with what it costs; nothing where all prompts are covered. `session` has
    /// the live count that it was compared with, and `kept` is what stays live of it.
    pub(crate) fn rest(
        &self,
        session: &Session,
        kept: &Tally<ModelId>,
        told: &Tally<ModelId>,
        pricer: &mut Pricer,
    ) -> Tally<ModelId> {
        if self.is_zero() {
            return Tally::default();
        }
        if !self.is_by_model {
            return pricer.at_least_priced(session.live.minus(kept).excess_over(told));
        }
        let price = |(model, spend): &(ModelId, Spend)| {
            let write_1h = session.share_1h(*model, spend.tokens.cache_write);
            (*model, pricer.priced_with(*model, spend.tokens, write_1h))
        };
        self.left.iter().map(price).collect()
    }
}

/// The tokens without the output, which stays a placeholder until it is told.
fn prompt_of(tokens: Tokens) -> Tokens {
    Tokens { output: 0, ..tokens }
}
