//! A run of `wasi:cli/run`: to its exit code, or as the answer to a request (CGI: the request is
//! environment and standard input, the answer is standard output).
//!
//! Like everything in `guest`, it runs inside the guest's task. Not here: what the variables are,
//! and what a head is (`cgi`).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures_util::Stream;
use http::{Request, Response, header};
use http_body::{Body as _, Frame};
use wasmtime::component::{Accessor, InstancePre};
use wasmtime::{Result, Store};
use wasmtime_wasi::{I32Exit, p2, p3};
use wasmtime_wasi_http::{Error, WasiBody};

use crate::cgi::{self, Head, HeadParser};
use crate::guest;
use crate::invocation::Shared;
use crate::outcome::Outcome;
use crate::replica::Invocation;
use crate::request::RequestBody;
use crate::state::State;
use crate::stdio::{Filter, Filtered, PipeReader, Process, Stdin, filtered};

/// The exported command.
pub(crate) enum Command {
    /// `wasi:cli/run@0.2.x`.
    V02(p2::bindings::CommandPre<State>),
    /// `wasi:cli/run@0.3.x`.
    V03(p3::bindings::CommandPre<State>),
}

impl Command {
    pub(crate) fn new(line: &str, instance: &InstancePre<State>) -> Result<Self> {
        match line {
            "0.2" => p2::bindings::CommandPre::new(instance.clone()).map(Self::V02),
            _ => p3::bindings::CommandPre::new(instance.clone()).map(Self::V03),
        }
    }

    /// Runs it to its end, and to that of the tasks that it started; the exit code.
    pub(crate) async fn run(
        &self,
        invocation: &Invocation,
        store: &mut Store<State>,
    ) -> Result<u8> {
        let ended = self.call(invocation, store).await;
        match ended {
            Ok(Ok(())) => Ok(0),
            Ok(Err(())) => Ok(1),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                // As everywhere else, the lowest eight bits of a code are what others see.
                Some(I32Exit(code)) => Ok(code.to_le_bytes()[0]),
                None => Err(error),
            },
        }
    }

    async fn call(
        &self,
        invocation: &Invocation,
        store: &mut Store<State>,
    ) -> Result<std::result::Result<(), ()>> {
        let began = Instant::now();
        match self {
            Self::V02(command) => {
                let command = command.instantiate_async(&mut *store).await?;
                guest::started(invocation, began);
                command.wasi_cli_run().call_run(&mut *store).await
            }
            Self::V03(command) => {
                let command = command.instantiate_async(&mut *store).await?;
                guest::started(invocation, began);
                let call = async move |accessor: &Accessor<State>| {
                    let ended = command.wasi_cli_run().call_run(accessor).await?;
                    poll_fn(|context| accessor.poll_no_interesting_tasks(context)).await;
                    Ok(ended)
                };
                store.run_concurrent(call).await?
            }
        }
    }
}

/// Answers one request with one run.
pub(crate) async fn answer(
    invocation: &Invocation,
    command: &Command,
    request: Request<RequestBody>,
) {
    let shared = &invocation.shared;
    let (head, body) = request.into_parts();
    // No `Authorization`: RFC 3875 §4.1.18 wants a server to keep it, unless told otherwise.
    let Some(env) = cgi::environment(&head, body.size_hint().exact(), false) else {
        invocation.replica.say(format_args!(
            "{}: the path cannot be decoded",
            Outcome::BadRequest.code()
        ));
        return shared.conclude(Outcome::BadRequest);
    };
    let began = Arc::new(AtomicBool::new(false));
    let process = Process {
        name: None,
        env: env.into_iter().collect(),
        args: Vec::new(),
        listen: None,
        stdin: Some(Stdin::new(Box::pin(Pieces(body)), false)),
        stdout: Some(filtered(head_reader(invocation, Arc::clone(&began)))),
        stderr: None,
    };
    let mut store = match guest::store(invocation, Some(process)) {
        Ok(store) => store,
        Err(error) => return guest::conclude(invocation, Err(error)),
    };
    let result = match command.run(invocation, &mut store).await {
        Ok(0) => Ok(()),
        Ok(code) => Err(I32Exit(code.into()).into()),
        Err(error) => Err(error),
    };
    if result.is_ok() && !shared.answered() && began.load(Relaxed) {
        invocation
            .replica
            .say("standard output ended before the empty line that ends a head");
    }
    // Before the store goes: its end is that of the body, and a reader must know which end it is.
    guest::conclude(invocation, result);
    drop(store);
}

/// Reads the head off standard output, and answers with it and what follows.
fn head_reader(invocation: &Invocation, began: Arc<AtomicBool>) -> Filter {
    let shared = Arc::clone(&invocation.shared);
    let replica = Arc::clone(&invocation.replica);
    let mut parser = HeadParser::default();
    Box::new(move |bytes| {
        let fed = parser.feed(bytes);
        began.store(!parser.is_untouched(), Relaxed);
        match fed {
            Ok(None) => Filtered::Taken,
            Ok(Some((head, taken))) => {
                let shared = Arc::clone(&shared);
                Filtered::Passed(taken, Box::new(move |body| pass(&shared, head, body)))
            }
            Err(error) => {
                let code = Outcome::BadResponse.code();
                replica.say(format_args!("{code}: {error}"));
                shared.conclude(Outcome::BadResponse);
                Filtered::Broken
            }
        }
    })
}

fn pass(shared: &Shared, head: Head, reader: PipeReader) {
    let length = head.headers.get(header::CONTENT_LENGTH);
    let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let mut response = Response::new(WasiBody::new(Written { reader, left }));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    shared.answer(response);
}

/// A request's body as pieces; its trailers have no place in CGI.
struct Pieces(RequestBody);

impl Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match ready!(Pin::new(&mut self.0).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
                Some(Err(_)) => {
                    let broken = io::ErrorKind::ConnectionReset.into();
                    return Poll::Ready(Some(Err(broken)));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

/// What a program writes after its head, to the length that it announced.
struct Written {
    reader: PipeReader,
    left: Option<u64>,
}

impl http_body::Body for Written {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Error>>> {
        if self.left == Some(0) {
            return Poll::Ready(None);
        }
        let Some(mut bytes) = ready!(self.reader.poll_take(context)) else {
            return Poll::Ready(None);
        };
        if let Some(left) = &mut self.left {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= bytes.len() as u64;
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if self.left == Some(0) {
            // The client has it all: a program that writes more may do so.
            self.reader.ignore();
        }
    }
}
