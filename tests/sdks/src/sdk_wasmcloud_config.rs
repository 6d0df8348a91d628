//! Built with `wasmcloud-component`: `wasi:config@0.2.0-draft`.

use wasmcloud_component::http;
use wasmcloud_component::wasi::config::store;

struct Component;

http::export!(Component);

impl http::Server for Component {
    fn handle(
        _request: http::IncomingRequest,
    ) -> http::Result<http::Response<impl http::OutgoingBody>> {
        let color = store::get("color").expect("configuration");
        assert_eq!(color.as_deref(), Some("red"));
        assert_eq!(store::get("size").expect("configuration"), None);
        let all = store::get_all().expect("configuration");
        assert_eq!(all, [("color".to_owned(), "red".to_owned())]);
        Ok(http::Response::new("ok"))
    }
}
