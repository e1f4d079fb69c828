//! Results of several runs, shown as the median with the smallest and the largest.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The results of several runs, in their order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample(Vec<f64>);

impl Sample {
    /// The result of a single run.
    pub(super) fn of(result: f64) -> Self {
        Self(vec![result])
    }

    pub(super) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut figures = self.0.clone();
        figures.sort_by(f64::total_cmp);
        figures
    }

    pub(super) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value below which this share of the runs lies, interpolated linearly; NaN without a run.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let figures = self.sorted();
        let Some(last) = figures.len().checked_sub(1) else { return f64::NAN };
        let place = share.clamp(0.0, 1.0) * last as f64;
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        figures[below] + (figures[above] - figures[below]) * (place - place.floor())
    }

    pub(super) fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    pub(super) fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    /// Each result times `factor`.
    pub(super) fn times(&self, factor: f64) -> Self {
        self.0.iter().map(|figure| figure * factor).collect()
    }

    /// Each run divided by the other's run of the same round: load of the computer that slowed both cancels out.
    pub(super) fn ratio(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(mine, theirs)| mine / theirs).collect())
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        Self(figures.into_iter().collect())
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("–");
        }
        write!(f, "{}", figure(self.median()))?;
        if self.len() > 1 {
            write!(f, " ({}–{})", figure(self.min()), figure(self.max()))?;
        }
        Ok(())
    }
}

/// Three significant digits, with a comma between thousands.
pub(super) fn figure(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut apart = String::new();
    for (place, digit) in whole.chars().enumerate() {
        let left = whole.len() - place;
        if place > 0 && left.is_multiple_of(3) && !apart.ends_with('-') {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_is_the_mean_of_two() {
        let sample: Sample = [4.0, 1.0, 2.0, 3.0].into_iter().collect();
        assert_eq!((sample.median(), sample.min(), sample.max()), (2.5, 1.0, 4.0));
    }

    #[test]
    fn runs_are_compared_with_the_run_beside_them() {
        let mine: Sample = [10.0, 30.0].into_iter().collect();
        let theirs: Sample = [5.0, 10.0].into_iter().collect();
        assert_eq!(mine.ratio(&theirs).median(), 2.5);
    }

    #[test]
    fn figures_read_well() {
        let told: Vec<_> = [0.1234, 1.5, 12.34, 1234.5, 1_234_567.0, -1234.0].map(figure).into();
        assert_eq!(told, ["0.123", "1.50", "12.3", "1,234", "1,234,567", "-1,234"]);
    }
}
