//! Requests in the runtime of the node: connections are kept there, and outlive the runtimes of guests,
//! which come and go and compute. What comes back waits for its reader: a few pieces, and the rest in the
//! server.

use std::pin::Pin;

use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Pieces that wait for their reader.
const PIECES: usize = 4;

/// Has every request made in one runtime.
#[derive(Debug)]
pub(super) struct Here(pub(super) Handle);

impl HttpConnector for Here {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service {
            client: ReqwestConnector::default().connect(options)?,
            runtime: self.0.clone(),
        }))
    }
}

#[derive(Debug)]
struct Service {
    client: HttpClient,
    runtime: Handle,
}

impl Service {
    async fn ask(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let client = self.client.clone();
        let (answer, answered) = oneshot::channel();
        // Ends with the future of the request, and then with the body.
        let mut task = JoinSet::new();
        task.spawn_on(
            async move {
                let response = match client.execute(request).await {
                    Ok(response) => response,
                    Err(error) => {
                        let _ = answer.send(Err(error));
                        return;
                    }
                };
                let (head, mut body) = response.into_parts();
                let (pieces, came) = mpsc::channel(PIECES);
                if answer.send(Ok((head, came))).is_err() {
                    return;
                }
                while let Some(piece) = body.frame().await {
                    if pieces.send(piece).await.is_err() {
                        return;
                    }
                }
            },
            &self.runtime,
        );
        let stopped = |_| HttpError::new(HttpErrorKind::Interrupted, Stopped);
        let (head, mut came) = answered.await.map_err(stopped)??;
        let body = StreamBody::new(stream::poll_fn(move |context| {
            let _held = &task;
            came.poll_recv(context)
        }));
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
    }
}

impl HttpService for Service {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.ask(request))
    }
}

/// The node ends.
#[derive(Debug, thiserror::Error)]
#[error("the runtime of the node has stopped")]
struct Stopped;
