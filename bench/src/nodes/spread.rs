//! Many timings of one thing: the middle, the slow ones, the slowest.

use serde::Serialize;

use crate::report::digits;
use crate::stats::Spread;

/// Figures in order.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct Sorted(Vec<f64>);

impl Sorted {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The value that `percent` of all do not exceed; 0 of nothing.
    pub(crate) fn at(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The same, counted from an earlier moment.
    pub(crate) fn later(self, by: f64) -> Self {
        Self(self.0.into_iter().map(|value| value + by).collect())
    }

    /// One percentile as what counts, with the least and the greatest beside it.
    pub(crate) fn verdict(&self, percent: usize) -> Spread {
        Spread {
            median: self.at(percent),
            min: self.at(0),
            max: self.at(100),
        }
    }

    pub(crate) fn cells(&self) -> [String; 4] {
        [50, 90, 99, 100].map(|percent| digits(self.at(percent)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[f64], percent: usize, expected: f64) {
        let got = Sorted::of(values.iter().copied()).at(percent);
        assert!((got - expected).abs() < 1e-9, "{got} for {percent} %");
    }

    #[test]
    fn of_few_values_the_ninety_ninth_is_the_greatest() {
        check(&[], 99, 0.0);
        check(&[3.0, 1.0, 2.0], 99, 3.0);
        check(&[3.0, 1.0, 2.0], 50, 2.0);
        check(&[3.0, 1.0, 2.0], 0, 1.0);
        let hundred: Vec<f64> = (1..=200).map(f64::from).collect();
        check(&hundred, 99, 198.0);
        check(&hundred, 50, 100.0);
    }
}
