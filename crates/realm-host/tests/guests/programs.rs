//! Programs that run by themselves: streams, arguments, exit codes, limits.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use realm_host::{Input, Output, Run, RunError};
use realm_model::api::LogStream;
use realm_test_guests as guests;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, duplex};

use crate::harness::{Started, guest};

/// Runs a program on some input; its exit code and what it wrote.
pub(crate) async fn ran(
    started: &Started,
    args: &[&str],
    input: &'static [u8],
) -> (Result<u8, RunError>, Vec<u8>) {
    let (to, mut from) = duplex(1_024);
    let run = Run {
        args: args.iter().map(|text| (*text).to_owned()).collect(),
        stdin: Some(Input::new(input, false)),
        stdout: Some(Output::new(to, false)),
        ..Run::default()
    };
    let mut written = Vec::new();
    let (code, read) = tokio::join!(started.program.run(run), from.read_to_end(&mut written));
    read.unwrap();
    (code, written)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn command() {
    let command = guest(guests::COMMAND)
        .grants(|grants| {
            grants.args.push("granted".into());
            grants.env.insert("A".into(), "1".into());
            grants.env.insert("B".into(), "2".into());
        })
        .program()
        .unwrap();
    let run = Run {
        args: vec!["given".into()],
        env: [("B", "3"), ("C", "4")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..Run::default()
    };
    assert_eq!(command.program.run(run).await, Ok(0));
    // Without streams of the caller's, both outputs are the component's log.
    let out = command.log.lines(LogStream::Stdout);
    assert_eq!(out, ["guest", "granted", "given"]);
    assert_eq!(command.log.lines(LogStream::Stderr), ["3 variables"]);
    let (code, written) = ran(&command, &["fail"], b"").await;
    assert_eq!((code, &*written), (Ok(1), &b"guest\ngranted\nfail\n"[..]));
    let outcomes = command.meter.snapshot().outcomes;
    assert!(outcomes.contains(&("ok", 1)) && outcomes.contains(&("exit", 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn program() {
    // Twenty thousand lines take their time on a busy machine.
    let program = guest(guests::PROGRAM)
        .limits(|limits| limits.epoch_timeout_ms = 20_000)
        .program()
        .unwrap();
    for code in [0, 1, 33, 255] {
        let (ended, _) = ran(&program, &["exit", &code.to_string()], b"").await;
        assert_eq!(ended, Ok(code));
    }
    let (code, written) = ran(&program, &["echo"], b"in and out").await;
    assert_eq!((code, &*written), (Ok(0), &b"in and out"[..]));
    let (code, written) = ran(&program, &["out", "20000"], b"").await;
    assert_eq!(code, Ok(0));
    assert!(written.ends_with(b"line 19999\n"), "{}", written.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn p3_command() {
    let copy = guest(guests::P3_COMMAND).program().unwrap();
    let large: &'static [u8] = vec![7; 1_000_000].leak();
    assert_eq!(ran(&copy, &[], large).await, (Ok(0), large.to_vec()));
    assert_eq!(ran(&copy, &["fail"], b"x").await, (Ok(1), b"x".to_vec()));
    assert_eq!(ran(&copy, &["code"], b"").await, (Ok(7), Vec::new()));
    // As the answer to a request it copies the body, head and all.
    let copy = guest(guests::P3_COMMAND).load();
    let answer = copy
        .send(crate::harness::post("/", "Content-Type: a/b\n\nhello"))
        .await
        .unwrap();
    assert_eq!((answer.text(), &answer.broken), ("hello", &None));
    assert_eq!(answer.headers["content-type"], "a/b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_and_output_stream() {
    for path in [guests::PROGRAM, guests::P3_COMMAND] {
        let echo = guest(path).program().unwrap();
        let (mut to, input) = duplex(64);
        let (output, mut from) = duplex(64);
        let run = Run {
            args: vec!["echo".into()],
            stdin: Some(Input::new(input, false)),
            stdout: Some(Output::new(output, false)),
            ..Run::default()
        };
        let running = tokio::spawn(async move { echo.program.run(run).await });
        for piece in [&b"one"[..], b"two"] {
            to.write_all(piece).await.unwrap();
            let mut read = vec![0; piece.len()];
            from.read_exact(&mut read).await.unwrap();
            assert_eq!(read, piece);
        }
        drop(to);
        assert_eq!(running.await.unwrap(), Ok(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_gone_breaks_the_pipe() {
    let program = guest(guests::PROGRAM).program().unwrap();
    let (to, from) = duplex(64);
    drop(from);
    let run = Run {
        args: vec!["out".into(), "1000000".into()],
        stdout: Some(Output::new(to, false)),
        ..Run::default()
    };
    // Rust's `println!` takes that for a failure.
    assert_eq!(program.program.run(run).await.unwrap_err().code, "trap");
    let said = program.log.lines(LogStream::Stderr).concat();
    assert!(said.contains("failed printing to stdout"), "{said}");
}

/// Writes to one place, whoever writes.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl AsyncWrite for Screen {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_outputs_keep_their_order_on_one_screen() {
    let program = guest(guests::PROGRAM).program().unwrap();
    let screen = Screen::default();
    let run = Run {
        args: vec!["mixed".into()],
        stdout: Some(Output::new(screen.clone(), true)),
        stderr: Some(Output::new(screen.clone(), true)),
        ..Run::default()
    };
    assert_eq!(program.program.run(run).await, Ok(0));
    let seen = String::from_utf8(screen.0.lock().unwrap().clone()).unwrap();
    assert_eq!(seen, "out 0\nerr 0\nout 1\nerr 1\nout 2\nerr 2\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_for_programs() {
    for (what, epoch_ms, code) in [
        ("spin", 100, "epoch-timeout"),
        ("spin", u64::MAX, "wall-timeout"),
        ("park", 100, "wall-timeout"),
        ("bomb", 20_000, "memory-limit"),
        ("trap", 20_000, "trap"),
    ] {
        let program = guest(guests::PROGRAM)
            .limits(|limits| {
                limits.epoch_timeout_ms = epoch_ms;
                limits.memory_max_mb = 16;
                if code == "wall-timeout" {
                    limits.wall_timeout_ms = 200;
                }
            })
            .program()
            .unwrap();
        let (ended, _) = ran(&program, &[what], b"").await;
        assert_eq!(ended.unwrap_err().code, code, "{what}");
        crate::harness::eventually(|| {
            let meter = program.meter.snapshot();
            meter.outcomes.contains(&(code, 1)) && meter.mem_current_bytes == 0
        })
        .await;
        assert!(program.log.agent().starts_with(code));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_may_run_for_as_long_as_it_likes() {
    let program = guest(guests::PROGRAM)
        .limits(|limits| {
            limits.epoch_timeout_ms = u64::MAX;
            limits.wall_timeout_ms = u64::MAX;
        })
        .program()
        .unwrap();
    assert_eq!(ran(&program, &["exit", "3"], b"").await.0, Ok(3));
    let run = Run {
        args: vec!["spin".into()],
        ..Run::default()
    };
    let running = tokio::time::timeout(Duration::from_millis(200), program.program.run(run));
    assert!(running.await.is_err());
    crate::harness::eventually(|| {
        let meter = program.meter.snapshot();
        meter.outcomes.contains(&("cancelled", 1)) && meter.mem_current_bytes == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_does_not_outlast_the_wall_time() {
    let program = guest(guests::PROGRAM)
        .limits(|limits| limits.wall_timeout_ms = 200)
        .program()
        .unwrap();
    let (to, _never_read) = duplex(64);
    let run = Run {
        args: vec!["out".into(), "1000000".into()],
        stdout: Some(Output::new(to, false)),
        ..Run::default()
    };
    let began = Instant::now();
    let error = program.program.run(run).await.unwrap_err();
    assert_eq!(error.code, "wall-timeout");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_answers_requests_only_is_no_program() {
    for path in [guests::HELLO, guests::P3_HELLO, guests::LIBRARY] {
        let error = guest(path).program().map(drop).unwrap_err();
        assert_eq!(error.code(), "wrong-world");
        assert!(error.to_string().contains("wasi:cli/run"), "{error}");
    }
}
