//! What counting finds out about a stream and the user is told once.

use crate::count::tokens::Tokens;

/// Something that the user is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Many messages and not one token: a gateway reports usage in the `result` record at best.
    Blind,
    /// The figures of a resumed session or thread began with these tokens, which earlier processes spent.
    CarriedOver(Tokens),
    /// A first `result` of this agent, with the figures of a whole session, has these tokens beyond its messages.
    MayCarry(&'static str, Tokens),
    /// This model has no price.
    Unpriced(String),
    /// This agent's total is not the sum of its parts, which are counted.
    TotalDiffers(&'static str),
}
