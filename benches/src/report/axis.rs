//! An axis: which values it spans, where its ticks are, and where on it a value lies.

use crate::figure::Unit;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    Logarithmic,
}

/// What an axis says beside its values.
#[derive(Clone, Debug)]
pub struct Axis {
    pub label: String,
    pub unit: Unit,
    pub scale: Scale,
}

/// An axis that has met its values: round limits around them, and ticks.
#[derive(Debug)]
pub struct Span {
    scale: Scale,
    low: f64,
    high: f64,
    /// Values with a label.
    pub ticks: Vec<f64>,
    /// Values with a fainter line only.
    pub minor: Vec<f64>,
}

/// Decades up to which a logarithmic axis has labels at 1, 2 and 5 rather than at 1 only.
const DECADES_LABELLED_FINELY: f64 = 3.01;

const LINEAR_TICKS: f64 = 5.0;

impl Span {
    /// Values that the scale cannot show (nothing, or zero on a logarithmic one) do not count.
    pub fn around(scale: Scale, values: impl IntoIterator<Item = f64>) -> Span {
        let is_shown = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
        let values: Vec<f64> = values.into_iter().filter(is_shown).collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        match scale {
            Scale::Linear => Span::linear(most),
            Scale::Logarithmic if values.is_empty() => Span::logarithmic(1.0, 10.0),
            Scale::Logarithmic => Span::logarithmic(least, most),
        }
    }

    fn linear(most: f64) -> Span {
        let most = if most > 0.0 { most } else { 1.0 };
        let step = round_up(most / LINEAR_TICKS);
        let count = (most / step - 1e-9).ceil() as u32;
        let ticks: Vec<f64> = (0..=count).map(|index| f64::from(index) * step).collect();
        let high = f64::from(count) * step;
        Span { scale: Scale::Linear, low: 0.0, high, ticks, minor: Vec::new() }
    }

    fn logarithmic(least: f64, most: f64) -> Span {
        let (mut low, mut high) = (round_down(least), round_up(most));
        if high / low < 10.0 {
            // Less than a decade has too few ticks to be read as logarithmic.
            low = round_down(low * 0.99);
            high = round_up(high * 1.01);
        }
        let first = low.log10().floor() as i32;
        let last = high.log10().ceil() as i32;
        let all = (first..=last).flat_map(|power| [1.0, 2.0, 5.0].map(|one| (power, one)));
        let is_fine = (high / low).log10() <= DECADES_LABELLED_FINELY;
        if !is_fine {
            // So that both ends have labels.
            (low, high) = (10f64.powi(first), 10f64.powi(last));
        }
        let is_within = |value: f64| value >= low * 0.999 && value <= high * 1.001;
        let (mut ticks, mut minor) = (Vec::new(), Vec::new());
        for (power, one) in all {
            let value = one * 10f64.powi(power);
            if is_within(value) {
                if is_fine || one == 1.0 { ticks.push(value) } else { minor.push(value) }
            }
        }
        Span { scale: Scale::Logarithmic, low, high, ticks, minor }
    }

    /// 0 at the lower end, 1 at the upper. What is below a logarithmic axis lies on its end.
    pub fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Logarithmic if value <= self.low => 0.0,
            Scale::Logarithmic => (value / self.low).log10() / (self.high / self.low).log10(),
        };
        share.clamp(0.0, 1.0)
    }
}

/// The next of 1, 2, 5, 10, 20, ... that is not below `value`.
fn round_up(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
    steps.into_iter().find(|&step| step >= value * (1.0 - 1e-9)).unwrap_or(10.0 * decade)
}

/// The next of 1, 2, 5, 10, 20, ... that is not above `value`.
fn round_down(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let steps = [10.0, 5.0, 2.0, 1.0].map(|step| step * decade);
    steps.into_iter().find(|&step| step <= value * (1.0 + 1e-9)).unwrap_or(decade)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_the_values() {
        let check = |scale: Scale, values: &[f64], ticks: &[f64]| {
            let span = Span::around(scale, values.iter().copied());
            let same = span.ticks.iter().zip(ticks).all(|(a, b)| (a - b).abs() <= b.abs() * 1e-9);
            assert!(same && span.ticks.len() == ticks.len(), "{values:?}: {:?}", span.ticks);
            for &value in values.iter().filter(|&&value| value > 0.0) {
                let place = span.place(value);
                assert!((0.0..=1.0).contains(&place), "{value} is at {place}");
            }
        };
        check(Scale::Linear, &[172.0, 4106.0], &[0.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0]);
        check(Scale::Linear, &[1.0], &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        check(Scale::Linear, &[], &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        check(Scale::Logarithmic, &[1e5, 1e6], &[1e5, 2e5, 5e5, 1e6]);
        check(Scale::Logarithmic, &[150.0, 300.0], &[50.0, 100.0, 200.0, 500.0, 1000.0]);
        check(Scale::Logarithmic, &[2e3, 5e6], &[1e3, 1e4, 1e5, 1e6, 1e7]);
        check(Scale::Logarithmic, &[], &[1.0, 2.0, 5.0, 10.0]);
    }

    #[test]
    fn equal_ratios_are_equally_far_apart_on_a_logarithmic_axis() {
        let span = Span::around(Scale::Logarithmic, [10.0, 1000.0]);
        let places = [10.0, 100.0, 1000.0].map(|value| span.place(value));
        assert_eq!(places, [0.0, 0.5, 1.0]);
        assert_eq!(span.place(0.0), 0.0);
    }
}
