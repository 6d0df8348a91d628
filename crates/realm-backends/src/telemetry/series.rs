//! What guests of one component measured, by series: bounded, and added up over instances.
//!
//! An instance lives for one request, so what it counts "since the beginning" begins at 0 each time: what
//! each instance added to its own count is added here. Not here: how it is written down (`page`).

use std::collections::{BTreeMap, VecDeque};

use realm_model::cloud::telemetry::{
    Attributes, Buckets, Emitter, ExponentialBuckets, Metric, MetricData, Metrics, Number, Point,
    Temporality,
};

use super::names;

/// Lines of a component on the page: what a scrape of a hundred components can bear.
pub(crate) const LINES_MAX: usize = 2_000;
/// Instruments of a component.
const FAMILIES_MAX: usize = 200;
/// Bytes of these lines: each has the name and all labels of its series.
pub(crate) const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a line beside its name and its labels: the component, a suffix, a bound and a number.
const LINE_BYTES: usize = 160;
/// Buckets of a histogram on the page.
const BUCKETS_MAX: usize = 64;
/// Instances whose last count is remembered, for each series: those that are at work at the same time.
const STREAMS_MAX: usize = 64;

/// Everything that a component measured.
#[derive(Default)]
pub(crate) struct Series {
    families: BTreeMap<String, Family>,
    lines: usize,
    page_bytes: usize,
}

/// An instrument.
pub(crate) struct Family {
    pub(crate) kind: Kind,
    pub(crate) help: String,
    /// By labels.
    pub(crate) series: BTreeMap<String, Figure>,
}

/// What an instrument is on the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Gauge,
    Counter,
    Histogram,
    /// A histogram whose bounds grow by a factor: only its count and sum are shown.
    Summary,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }

    /// What follows the name of the family in names of lines.
    pub(crate) const fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Gauge | Self::Counter => &[""],
            Self::Histogram => &["_bucket", "_sum", "_count"],
            Self::Summary => &["_sum", "_count"],
        }
    }
}

/// The state of one series.
pub(crate) struct Figure {
    pub(crate) total: Total,
    streams: VecDeque<(Stream, Total)>,
}

/// Who counts since when.
type Stream = (u64, u64);

/// Numbers that are added up.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Total {
    /// The value of a gauge or a counter, the sum of a histogram.
    pub(crate) sum: f64,
    pub(crate) count: u64,
    pub(crate) bounds: Vec<f64>,
    /// One more than bounds; not added up.
    pub(crate) counts: Vec<u64>,
}

impl Total {
    fn add(&mut self, other: &Self) {
        self.sum += other.sum;
        self.count = self.count.saturating_add(other.count);
        for (mine, more) in self.counts.iter_mut().zip(&other.counts) {
            *mine = mine.saturating_add(*more);
        }
    }

    /// What was added since `before`; all of it where that is no beginning of this.
    fn since(&self, before: &Self) -> Self {
        let began_anew = self.bounds != before.bounds
            || self.count < before.count
            || self
                .counts
                .iter()
                .zip(&before.counts)
                .any(|(now, then)| now < then)
            || self.counts.is_empty() && self.count == 0 && self.sum < before.sum;
        if began_anew {
            return self.clone();
        }
        let counts = self.counts.iter().zip(&before.counts);
        Self {
            sum: self.sum - before.sum,
            count: self.count - before.count,
            bounds: self.bounds.clone(),
            counts: counts.map(|(now, then)| now - then).collect(),
        }
    }
}

/// A point, and how it joins its series.
struct Reading {
    total: Total,
    /// Replaces what is there.
    last: bool,
    temporality: Temporality,
    start_unix_ns: u64,
}

impl Series {
    pub(crate) const fn families(&self) -> &BTreeMap<String, Family> {
        &self.families
    }

    /// Takes what makes sense and has room; says what first did not, if anything.
    pub(crate) fn take(&mut self, from: Emitter, metrics: &Metrics) -> Result<(), String> {
        let all = metrics.scopes.iter().flat_map(|(_, metrics)| metrics);
        let mut first = Ok(());
        for metric in all {
            let taken = self.metric(from, metric);
            first = first.and(taken);
        }
        first
    }

    fn metric(&mut self, from: Emitter, metric: &Metric) -> Result<(), String> {
        match &metric.data {
            MetricData::Gauge(points) => self.points(from, metric, Kind::Gauge, points, |point| {
                Ok(number(point, Temporality::Cumulative, true))
            }),
            MetricData::Sum {
                points,
                temporality,
                monotonic: true,
            } => self.points(from, metric, Kind::Counter, points, |point| {
                let value = point.value.as_f64();
                if value >= 0.0 && value.is_finite() {
                    return Ok(number(point, *temporality, false));
                }
                Err("a count is negative or no number".to_owned())
            }),
            MetricData::Sum {
                points,
                temporality,
                monotonic: false,
            } => {
                // What goes up and down is what it was last said to be.
                let last = *temporality == Temporality::Cumulative;
                self.points(from, metric, Kind::Gauge, points, |point| {
                    Ok(number(point, *temporality, last))
                })
            }
            MetricData::Histogram {
                points,
                temporality,
            } => self.points(from, metric, Kind::Histogram, points, |point| {
                histogram(point, *temporality)
            }),
            MetricData::Exponential {
                points,
                temporality,
            } => self.points(from, metric, Kind::Summary, points, |point| {
                if point.value.sum.is_finite() {
                    return Ok(summary(point, *temporality));
                }
                Err("its sum is no number".to_owned())
            }),
        }
    }

    fn points<T>(
        &mut self,
        from: Emitter,
        metric: &Metric,
        kind: Kind,
        points: &[Point<T>],
        read: impl Fn(&Point<T>) -> Result<Reading, String>,
    ) -> Result<(), String> {
        let shown = realm_model::text::one_line(&metric.name, 64);
        let grows = kind == Kind::Counter;
        let name = names::family(&metric.name, &metric.unit, grows)
            .ok_or_else(|| format!("`{shown}` is no name of a metric"))?;
        self.family(&name, kind, metric)
            .map_err(|why| format!("`{shown}`: {why}"))?;
        let mut first = Ok(());
        for point in points {
            let taken = read(point)
                .and_then(|reading| self.point(&name, &point.attributes, reading, from.instance));
            first = first.and(taken.map_err(|why| format!("`{shown}`: {why}")));
        }
        // One without a series takes up no name.
        if self
            .families
            .get(&name)
            .is_some_and(|family| family.series.is_empty())
        {
            self.families.remove(&name);
        }
        first
    }

    /// Makes a family, unless it is there, or what it writes is another one's.
    fn family(&mut self, name: &str, kind: Kind, metric: &Metric) -> Result<(), &'static str> {
        if let Some(family) = self.families.get(name) {
            if family.kind == kind {
                return Ok(());
            }
            return Err("it is an instrument of another kind already");
        }
        if self.families.len() >= FAMILIES_MAX {
            return Err("there are too many metrics");
        }
        let taken = |other: &str, other_kind: Kind| {
            let mut theirs = other_kind.suffixes().iter();
            theirs.any(|theirs| {
                let mut mine = kind.suffixes().iter();
                mine.any(|mine| {
                    let (a, b) = (name.len() + mine.len(), other.len() + theirs.len());
                    a == b
                        && name
                            .chars()
                            .chain(mine.chars())
                            .eq(other.chars().chain(theirs.chars()))
                })
            })
        };
        let mut others = self.families.iter();
        if others.any(|(other, family)| other == name || taken(other, family.kind)) {
            return Err("its name is a part of another one's");
        }
        let help = realm_model::text::one_line(&metric.description, 200);
        let family = Family {
            kind,
            help,
            series: BTreeMap::new(),
        };
        self.families.insert(name.to_owned(), family);
        Ok(())
    }

    fn point(
        &mut self,
        family: &str,
        attributes: &Attributes,
        reading: Reading,
        instance: u64,
    ) -> Result<(), String> {
        let Some(labels) = names::labels(attributes) else {
            return Err("it has too many attributes".to_owned());
        };
        let line_bytes = family.len() + labels.len() + LINE_BYTES;
        let Some(family) = self.families.get_mut(family) else {
            return Ok(());
        };
        if let Some(figure) = family.series.get_mut(&labels) {
            return figure.take(reading, instance);
        }
        let lines = match family.kind {
            Kind::Gauge | Kind::Counter => 1,
            Kind::Histogram => reading.total.counts.len() + 2,
            Kind::Summary => 2,
        };
        let bytes = lines * line_bytes;
        if self.lines + lines > LINES_MAX || self.page_bytes + bytes > PAGE_BYTES_MAX {
            return Err(format!(
                "there are too many series: {LINES_MAX} lines of {PAGE_BYTES_MAX} bytes at most"
            ));
        }
        self.lines += lines;
        self.page_bytes += bytes;
        let mut figure = Figure {
            total: Total {
                counts: vec![0; reading.total.counts.len()],
                bounds: reading.total.bounds.clone(),
                ..Total::default()
            },
            streams: VecDeque::new(),
        };
        let taken = figure.take(reading, instance);
        family.series.insert(labels, figure);
        taken
    }
}

impl Figure {
    fn take(&mut self, reading: Reading, instance: u64) -> Result<(), String> {
        let Reading {
            total,
            last,
            temporality,
            start_unix_ns,
        } = reading;
        if total.bounds != self.total.bounds {
            return Err("its bounds are not those that it began with".to_owned());
        }
        if last {
            self.total = total;
            return Ok(());
        }
        if temporality == Temporality::Delta {
            self.total.add(&total);
            return Ok(());
        }
        let stream = (instance, start_unix_ns);
        let known = self.streams.iter().position(|(other, _)| *other == stream);
        let before = known.and_then(|index| self.streams.remove(index));
        let more = match &before {
            Some((_, before)) => total.since(before),
            None => total.clone(),
        };
        self.total.add(&more);
        // Who spoke last is last, and the first one goes.
        self.streams.push_back((stream, total));
        if self.streams.len() > STREAMS_MAX {
            self.streams.pop_front();
        }
        Ok(())
    }
}

fn number(point: &Point<Number>, temporality: Temporality, last: bool) -> Reading {
    Reading {
        total: Total {
            sum: point.value.as_f64(),
            ..Total::default()
        },
        last,
        temporality,
        start_unix_ns: point.start_unix_ns,
    }
}

fn histogram(point: &Point<Buckets>, temporality: Temporality) -> Result<Reading, String> {
    let Buckets {
        count,
        sum,
        bounds,
        counts,
        min: _,
        max: _,
    } = &point.value;
    if bounds.len() > BUCKETS_MAX {
        return Err(format!("it has more than {BUCKETS_MAX} buckets"));
    }
    let grow = bounds.windows(2).all(|pair| pair[0] < pair[1]);
    let finite = bounds.iter().all(|bound| bound.is_finite());
    let fits = counts.len() == bounds.len() + 1 || counts.is_empty() && bounds.is_empty();
    let sums_up = counts.is_empty()
        || counts
            .iter()
            .try_fold(0_u64, |sum, more| sum.checked_add(*more))
            == Some(*count);
    if !(grow && finite && fits && sums_up && sum.is_finite()) {
        return Err("its buckets make no sense".to_owned());
    }
    let counts = if counts.is_empty() {
        vec![*count]
    } else {
        counts.clone()
    };
    Ok(Reading {
        total: Total {
            sum: *sum,
            count: *count,
            bounds: bounds.clone(),
            counts,
        },
        last: false,
        temporality,
        start_unix_ns: point.start_unix_ns,
    })
}

fn summary(point: &Point<ExponentialBuckets>, temporality: Temporality) -> Reading {
    Reading {
        total: Total {
            sum: point.value.sum,
            count: point.value.count,
            ..Total::default()
        },
        last: false,
        temporality,
        start_unix_ns: point.start_unix_ns,
    }
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
