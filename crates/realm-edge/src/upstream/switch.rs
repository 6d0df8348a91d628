//! A WebSocket to a server: its handshake is a request like any other, on a connection of its own, and
//! what is no 101 is an answer like any other.

use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::body::{ReplyBody, RequestBody};
use super::{Failure, PATIENCE, Upstream, failed};
use crate::backend::Body;
use crate::request_body;
use crate::upstream::Io;
use crate::websocket::{Handshake, Server, Switched, Terms};

impl Upstream {
    /// Asks the server for a WebSocket; its answer comes until `deadline`, whatever it is.
    pub(super) async fn switch(
        &self,
        mut head: Request<()>,
        handshake: &Handshake,
        deadline: Instant,
    ) -> Result<Response<Body>, Failure> {
        let inner = &self.0;
        let place = self.admit().await.ok_or(Failure::NoRoom)?;
        handshake.write(head.headers_mut());
        let request = head.map(|()| RequestBody::new(request_body::empty(), 0));
        let asked = async {
            let opened = inner.pool.open().await;
            let mut lease = opened.map_err(|_| Failure::NotReached)?;
            let answered = lease.sender.try_send_request(request);
            let response = inner.pool.patiently(PATIENCE, answered).await;
            let response = response.map_err(|mut error| match error.take_message() {
                Some(_) => Failure::NotReached,
                None => failed(error.error()),
            })?;
            Ok((response, lease))
        };
        let asked = timeout_at(deadline, asked).await;
        let (mut response, lease) = asked.unwrap_or(Err(Failure::TooLate))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (parts, body) = response.into_parts();
            let body = ReplyBody::new(body, lease, Some(deadline), place);
            return Ok(Response::from_parts(parts, Body::new(body)));
        }
        if !handshake.is_answered_by(response.headers()) {
            return Err(Failure::NotAsked);
        }
        let upgraded = timeout_at(deadline, hyper::upgrade::on(&mut response)).await;
        let upgraded = upgraded.map_err(|_| Failure::TooLate)?;
        let io: Box<dyn Io> = Box::new(TokioIo::new(upgraded.map_err(|_| Failure::Broken)?));
        let terms = Terms {
            leaves: inner.leaves.clone(),
            idle_max: Some(inner.limits.websocket_idle),
            place: Box::new(place),
        };
        let head = response.into_parts().0;
        Ok(Switched::new(Server { io, terms }).answer(head))
    }
}
