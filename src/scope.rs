//! Scopes: what is used, reserved and granted in each that binds a run, and whether its estimate fits.

use crate::amount::{Amounts, Unit};
use crate::count::tokens::{Change, Classes, Spend};

/// Which runs a budget covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All runs.
    Overall,
    /// The runs of one command.
    Command,
}

/// What is used or reserved in each scope that binds a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByScope {
    /// By all runs.
    pub overall: Amounts,
    /// By the runs of this run's command.
    pub command: Amounts,
}

impl ByScope {
    pub(crate) fn get(self, scope: Scope, unit: Unit) -> u64 {
        match scope {
            Scope::Overall => self.overall.get(unit),
            Scope::Command => self.command.get(unit),
        }
    }
}

/// What the runs that share a ledger have spent, as far as it binds one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By all runs.
    pub overall: Spend,
    /// By the runs of this run's command.
    pub command: Spend,
    /// This run's own part of both.
    pub own: Spend,
    /// What was granted beyond the limits.
    pub granted: ByScope,
}

impl Totals {
    /// What counts towards the budgets, with what this run has spent by now in the place of `own`.
    // Its difference to `own`, up or down: with a window, the sums may no longer have all of `own`.
    pub(crate) fn used(&self, live: Spend, classes: Classes) -> ByScope {
        let unrecorded = Change::between(self.own, live);
        let used = |spend: Spend| Amounts::of(&unrecorded.apply(spend), classes);
        ByScope { overall: used(self.overall), command: used(self.command) }
    }
}

/// The room that a run's estimate needs in a budget.
// Data and no closure, since a server decides about it, in one step with the reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The scope of the budget.
    pub scope: Scope,
    /// The unit of the figures.
    pub unit: Unit,
    /// What may be used, beside what was granted.
    pub limit: u64,
    /// What the run is expected to use.
    pub estimate: u64,
}

impl Room {
    pub(crate) fn is_enough(self, used: ByScope, reserved: ByScope, granted: ByScope) -> bool {
        let of = |amounts: ByScope| amounts.get(self.scope, self.unit);
        let taken = of(used).saturating_add(of(reserved)).saturating_add(self.estimate);
        taken <= self.limit.saturating_add(of(granted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::tokens::Tokens;

    #[test]
    fn what_a_run_has_spent_by_now_replaces_what_is_recorded_of_it() {
        let spend = |input, cache_read, micro_usd| Spend {
            tokens: Tokens { input, cache_read, ..Tokens::default() },
            micro_usd,
        };
        let own = spend(100, 0, 50);
        for (overall, live, want) in [
            // It has risen, fallen since, or moved between classes.
            (spend(150, 20, 70), spend(110, 0, 60), (180, 80)),
            (spend(150, 20, 70), spend(90, 0, 30), (160, 50)),
            (spend(150, 20, 70), spend(0, 100, 50), (170, 70)),
            // Most of `own` is no longer in the window.
            (spend(10, 0, 5), spend(103, 0, 51), (13, 6)),
            (spend(10, 0, 5), spend(80, 0, 0), (0, 0)),
        ] {
            let totals = Totals { overall, command: overall, own, ..Totals::default() };
            let used = totals.used(live, Classes::default());
            assert_eq!((used.overall.tokens, used.overall.micro_usd), want, "{overall:?} {live:?}");
            assert_eq!(used.command, used.overall);
        }
    }
}
