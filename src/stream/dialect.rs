//! The table of other agents' streams: how each is told, and where and how it says what was used.
//!
//! A row is all that an agent needs. Claude Code's own records are described in `paths`; of an agent that
//! writes records of the same form, a row says what differs. The rows come from streams that the
//! unmodified programs wrote against a mock API in November 2026.

/// The agent whose form `paths` describes.
pub(crate) const CLAUDE: &str = "Claude Code";

/// How an agent's records are read.
#[derive(Debug)]
pub(crate) struct Dialect {
    pub(crate) agent: &'static str,
    /// The program, and the arguments that make it write such a stream.
    pub(crate) program: &'static str,
    pub(crate) arguments: &'static str,
    /// The `type` of the records that the agent writes and others do not; `*` stands for any end.
    kinds: &'static [&'static str],
    /// The `type` of the records that carry usage.
    pub(crate) carrier: &'static str,
    /// What the sieve must know to let these records pass, beside its own words.
    pub(crate) words: &'static [&'static str],
    pub(crate) tells: Tells,
    pub(crate) cached: Cached,
    pub(crate) reasoning: Reasoning,
    pub(crate) adds: Adds,
    /// Its figures are those of the whole thread or session so far, what was used before it was resumed
    /// included; what is above those before adds. Such a row has no cost and no models.
    // They would need marks of their own.
    pub(crate) is_cumulative: bool,
    /// The program goes on after TERM, and ends on INT.
    needs_interrupt: bool,
    /// Where its values stand; `*` is any key, the name of a model.
    pub(crate) paths: &'static [(Item, &'static str)],
}

/// When an agent says what it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tells {
    /// After each call.
    Live,
    /// When a turn, or the whole run, has ended.
    AtEnd,
    /// Not in its stream.
    Never,
}

/// Whether tokens from the cache, or written to it, are a part of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cached {
    Inside,
    Beside,
}

/// Whether reasoning is a part of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reasoning {
    Inside,
    Beside,
    /// The output is what the total has beyond the input.
    FromTotal,
}

/// What becomes of a record's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adds {
    /// They add to those before.
    Each,
    /// They add, until a record of the kind `Settles` comes.
    Live,
    /// They are those of the run that was counted live: its model and cost are known now. What they lack of the
    /// live count stays.
    Settles,
    /// The record has Claude Code's form, and its values are read by its paths.
    AsClaude,
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Input,
    Output,
    CacheWrite,
    CacheRead,
    Reasoning,
    /// All tokens.
    Total,
    /// Dollars.
    Cost,
    Session,
    Model,
    /// A text that the agent's records have and others do not, whatever their `type`.
    Mark,
    /// This text, or the record carries no usage.
    Is(&'static str),
}

const DEFAULT: Dialect = Dialect {
    agent: "",
    program: "",
    arguments: "",
    kinds: &[],
    carrier: "",
    words: &[],
    tells: Tells::Live,
    cached: Cached::Beside,
    reasoning: Reasoning::Inside,
    adds: Adds::Each,
    is_cumulative: false,
    needs_interrupt: false,
    paths: &[],
};

pub(crate) const ROWS: &[Dialect] = &[
    Dialect {
        agent: "Codex",
        program: "codex",
        arguments: "exec --json",
        kinds: &["thread.started", "turn.*", "item.*"],
        carrier: "turn.completed",
        words: &["\"thread.started\""],
        tells: Tells::AtEnd,
        cached: Cached::Inside,
        is_cumulative: true,
        paths: &[
            (Item::Input, "usage.input_tokens"),
            (Item::CacheRead, "usage.cached_input_tokens"),
            (Item::CacheWrite, "usage.cache_write_input_tokens"),
            (Item::Output, "usage.output_tokens"),
            (Item::Session, "thread_id"),
        ],
        ..DEFAULT
    },
    Dialect {
        agent: "opencode",
        program: "opencode",
        arguments: "run --format json",
        kinds: &["step_start", "step_finish"],
        carrier: "step_finish",
        words: &["\"part\""],
        reasoning: Reasoning::Beside,
        paths: &[
            (Item::Input, "part.tokens.input"),
            (Item::Output, "part.tokens.output"),
            (Item::Reasoning, "part.tokens.reasoning"),
            (Item::CacheWrite, "part.tokens.cache.write"),
            (Item::CacheRead, "part.tokens.cache.read"),
            (Item::Total, "part.tokens.total"),
            (Item::Cost, "part.cost"),
            (Item::Session, "sessionID"),
        ],
        ..DEFAULT
    },
    Dialect {
        agent: "Qwen Code",
        program: "qwen",
        arguments: "--output-format stream-json",
        carrier: "assistant",
        cached: Cached::Inside,
        reasoning: Reasoning::FromTotal,
        adds: Adds::AsClaude,
        paths: &[(Item::Total, "message.usage.total_tokens"), (Item::Mark, "qwen_code_version")],
        ..DEFAULT
    },
    Dialect {
        agent: "Qwen Code",
        carrier: "result",
        cached: Cached::Inside,
        reasoning: Reasoning::FromTotal,
        adds: Adds::AsClaude,
        is_cumulative: true,
        paths: &[(Item::Total, "usage.total_tokens")],
        ..DEFAULT
    },
    Dialect {
        agent: "pi",
        program: "pi",
        arguments: "--mode json",
        kinds: &["session", "agent_start", "turn_start", "message_start", "message_update", "message_end"],
        carrier: "message_end",
        paths: &[
            (Item::Is("assistant"), "message.role"),
            (Item::Input, "message.usage.input"),
            (Item::Output, "message.usage.output"),
            (Item::CacheRead, "message.usage.cacheRead"),
            (Item::CacheWrite, "message.usage.cacheWrite"),
            (Item::Total, "message.usage.totalTokens"),
            (Item::Cost, "message.usage.cost.total"),
            (Item::Model, "message.model"),
        ],
        ..DEFAULT
    },
    Dialect {
        agent: "Cline",
        program: "cline",
        arguments: "--json",
        needs_interrupt: true,
        kinds: &["hook_event", "agent_event"],
        carrier: "agent_event",
        cached: Cached::Inside,
        adds: Adds::Live,
        paths: &[
            (Item::Is("usage"), "event.type"),
            (Item::Input, "event.inputTokens"),
            (Item::Output, "event.outputTokens"),
            (Item::CacheRead, "event.cacheReadTokens"),
            (Item::CacheWrite, "event.cacheWriteTokens"),
        ],
        ..DEFAULT
    },
    Dialect {
        agent: "Cline",
        carrier: "run_result",
        cached: Cached::Inside,
        adds: Adds::Settles,
        paths: &[
            (Item::Input, "aggregateUsage.inputTokens"),
            (Item::Output, "aggregateUsage.outputTokens"),
            (Item::CacheRead, "aggregateUsage.cacheReadTokens"),
            (Item::CacheWrite, "aggregateUsage.cacheWriteTokens"),
            (Item::Cost, "aggregateUsage.totalCost"),
            (Item::Model, "model.id"),
        ],
        ..DEFAULT
    },
    Dialect {
        agent: "Gemini",
        program: "gemini",
        arguments: "--output-format stream-json",
        kinds: &["init"],
        carrier: "result",
        tells: Tells::AtEnd,
        cached: Cached::Inside,
        reasoning: Reasoning::FromTotal,
        paths: &[
            (Item::Input, "stats.models.*.input_tokens"),
            (Item::Output, "stats.models.*.output_tokens"),
            (Item::CacheRead, "stats.models.*.cached"),
            (Item::Total, "stats.models.*.total_tokens"),
        ],
        ..DEFAULT
    },
    // Before its figures came by model.
    Dialect {
        agent: "Gemini",
        carrier: "result",
        tells: Tells::AtEnd,
        cached: Cached::Inside,
        reasoning: Reasoning::FromTotal,
        paths: &[
            (Item::Input, "stats.input_tokens"),
            (Item::Output, "stats.output_tokens"),
            (Item::CacheRead, "stats.cached"),
            (Item::Total, "stats.total_tokens"),
        ],
        ..DEFAULT
    },
    Dialect {
        agent: "Droid",
        program: "droid",
        arguments: "exec --output-format stream-json",
        kinds: &["message", "tool_call", "completion"],
        carrier: "completion",
        tells: Tells::AtEnd,
        paths: &[
            (Item::Input, "usage.input_tokens"),
            (Item::Output, "usage.output_tokens"),
            (Item::CacheRead, "usage.cache_read_input_tokens"),
            (Item::CacheWrite, "usage.cache_creation_input_tokens"),
        ],
        ..DEFAULT
    },
    Dialect {
        agent: "Cursor",
        program: "cursor-agent",
        arguments: "-p --output-format stream-json",
        carrier: "result",
        tells: Tells::AtEnd,
        paths: &[
            (Item::Input, "usage.inputTokens"),
            (Item::Output, "usage.outputTokens"),
            (Item::CacheRead, "usage.cacheReadTokens"),
            (Item::CacheWrite, "usage.cacheWriteTokens"),
        ],
        ..DEFAULT
    },
    Dialect {
        agent: "Letta Code",
        program: "letta",
        arguments: "-p PROMPT --output-format stream-json",
        carrier: "message",
        words: &["\"usage_statistics\""],
        paths: &[
            (Item::Mark, "message_type"),
            (Item::Input, "prompt_tokens"),
            (Item::Output, "completion_tokens"),
            (Item::CacheRead, "cached_input_tokens"),
            (Item::CacheWrite, "cache_write_tokens"),
            (Item::Total, "total_tokens"),
        ],
        ..DEFAULT
    },
    // With --include-partial-messages.
    Dialect {
        agent: "Letta Code",
        carrier: "stream_event",
        paths: &[
            (Item::Input, "event.prompt_tokens"),
            (Item::Output, "event.completion_tokens"),
            (Item::CacheRead, "event.cached_input_tokens"),
            (Item::CacheWrite, "event.cache_write_tokens"),
            (Item::Total, "event.total_tokens"),
        ],
        ..DEFAULT
    },
    // These write records of the forms of opencode and pi.
    Dialect { agent: "Kilo CLI", program: "kilo", arguments: "run --format json", ..DEFAULT },
    Dialect { agent: "oh-my-pi", program: "omp", arguments: "--mode json -p", ..DEFAULT },
    Dialect { agent: "Amp", program: "amp", arguments: "-x --stream-json", ..DEFAULT },
    Dialect {
        agent: "Kimi Code",
        program: "kimi",
        // Before those of others that begin alike.
        kinds: &["system.version", "session.resume_hint"],
        tells: Tells::Never,
        ..DEFAULT
    },
    Dialect {
        agent: "Mistral Vibe",
        program: "vibe",
        tells: Tells::Never,
        paths: &[(Item::Mark, "generationStatus")],
        ..DEFAULT
    },
    Dialect {
        agent: "GitHub Copilot CLI",
        program: "copilot",
        kinds: &["session.*", "assistant.*", "model.*", "user.message"],
        tells: Tells::Never,
        ..DEFAULT
    },
];

/// The words that the sieve must know for the rows.
pub(crate) fn words() -> impl Iterator<Item = &'static &'static str> {
    ROWS.iter().flat_map(|row| row.words)
}

/// The agent that writes records of this `type`, and others do not.
pub(crate) fn agent_of(kind: &str) -> Option<&'static Dialect> {
    let fits = |known: &str| match known.strip_suffix('*') {
        Some(start) => kind.starts_with(start),
        None => kind == known,
    };
    ROWS.iter().find(|row| row.kinds.iter().any(|known| fits(known)))
}

/// The agent that this program is.
pub(crate) fn agent_named(program: &str) -> Option<&'static Dialect> {
    ROWS.iter().find(|row| row.program == program)
}

/// Whether the program of the agent with this name goes on after TERM, and ends on INT.
pub(crate) fn needs_interrupt(agent: &str) -> bool {
    ROWS.iter().any(|row| row.agent == agent && row.needs_interrupt)
}

/// All agents, with the arguments that make them write a stream.
pub fn agents() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let named = ROWS.iter().filter(|row| !row.program.is_empty());
    named.map(|row| (row.agent, row.program, row.arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cumulative_figures_have_no_cost_and_no_model() {
        for row in ROWS.iter().filter(|row| row.is_cumulative) {
            let has_none =
                |(item, path): &(Item, &str)| !matches!(item, Item::Cost | Item::Model) && !path.contains('*');
            assert!(row.paths.iter().all(has_none), "{}", row.agent);
        }
    }
}
