//! Counts answers by component and status, for the metrics page. Lock-free on the request's path.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use realm_edge::{Answered, Observer, WebSocket};
use realm_model::name::ComponentName;

/// Statuses 100 to 599: a bounded label. A guest's status outside of it counts as 599.
const STATUS_FIRST: u16 = 100;
const STATUS_COUNT: usize = 500;
/// Statuses that are made together: 1xx, 2xx and so on.
const CLASS: usize = 100;

/// Requests of a component that are refused before it is asked, by its own words on its clients or because
/// others were to have their turn: the code of the answer, and the reason as a label.
const REFUSED: [(&str, &str); 3] = [
    ("denied-by-rule", "rule"),
    ("too-many-requests", "rate"),
    ("no-turn", "turn"),
];

/// Counters of all components; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Traffic {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    components: ArcSwap<BTreeMap<ComponentName, Arc<Counters>>>,
    // Requests that no route took, or that were refused before one was looked for.
    unrouted: Counters,
}

/// Counters of one component. Those of a class of statuses are made with its first answer: thousands
/// of idle components count nothing, and the others meet two classes or three.
#[derive(Default)]
pub(crate) struct Counters {
    by_status: [OnceLock<Box<[AtomicU64; CLASS]>>; STATUS_COUNT / CLASS],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    refused: [AtomicU64; REFUSED.len()],
    websockets: Sockets,
}

/// Counters of WebSockets.
#[derive(Default)]
struct Sockets {
    opened: AtomicU64,
    closed: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// Their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketFigures {
    pub(crate) opened: u64,
    pub(crate) open: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// The values of one set of counters.
pub(crate) struct TrafficFigures {
    /// (status, answers); zeros left out.
    pub(crate) by_status: Vec<(u16, u64)>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// `None` where there was none.
    pub(crate) websockets: Option<SocketFigures>,
    /// (reason, requests); zeros left out.
    pub(crate) refused: Vec<(&'static str, u64)>,
}

impl Traffic {
    /// Makes counters for components that have none.
    pub(crate) fn know<'a>(&self, components: impl Iterator<Item = &'a ComponentName>) {
        let known = self.inner.components.load();
        let missing: Vec<_> = components
            .filter(|name| !known.contains_key(*name))
            .collect();
        if missing.is_empty() {
            return;
        }
        let mut all = BTreeMap::clone(&known);
        all.extend(
            missing
                .into_iter()
                .map(|name| (name.clone(), Arc::default())),
        );
        self.inner.components.store(Arc::new(all));
    }

    /// Drops the counters of other components than `keep` says.
    pub(crate) fn retain(&self, keep: impl Fn(&ComponentName) -> bool) {
        let mut all = BTreeMap::clone(&self.inner.components.load());
        all.retain(|component, _| keep(component));
        self.inner.components.store(Arc::new(all));
    }

    /// The counters of every component, and those of requests without a route.
    pub(crate) fn figures(&self) -> (BTreeMap<ComponentName, TrafficFigures>, TrafficFigures) {
        let components = self.inner.components.load();
        let by_component = components
            .iter()
            .map(|(name, counters)| (name.clone(), counters.figures()))
            .collect();
        (by_component, self.inner.unrouted.figures())
    }
}

impl Observer for Traffic {
    fn answered(&self, record: &Answered<'_>) {
        let components = self.inner.components.load();
        let counters = record
            .component
            .and_then(|name| components.get(name))
            .map_or(&self.inner.unrouted, |counters| counters);
        let index = usize::from(record.status.as_u16().saturating_sub(STATUS_FIRST));
        counters.answered(index.min(STATUS_COUNT - 1));
        if let Some(code) = record.code
            && let Some(index) = REFUSED.iter().position(|(known, _)| *known == code)
        {
            counters.refused[index].fetch_add(1, Relaxed);
        }
        counters.bytes_in.fetch_add(record.bytes_in, Relaxed);
        counters.bytes_out.fetch_add(record.bytes_out, Relaxed);
    }

    fn websocket(&self, component: &ComponentName, what: WebSocket) {
        let components = self.inner.components.load();
        let counters = components
            .get(component)
            .map_or(&self.inner.unrouted, |counters| counters);
        counters.websockets.count(what);
    }
}

impl Sockets {
    fn count(&self, what: WebSocket) {
        match what {
            WebSocket::Opened => {
                self.opened.fetch_add(1, Relaxed);
            }
            WebSocket::Carried {
                bytes_in,
                bytes_out,
            } => {
                self.bytes_in.fetch_add(bytes_in, Relaxed);
                self.bytes_out.fetch_add(bytes_out, Relaxed);
            }
            WebSocket::Closed => {
                self.closed.fetch_add(1, Relaxed);
            }
        }
    }

    fn figures(&self) -> Option<SocketFigures> {
        // Read before: what opens and closes in between is not counted as less than none.
        let closed = self.closed.load(Relaxed);
        let opened = self.opened.load(Relaxed);
        (opened > 0).then(|| SocketFigures {
            opened,
            open: opened.saturating_sub(closed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        })
    }
}

impl Counters {
    fn answered(&self, index: usize) {
        let class = self.by_status[index / CLASS]
            .get_or_init(|| Box::new([const { AtomicU64::new(0) }; CLASS]));
        class[index % CLASS].fetch_add(1, Relaxed);
    }

    fn figures(&self) -> TrafficFigures {
        let classes = (STATUS_FIRST..).step_by(CLASS).zip(&self.by_status);
        let by_status = classes
            .filter_map(|(first, class)| Some((first, class.get()?)))
            .flat_map(|(first, class)| (first..).zip(class.iter()))
            .map(|(status, count)| (status, count.load(Relaxed)));
        let refused = REFUSED.iter().zip(&self.refused);
        let refused = refused.map(|((_, reason), count)| (*reason, count.load(Relaxed)));
        TrafficFigures {
            refused: refused.filter(|(_, count)| *count > 0).collect(),
            by_status: by_status.filter(|(_, count)| *count > 0).collect(),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            websockets: self.websockets.figures(),
        }
    }
}
