//! What a run has to report on the way; `show` has the words for it.

use std::time::Duration;

use crate::budget::{Budget, Mode, Threshold, Unfit};
use crate::count::finding::Finding;
use crate::stream::course::NoUsage;
use crate::stream::foreign::Foreign;

/// Something to report on stderr, once.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    /// A budget has passed a threshold; and whether its used amount was a lower bound then.
    Budget(Threshold, Budget, bool),
    /// Block mode stops before the next calls, which need at least so much of this budget.
    NextCall(Budget, u64),
    /// The estimate does not fit into a budget.
    Unfit(Unfit),
    /// The meter has found something out about the stream.
    Finding(Finding),
    /// Block mode stops because the ledger is unreachable.
    Unreachable(Unreachable),
    /// The line of this number cannot be counted, and nothing before it was.
    Foreign(u64, Foreign),
    /// The stream ended inside a record or an array.
    Cut,
    /// The stream ended without any usage.
    NoUsage(NoUsage),
}

impl Notice {
    /// Whether the run ends with what it tells.
    pub(crate) fn ends_run(&self, mode: Mode) -> bool {
        let ends = matches!(
            self,
            Notice::Budget(Threshold::Limit, ..) | Notice::NextCall(..) | Notice::Unfit(_) | Notice::Unreachable(_)
        );
        ends && mode == Mode::Block
    }
}

/// Why block mode stops a run whose ledger is unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// It has been for as long as `--offline-grace` allows.
    Grace(Duration),
    /// The run has used what it had reserved.
    Reservation,
}
