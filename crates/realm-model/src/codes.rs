//! The codes of problems in `realm.toml` and `node.toml`: a closed list of stable spellings.
//!
//! Scripts, editors and tests depend on the spelling; docs/manifest.md prints [`ALL`]. Not the
//! codes of refused entries: those are [`crate::refusal`].

macro_rules! codes {
    ($($name:ident = $spelling:literal, $severity:literal, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $name: &str = $spelling;)*

        /// Every code: spelling, `error` or `warning`, meaning.
        pub const ALL: &[(&str, &str, &str)] = &[$(($spelling, $severity, $meaning)),*];
    };
}

codes! {
    SYNTAX = "syntax", "error", "the text is not TOML";
    DUPLICATE_KEY = "duplicate-key", "error", "a key or a table is written twice";
    TOO_LARGE = "too-large", "error", "the text, a list or a value is larger than its cap";
    TOO_MANY_PROBLEMS = "too-many-problems", "error", "there are more problems than are shown";
    UNKNOWN_KEY = "unknown-key", "error", "no such key here";
    MISSING_KEY = "missing-key", "error", "a key that must be there is absent";
    WRONG_TYPE = "wrong-type", "error", "a value of another type was expected";
    OUT_OF_RANGE = "out-of-range", "error", "a number is outside the allowed range";
    BAD_NAME = "bad-name", "error", "a name of a component, node, tag or secret has a character it may not have, or is too long";
    BAD_VALUE = "bad-value", "error", "a text is not of the form that was expected";
    BAD_KEY = "bad-key", "error", "not an Ed25519 public key";
    BAD_SOURCE = "bad-source", "error", "not a source";
    BAD_UPSTREAM = "bad-upstream", "error", "not an upstream, or not what belongs to one";
    UPSTREAM_MISMATCH = "upstream-mismatch", "error", "a key that has no place beside `upstream`, or none without it";
    BAD_BINDING = "bad-binding", "error", "not a binding, or not what the interface needs";
    UNKNOWN_BINDING = "unknown-binding", "error", "a component names a binding that is not under `[bindings]`, or an identifier that it does not bind";
    PIN_REQUIRED = "pin-required", "error", "a source over http or https carries no digest";
    UNKNOWN_WORLD = "unknown-world", "error", "a world that realm does not run";
    SERVE_MISMATCH = "serve-mismatch", "error", "how it runs does not fit its world, a route, or another key";
    BAD_OUTBOUND = "bad-outbound", "error", "not a rule of `allowed_outbound`";
    BAD_DIR = "bad-dir", "error", "not a directory grant";
    BAD_PATH = "bad-path", "error", "not a path of a route";
    BAD_HOST = "bad-host", "error", "not a host of a route";
    BAD_ADDRESS = "bad-address", "error", "not an address of a node";
    BAD_SCHEDULE = "bad-schedule", "error", "not a cron form that ever falls due, or not a time zone";
    BAD_SECRET = "bad-secret", "error", "a secret that is not a ciphertext";
    DUPLICATE_VALUE = "duplicate-value", "error", "a list names one thing twice";
    DUPLICATE_ROUTE = "duplicate-route", "error", "one host and path is routed twice on the same nodes";
    DUPLICATE_PORT = "duplicate-port", "error", "two servers insist on one port of the same nodes";
    REPLICAS_DISAGREE = "replicas-disagree", "error", "two routes of one component on the same nodes differ in what they say of its replicas";
    SINGLETON_REPLICAS = "singleton-replicas", "error", "a route wants more than one replica of a singleton, or one on each node";
    WEIGHTS_DISAGREE = "weights-disagree", "error", "two routes divide the requests of one app differently";
    SUBSCRIPTIONS_DISAGREE = "subscriptions-disagree", "error", "two subscriptions of one group take different messages";
    UNKNOWN_COMPONENT = "unknown-component", "error", "a route names a component that is not under `[components]`";
    UNKNOWN_SECRET = "unknown-secret", "error", "a component names a secret that is not under `[secrets]`";
    UNLISTED_NODE = "unlisted-node", "warning", "routes for a node that is not under `[nodes]`";
    UNLISTED_TAG = "unlisted-tag", "warning", "routes for a tag that no node under `[nodes]` has";
    ADDRESS_SPELLING = "address-spelling", "warning", "an address is understood, but has another proper spelling";
    NO_EFFECT = "no-effect", "warning", "a key has no effect beside the others";
    SHARED_DATABASE = "shared-database", "warning", "two bindings are one database of a server, as one user";
}
