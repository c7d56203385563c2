//! Medians and spreads.

/// The middle value; of an even number, the mean of the two in the middle. 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// The least and the greatest value. Zeros of nothing.
pub fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().reduce(f64::min);
    let greatest = values.iter().copied().reduce(f64::max);
    (least.unwrap_or(0.0), greatest.unwrap_or(0.0))
}

/// How far the values are apart, in percent of their median.
pub fn spread(values: &[f64]) -> f64 {
    let (least, greatest) = range(values);
    match median(values) {
        0.0 => 0.0,
        middle => (greatest - least) / middle * 100.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn the_spread_is_relative_to_the_median() {
        assert_eq!(range(&[2.0, 1.0, 4.0]), (1.0, 4.0));
        assert_eq!(spread(&[2.0, 1.0, 4.0]), 150.0);
        assert_eq!(spread(&[0.0]), 0.0);
    }
}
