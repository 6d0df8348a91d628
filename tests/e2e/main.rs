//! The end-to-end tests: the real binary, real processes, real sockets, on this machine only.
//!
//! One binary. A test reads like a session at a terminal: [`support`] has the machinery, and the
//! other modules a topic each. What can be tested below the process boundary is tested there.

mod support;

mod trust;
