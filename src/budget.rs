//! Budgets and verdicts: what may be spent, what has been, and what follows from that.
//!
//! A budget is exceeded when used > limit; equal is within. Nothing here knows where the figures
//! come from, what is printed, or what is stopped.

use std::str::FromStr;

use crate::amount::{Amount, Unit};
use crate::count::tokens::{Classes, Spend};

/// What happens when a budget is exceeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is said once, and the stream goes on.
    #[default]
    Warn,
    /// The stream is stopped.
    Block,
}

impl Mode {
    /// The name that `--mode` takes and the summary shows.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::Warn => "warn",
            Mode::Block => "block",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "warn" => Ok(Mode::Warn),
            "block" => Ok(Mode::Block),
            _ => Err("want warn or block".to_owned()),
        }
    }
}

/// One budget: the overall one, or that of a command.
#[derive(Clone, Debug)]
pub struct Budget {
    /// The command it belongs to; `None` is the overall budget.
    pub command: Option<String>,
    /// What limit and use are numbers of.
    pub unit: Unit,
    /// Tokens or micro-dollars that may be spent.
    pub limit: u64,
    /// Tokens or micro-dollars spent.
    pub used: u64,
    /// Whether it binds this run; budgets of other commands are only shown.
    pub binds: bool,
    said: Option<Cause>,
}

/// Why a budget is spoken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// It has passed the share that `--warn-at` names.
    Near,
    /// It is exceeded.
    Exceeded,
}

impl Budget {
    /// A budget of `amount`, of which nothing is spent.
    #[must_use]
    pub fn new(command: Option<String>, amount: Amount, binds: bool) -> Self {
        Budget { command, unit: amount.unit, limit: amount.value, used: 0, binds, said: None }
    }

    /// The name it is shown under.
    #[must_use]
    pub fn name(&self) -> &str {
        self.command.as_deref().unwrap_or("overall")
    }

    /// Whether more than the limit is used.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        self.used > self.limit
    }

    fn room(&self, estimate: Estimate) -> Room {
        let room = self.limit.checked_sub(estimate.of(self.unit, self.limit));
        Room { of_command: self.command.is_some(), unit: self.unit, room }
    }

    /// What is used of it, where its own figure is looked for.
    fn sums(&self) -> Sums {
        let used = Sum { tokens: self.used, micro_usd: self.used };
        Sums { overall: used, command: used }
    }

    /// What is left; zero where it is exceeded.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// The used share in percent: rounded down, but up once exceeded, so that 100 means full and
    /// not over. Of a limit of zero, nothing is 0 and anything is 101.
    #[must_use]
    pub fn percent(&self) -> u64 {
        let (used, limit) = (u128::from(self.used) * 100, u128::from(self.limit));
        let percent = match (limit, self.is_exceeded()) {
            (0, exceeded) => return if exceeded { 101 } else { 0 },
            (_, true) => used.div_ceil(limit),
            (_, false) => used / limit,
        };
        u64::try_from(percent).unwrap_or(u64::MAX)
    }

    /// Whether the used share is above `percent`.
    #[must_use]
    pub fn is_above(&self, percent: u8) -> bool {
        u128::from(self.used) * 100 > u128::from(self.limit) * u128::from(percent)
    }
}

/// The budgets of a run, the overall ones first, then those of its command, then the others.
#[derive(Debug, Default)]
pub struct Budgets {
    list: Vec<Budget>,
    warn_at: u8,
}

/// A sum in both units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Tokens of the classes that count.
    pub tokens: u64,
    /// Micro-dollars.
    pub micro_usd: u64,
}

impl Sum {
    /// What of `spend` counts.
    #[must_use]
    pub fn of(spend: &Spend, classes: Classes) -> Sum {
        Sum { tokens: classes.count(spend), micro_usd: spend.micro_usd }
    }

    /// The figure in one unit.
    #[must_use]
    pub fn unit(self, unit: Unit) -> u64 {
        match unit {
            Unit::Tokens => self.tokens,
            Unit::Usd => self.micro_usd,
        }
    }

    /// Both figures added up.
    #[must_use]
    pub fn plus(self, other: Sum) -> Sum {
        Sum {
            tokens: self.tokens.saturating_add(other.tokens),
            micro_usd: self.micro_usd.saturating_add(other.micro_usd),
        }
    }

    /// What is left after `other` is taken off, never below zero.
    #[must_use]
    pub fn less(self, other: Sum) -> Sum {
        Sum {
            tokens: self.tokens.saturating_sub(other.tokens),
            micro_usd: self.micro_usd.saturating_sub(other.micro_usd),
        }
    }
}

/// What a run is expected to use; in a unit that is not given, 1000 tokens or no
/// dollars, but never more than a whole budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Tokens of the classes that count.
    pub tokens: Option<u64>,
    /// Micro-dollars.
    pub micro_usd: Option<u64>,
}

impl Estimate {
    /// What is expected to be used of a budget of `limit`.
    #[must_use]
    pub fn of(self, unit: Unit, limit: u64) -> u64 {
        match unit {
            Unit::Tokens => self.tokens.unwrap_or(DEFAULT_ESTIMATE.min(limit)),
            Unit::Usd => self.micro_usd.unwrap_or(0),
        }
    }
}

/// What is used, or held, of the budgets that bind a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Of the overall budgets.
    pub overall: Sum,
    /// Of the budgets of this run's command.
    pub command: Sum,
}

impl Sums {
    /// The figure for the overall budget in a unit, or for that of this run's command.
    #[must_use]
    pub fn unit(self, of_command: bool, unit: Unit) -> u64 {
        if of_command { self.command.unit(unit) } else { self.overall.unit(unit) }
    }
}

/// What may be used and held of a budget that binds a run, so that its estimate still fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Whether it is that of this run's command, or else the overall one.
    pub of_command: bool,
    /// What it is a number of.
    pub unit: Unit,
    /// Tokens or micro-dollars; `None` where not even an empty budget would do.
    pub room: Option<u64>,
}

impl Room {
    /// Whether a run fits in beside what is used and held.
    #[must_use]
    pub fn is_enough(self, used: Sums, held: Sums) -> bool {
        let of = |sums: Sums| sums.unit(self.of_command, self.unit);
        self.room.is_some_and(|room| of(used).saturating_add(of(held)) <= room)
    }
}

impl Budgets {
    /// Budgets in the order given; each is spoken of once above `warn_at` percent.
    #[must_use]
    pub fn new(mut list: Vec<Budget>, warn_at: u8) -> Self {
        list.sort_by_key(|budget| {
            (budget.command.is_some(), !budget.binds, budget.command.clone(), budget.unit == Unit::Usd)
        });
        Budgets { list, warn_at }
    }

    /// All budgets.
    #[must_use]
    pub fn all(&self) -> &[Budget] {
        &self.list
    }

    /// The first budget that binds this run and is exceeded.
    #[must_use]
    pub fn exceeded(&self) -> Option<&Budget> {
        self.list.iter().find(|budget| budget.binds && budget.is_exceeded())
    }

    /// What a run is expected to use, none of it more than the smallest budget that binds it.
    #[must_use]
    pub fn expected(&self, estimate: Estimate) -> Sum {
        let binding = self.list.iter().filter(|budget| budget.binds && budget.unit == Unit::Tokens);
        let smallest = binding.map(|budget| budget.limit).min().unwrap_or(u64::MAX);
        Sum { tokens: estimate.of(Unit::Tokens, smallest), micro_usd: estimate.of(Unit::Usd, 0) }
    }

    /// The room that `estimate` needs in each budget that binds this run.
    #[must_use]
    pub fn rooms(&self, estimate: Estimate) -> Vec<Room> {
        self.list.iter().filter(|budget| budget.binds).map(|budget| budget.room(estimate)).collect()
    }

    /// The first budget into which the estimate would not fit beside what others hold.
    #[must_use]
    pub fn refusal(&self, estimate: Estimate, held: Sums) -> Option<&Budget> {
        let mut binding = self.list.iter().filter(|budget| budget.binds);
        binding.find(|budget| !budget.room(estimate).is_enough(budget.sums(), held))
    }

    /// Takes in what is used of the budgets that bind this run.
    pub fn set(&mut self, used: Sums) {
        for budget in self.list.iter_mut().filter(|budget| budget.binds) {
            budget.used = used.unit(budget.command.is_some(), budget.unit);
        }
    }

    /// Takes in what is used of each budget, by its command.
    pub fn set_all(&mut self, used: impl Fn(Option<&str>) -> Sum) {
        for budget in &mut self.list {
            budget.used = used(budget.command.as_deref()).unit(budget.unit);
        }
    }

    /// Takes in what is used of the budgets of other commands.
    pub fn set_others(&mut self, used: impl Fn(&str) -> Sum) {
        for budget in self.list.iter_mut().filter(|budget| !budget.binds) {
            budget.used = budget.command.as_deref().map_or(0, |name| used(name).unit(budget.unit));
        }
    }

    /// Whether a budget in this unit binds the run.
    #[must_use]
    pub fn has(&self, unit: Unit) -> bool {
        self.list.iter().any(|budget| budget.binds && budget.unit == unit)
    }

    /// Takes in what is used, and says which budgets are now to be spoken of, each cause once.
    pub fn charge(&mut self, used: Sums) -> Vec<(Cause, Budget)> {
        self.set(used);
        let mut news = Vec::new();
        for budget in self.list.iter_mut().filter(|budget| budget.binds) {
            let cause = if budget.is_exceeded() {
                Some(Cause::Exceeded)
            } else {
                budget.is_above(self.warn_at).then_some(Cause::Near)
            };
            if cause > budget.said {
                budget.said = cause;
                news.extend(cause.map(|cause| (cause, budget.clone())));
            }
        }
        news
    }
}

/// Tokens that a run is expected to use where nothing else is said.
const DEFAULT_ESTIMATE: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(value: u64) -> Amount {
        Amount { unit: Unit::Tokens, value }
    }

    fn estimate(tokens: Option<u64>) -> Estimate {
        Estimate { tokens, micro_usd: None }
    }

    fn held(tokens: u64) -> Sum {
        Sum { tokens, micro_usd: 0 }
    }

    fn both(tokens: u64) -> Sums {
        Sums { overall: held(tokens), command: held(tokens) }
    }

    fn overall(limit: u64) -> Budgets {
        Budgets::new(vec![Budget::new(None, tokens(limit), true)], 90)
    }

    fn causes(budgets: &mut Budgets, used: u64) -> Vec<Cause> {
        budgets.charge(both(used)).into_iter().map(|(cause, _)| cause).collect()
    }

    #[test]
    fn each_cause_is_said_once() {
        let mut budgets = overall(1000);
        assert_eq!(causes(&mut budgets, 900), []);
        assert_eq!(causes(&mut budgets, 901), [Cause::Near]);
        assert_eq!(causes(&mut budgets, 1000), []);
        assert_eq!(causes(&mut budgets, 1001), [Cause::Exceeded]);
        assert_eq!(causes(&mut budgets, 5000), []);
        assert!(budgets.exceeded().is_some());
    }

    #[test]
    fn a_jump_past_the_limit_says_only_that() {
        assert_eq!(causes(&mut overall(1000), 5000), [Cause::Exceeded]);
    }

    #[test]
    fn a_limit_of_zero_allows_nothing() {
        let mut budgets = overall(0);
        assert_eq!(causes(&mut budgets, 0), []);
        assert_eq!(budgets.all()[0].percent(), 0);
        assert_eq!(causes(&mut budgets, 1), [Cause::Exceeded]);
        assert_eq!(budgets.all()[0].percent(), 101);
    }

    #[test]
    fn only_budgets_of_this_run_bind_and_the_overall_one_is_named_first() {
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
    fn percent_is_full_only_when_full() {
        for (used, limit, percent) in [(999, 1000, 99), (1000, 1000, 100), (1001, 1000, 101), (u64::MAX, 1, u64::MAX)] {
            let mut budget = Budget::new(None, tokens(limit), true);
            budget.used = used;
            assert_eq!(budget.percent(), percent.max(budget.percent().min(percent)), "{used} of {limit}");
        }
    }

    #[test]
    fn what_others_hold_is_taken() {
        assert!(overall(500).refusal(estimate(Some(200)), both(300)).is_none());
        assert!(overall(500).refusal(estimate(Some(200)), both(301)).is_some());
        let expected = [500, 5000].map(|limit| overall(limit).expected(estimate(None)).tokens);
        assert_eq!(expected, [500, 1000]);
    }

    #[test]
    fn an_estimate_must_fit_and_the_default_always_does() {
        assert!(overall(500).refusal(estimate(None), Sums::default()).is_none());
        assert!(overall(0).refusal(estimate(None), Sums::default()).is_none());
        assert!(overall(500).refusal(estimate(Some(500)), Sums::default()).is_none());
        assert!(overall(500).refusal(estimate(Some(501)), Sums::default()).is_some());
    }
}
