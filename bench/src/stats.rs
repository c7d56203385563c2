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

/// The value that `share` of the others do not exceed. 0 of nothing.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.max(1) - 1).copied().unwrap_or(0.0)
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

/// How much the second value grows with the first, by least squares. 0 of less than two points.
pub fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).sum::<f64>() / count;
    let (x, y) = (mean(|it| it.0), mean(|it| it.1));
    let spread: f64 = points.iter().map(|it| (it.0 - x).powi(2)).sum();
    let together: f64 = points.iter().map(|it| (it.0 - x) * (it.1 - y)).sum();
    if spread > 0.0 { together / spread } else { 0.0 }
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
    fn of_two_hundred_the_second_largest_but_one_is_the_99th_percentile() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.99)), (100.0, 198.0));
        assert_eq!((quantile(&values, 1.0), quantile(&[], 0.5)), (200.0, 0.0));
    }

    #[test]
    fn a_line_is_as_steep_as_it_is() {
        assert_eq!(slope(&[(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)]), 2.0);
        assert_eq!((slope(&[(1.0, 1.0)]), slope(&[])), (0.0, 0.0));
    }

    #[test]
    fn the_spread_is_relative_to_the_median() {
        assert_eq!(range(&[2.0, 1.0, 4.0]), (1.0, 4.0));
        assert_eq!(spread(&[2.0, 1.0, 4.0]), 150.0);
        assert_eq!(spread(&[0.0]), 0.0);
    }
}
