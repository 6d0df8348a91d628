//! Backends made of closures, and the bodies they answer with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use realm_edge::{Backend, Body, BoxError, BoxFuture, CallError};
use tokio::sync::mpsc;

/// A backend made of a closure; its load is the number of calls in flight.
pub(crate) fn backend<F, Fut>(answer: F) -> Arc<dyn Backend>
where
    F: Fn(Request<Body>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Body>, CallError>> + Send + 'static,
{
    Arc::new(Fake {
        answer: move |request| Box::pin(answer(request)) as BoxFuture<'static, _>,
        load: Arc::new(AtomicU32::new(0)),
    })
}

/// A backend that says its name.
pub(crate) fn named(name: &'static str) -> Arc<dyn Backend> {
    backend(move |_| async move { Ok(Response::new(text(name))) })
}

/// A backend that tells what it got: method, URI, and the headers in order of their names.
pub(crate) fn mirror() -> Arc<dyn Backend> {
    backend(|request| async move {
        let mut lines = vec![format!("{} {}", request.method(), request.uri())];
        let mut fields: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        fields.sort();
        lines.extend(fields);
        Ok(Response::new(text(lines.join("\n"))))
    })
}

struct Fake<F> {
    answer: F,
    load: Arc<AtomicU32>,
}

impl<F> Backend for Fake<F>
where
    F: Fn(Request<Body>) -> BoxFuture<'static, Result<Response<Body>, CallError>>
        + Send
        + Sync
        + 'static,
{
    fn call(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, CallError>> {
        self.load.fetch_add(1, Ordering::Relaxed);
        let (answer, load) = ((self.answer)(request), Arc::clone(&self.load));
        Box::pin(async move {
            let answer = answer.await;
            load.fetch_sub(1, Ordering::Relaxed);
            answer
        })
    }

    fn load(&self) -> u32 {
        self.load.load(Ordering::Relaxed)
    }
}

pub(crate) fn empty() -> Body {
    text("")
}

pub(crate) fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body fed by a channel of one frame: sending waits until the reader takes.
pub(crate) fn channel() -> (mpsc::Sender<Result<Frame<Bytes>, BoxError>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (frame, receiver))
    });
    (sender, StreamBody::new(stream).boxed_unsync())
}

pub(crate) fn data(text: impl Into<Bytes>) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(text.into()))
}

pub(crate) fn trailers(name: &'static str, value: &'static str) -> Result<Frame<Bytes>, BoxError> {
    let mut trailers = HeaderMap::new();
    trailers.insert(name, value.parse().expect("a value"));
    Ok(Frame::trailers(trailers))
}
