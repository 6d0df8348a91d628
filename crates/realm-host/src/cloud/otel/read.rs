//! What a guest hands over, bounded: names, texts and numbers of strangers. Of a span or a record what is
//! too much is left out, and counted; an export of metrics is taken whole or not at all.

use std::collections::BTreeSet;

use realm_model::cloud::limits::{
    ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, BUCKETS_MAX, EXEMPLARS_MAX, METRICS_BYTES_MAX,
    NAME_BYTES_MAX, POINTS_MAX, SPAN_BYTES_MAX, SPAN_PARTS_MAX, TRACE_STATE_BYTES_MAX,
};
use realm_model::cloud::telemetry::{
    Attributes, Buckets, Dropped, Exemplar, ExponentialBuckets, Link, LogRecord, Metric,
    MetricData, Metrics, Number, Point, Resource, Scope, Span, SpanContext, SpanEvent, SpanKind,
    Status, Temporality, Value, hex, id,
};
use realm_model::cloud::{CloudError, within};
use realm_model::text::cut;

use super::ambient::now_unix_ns;
use super::generated::wasi::clocks::wall_clock::Datetime;
use super::{logs, metrics, tracing, types};

/// Bytes of text that are left.
struct Room {
    bytes: usize,
}

impl Room {
    const fn of_a_span() -> Self {
        Self {
            bytes: SPAN_BYTES_MAX,
        }
    }

    fn take(&mut self, n_bytes: usize) -> bool {
        let left = self.bytes.checked_sub(n_bytes);
        self.bytes = left.unwrap_or(0);
        left.is_some()
    }

    /// Text that is not longer than a name.
    fn name(&mut self, text: &str) -> String {
        let name = cut(text, NAME_BYTES_MAX);
        if self.take(name.len()) {
            return name.to_owned();
        }
        String::new()
    }

    /// Attributes, and how many of them are not there. The last of one name counts.
    fn attributes(&mut self, pairs: Vec<types::KeyValue>) -> (Attributes, u32) {
        let n_given = pairs.len();
        let mut names = BTreeSet::new();
        let mut kept = Attributes::new();
        for pair in pairs.into_iter().rev() {
            let bytes = pair.key.len() + pair.value.len().min(ATTRIBUTE_BYTES_MAX);
            let fits = !pair.key.is_empty()
                && pair.key.len() <= NAME_BYTES_MAX
                && kept.len() < ATTRIBUTES_MAX
                && !names.contains(&pair.key)
                && self.take(bytes);
            if fits {
                names.insert(pair.key.clone());
                kept.push((pair.key, Value::parse(&pair.value)));
            }
        }
        kept.reverse();
        let n_dropped = u32::try_from(n_given - kept.len()).unwrap_or(u32::MAX);
        (kept, n_dropped)
    }

    fn scope(&mut self, scope: types::InstrumentationScope) -> Scope {
        Scope {
            name: self.name(&scope.name),
            version: self.name(&scope.version.unwrap_or_default()),
            schema_url: self.name(&scope.schema_url.unwrap_or_default()),
            attributes: self.attributes(scope.attributes).0,
        }
    }

    fn resource(&mut self, resource: types::Resource) -> Resource {
        Resource {
            attributes: self.attributes(resource.attributes).0,
            schema_url: self.name(&resource.schema_url.unwrap_or_default()),
        }
    }
}

/// Nanoseconds since 1970; times beyond the year 2554 are that.
fn unix_ns(time: Datetime) -> u64 {
    let seconds = time.seconds.saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(time.nanoseconds))
}

/// The header `tracestate`; nothing of it where a part is none, or it is too long.
fn state(pairs: Vec<(String, String)>) -> String {
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| (0x20..0x7f).contains(&byte) && byte != b',')
    };
    let fits = |(key, value): &(String, String)| {
        let key_fits = !key.is_empty() && plain(key) && !key.contains(['=', ' ']);
        key_fits && plain(value) && !value.contains('=')
    };
    let bytes: usize = pairs
        .iter()
        .map(|(key, value)| key.len() + value.len() + 2)
        .sum();
    if bytes > TRACE_STATE_BYTES_MAX || !pairs.iter().all(fits) {
        return String::new();
    }
    let pairs: Vec<_> = pairs
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

fn context(context: tracing::SpanContext) -> Option<SpanContext> {
    Some(SpanContext {
        trace: id(&context.trace_id)?,
        span: id(&context.span_id)?,
        sampled: context.trace_flags.contains(tracing::TraceFlags::SAMPLED),
        remote: context.is_remote,
        state: state(context.trace_state),
    })
}

/// As a guest reads it.
pub(super) fn written(context: SpanContext) -> tracing::SpanContext {
    let pairs = context
        .state
        .split(',')
        .filter_map(|pair| pair.trim().split_once('='));
    tracing::SpanContext {
        trace_id: hex(&context.trace),
        span_id: hex(&context.span),
        trace_flags: if context.sampled {
            tracing::TraceFlags::SAMPLED
        } else {
            tracing::TraceFlags::empty()
        },
        is_remote: context.remote,
        trace_state: pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    }
}

/// A span; `None`: its ids are none.
pub(super) fn span(span: tracing::SpanData) -> Option<Span> {
    let parent = match span.parent_span_id.as_str() {
        "" | "0000000000000000" => None,
        text => Some(id(text)?),
    };
    let context = context(span.span_context)?;
    let mut room = Room::of_a_span();
    let name = room.name(&span.name);
    let scope = room.scope(span.instrumentation_scope);
    let status = match span.status {
        tracing::Status::Unset => Status::Unset,
        tracing::Status::Ok => Status::Ok,
        tracing::Status::Error(words) => Status::Error(cut(&words, 1_024).to_owned()),
    };
    let (attributes, dropped_attributes) = room.attributes(span.attributes);
    let (n_events, n_links) = (span.events.len(), span.links.len());
    let mut events = Vec::new();
    for event in span.events.into_iter().take(SPAN_PARTS_MAX) {
        if room.bytes == 0 {
            break;
        }
        events.push(SpanEvent {
            name: room.name(&event.name),
            unix_ns: unix_ns(event.time),
            attributes: room.attributes(event.attributes).0,
        });
    }
    let mut links = Vec::new();
    for link in span.links.into_iter().take(SPAN_PARTS_MAX) {
        let Some(context) = self::context(link.span_context).filter(|_| room.bytes > 0) else {
            continue;
        };
        links.push(Link {
            context,
            attributes: room.attributes(link.attributes).0,
        });
    }
    let missing = |given: usize, kept: usize| u32::try_from(given - kept).unwrap_or(u32::MAX);
    let dropped = Dropped {
        attributes: span.dropped_attributes.saturating_add(dropped_attributes),
        events: span
            .dropped_events
            .saturating_add(missing(n_events, events.len())),
        links: span
            .dropped_links
            .saturating_add(missing(n_links, links.len())),
    };
    let start_unix_ns = unix_ns(span.start_time);
    Some(Span {
        context,
        parent,
        kind: match span.span_kind {
            tracing::SpanKind::Client => SpanKind::Client,
            tracing::SpanKind::Server => SpanKind::Server,
            tracing::SpanKind::Producer => SpanKind::Producer,
            tracing::SpanKind::Consumer => SpanKind::Consumer,
            tracing::SpanKind::Internal => SpanKind::Internal,
        },
        name,
        start_unix_ns,
        // Nothing ends before it begins.
        end_unix_ns: unix_ns(span.end_time).max(start_unix_ns),
        attributes,
        events,
        links,
        status,
        scope,
        dropped,
    })
}

/// A record: always one, since what is wrong in it can be left out.
pub(super) fn record(record: logs::LogRecord) -> LogRecord {
    let mut room = Room::of_a_span();
    let body = record.body.unwrap_or_else(|| "null".to_owned());
    room.take(body.len().min(ATTRIBUTE_BYTES_MAX));
    let severity_text = room.name(&record.severity_text.unwrap_or_default());
    let event_name = room.name(&record.event_name.unwrap_or_default());
    let scope = record.instrumentation_scope.map(|scope| room.scope(scope));
    let resource = record.resource.map(|resource| room.resource(resource));
    let (attributes, dropped_attributes) = room.attributes(record.attributes.unwrap_or_default());
    let trace = record.trace_id.and_then(|text| id(&text));
    let sampled = record.trace_flags;
    LogRecord {
        unix_ns: record.timestamp.map(unix_ns),
        observed_unix_ns: record.observed_timestamp.map_or_else(now_unix_ns, unix_ns),
        severity_text,
        severity: record
            .severity_number
            .filter(|number| *number <= 24)
            .unwrap_or(0),
        body: Value::parse(&body),
        attributes,
        dropped_attributes,
        event_name,
        resource: resource.unwrap_or_default(),
        scope: scope.unwrap_or_default(),
        // A span without its trace is nobody's.
        span: record
            .span_id
            .and_then(|text| id(&text))
            .filter(|_| trace.is_some()),
        trace,
        sampled: sampled.is_some_and(|flags| flags.contains(tracing::TraceFlags::SAMPLED)),
    }
}

/// Everything of an export, or why not.
pub(super) fn metrics(given: metrics::ResourceMetrics) -> Result<Metrics, CloudError> {
    let mut reader = Reader {
        room: Room {
            bytes: METRICS_BYTES_MAX,
        },
        n_points: 0,
        n_parts: 0,
    };
    let resource = reader.room.resource(given.resource);
    let mut scopes = Vec::new();
    for scope in given.scope_metrics {
        one_more(&mut reader.n_parts)?;
        let by = reader.room.scope(scope.scope);
        let mut metrics = Vec::new();
        for metric in scope.metrics {
            metrics.push(reader.metric(metric)?);
        }
        scopes.push((by, metrics));
    }
    Ok(Metrics { resource, scopes })
}

struct Reader {
    room: Room,
    n_points: usize,
    /// Metrics, and the scopes that they are in: also those without a point are looked at.
    n_parts: usize,
}

impl Reader {
    fn metric(&mut self, metric: metrics::Metric) -> Result<Metric, CloudError> {
        use metrics::MetricData as Given;
        one_more(&mut self.n_parts)?;
        within("the name of a metric", metric.name.len(), NAME_BYTES_MAX)?;
        let data = match metric.data {
            Given::F64Gauge(data) | Given::U64Gauge(data) | Given::S64Gauge(data) => {
                self.gauge(data)?
            }
            Given::F64Sum(data) | Given::U64Sum(data) | Given::S64Sum(data) => self.sum(data)?,
            Given::F64Histogram(data) | Given::U64Histogram(data) | Given::S64Histogram(data) => {
                self.histogram(data)?
            }
            Given::F64ExponentialHistogram(data)
            | Given::U64ExponentialHistogram(data)
            | Given::S64ExponentialHistogram(data) => self.exponential(data)?,
        };
        let bytes = metric.name.len() + metric.description.len().min(1_024);
        self.fits(bytes)?;
        Ok(Metric {
            name: metric.name,
            description: cut(&metric.description, 1_024).to_owned(),
            unit: cut(&metric.unit, 63).to_owned(),
            data,
        })
    }

    fn fits(&mut self, bytes: usize) -> Result<(), CloudError> {
        if self.room.take(bytes) {
            return Ok(());
        }
        Err(CloudError::Invalid(format!(
            "the metrics have more than {METRICS_BYTES_MAX} bytes of text: export fewer at a time"
        )))
    }

    fn gauge(&mut self, data: metrics::Gauge) -> Result<MetricData, CloudError> {
        let start = data.start_time.map_or(0, unix_ns);
        let time = (start, unix_ns(data.time));
        let mut points = Vec::new();
        for point in data.data_points {
            let value = number(point.value);
            points.push(self.point(point.attributes, point.exemplars, time, value)?);
        }
        Ok(MetricData::Gauge(points))
    }

    fn sum(&mut self, data: metrics::Sum) -> Result<MetricData, CloudError> {
        let time = (unix_ns(data.start_time), unix_ns(data.time));
        let mut points = Vec::new();
        for point in data.data_points {
            let value = number(point.value);
            points.push(self.point(point.attributes, point.exemplars, time, value)?);
        }
        Ok(MetricData::Sum {
            points,
            temporality: temporality(data.temporality, data.is_monotonic),
            monotonic: data.is_monotonic,
        })
    }

    fn histogram(&mut self, data: metrics::Histogram) -> Result<MetricData, CloudError> {
        let time = (unix_ns(data.start_time), unix_ns(data.time));
        let mut points = Vec::new();
        for point in data.data_points {
            buckets(point.bounds.len().max(point.bucket_counts.len()))?;
            self.fits((point.bounds.len() + point.bucket_counts.len()) * 8)?;
            let value = Buckets {
                count: point.count,
                sum: number(point.sum).as_f64(),
                bounds: point.bounds,
                counts: point.bucket_counts,
                min: point.min.map(|min| number(min).as_f64()),
                max: point.max.map(|max| number(max).as_f64()),
            };
            points.push(self.point(point.attributes, point.exemplars, time, value)?);
        }
        Ok(MetricData::Histogram {
            points,
            temporality: temporality(data.temporality, true),
        })
    }

    fn exponential(
        &mut self,
        data: metrics::ExponentialHistogram,
    ) -> Result<MetricData, CloudError> {
        let time = (unix_ns(data.start_time), unix_ns(data.time));
        let mut points = Vec::new();
        for point in data.data_points {
            let (above, below) = (point.positive_bucket, point.negative_bucket);
            buckets(above.counts.len().max(below.counts.len()))?;
            self.fits((above.counts.len() + below.counts.len()) * 8)?;
            let value = ExponentialBuckets {
                count: point.count,
                sum: number(point.sum).as_f64(),
                scale: point.scale,
                zero_count: point.zero_count,
                zero_threshold: point.zero_threshold,
                positive: (above.offset, above.counts),
                negative: (below.offset, below.counts),
                min: point.min.map(|min| number(min).as_f64()),
                max: point.max.map(|max| number(max).as_f64()),
            };
            points.push(self.point(point.attributes, point.exemplars, time, value)?);
        }
        Ok(MetricData::Exponential {
            points,
            temporality: temporality(data.temporality, true),
        })
    }

    fn point<T>(
        &mut self,
        attributes: Vec<types::KeyValue>,
        exemplars: Vec<metrics::Exemplar>,
        (start_unix_ns, unix_ns): (u64, u64),
        value: T,
    ) -> Result<Point<T>, CloudError> {
        one_more(&mut self.n_points)?;
        let (attributes, n_dropped) = self.room.attributes(attributes);
        // Without one of them it would be another series.
        if n_dropped > 0 {
            return Err(CloudError::Invalid(
                "the attributes of a point are too many, too large, or one is there twice"
                    .to_owned(),
            ));
        }
        let exemplars = exemplars.into_iter().take(EXEMPLARS_MAX);
        let exemplars = exemplars.map(|exemplar| self.exemplar(exemplar));
        let exemplars = exemplars.collect();
        Ok(Point {
            attributes,
            start_unix_ns,
            unix_ns,
            value,
            exemplars,
        })
    }

    fn exemplar(&mut self, exemplar: metrics::Exemplar) -> Exemplar {
        Exemplar {
            attributes: self.room.attributes(exemplar.filtered_attributes).0,
            unix_ns: unix_ns(exemplar.time),
            value: number(exemplar.value),
            trace: id(&exemplar.trace_id).zip(id(&exemplar.span_id)),
        }
    }
}

fn one_more(n: &mut usize) -> Result<(), CloudError> {
    *n += 1;
    if *n <= POINTS_MAX {
        return Ok(());
    }
    Err(CloudError::Invalid(format!(
        "more than {POINTS_MAX} points, or metrics: export fewer at a time"
    )))
}

fn buckets(n_buckets: usize) -> Result<(), CloudError> {
    if n_buckets <= BUCKETS_MAX {
        return Ok(());
    }
    Err(CloudError::Invalid(format!(
        "a histogram has more than {BUCKETS_MAX} buckets"
    )))
}

/// OTLP has signed numbers: what is greater is as near as possible.
fn number(number: metrics::MetricNumber) -> Number {
    match number {
        metrics::MetricNumber::F64(double) => Number::Double(double),
        metrics::MetricNumber::S64(int) => Number::Int(int),
        metrics::MetricNumber::U64(int) => match i64::try_from(int) {
            Ok(int) => Number::Int(int),
            Err(_) => Number::Double(int as f64),
        },
    }
}

const fn temporality(given: metrics::Temporality, grows: bool) -> Temporality {
    match (given, grows) {
        (metrics::Temporality::Delta, _) | (metrics::Temporality::LowMemory, true) => {
            Temporality::Delta
        }
        (metrics::Temporality::Cumulative, _) | (metrics::Temporality::LowMemory, false) => {
            Temporality::Cumulative
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric() -> metrics::Metric {
        metrics::Metric {
            name: "a".to_owned(),
            description: String::new(),
            unit: String::new(),
            data: metrics::MetricData::F64Gauge(metrics::Gauge {
                start_time: None,
                time: Datetime {
                    seconds: 1,
                    nanoseconds: 0,
                },
                data_points: Vec::new(),
            }),
        }
    }

    fn export(n_scopes: usize, n_metrics: usize) -> metrics::ResourceMetrics {
        let scope = |_| metrics::ScopeMetrics {
            scope: types::InstrumentationScope {
                name: String::new(),
                version: None,
                schema_url: None,
                attributes: Vec::new(),
            },
            metrics: (0..n_metrics).map(|_| metric()).collect(),
        };
        metrics::ResourceMetrics {
            resource: types::Resource {
                attributes: Vec::new(),
                schema_url: None,
            },
            scope_metrics: (0..n_scopes).map(scope).collect(),
        }
    }

    /// Each of them is compared with all that the component has: that takes time as well.
    #[test]
    fn metrics_and_scopes_without_a_point_are_counted_too() {
        assert!(metrics(export(10, 100)).is_ok());
        for (n_scopes, n_metrics) in [(1, POINTS_MAX), (POINTS_MAX + 1, 0), (100, 100)] {
            let refused = metrics(export(n_scopes, n_metrics)).map(drop);
            assert_eq!(refused.map_err(|error| error.code()), Err("invalid"));
        }
    }
}
