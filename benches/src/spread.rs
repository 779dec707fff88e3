//! A median and how far the middle half of the values lies apart.

use serde::Serialize;

/// The distribution of one value over the rounds of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    /// The lower and the upper quartile.
    pub low: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        assert!(!values.is_empty(), "a run has rounds");
        values.sort_by(f64::total_cmp);
        let at = |part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
        Spread { median: at(0.5), low: at(0.25), high: at(0.75) }
    }
}

/// The median, if there is anything at all.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values = values.into_iter().peekable();
    values.peek()?;
    Some(Spread::of(values).median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_middle_half() {
        let spread = Spread::of([9.0, 1.0, 5.0, 3.0, 7.0]);
        assert_eq!((spread.low, spread.median, spread.high), (3.0, 5.0, 7.0));
        let one = Spread::of([4.0]);
        assert_eq!((one.low, one.median, one.high), (4.0, 4.0, 4.0));
    }
}
