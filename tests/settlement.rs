//! What a `result` record replaces, and what it leaves: subagents in flight, hidden calls, resets.
#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

use budget_tee::count::meter::Meter;
use budget_tee::count::price::Prices;
use budget_tee::count::tokens::{Spend, Tokens};
use budget_tee::run::Run;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

const OPUS: &str = "claude-opus-5";
const HAIKU: &str = "claude-haiku-4-5";

/// Tokens as input, output, cache-write, cache-read.
type Four = [u64; 4];

const M1: Four = [4, 2, 1000, 5000];
const M2: Four = [6, 2, 100, 7000];
/// The last message of a subagent.
const A1: Four = [3, 2, 1200, 6000];

fn usage([input, output, write, read]: Four) -> Value {
    json!({ "input_tokens": input, "output_tokens": output, "cache_creation_input_tokens": write, "cache_read_input_tokens": read })
}

fn models(entries: &[(&str, Four)]) -> Value {
    let entry = |[input, output, write, read]: Four| json!({ "inputTokens": input, "outputTokens": output, "cacheCreationInputTokens": write, "cacheReadInputTokens": read });
    entries.iter().map(|(model, four)| ((*model).to_owned(), entry(*four))).collect::<serde_json::Map<_, _>>().into()
}

fn message(id: &str, parent: Option<&str>, tokens: Four) -> Value {
    json!({ "type": "assistant", "session_id": "s", "parent_tool_use_id": parent,
        "message": { "id": id, "model": OPUS, "usage": usage(tokens) } })
}

fn main_loop(id: &str, tokens: Four) -> Value {
    message(id, None, tokens)
}

fn agent(id: &str, parent: &str, tokens: Four) -> Value {
    message(id, Some(parent), tokens)
}

fn aborted(mut message: Value) -> Value {
    message["aborted"] = true.into();
    message
}

fn since(entries: &[(&str, Four)]) -> Value {
    json!({ "type": "result", "session_id": "s", "model_usage_since_last_result": models(entries) })
}

fn process(entries: &[(&str, Four)]) -> Value {
    json!({ "type": "result", "session_id": "s", "modelUsage": models(entries) })
}

fn turn(tokens: Four) -> Value {
    json!({ "type": "result", "session_id": "s", "usage": usage(tokens) })
}

fn reset() -> Value {
    json!({ "type": "conversation_reset", "session_id": "s" })
}

fn version(version: &str) -> Value {
    json!({ "type": "system", "subtype": "init", "session_id": "s", "model": OPUS, "claude_code_version": version })
}

/// Counts these records. The totals by model add up, and none goes down but an estimated cost.
fn count(records: &[Value]) -> Run {
    let prices = Prices::new(None, "2026-11-25", None).expect("the built-in prices");
    let mut run = Run::default();
    run.meter = Meter::new(prices, None);
    let mut before = Spend::default();
    for record in records {
        run.feed(format!("{record}\n").as_bytes());
        let total = run.meter.total();
        assert_eq!(run.meter.by_model().sum(), total, "after {record}");
        for class in budget_tee::count::tokens::Class::ALL {
            assert!(total.tokens.of(class) >= before.tokens.of(class), "{class:?} went down at {record}");
        }
        before = total;
    }
    run
}

/// The tokens of these records, and whether they are a lower bound.
fn tokens(records: &[Value]) -> (Four, bool) {
    let run = count(records);
    let Tokens { input, output, cache_write, cache_read } = run.meter.total().tokens;
    ([input, output, cache_write, cache_read], run.meter.is_lower_bound())
}

const EXACT: bool = false;
const LOWER_BOUND: bool = true;

#[test]
fn a_call_in_flight_is_not_told_apart_from_a_hidden_one_for_ever() {
    // A helper model's hidden call must not pass for a part of the subagent's.
    let mut records = vec![main_loop("m1", M1), agent("a1", "t1", A1)];
    records.push(since(&[(OPUS, [4, 50, 1000, 5000]), (HAIKU, [500, 10, 0, 0])]));
    assert_eq!(tokens(&records), ([507, 62, 2200, 11_000], LOWER_BOUND));
    records.extend([main_loop("m2", M2), since(&[(OPUS, [9, 150, 1300, 13_000])])]);
    assert_eq!(tokens(&records), ([513, 210, 2300, 18_000], EXACT));
}

#[test]
fn a_hidden_call_of_the_same_model_hides_only_its_own_size() {
    let mut records = vec![main_loop("m1", M1), agent("a1", "t1", A1), since(&[(OPUS, [6, 50, 1100, 6000])])];
    // 1 input, 1,100 written and 5,000 read are not told, and stay as a part of the subagent's call.
    assert_eq!(tokens(&records), ([7, 50, 2200, 11_000], LOWER_BOUND));
    records.extend([main_loop("m2", M2), since(&[(OPUS, [9, 150, 1300, 13_000])])]);
    assert_eq!(tokens(&records), ([15, 200, 2400, 19_000], EXACT));
}

#[test]
fn of_two_subagents_the_one_in_flight_is_told_by_the_figures() {
    let b1 = [2, 2, 1100, 5500];
    let mut records = vec![main_loop("m1", M1), agent("a1", "t1", A1), agent("b1", "t2", b1)];
    records.push(since(&[(OPUS, [6, 80, 2100, 10_500])]));
    assert_eq!(tokens(&records), ([9, 82, 3300, 16_500], LOWER_BOUND));
    records.extend([main_loop("m2", M2), since(&[(OPUS, [9, 150, 1300, 13_000])])]);
    assert_eq!(tokens(&records), ([15, 230, 3400, 23_500], EXACT));
}

#[test]
fn a_killed_process_is_seen_beside_hidden_calls_of_another_model() {
    let mut records = vec![main_loop("m1", M1), main_loop("m2", M2)];
    records.push(since(&[(OPUS, [6, 90, 100, 7000]), (HAIKU, [900, 10, 2000, 9000])]));
    assert_eq!(tokens(&records), ([910, 100, 3100, 21_000], LOWER_BOUND));
}

#[test]
fn the_size_of_the_context_in_a_name_makes_no_other_model() {
    let large = "claude-opus-5[1m]";
    let records = [main_loop("m1", M1), agent("a1", "t1", A1)];
    let told = [since(&[(large, [4, 50, 1000, 5000]), (HAIKU, [500, 10, 0, 0])])];
    assert_eq!(tokens(&[&records[..], &told].concat()), ([507, 62, 2200, 11_000], LOWER_BOUND));
    // A gateway's own names say nothing: the sums decide.
    let told = [since(&[("theirs", [504, 60, 1000, 5000])])];
    assert_eq!(tokens(&[&records[..], &told].concat()), ([504, 60, 2200, 11_000], LOWER_BOUND));
}

#[test]
fn what_is_billed_beside_a_subagents_message_does_not_take_its_place() {
    let mut with_advisor = agent("a1", "t1", A1);
    with_advisor["message"]["usage"]["iterations"] =
        json!([{ "type": "advisor_message", "model": HAIKU, "input_tokens": 100, "output_tokens": 20 }]);
    let mut records = vec![main_loop("m1", M1), with_advisor, since(&[(OPUS, [4, 50, 1000, 5000])])];
    assert_eq!(tokens(&records), ([107, 72, 2200, 11_000], LOWER_BOUND));
    records.push(since(&[(OPUS, [3, 60, 1200, 6000]), (HAIKU, [100, 25, 0, 0])]));
    assert_eq!(tokens(&records), ([107, 135, 2200, 11_000], EXACT));
    // Nor does it give its model to the subagent's last call.
    let result = json!({ "type": "user", "session_id": "s",
        "message": { "content": [{ "type": "tool_result", "tool_use_id": "t1" }] },
        "tool_use_result": { "agentId": "x", "usage": usage([9, 9, 9, 9]) } });
    let run = count(&[records[1].clone(), result]);
    assert_eq!(run.meter.by_model().get(&OPUS.to_owned()).tokens.input, 12);
}

#[test]
fn what_is_billed_beside_a_message_without_an_id_counts_once() {
    let event = |event: Value| json!({ "type": "stream_event", "session_id": "s", "event": event });
    let start = event(json!({ "type": "message_start", "message": { "model": OPUS, "usage": usage(M1) } }));
    let mut all = usage(M1);
    all["iterations"] = json!([{ "type": "compaction", "input_tokens": 70, "output_tokens": 7 }]);
    let delta = event(json!({ "type": "message_delta", "usage": all }));
    assert_eq!(tokens(&[start, delta.clone(), delta]), ([74, 9, 1000, 5000], LOWER_BOUND));
}

#[test]
fn whether_the_figures_have_aborted_messages_depends_on_the_version() {
    let b = [2, 3, 500, 500];
    let records = |by: &str| {
        let told = if by >= "2.1.326" { [6, 93, 1500, 5500] } else { [4, 90, 1000, 5000] };
        [version(by), main_loop("m1", M1), aborted(main_loop("b", b)), agent("a1", "t1", A1), since(&[(OPUS, told)])]
    };
    let then = [main_loop("m2", M2), since(&[(OPUS, [9, 150, 1300, 13_000])])];
    for by in ["2.1.324", "2.1.326"] {
        assert_eq!(tokens(&records(by)), ([9, 95, 2700, 11_500], LOWER_BOUND), "{by}");
        assert_eq!(tokens(&[&records(by)[..], &then].concat()), ([15, 243, 2800, 18_500], EXACT), "{by}");
    }
    // Hidden calls do not cover it where the version says that the figures cannot have it.
    let hidden = since(&[(OPUS, [50, 90, 3000, 9000])]);
    let short = [version("2.1.320"), main_loop("m1", M1), aborted(main_loop("b", b)), hidden];
    assert_eq!(tokens(&short), ([52, 93, 3500, 9500], EXACT));
}

#[test]
fn an_aborted_message_alone_is_a_lower_bound() {
    assert_eq!(tokens(&[aborted(main_loop("m1", M1))]), (M1, LOWER_BOUND));
    assert_eq!(tokens(&[aborted(agent("a1", "t1", A1))]), (A1, LOWER_BOUND));
}

#[test]
fn a_reset_before_figures_since_the_last_result_changes_nothing() {
    let told = since(&[(OPUS, [10, 150, 1100, 12_000])]);
    assert_eq!(tokens(&[main_loop("m1", M1), reset(), main_loop("m2", M2), told]), ([10, 150, 1100, 12_000], EXACT));
}

#[test]
fn figures_after_a_reset_that_contain_what_was_settled_replace_it() {
    let before = [main_loop("m1", M1), process(&[(OPUS, [4, 50, 1000, 5000])]), reset(), main_loop("m2", M2)];
    let all = [process(&[(OPUS, [10, 150, 1100, 12_000])])];
    assert_eq!(tokens(&[&before[..], &all].concat()), ([10, 150, 1100, 12_000], EXACT));
    let new = [process(&[(OPUS, [6, 100, 100, 7000])])];
    assert_eq!(tokens(&[&before[..], &new].concat()), ([10, 150, 1100, 12_000], EXACT));
    // What the conversation had not been told of when it was reset stays as it was counted.
    let untold = [main_loop("m1", M1), reset(), main_loop("m2", M2), new[0].clone()];
    assert_eq!(tokens(&untold), ([10, 102, 1100, 12_000], EXACT));
}

#[test]
fn a_turn_by_usage_alone_is_not_compared_with_the_next_one() {
    let first = [main_loop("m1", [4, 2, 0, 0]), turn([4, 300, 0, 0]), main_loop("m2", [4, 2, 0, 0])];
    let then = [since(&[(OPUS, [4, 100, 0, 0])])];
    assert_eq!(tokens(&[&first[..], &then].concat()), ([8, 400, 0, 0], EXACT));
    // `modelUsage` has both turns.
    let then = [process(&[(OPUS, [8, 410, 0, 0])])];
    assert_eq!(tokens(&[&first[..], &then].concat()), ([8, 410, 0, 0], EXACT));
}

#[test]
fn a_prompt_that_is_corrected_after_its_start_is_one_call() {
    let event = |event: Value| json!({ "type": "stream_event", "session_id": "s", "event": event });
    let start = event(
        json!({ "type": "message_start", "message": { "id": "m", "model": OPUS, "usage": usage([5, 1, 0, 0]) } }),
    );
    let delta = event(json!({ "type": "message_delta", "usage": usage([900, 50, 0, 0]) }));
    let served = main_loop("m", [900, 1, 0, 0]);
    let records = [start, served, delta];
    assert_eq!(tokens(&records), ([900, 50, 0, 0], LOWER_BOUND));
    // Where the id comes back with a start and a larger prompt, a proxy has used it again.
    let mut again = records[0].clone();
    again["event"]["message"]["usage"] = usage([2000, 1, 0, 0]);
    assert_eq!(tokens(&[&records[..], &[again]].concat()), ([2900, 51, 0, 0], LOWER_BOUND));
}

#[test]
fn a_session_has_its_id_by_either_key() {
    let mut both = main_loop("m1", M1);
    both["sessionId"] = Value::Null;
    assert_eq!(tokens(&[both, main_loop("m1", M1), process(&[(OPUS, M1)])]), (M1, EXACT));
}

#[test]
fn the_served_models_price_counts_at_once() {
    let served = |model: &str| {
        let mut message = main_loop("m1", M1);
        message["message"]["model"] = model.into();
        message
    };
    let start = json!({ "type": "stream_event", "session_id": "s", "event": { "type": "message_start",
        "message": { "id": "m1", "model": HAIKU, "usage": usage(M1) } } });
    // `count` compares the total with the sum by model after each record.
    let dear = count(&[start.clone(), served(OPUS)]).meter.total().micro_usd;
    assert_eq!(dear, count(&[served(OPUS)]).meter.total().micro_usd);
    // A price takes the place of an estimate, downwards too.
    let mut unknown = start;
    unknown["event"]["message"]["model"] = "nobody-knows".into();
    let records = [unknown, served(HAIKU)];
    assert_eq!(count(&records).meter.total(), count(&[served(HAIKU)]).meter.total());
    // What was settled before stays as it was told.
    let settled = [main_loop("m1", [4, 2, 0, 0]), process(&[(OPUS, [4, 2, 0, 0])])];
    let told = count(&settled).meter.total().micro_usd;
    let mut later = served(HAIKU);
    later["message"]["usage"] = usage([4, 3, 0, 0]);
    let after = count(&[&settled[..], &[later]].concat()).meter.total().micro_usd;
    assert!(after - told < 20, "one token of output costs {} micro-dollars", after - told);
}

#[test]
fn an_estimate_in_flight_is_replaced_when_it_is_told() {
    let mut unknown = agent("a1", "t1", [0, 0, 0, 1_000_000]);
    unknown["message"]["model"] = "nobody-knows".into();
    let told = |cost: f64, four: Four| {
        let mut result = since(&[("nobody-knows", four)]);
        result["model_usage_since_last_result"]["nobody-knows"]["costUSD"] = cost.into();
        result
    };
    let nothing = since(&[("nobody-knows", [0; 4])]);
    let records = [unknown, nothing, told(0.001, [0, 0, 0, 1_000_000])];
    assert_eq!(count(&records).meter.total().micro_usd, 1000);
}

/// What a client does, call by call.
#[derive(Clone, Debug)]
enum Step {
    /// A call of the main loop.
    Main(Four),
    /// A call of the main loop that is interrupted.
    Interrupted(Four),
    /// A subagent makes its next call; the one before it has ended.
    Agent(usize, Four),
    /// The last call of a subagent ends.
    AgentEnds(usize),
    /// A call that the stream does not show, by the helper model or by the main one.
    Hidden(&'static str, Four),
    Result,
}

/// A client that tells at each `result` what has ended since the last one.
struct Client {
    records: Vec<Value>,
    /// The `result` has all that its process spent, and not what was spent since the last one.
    is_cumulative: bool,
    tells_aborted: bool,
    in_flight: [Option<Four>; 3],
    untold: [Four; 2],
    /// What was served in all, as far as anyone can know it.
    served: Four,
}

fn plus(sum: &mut Four, more: Four) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

impl Client {
    fn ends(&mut self, model: &str, tokens: Four) {
        plus(&mut self.untold[usize::from(model == HAIKU)], tokens);
        plus(&mut self.served, tokens);
    }

    /// A call's record has a placeholder for its output.
    fn shown([input, _, write, read]: Four) -> Four {
        [input, 1, write, read]
    }

    fn agent_ends(&mut self, at: usize) {
        if let Some(tokens) = self.in_flight[at].take() {
            self.ends(OPUS, tokens);
        }
    }

    fn take(&mut self, step: &Step) {
        let id = format!("m{}", self.records.len());
        match *step {
            Step::Main(tokens) => {
                self.records.push(main_loop(&id, Self::shown(tokens)));
                self.ends(OPUS, tokens);
            }
            Step::Interrupted(tokens) => {
                self.records.push(aborted(main_loop(&id, Self::shown(tokens))));
                match self.tells_aborted {
                    true => self.ends(OPUS, tokens),
                    false => plus(&mut self.served, Self::shown(tokens)),
                }
            }
            Step::Agent(at, tokens) => {
                self.agent_ends(at);
                self.records.push(agent(&id, &format!("t{at}"), Self::shown(tokens)));
                self.in_flight[at] = Some(tokens);
            }
            Step::AgentEnds(at) => self.agent_ends(at),
            Step::Hidden(model, tokens) => self.ends(model, tokens),
            Step::Result => {
                let told = [(OPUS, self.untold[0]), (HAIKU, self.untold[1])];
                self.records.push(if self.is_cumulative { process(&told) } else { since(&told) });
                if !self.is_cumulative {
                    self.untold = [[0; 4]; 2];
                }
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let tokens = || (1..9_u64, 1..90_u64, 0..900_u64, 0..9000_u64).prop_map(|(a, b, c, d)| [a, b, c, d]);
    prop_oneof![
        3 => tokens().prop_map(Step::Main),
        1 => tokens().prop_map(Step::Interrupted),
        4 => (0..3_usize, tokens()).prop_map(|(at, tokens)| Step::Agent(at, tokens)),
        2 => (0..3_usize).prop_map(Step::AgentEnds),
        1 => tokens().prop_map(|tokens| Step::Hidden(HAIKU, tokens)),
        1 => tokens().prop_map(|tokens| Step::Hidden(OPUS, tokens)),
        2 => Just(Step::Result),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_session_whose_last_result_tells_all_is_exact(steps in vec(step(), 1..40), kind in 0..3_usize) {
        let (by, is_cumulative, tells_aborted) =
            [("2.1.300", true, false), ("2.1.320", false, false), ("2.1.331", false, true)][kind];
        let records = vec![version(by)];
        let mut client =
            Client { records, is_cumulative, tells_aborted, in_flight: [None; 3], untold: [[0; 4]; 2], served: [0; 4] };
        steps.iter().for_each(|step| client.take(step));
        // More is never counted than was served, were all that is in flight to end now.
        let mut most = client.served;
        client.in_flight.into_iter().flatten().for_each(|tokens| plus(&mut most, tokens));
        let (counted, _) = tokens(&client.records);
        prop_assert!(counted.iter().zip(most).all(|(counted, most)| *counted <= most), "{counted:?} of {most:?}");
        (0..3).for_each(|at| client.agent_ends(at));
        client.take(&Step::Result);
        prop_assert_eq!(tokens(&client.records), (client.served, EXACT));
    }
}
