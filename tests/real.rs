//! The real Claude Code against a mock of its API. What budget-tee counts is compared with what the mock served;
//! after a stop no process may be left, and no request may follow.
//!
//!     BUDGET_TEE_TEST_CLAUDE=$(tests/real/install) cargo test --test real
//!
//! Without that variable the tests are skipped. The client gets an empty home, a made-up key and the mock's
//! address; `.ci/run` runs it in a network namespace that has only the loopback.
#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod harness;

/// Two tests of each scenario, which is a function of a [`real::client::Client`]: with and without
/// `--include-partial-messages`.
macro_rules! scenarios {
    ($($scenario:ident),+ $(,)?) => {
        $(mod $scenario {
            use crate::real::client::Client;

            #[test]
            fn whole_messages() {
                let test = concat!(module_path!(), "::whole_messages");
                let Some(client) = Client::find(test, false) else { return };
                super::$scenario(&client);
            }

            #[test]
            fn partial_messages() {
                let test = concat!(module_path!(), "::partial_messages");
                let Some(client) = Client::find(test, true) else { return };
                super::$scenario(&client);
            }
        })+
    };
}

mod real {
    pub mod bill;
    pub mod client;
    mod counting;
    pub mod http;
    mod live;
    pub mod message;
    pub mod mock;
    pub mod run;
    pub mod script;
}
