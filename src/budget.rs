//! Budgets: what may be used, what has been, and the verdicts that follow.
//!
//! A budget is exceeded when used > limit; equal is within. Everything here is arithmetic on values:
//! where the figures come from, what is printed and what is stopped is decided elsewhere.

use clap::ValueEnum;
use serde::Serialize;

use crate::amount::{Amount, Amounts, Unit};
pub use crate::scope::{ByScope, Room, Scope, Totals};

/// Tokens that a run is expected to use where `--estimate` does not say.
// Not zero: of runs that start at once on the last tokens of a shared budget, not all may get in.
const DEFAULT_ESTIMATE: u64 = 1000;

/// What happens when a budget is exceeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is reported once, and the stream goes on.
    #[default]
    Warn,
    /// The run is stopped.
    Block,
}

/// When block mode stops a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StopAt {
    /// Before a call that cannot fit into a budget any more.
    #[default]
    Before,
    /// After the line that exceeds a budget.
    After,
}

/// One budget: the overall one, or that of a command.
#[derive(Clone, Debug)]
pub struct Budget {
    /// The command that it is for; `None` for the overall budget.
    pub command: Option<String>,
    /// The unit of `limit` and `used`.
    pub unit: Unit,
    /// How much may be used, in tokens or micro-dollars.
    pub limit: u64,
    /// How much has been used.
    pub used: u64,
    /// Whether it binds this run; budgets of other commands are only shown.
    pub binds: bool,
    reported: Option<Threshold>,
    /// How much of the limit was granted, beyond what was given.
    granted: u64,
}

/// A mark that a budget passes, and is reported for once.
// In this order: `charge` compares them, and `None` is below both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Threshold {
    /// The percentage of `--warn-at`.
    WarnAt,
    /// The limit.
    Limit,
}

impl Budget {
    /// A budget of which nothing has been used.
    pub fn new(command: Option<String>, amount: Amount, binds: bool) -> Self {
        Budget { command, unit: amount.unit, limit: amount.value, used: 0, binds, reported: None, granted: 0 }
    }

    pub(crate) fn name(&self) -> &str {
        self.command.as_deref().unwrap_or("overall")
    }

    pub(crate) fn is_exceeded(&self) -> bool {
        self.used > self.limit
    }

    fn scope(&self) -> Scope {
        if self.command.is_some() { Scope::Command } else { Scope::Overall }
    }

    fn room(&self, estimate: Estimate) -> Room {
        let (unit, limit) = (self.unit, self.limit);
        Room { scope: self.scope(), unit, limit, estimate: estimate.of(unit, limit) }
    }

    pub(crate) fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// The used percentage, for people.
    pub(crate) fn percent(&self) -> u64 {
        // As u128: a used amount that has saturated is still to be multiplied by 100.
        let (used, limit) = (u128::from(self.used) * 100, u128::from(self.limit));
        // Rounded down within the budget and up beyond it: 100 always means full and never over.
        let percent = match (limit, self.is_exceeded()) {
            // A limit of zero has no percentage, but it can be exceeded.
            (0, exceeded) => return if exceeded { 101 } else { 0 },
            (_, true) => used.div_ceil(limit),
            (_, false) => used / limit,
        };
        u64::try_from(percent).unwrap_or(u64::MAX)
    }

    /// Whether more than `percent` of it is used.
    pub(crate) fn is_above(&self, percent: u8) -> bool {
        // Not by `percent`, which rounds: 90.1 % is above 90.
        u128::from(self.used) * 100 > u128::from(self.limit) * u128::from(percent)
    }
}

/// What a run is expected to use, as `--estimate` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Tokens of the classes that count.
    pub tokens: Option<u64>,
    /// Micro-dollars.
    pub micro_usd: Option<u64>,
}

impl Estimate {
    /// What is expected to be used of a budget of `limit`.
    fn of(self, unit: Unit, limit: u64) -> u64 {
        // The default is never more than the whole budget: a limit below it would refuse every run.
        // An estimate that somebody gave is taken at its word.
        match unit {
            Unit::Tokens => self.tokens.unwrap_or(DEFAULT_ESTIMATE.min(limit)),
            Unit::Usd => self.micro_usd.unwrap_or(0),
        }
    }
}

/// A budget that a run's estimate does not fit into.
#[derive(Clone, Debug)]
pub struct Unfit {
    /// The budget.
    pub budget: Budget,
    /// The estimate, in the budget's unit.
    pub estimate: u64,
    /// What other runs have reserved of the budget.
    pub reserved: u64,
}

/// The budgets of a run: the overall ones first, then those of its command, then the others.
#[derive(Debug, Default)]
pub struct Budgets {
    list: Vec<Budget>,
    warn_at: u8,
}

impl Budgets {
    /// Puts budgets in order; each is reported once when it passes `warn_at` percent.
    pub fn new(mut list: Vec<Budget>, warn_at: u8) -> Self {
        // Where several are exceeded, the overall one is named. Of one name, tokens come before dollars.
        list.sort_by_key(|budget| {
            (budget.command.is_some(), !budget.binds, budget.command.clone(), budget.unit == Unit::Usd)
        });
        Budgets { list, warn_at }
    }

    /// All budgets, in order.
    pub fn all(&self) -> &[Budget] {
        &self.list
    }

    /// Those that bind this run.
    pub(crate) fn binding(&self) -> impl Iterator<Item = &Budget> + Clone {
        self.list.iter().filter(|budget| budget.binds)
    }

    /// The first budget that binds this run and is exceeded.
    pub(crate) fn exceeded(&self) -> Option<&Budget> {
        self.binding().find(|budget| budget.is_exceeded())
    }

    /// Whether a budget in this unit binds the run.
    pub(crate) fn has(&self, unit: Unit) -> bool {
        self.binding().any(|budget| budget.unit == unit)
    }

    /// What a run reserves: its estimate.
    pub(crate) fn reservation(&self, estimate: Estimate) -> Amounts {
        // By default no more than its smallest budget, or one run would keep all others out of that.
        let limits = self.binding().filter(|budget| budget.unit == Unit::Tokens).map(|budget| budget.limit);
        let smallest = limits.min().unwrap_or(u64::MAX);
        Amounts { tokens: estimate.of(Unit::Tokens, smallest), micro_usd: estimate.of(Unit::Usd, 0) }
    }

    pub(crate) fn rooms(&self, estimate: Estimate) -> Vec<Room> {
        self.binding().map(|budget| budget.room(estimate)).collect()
    }

    /// The first budget that the estimate does not fit into beside what other runs have reserved.
    pub(crate) fn unfit(&self, estimate: Estimate, reserved: ByScope) -> Option<Unfit> {
        let fits = |budget: &Budget| {
            // A room looks at one scope and one unit: whichever these are, the budget's own figure is meant.
            let used = Amounts { tokens: budget.used, micro_usd: budget.used };
            let used = ByScope { overall: used, command: used };
            budget.room(estimate).is_enough(used, reserved, ByScope::default())
        };
        self.binding().find(|budget| !fits(budget)).map(|budget| Unfit {
            budget: budget.clone(),
            estimate: estimate.of(budget.unit, budget.limit),
            reserved: reserved.get(budget.scope(), budget.unit),
        })
    }

    /// Takes in what is used of the budgets that bind this run.
    pub(crate) fn set(&mut self, used: ByScope) {
        for budget in self.list.iter_mut().filter(|budget| budget.binds) {
            budget.used = used.get(budget.scope(), budget.unit);
        }
    }

    /// Takes in what is used of all budgets, by their command.
    pub(crate) fn set_all(&mut self, used: impl Fn(Option<&str>) -> Amounts) {
        for budget in &mut self.list {
            budget.used = used(budget.command.as_deref()).get(budget.unit);
        }
    }

    /// Adds budgets of these commands, or of all, as far as there are none yet; they bind nobody.
    pub(crate) fn add_missing<'a>(&mut self, limits: impl Iterator<Item = (Option<&'a str>, Amount)>) {
        let known = |name: Option<&str>, unit| self.list.iter().any(|b| b.command.as_deref() == name && b.unit == unit);
        let new: Vec<_> = limits.filter(|(name, amount)| !known(*name, amount.unit)).collect();
        let new = new.into_iter().map(|(name, amount)| Budget::new(name.map(str::to_owned), amount, false));
        let all = std::mem::take(&mut self.list).into_iter().chain(new).collect();
        self.list = Budgets::new(all, self.warn_at).list;
    }

    /// Takes in what was granted beyond the limits, by the command.
    pub(crate) fn grant(&mut self, granted: impl Fn(Option<&str>) -> Amounts) {
        for budget in &mut self.list {
            let granted = granted(budget.command.as_deref()).get(budget.unit);
            // A budget that was raised can be passed once more.
            budget.reported = budget.reported.filter(|_| granted <= budget.granted);
            budget.limit = budget.limit.saturating_sub(budget.granted).saturating_add(granted);
            budget.granted = granted;
        }
    }

    /// The first budget that binds this run, is not exceeded, and lacks room for the `next` calls.
    pub(crate) fn short_of(&mut self, next: Amounts) -> Option<&Budget> {
        let is_open = |budget: &Budget| budget.binds && budget.reported < Some(Threshold::Limit);
        let is_short = |budget: &Budget| is_open(budget) && next.get(budget.unit) > budget.remaining();
        let budget = self.list.iter_mut().find(|budget| is_short(budget))?;
        budget.reported = Some(Threshold::Limit);
        Some(budget)
    }

    /// Takes in what is used, and returns the budgets that have passed a threshold, each once.
    pub(crate) fn charge(&mut self, used: ByScope) -> Vec<(Threshold, Budget)> {
        self.set(used);
        let mut passed = Vec::new();
        for budget in self.list.iter_mut().filter(|budget| budget.binds) {
            let threshold = if budget.is_exceeded() {
                Some(Threshold::Limit)
            } else {
                budget.is_above(self.warn_at).then_some(Threshold::WarnAt)
            };
            // One that has fallen below again, as a window moves on, is not reported a second time: a
            // hook would run with every swing.
            if threshold > budget.reported {
                budget.reported = threshold;
                passed.extend(threshold.map(|threshold| (threshold, budget.clone())));
            }
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(value: u64) -> Amount {
        Amount { unit: Unit::Tokens, value }
    }

    fn estimate(tokens: Option<u64>) -> Estimate {
        Estimate { tokens, micro_usd: None }
    }

    fn both(tokens: u64) -> ByScope {
        let amounts = Amounts { tokens, micro_usd: 0 };
        ByScope { overall: amounts, command: amounts }
    }

    fn overall(limit: u64) -> Budgets {
        Budgets::new(vec![Budget::new(None, tokens(limit), true)], 90)
    }

    fn passed(budgets: &mut Budgets, used: u64) -> Vec<Threshold> {
        budgets.charge(both(used)).into_iter().map(|(threshold, _)| threshold).collect()
    }

    #[test]
    fn each_threshold_is_reported_once() {
        let mut budgets = overall(1000);
        assert_eq!(passed(&mut budgets, 900), []);
        assert_eq!(passed(&mut budgets, 901), [Threshold::WarnAt]);
        assert_eq!(passed(&mut budgets, 1000), []);
        assert_eq!(passed(&mut budgets, 1001), [Threshold::Limit]);
        assert_eq!(passed(&mut budgets, 5000), []);
        assert!(budgets.exceeded().is_some());
        // A jump past the limit reports the limit alone.
        assert_eq!(passed(&mut overall(1000), 5000), [Threshold::Limit]);
    }

    #[test]
    fn a_limit_of_zero_allows_nothing() {
        let mut budgets = overall(0);
        assert_eq!(passed(&mut budgets, 0), []);
        assert_eq!(budgets.all()[0].percent(), 0);
        assert_eq!(passed(&mut budgets, 1), [Threshold::Limit]);
        assert_eq!(budgets.all()[0].percent(), 101);
    }

    #[test]
    fn budgets_of_other_commands_do_not_bind_and_the_overall_one_comes_first() {
        let list = vec![
            Budget::new(Some("/other".to_owned()), tokens(1), false),
            Budget::new(Some("/own".to_owned()), tokens(1), true),
            Budget::new(None, tokens(1), true),
        ];
        let mut budgets = Budgets::new(list, 90);
        let names: Vec<_> = budgets.charge(both(2)).into_iter().map(|(_, b)| b.name().to_owned()).collect();
        assert_eq!(names, ["overall", "/own"]);
        assert_eq!(budgets.exceeded().map(Budget::name), Some("overall"));
    }

    #[test]
    fn a_hundred_percent_is_full_and_not_over() {
        for (used, limit, percent) in [(999, 1000, 99), (1000, 1000, 100), (1001, 1000, 101), (u64::MAX, 1, u64::MAX)] {
            let mut budget = Budget::new(None, tokens(limit), true);
            budget.used = used;
            assert_eq!(budget.percent(), percent, "{used} of {limit}");
        }
    }

    #[test]
    fn reservations_of_others_take_room() {
        assert!(overall(500).unfit(estimate(Some(200)), both(300)).is_none());
        assert!(overall(500).unfit(estimate(Some(200)), both(301)).is_some());
        let reserved = [500, 5000].map(|limit| overall(limit).reservation(estimate(None)).tokens);
        assert_eq!(reserved, [500, 1000]);
    }

    #[test]
    fn an_estimate_must_fit_and_the_default_always_does() {
        assert!(overall(500).unfit(estimate(None), ByScope::default()).is_none());
        assert!(overall(0).unfit(estimate(None), ByScope::default()).is_none());
        assert!(overall(500).unfit(estimate(Some(500)), ByScope::default()).is_none());
        assert!(overall(500).unfit(estimate(Some(501)), ByScope::default()).is_some());
    }
}
