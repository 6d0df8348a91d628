//! Built with `wasmcloud-component`: its macros for `wasi:logging@0.1.0-draft`, one line for each level.

use wasmcloud_component::{critical, debug, error, http, info, trace, warn};

struct Component;

http::export!(Component);

impl http::Server for Component {
    fn handle(
        _request: http::IncomingRequest,
    ) -> http::Result<http::Response<impl http::OutgoingBody>> {
        trace!("at {}", 1);
        debug!("at {}", 2);
        info!(context: "db", "at {}", 3);
        warn!("at {}", 4);
        error!("at {}", 5);
        critical!("at {}", 6);
        Ok(http::Response::new("logged"))
    }
}
