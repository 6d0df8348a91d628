//! What becomes of points, and the page that is written of them.

use realm_model::cloud::telemetry::{
    Attributes, Buckets, Emitter, Metric, MetricData, Metrics, Number, Point, Scope, Temporality,
    Value,
};

use super::{LINES_MAX, PAGE_BYTES_MAX};
use crate::telemetry::{Embedded, Guest, Guests};
use realm_model::cloud::telemetry::Telemetry as _;
use std::sync::Arc;

fn point<T>(attributes: &[(&str, &str)], start: u64, value: T) -> Point<T> {
    let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), Value::Text((*value).to_owned()));
    Point {
        attributes: attributes.iter().map(pair).collect::<Attributes>(),
        start_unix_ns: start,
        unix_ns: 10,
        value,
        exemplars: Vec::new(),
    }
}

fn metric(name: &str, data: MetricData) -> Metric {
    Metric {
        name: name.to_owned(),
        description: String::new(),
        unit: String::new(),
        data,
    }
}

fn count(name: &str, temporality: Temporality, start: u64, value: i64) -> Metric {
    let data = MetricData::Sum {
        points: vec![point(&[], start, Number::Int(value))],
        temporality,
        monotonic: true,
    };
    metric(name, data)
}

fn gauge(name: &str, attributes: &[(&str, &str)], value: f64) -> Metric {
    let points = vec![point(attributes, 0, Number::Double(value))];
    metric(name, MetricData::Gauge(points))
}

fn histogram(name: &str, counts: &[u64], sum: f64) -> Metric {
    let value = Buckets {
        count: counts.iter().sum(),
        sum,
        bounds: vec![1.0, 5.0],
        counts: counts.to_vec(),
        min: None,
        max: None,
    };
    let data = MetricData::Histogram {
        points: vec![point(&[], 0, value)],
        temporality: Temporality::Delta,
    };
    metric(name, data)
}

/// Exports from an instance, with what was said to it.
fn export(guest: &Arc<Guest>, instance: u64, metrics: Vec<Metric>) -> Result<(), String> {
    let metrics = Metrics {
        resource: Default::default(),
        scopes: vec![(Scope::default(), metrics)],
    };
    let from = Emitter { slot: 0, instance };
    let taken = Embedded::new(Arc::clone(guest)).metrics(from, metrics);
    taken.map_err(|error| error.to_string())
}

/// The lines of the page that guests made.
fn page(guests: &Guests) -> Vec<String> {
    let page = guests.page();
    let own = |line: &&str| !line.contains("telemetry_items_total");
    page.lines().filter(own).map(str::to_owned).collect()
}

#[test]
fn what_instances_count_since_their_beginning_adds_up() {
    let guests = Guests::default();
    let guest = guests.of("shop");
    let cumulative = |start, value| vec![count("orders", Temporality::Cumulative, start, value)];
    for (instance, start, value) in [
        (1, 100, 2),
        (2, 100, 1),
        (1, 100, 5),
        (2, 100, 1),
        // It counts anew.
        (2, 100, 1),
        (1, 200, 1),
        (3, 300, 4),
        (3, 300, 3),
    ] {
        assert_eq!(export(&guest, instance, cumulative(start, value)), Ok(()));
    }
    // 5 of the first, 1 of the second, 1 of the first's second beginning, 4 + 3 of the third.
    assert_eq!(
        page(&guests),
        [
            "# TYPE app_orders_total counter",
            "app_orders_total{component=\"shop\"} 14"
        ]
    );
    for _ in 0..3 {
        let delta = vec![count("orders", Temporality::Delta, 0, 2)];
        assert_eq!(export(&guest, 9, delta), Ok(()));
    }
    assert!(page(&guests)[1].ends_with(" 20"));
}

#[test]
fn a_histogram_is_written_as_prometheus_reads_it() {
    let guests = Guests::default();
    let guest = guests.of("shop");
    assert_eq!(
        export(&guest, 1, vec![histogram("took", &[1, 0, 2], 20.5)]),
        Ok(())
    );
    assert_eq!(
        export(&guest, 2, vec![histogram("took", &[1, 1, 0], 3.0)]),
        Ok(())
    );
    assert_eq!(
        page(&guests),
        [
            "# TYPE app_took histogram",
            "app_took_bucket{component=\"shop\",le=\"1\"} 2",
            "app_took_bucket{component=\"shop\",le=\"5\"} 3",
            "app_took_bucket{component=\"shop\",le=\"+Inf\"} 5",
            "app_took_sum{component=\"shop\"} 23.5",
            "app_took_count{component=\"shop\"} 5",
        ]
    );
    // Nothing of it is taken where a part makes no sense.
    let mut wrong = histogram("took", &[1, 0, 2], 1.0);
    if let MetricData::Histogram { points, .. } = &mut wrong.data {
        points[0].value.count = 7;
    }
    let refused = export(&guest, 1, vec![wrong]);
    assert!(refused.is_err_and(|why| why.contains("buckets make no sense")));
    let refused = export(&guest, 1, vec![histogram("took", &[1, 0, 2], f64::NAN)]);
    assert!(refused.is_err());
    assert!(page(&guests)[5].ends_with(" 5"));
}

#[test]
fn components_share_a_name_and_nobody_takes_anothers_lines() {
    let guests = Guests::default();
    let (a, b) = (guests.of("a"), guests.of("b"));
    assert_eq!(export(&a, 1, vec![gauge("load", &[], 0.5)]), Ok(()));
    assert_eq!(export(&b, 2, vec![gauge("load", &[], f64::NAN)]), Ok(()));
    assert_eq!(
        page(&guests),
        [
            "# TYPE app_load gauge",
            "app_load{component=\"a\"} 0.5",
            "app_load{component=\"b\"} NaN",
        ]
    );
    // Another kind under the same name, and a gauge that is called as a line of a histogram is.
    assert_eq!(
        export(&b, 2, vec![histogram("took", &[0, 1, 0], 2.0)]),
        Ok(())
    );
    assert_eq!(export(&a, 1, vec![gauge("took_count", &[], 7.0)]), Ok(()));
    let lines = page(&guests);
    assert!(
        lines.contains(&"app_took_count{component=\"a\"} 7".to_owned()),
        "{lines:?}"
    );
    assert!(
        lines.contains(&"app_took_count{component=\"b\"} 1".to_owned()),
        "{lines:?}"
    );
    assert!(
        !lines.iter().any(|line| line.contains("TYPE app_took")),
        "{lines:?}"
    );
    let first = lines
        .iter()
        .position(|line| line.starts_with("app_took_count"));
    let last = lines
        .iter()
        .rposition(|line| line.starts_with("app_took_count"));
    assert_eq!(last, first.map(|first| first + 1), "{lines:?}");
    // Of one component both would be the same line.
    let refused = export(&b, 2, vec![gauge("took_count", &[], 7.0)]);
    assert!(refused.is_err_and(|why| why.contains("part of another")));
    let refused = export(&b, 2, vec![histogram("load", &[1, 1, 1], 1.0)]);
    assert!(refused.is_err_and(|why| why.contains("another kind")));
}

#[test]
fn a_component_has_so_many_lines_and_no_more() {
    let guests = Guests::default();
    let guest = guests.of("flood");
    let mut refused = 0;
    for number in 0..LINES_MAX + 500 {
        let name = number.to_string();
        let one = gauge("flood", &[("user", &name)], 1.0);
        refused += usize::from(export(&guest, 1, vec![one]).is_err());
    }
    assert_eq!(refused, 500);
    assert_eq!(page(&guests).len(), LINES_MAX + 1);
    // Those that are there go on, and others have their own.
    assert_eq!(
        export(&guest, 1, vec![gauge("flood", &[("user", "1")], 2.0)]),
        Ok(())
    );
    assert_eq!(
        export(&guests.of("other"), 1, vec![gauge("x", &[], 1.0)]),
        Ok(())
    );
    for number in 0..1_000 {
        let _ = export(&guest, 1, vec![gauge(&format!("name{number}"), &[], 1.0)]);
    }
    assert!(page(&guests).len() < LINES_MAX + 10);
    let counted = guests.page();
    let expected =
        "telemetry_items_total{component=\"flood\",signal=\"metrics\",result=\"refused\"} 1500";
    assert!(counted.contains(expected), "{counted}");
}

#[test]
fn hostile_numbers_and_names_hurt_nobody() {
    let guests = Guests::default();
    let guest = guests.of("evil");
    for value in [i64::MIN, -1] {
        let refused = export(&guest, 1, vec![count("c", Temporality::Delta, 0, value)]);
        assert!(refused.is_err());
    }
    for value in [
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
        -0.0,
        f64::MIN_POSITIVE,
    ] {
        assert_eq!(export(&guest, 1, vec![gauge("g", &[], value)]), Ok(()));
    }
    let mut forged = gauge("x\n# TYPE realm_version gauge\nrealm_version 99", &[], 1.0);
    forged.description = "x\nrealm_version 99".to_owned();
    assert_eq!(export(&guest, 1, vec![forged]), Ok(()));
    let lines = page(&guests);
    let own = |line: &String| {
        line.starts_with("app_")
            || line.starts_with("# HELP app_")
            || line.starts_with("# TYPE app_")
    };
    assert!(lines.iter().all(own), "{lines:?}");
}

#[test]
fn what_a_component_measured_goes_with_it() {
    let guests = Guests::default();
    let guest = guests.of("shop");
    assert_eq!(export(&guest, 1, vec![gauge("load", &[], 0.5)]), Ok(()));
    // A second version shares it while both are there.
    let next = guests.of("shop");
    drop(guest);
    assert_eq!(page(&guests).len(), 2);
    drop(next);
    assert_eq!(guests.page(), "");
}

#[test]
fn the_page_of_a_component_has_an_end_however_long_its_labels_are() {
    let guests = Guests::default();
    let guest = guests.of("evil");
    let long = "x".repeat(250);
    let names: Vec<_> = (0..30).map(|n| format!("a{n}")).collect();
    let labels: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), long.as_str()))
        .collect();
    let mut n_refused = 0;
    for n in 0..29 {
        let value = Buckets {
            count: 0,
            sum: f64::MIN,
            bounds: (0..63).map(|n| 1e300 + f64::from(n) * 1e299).collect(),
            counts: vec![0; 64],
            min: None,
            max: None,
        };
        let data = MetricData::Histogram {
            points: vec![point(&labels, 0, value)],
            temporality: Temporality::Delta,
        };
        n_refused += usize::from(export(&guest, 1, vec![metric(&format!("h{n}"), data)]).is_err());
    }
    assert!((1..29).contains(&n_refused), "{n_refused}");
    let page = guests.page();
    assert!(page.len() < PAGE_BYTES_MAX, "{}", page.len());
    // No number is written out with three hundred digits.
    assert!(page.contains("le=\"1e300\""));
    assert!(!page.contains(&"0".repeat(30)));
}
