//! What a value is wanted for: by Claude Code's paths, and by those of the table of dialects.

use crate::stream::paths::{Node, Scalar, Step};
use crate::stream::record::Record;
use crate::stream::trail::{PathSet, Trail};

/// What a value is wanted for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// By Claude Code's paths.
    pub(crate) step: Step,
    /// The paths of the table that end here, and those that go on below.
    pub(crate) here: PathSet,
    pub(crate) below: Trail,
}

impl Wanted {
    /// Whether it is wanted as a scalar.
    pub(crate) fn is_kept(self) -> bool {
        self.here != 0 || matches!(self.step, Step::Keep(_))
    }

    /// Whether it is wanted as the object of a model, whose name is the key.
    pub(crate) fn is_model(self) -> bool {
        self.below.is_model || matches!(self.step, Step::Object(Node::Model(_)))
    }

    /// Takes a scalar into the record.
    pub(crate) fn put(self, record: &mut Record, scalar: Scalar<'_>) {
        if let Step::Keep(field) = self.step {
            record.put(field, scalar);
        }
        if self.here != 0 {
            record.table.put(self.here, scalar);
        }
    }
}

impl From<Step> for Wanted {
    fn from(step: Step) -> Self {
        Wanted { step, here: 0, below: Trail::default() }
    }
}
