//! What a record of another agent says was used, brought to the four classes.

use crate::count::tokens::{Tokens, Usage};
use crate::stream::dialect::{Cached, Dialect, Reasoning};

/// What a record says of one model, by item.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) input: Option<u64>,
    pub(crate) output: Option<u64>,
    pub(crate) cache_write: u64,
    pub(crate) cache_read: u64,
    pub(crate) reasoning: u64,
    pub(crate) total: Option<u64>,
    /// Micro-dollars.
    pub(crate) cost: Option<u64>,
}

impl Figures {
    /// Whether they say what was used.
    pub(crate) fn has_usage(&self) -> bool {
        self.input.or(self.output).is_some()
    }
}

/// What was used, in the four classes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'a> {
    pub(crate) model: Option<&'a str>,
    pub(crate) usage: Usage,
    /// In micro-dollars.
    pub(crate) cost: Option<u64>,
    /// The record tells another total.
    pub(crate) differs: bool,
}

impl Dialect {
    /// Brings figures to the four classes.
    pub(crate) fn told<'a>(&self, model: Option<&'a str>, figures: &Figures) -> Told<'a> {
        let Figures { cache_write, cache_read, reasoning, total, cost, .. } = *figures;
        let (input, output) = (figures.input.unwrap_or_default(), figures.output.unwrap_or_default());
        let cached = cache_write.saturating_add(cache_read);
        let own_input = if self.cached == Cached::Inside { input.saturating_sub(cached) } else { input };
        let prompt = own_input.saturating_add(cached);
        let output = match (self.reasoning, total) {
            (Reasoning::Inside, _) | (Reasoning::FromTotal, None) => output,
            // Some versions of an agent have it inside: the total tells.
            (Reasoning::Beside, Some(total)) if total == prompt.saturating_add(output) => output,
            (Reasoning::Beside, _) => output.saturating_add(reasoning),
            (Reasoning::FromTotal, Some(total)) => output.max(total.saturating_sub(input)),
        };
        let tokens = Tokens { input: own_input, output, cache_write, cache_read };
        let sum = tokens.prompt().saturating_add(output);
        // Agents that do not know a model's price say that it costs nothing.
        let cost = cost.filter(|cost| *cost > 0);
        Told {
            model,
            usage: Usage { tokens, ..Usage::default() },
            cost,
            differs: total.is_some_and(|total| total != sum),
        }
    }
}
