//! What the front door counts beside requests: WebSockets, and answers that it keeps.

use prometheus::proto::MetricFamily;
use realm_edge::CacheFigures;

use super::{Page, as_float, component, counters, gauges, label};

impl Page<'_> {
    pub(super) fn websockets(&self, families: &mut Vec<MetricFamily>) {
        let all = || {
            let components = self.traffic.iter();
            components.filter_map(|(name, figures)| Some((component(name), figures.websockets?)))
        };
        families.push(gauges(
            "realm_websockets_open",
            "WebSockets of clients that are open.",
            all().map(|(labels, figures)| as_float((labels, figures.open))),
        ));
        families.push(counters(
            "realm_websockets_total",
            "WebSockets of clients that were opened.",
            all().map(|(labels, figures)| (labels, figures.opened)),
        ));
        families.push(counters(
            "realm_websocket_bytes_total",
            "Bytes that WebSockets carried, `in` from clients and `out` to them.",
            all().flat_map(|(labels, figures)| {
                let both = [("in", figures.bytes_in), ("out", figures.bytes_out)];
                both.map(|(direction, bytes)| {
                    let mut labels = labels.clone();
                    labels.push(label("direction", direction));
                    (labels, bytes)
                })
            }),
        ));
    }

    pub(super) fn cache(&self, families: &mut Vec<MetricFamily>) {
        families.push(counters(
            "realm_cache_requests_total",
            "Requests of components with a cache, by what became of them.",
            self.cache.iter().flat_map(|(name, figures)| {
                let CacheFigures {
                    hits,
                    stale,
                    revalidated,
                    collapsed,
                    misses,
                    passed,
                    stored_bytes: _,
                } = *figures;
                let results = [
                    ("hit", hits),
                    ("stale", stale),
                    ("revalidated", revalidated),
                    ("collapsed", collapsed),
                    ("miss", misses),
                    ("passed", passed),
                ];
                results.map(|(result, count)| {
                    let mut labels = component(name);
                    labels.push(label("result", result));
                    (labels, count)
                })
            }),
        ));
        families.push(gauges(
            "realm_cache_bytes",
            "Bytes of kept answers, those included that clients still read.",
            self.cache
                .iter()
                .map(|(name, figures)| (component(name), figures.stored_bytes as f64)),
        ));
    }
}
