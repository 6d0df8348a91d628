//! The metrics page: every figure of the node in Prometheus' text format 0.0.4.
//!
//! Names of the `wasm_`, `fuel_`, `epoch_` and `mem_` families are the specification's. Label sets
//! are bounded: component names, statuses, and closed lists of codes.

mod edge;

use std::collections::{BTreeMap, BTreeSet};

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder as _, TextEncoder};
use realm_edge::CacheFigures;
use realm_host::{CodeFigures, HistogramSnapshot, MeterSnapshot};
use realm_model::name::{ComponentName, NodeName};
use realm_model::refusal::RefusalCode;
use realm_model::view::ComponentState;

use crate::executor::Unrun;
use crate::machine::MachineFigures;
use crate::traffic::TrafficFigures;

/// The content type of the page.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the node's loop knows.
pub(crate) struct NodeFigures {
    pub(crate) version: u64,
    pub(crate) meters: BTreeMap<ComponentName, MeterSnapshot>,
    pub(crate) restarts: BTreeMap<ComponentName, u64>,
    /// Components without `fuel_per_sec` have no fuel figure: their code counts none.
    pub(crate) fueled: BTreeSet<ComponentName>,
    pub(crate) states: Vec<(ComponentName, ComponentState, u32, u32)>,
    /// (component, slot, requests in flight).
    pub(crate) replicas: Vec<(ComponentName, u32, u32)>,
    /// Programs that run by themselves.
    pub(crate) programs: BTreeMap<ComponentName, u32>,
    /// Times of schedules that were not run.
    pub(crate) unrun: BTreeMap<ComponentName, Unrun>,
    pub(crate) refusals: BTreeMap<RefusalCode, u64>,
    /// Plans that the loop made.
    pub(crate) plans: u64,
    /// Nodes that this one is connected with.
    pub(crate) links: usize,
    /// What the network counted.
    pub(crate) network: realm_net::Figures,
    /// What other nodes sent that does not count, by code.
    pub(crate) sync: BTreeMap<&'static str, u64>,
    /// What became of requests that went to other nodes.
    pub(crate) lines: Vec<(NodeName, realm_edge::LineFigures)>,
    pub(crate) code: CodeFigures,
    pub(crate) compilations: u64,
}

/// Everything on the page.
pub(crate) struct Page<'a> {
    pub(crate) node: &'a NodeFigures,
    pub(crate) machine: &'a MachineFigures,
    pub(crate) traffic: &'a BTreeMap<ComponentName, TrafficFigures>,
    pub(crate) unrouted: &'a TrafficFigures,
    /// What the cache did, for components that have one.
    pub(crate) cache: &'a BTreeMap<ComponentName, CacheFigures>,
    pub(crate) connections: usize,
    pub(crate) resident_bytes: u64,
    /// Calls of the API that the gate refused, by code.
    pub(crate) denied: &'a BTreeMap<&'static str, u64>,
    /// Commands of callers by call and outcome.
    pub(crate) sessions: &'a BTreeMap<(&'static str, &'static str), u64>,
}

impl Page<'_> {
    /// The text of the page.
    pub(crate) fn encode(&self) -> String {
        let mut families = Vec::new();
        self.wasm(&mut families);
        self.requests(&mut families);
        self.cache(&mut families);
        self.realm(&mut families);
        self.api(&mut families);
        self.code(&mut families);
        self.machine(&mut families);
        families.retain(|family| !family.get_metric().is_empty());
        let mut text = Vec::new();
        // Families are never empty and names are constants: the encoder has nothing to refuse.
        if TextEncoder::new().encode(&families, &mut text).is_err() {
            return String::new();
        }
        String::from_utf8(text).unwrap_or_default()
    }

    fn wasm(&self, families: &mut Vec<MetricFamily>) {
        let meters = &self.node.meters;
        families.push(histograms(
            "wasm_exec_time_ms",
            "Running time of ended invocations in milliseconds, waiting not counted.",
            meters
                .iter()
                .map(|(name, meter)| (component(name), &meter.wasm_exec_ms)),
        ));
        families.push(histograms(
            "wasm_instantiation_time_ms",
            "Time to make an instance in milliseconds.",
            meters
                .iter()
                .map(|(name, meter)| (component(name), &meter.instantiation_ms)),
        ));
        families.push(counters(
            "wasm_restarts_total",
            "Times that a replica was started again after a failure.",
            meters.keys().map(|name| {
                (
                    component(name),
                    self.node.restarts.get(name).copied().unwrap_or_default(),
                )
            }),
        ));
        self.invocations(families);
        self.fuel(families);
        self.memory(families);
    }

    fn invocations(&self, families: &mut Vec<MetricFamily>) {
        let meters = &self.node.meters;
        families.push(counters(
            "wasm_invocations_total",
            "Ended invocations by outcome.",
            meters.iter().flat_map(|(name, meter)| {
                meter.outcomes.iter().map(|(outcome, count)| {
                    let mut labels = component(name);
                    labels.push(label("outcome", outcome));
                    (labels, *count)
                })
            }),
        ));
        let takes = |meter: &&MeterSnapshot| meter.messages.iter().any(|(_, count)| *count > 0);
        families.push(counters(
            "messages_total",
            "Messages that were taken, by what became of them; absent for components that took none.",
            meters
                .iter()
                .filter(|(_, meter)| takes(meter))
                .flat_map(|(name, meter)| {
                    meter.messages.iter().map(|(result, count)| {
                        let mut labels = component(name);
                        labels.push(label("result", result));
                        (labels, *count)
                    })
                }),
        ));
        let runs = |meter: &&MeterSnapshot| meter.workflows.iter().any(|(_, count)| *count > 0);
        families.push(counters(
            "workflows_total",
            "Calls of runs of workflows, by what became of the run; absent for components without any.",
            meters
                .iter()
                .filter(|(_, meter)| runs(meter))
                .flat_map(|(name, meter)| {
                    meter.workflows.iter().map(|(outcome, count)| {
                        let mut labels = component(name);
                        labels.push(label("outcome", outcome));
                        (labels, *count)
                    })
                }),
        ));
    }

    fn fuel(&self, families: &mut Vec<MetricFamily>) {
        let meters = &self.node.meters;
        let fueled = |name: &ComponentName| self.node.fueled.contains(name);
        families.push(counters(
            "fuel_used_total",
            "Fuel units used; absent for components without fuel_per_sec.",
            meters
                .iter()
                .filter(|(name, _)| fueled(name))
                .map(|(name, meter)| (component(name), meter.fuel_used)),
        ));
        families.push(float_counters(
            "fuel_throttled_seconds_total",
            "Seconds that guests were suspended because their fuel was used up.",
            meters
                .iter()
                .filter(|(name, _)| fueled(name))
                .map(|(name, meter)| (component(name), meter.throttled_ms as f64 / 1_000.0)),
        ));
    }

    fn memory(&self, families: &mut Vec<MetricFamily>) {
        let per_component = |value: fn(&MeterSnapshot) -> u64| {
            let meters = self.node.meters.iter();
            meters.map(move |(name, meter)| (component(name), value(meter)))
        };
        families.push(counters(
            "epoch_preemptions_total",
            "Times that a running guest was made to yield.",
            per_component(|meter| meter.epoch_preemptions),
        ));
        families.push(counters(
            "outbound_denied_total",
            "Outbound requests, connections, datagrams, look-ups and sockets that no grant allowed.",
            per_component(|meter| meter.outbound_denied),
        ));
        families.push(gauges(
            "mem_current_bytes",
            "Linear memory and tables of live instances.",
            per_component(|meter| meter.mem_current_bytes).map(as_float),
        ));
        families.push(gauges(
            "mem_peak_bytes",
            "The highest value of mem_current_bytes.",
            per_component(|meter| meter.mem_peak_bytes).map(as_float),
        ));
    }

    fn requests(&self, families: &mut Vec<MetricFamily>) {
        let unrouted = vec![label("component", "")];
        let all = || {
            let components = self
                .traffic
                .iter()
                .map(|(name, figures)| (component(name), figures));
            components.chain(std::iter::once((unrouted.clone(), self.unrouted)))
        };
        families.push(counters(
            "realm_http_requests_total",
            "Answers by component and status; an empty component had no route.",
            all().flat_map(|(labels, figures)| {
                figures.by_status.iter().map(move |(status, count)| {
                    let mut labels = labels.clone();
                    labels.push(label("status", &status.to_string()));
                    (labels, *count)
                })
            }),
        ));
        families.push(counters(
            "realm_http_refused_total",
            "Requests refused by rules and rates of a component, by reason.",
            all().flat_map(|(labels, figures)| {
                figures.refused.iter().map(move |(reason, count)| {
                    let mut labels = labels.clone();
                    labels.push(label("reason", reason));
                    (labels, *count)
                })
            }),
        ));
        families.push(counters(
            "realm_http_request_bytes_total",
            "Bytes of request bodies that components read.",
            all().map(|(labels, figures)| (labels, figures.bytes_in)),
        ));
        families.push(counters(
            "realm_http_response_bytes_total",
            "Bytes of response bodies.",
            all().map(|(labels, figures)| (labels, figures.bytes_out)),
        ));
        self.websockets(families);
        families.push(gauge(
            "realm_http_connections",
            "Connections that are open at the edge.",
            self.connections as f64,
        ));
    }

    fn api(&self, families: &mut Vec<MetricFamily>) {
        families.push(counters(
            "realm_api_refusals_total",
            "Calls of the control API that were refused for who asked, or how.",
            self.denied
                .iter()
                .map(|(code, count)| (vec![label("code", code)], *count)),
        ));
        families.push(counters(
            "realm_api_sessions_total",
            "Commands and components that callers ran here, ended.",
            self.sessions.iter().map(|((call, outcome), count)| {
                (vec![label("call", call), label("outcome", outcome)], *count)
            }),
        ));
    }

    fn realm(&self, families: &mut Vec<MetricFamily>) {
        families.push(gauge(
            "realm_version",
            "Version of the desired state in force.",
            self.node.version as f64,
        ));
        self.replicas(families);
        self.components(families);
        self.tunnels(families);
        families.push(counters(
            "realm_refusals_total",
            "Refused entries and uploads by code.",
            RefusalCode::ALL.iter().map(|code| {
                let count = self.node.refusals.get(code).copied().unwrap_or_default();
                (vec![label("code", code.as_str())], count)
            }),
        ));
        families.push(counters(
            "realm_plans_total",
            "Plans that the agent made; each looks at every component.",
            std::iter::once((Vec::new(), self.node.plans)),
        ));
        families.push(gauge(
            "realm_p2p_links",
            "Nodes of the realm that this one is connected with.",
            self.node.links as f64,
        ));
        families.push(counters(
            "realm_p2p_events_total",
            "What the network refused, lost or started anew, by event.",
            self.node
                .network
                .named()
                .into_iter()
                .map(|(event, count)| (vec![label("event", event)], count)),
        ));
        let sync = self.node.sync.iter();
        families.push(counters(
            "realm_sync_refusals_total",
            "What was not taken of other nodes, or not given by them, by code.",
            sync.map(|(code, count)| (vec![label("code", code)], *count)),
        ));
    }

    fn tunnels(&self, families: &mut Vec<MetricFamily>) {
        let outcomes = |(node, line): &(NodeName, realm_edge::LineFigures)| {
            let counts = [
                ("answered", line.answered),
                ("refused", line.refused),
                ("failed", line.failed),
            ];
            counts.map(|(outcome, count)| {
                let node = label("node", node.as_str());
                (vec![node, label("outcome", outcome)], count)
            })
        };
        families.push(counters(
            "realm_tunnel_requests_total",
            "Requests that were passed on to other nodes.",
            self.node.lines.iter().flat_map(outcomes),
        ));
        families.push(gauges(
            "realm_tunnel_avoided",
            "Whether a node is left alone since it does not answer requests.",
            self.node.lines.iter().map(|(node, line)| {
                let avoided = if line.is_avoided { 1.0 } else { 0.0 };
                (vec![label("node", node.as_str())], avoided)
            }),
        ));
    }

    fn replicas(&self, families: &mut Vec<MetricFamily>) {
        families.push(gauges(
            "realm_replicas_wanted",
            "Replicas that the manifest wants on this node.",
            self.node
                .states
                .iter()
                .map(|(name, _, wanted, _)| (component(name), f64::from(*wanted))),
        ));
        families.push(gauges(
            "realm_replicas_healthy",
            "Replicas of the wanted revision that are healthy.",
            self.node
                .states
                .iter()
                .map(|(name, _, _, healthy)| (component(name), f64::from(*healthy))),
        ));
        families.push(gauges(
            "realm_replica_requests_in_flight",
            "Requests in flight by replica.",
            self.node.replicas.iter().map(|(name, slot, in_flight)| {
                let mut labels = component(name);
                labels.push(label("slot", &slot.to_string()));
                (labels, f64::from(*in_flight))
            }),
        ));
    }

    fn components(&self, families: &mut Vec<MetricFamily>) {
        families.push(gauges(
            "realm_programs_running",
            "Servers, services and jobs that run at this moment.",
            self.node
                .programs
                .iter()
                .map(|(name, running)| (component(name), f64::from(*running))),
        ));
        families.push(counters(
            "realm_schedule_unrun_total",
            "Times of a schedule that were not run, by reason.",
            self.node.unrun.iter().flat_map(|(name, unrun)| {
                let reasons = [("overlap", unrun.overlapped), ("missed", unrun.missed)];
                reasons.map(|(reason, number)| {
                    let mut labels = component(name);
                    labels.push(label("reason", reason));
                    (labels, number)
                })
            }),
        ));
        let count = |state: ComponentState| {
            self.node
                .states
                .iter()
                .filter(|(_, other, _, _)| *other == state)
                .count() as f64
        };
        families.push(gauges(
            "realm_components",
            "Components by state.",
            STATES
                .iter()
                .map(|(state, name)| (vec![label("state", name)], count(*state))),
        ));
    }

    fn code(&self, families: &mut Vec<MetricFamily>) {
        let CodeFigures {
            loaded,
            loads,
            unloads,
        } = self.node.code;
        families.push(gauge(
            "realm_code_loaded",
            "Compiled files in memory; components of one digest share one.",
            loaded as f64,
        ));
        for (name, help, count) in [
            (
                "realm_code_loads_total",
                "Times that a compiled file was mapped.",
                loads,
            ),
            (
                "realm_code_unloads_total",
                "Times that a compiled file left the memory because nobody asked for it.",
                unloads,
            ),
            (
                "realm_compilations_total",
                "Compilations that were begun.",
                self.node.compilations,
            ),
        ] {
            families.push(counters(name, help, std::iter::once((Vec::new(), count))));
        }
    }

    fn machine(&self, families: &mut Vec<MetricFamily>) {
        let machine = self.machine;
        for (name, help, value) in [
            (
                "realm_node_cpu_percent",
                "CPU use of the machine over all cores, 0 to 100.",
                machine.cpu_percent,
            ),
            (
                "realm_node_memory_bytes",
                "Memory of the machine.",
                machine.memory_total_bytes as f64,
            ),
            (
                "realm_node_memory_used_bytes",
                "Memory in use on the machine.",
                machine.memory_used_bytes as f64,
            ),
            (
                "realm_node_disk_bytes",
                "Size of the file system of the realm folder.",
                machine.disk_total_bytes as f64,
            ),
            (
                "realm_node_disk_available_bytes",
                "Room on that file system.",
                machine.disk_available_bytes as f64,
            ),
            (
                "process_resident_memory_bytes",
                "Resident memory of the agent.",
                self.resident_bytes as f64,
            ),
        ] {
            families.push(gauge(name, help, value));
        }
    }
}

/// Every state with its label.
const STATES: [(ComponentState, &str); 11] = [
    (ComponentState::Starting, "starting"),
    (ComponentState::Healthy, "healthy"),
    (ComponentState::Updating, "updating"),
    (ComponentState::Degraded, "degraded"),
    (ComponentState::Draining, "draining"),
    (ComponentState::Backoff, "backoff"),
    (ComponentState::Failed, "failed"),
    (ComponentState::Idle, "idle"),
    (ComponentState::Running, "running"),
    (ComponentState::Scheduled, "scheduled"),
    (ComponentState::Done, "done"),
];

type Labels = Vec<LabelPair>;

fn as_float((labels, value): (Labels, u64)) -> (Labels, f64) {
    (labels, value as f64)
}

fn component(name: &ComponentName) -> Labels {
    vec![label("component", name.as_str())]
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

fn counters(name: &str, help: &str, values: impl Iterator<Item = (Labels, u64)>) -> MetricFamily {
    float_counters(name, help, values.map(as_float))
}

fn float_counters(
    name: &str,
    help: &str,
    values: impl Iterator<Item = (Labels, f64)>,
) -> MetricFamily {
    let metrics = values.map(|(labels, value)| {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = Metric::from_label(labels);
        metric.set_counter(counter);
        metric
    });
    family(name, help, MetricType::COUNTER, metrics.collect())
}

fn gauges(name: &str, help: &str, values: impl Iterator<Item = (Labels, f64)>) -> MetricFamily {
    let metrics = values.map(|(labels, value)| {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(labels);
        metric.set_gauge(gauge);
        metric
    });
    family(name, help, MetricType::GAUGE, metrics.collect())
}

fn gauge(name: &str, help: &str, value: f64) -> MetricFamily {
    gauges(name, help, std::iter::once((Vec::new(), value)))
}

fn histograms<'a>(
    name: &str,
    help: &str,
    values: impl Iterator<Item = (Labels, &'a HistogramSnapshot)>,
) -> MetricFamily {
    let metrics = values.map(|(labels, snapshot)| {
        let buckets = snapshot.buckets.iter().map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(snapshot.count);
        histogram.set_sample_sum(snapshot.sum_ms);
        let mut metric = Metric::from_label(labels);
        metric.set_histogram(histogram);
        metric
    });
    family(name, help, MetricType::HISTOGRAM, metrics.collect())
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}
