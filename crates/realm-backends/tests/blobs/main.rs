//! Every implementation of `Blobs` keeps to one suite (`conformance`), and each to what it alone promises.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod announced;
mod conformance;
mod directory;
mod heard;
mod naming;
mod s3;
mod sources;
#[path = "../../../../tests/peers/swift.rs"]
mod swift;
