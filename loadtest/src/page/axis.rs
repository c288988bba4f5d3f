//! Axes: where a value stands on one, and the values worth a label. Nothing here knows of SVG.

/// With more powers of ten, lines between them are a wall.
const DECADES_SUBDIVIDED: f64 = 5.0;

/// How values are laid out along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Equal steps.
    Linear,
    /// Powers of ten.
    Logarithmic,
    /// Percentiles by the share that is left above them, so that each further nine takes as much room: 90, 99, 99.9.
    Nines,
}

impl Scale {
    /// Whether a value has a place on it.
    pub(crate) fn holds(self, value: f64) -> bool {
        self.place(value).is_some()
    }

    /// The value on a line where equal distances look equal; `None` where it has no place.
    fn place(self, value: f64) -> Option<f64> {
        let has_place = match self {
            Self::Linear => value.is_finite(),
            Self::Logarithmic => value.is_finite() && value > 0.0,
            Self::Nines => (0.0..100.0).contains(&value),
        };
        has_place.then(|| match self {
            Self::Linear => value,
            Self::Logarithmic => value.log10(),
            Self::Nines => -(1.0 - value / 100.0).log10(),
        })
    }
}

/// Where an axis ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// At the data: for what runs along, as time does.
    Data,
    /// At labels around the data, and at zero where steps are equal: heights compare only from there.
    Labels,
}

/// A stretch of an axis that holds some data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Span {
    /// A stretch for these values; `None` where none of them has a place on the scale.
    pub(crate) fn of(
        scale: Scale,
        ends: Ends,
        values: impl Iterator<Item = f64>,
        labels: usize,
    ) -> Option<Self> {
        let placed: Vec<f64> = values.filter_map(|v| scale.place(v)).collect();
        let (low, high) = super::text::range(&placed);
        if low.is_nan() {
            return None;
        }
        let (from, to) = match scale {
            Scale::Linear => linear_ends(low, high, ends, labels),
            Scale::Logarithmic => logarithmic_ends(low, high, ends),
            Scale::Nines => (0.0, high.max(1.0)),
        };
        Some(Self { scale, from, to })
    }

    /// How the values are laid out.
    pub(crate) fn scale(self) -> Scale {
        self.scale
    }

    /// Where a value stands, from 0 at the beginning to 1 at the end.
    pub(crate) fn at(self, value: f64) -> Option<f64> {
        self.scale.place(value).map(|placed| (placed - self.from) / (self.to - self.from))
    }

    /// The values to label, at most about so many, each with its label.
    pub(crate) fn ticks(self, labels: usize) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => {
                let step = step(self.to - self.from, labels);
                let (first, last) = ((self.from / step - 1e-9).ceil(), (self.to / step + 1e-9).floor());
                let value = |i: usize| (first + i as f64) * step;
                (0..=(last - first) as usize).map(|i| (value(i), compact(value(i)))).collect()
            }
            Scale::Logarithmic => {
                logarithmic_ticks(self.from, self.to, labels).map(|v| (v, compact(v))).collect()
            }
            Scale::Nines => {
                let known = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999, 99.99999];
                let inside = known.into_iter().filter(|v| self.at(*v).is_some_and(|at| at <= 1.0));
                inside.map(|v| (v, v.to_string())).collect()
            }
        }
    }

    /// Values between the ticks that help the eye where only powers of ten are labelled.
    pub(crate) fn between(self, labels: usize) -> Vec<f64> {
        if self.scale != Scale::Logarithmic || self.to - self.from > DECADES_SUBDIVIDED {
            return Vec::new();
        }
        let labelled: Vec<f64> = logarithmic_ticks(self.from, self.to, labels).collect();
        let all = logarithmic_ticks(self.from, self.to, usize::MAX);
        all.filter(|v| !labelled.contains(v)).collect()
    }
}

fn linear_ends(low: f64, high: f64, ends: Ends, labels: usize) -> (f64, f64) {
    // Data that begins near zero begins there.
    let near_zero = ends == Ends::Labels || low < high * 0.25;
    let low = if low > 0.0 && near_zero { 0.0 } else { low };
    let high = if high < 0.0 && ends == Ends::Labels { 0.0 } else { high };
    if high - low <= high.abs() * 1e-9 {
        return if high == 0.0 { (0.0, 1.0) } else { (high - high.abs() / 2.0, high + high.abs() / 2.0) };
    }
    if ends == Ends::Data {
        return (low, high);
    }
    let step = step(high - low, labels);
    ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step)
}

/// In powers of ten, as they are placed.
fn logarithmic_ends(low: f64, high: f64, ends: Ends) -> (f64, f64) {
    if ends == Ends::Data && logarithmic_ticks(low, high, usize::MAX).nth(1).is_some() {
        return (low, high);
    }
    // 2 and 5 stand equally far from 1 and 10: rounding up is rounding down in the mirror.
    let (below, above) = (round_down(low), -round_down(-high));
    if above - below > 1e-9 { (below, above) } else { (round_down(low - 0.01), above + 2f64.log10()) }
}

/// The power that stands for 1, 2 or 5 times a power of ten at or below.
fn round_down(power: f64) -> f64 {
    let whole = (power + 1e-9).floor();
    let parts = [0.0, 2f64.log10(), 5f64.log10()];
    parts.iter().map(|part| whole + part).filter(|p| *p <= power + 1e-9).fold(whole, f64::max)
}

/// 1, 2 and 5 times powers of ten where there is room for them, else powers of ten, else every other one and so on.
fn logarithmic_ticks(from: f64, to: f64, labels: usize) -> impl Iterator<Item = f64> {
    let inside = move |v: &f64| (from - 1e-9..=to + 1e-9).contains(&v.log10());
    let (first, last) = ((from - 1e-9).floor() as i32, (to + 1e-9).floor() as i32);
    let powers = move |every: usize| (first..=last).step_by(every).map(|power| 10f64.powi(power));
    let mut chosen: Vec<f64> = powers(1).flat_map(|p| [p, 2.0 * p, 5.0 * p]).filter(inside).collect();
    let mut every = 1;
    while chosen.len() > labels.max(2) {
        chosen = powers(every).filter(inside).collect();
        every += 1;
    }
    chosen.into_iter()
}

/// 1, 2 or 5 times a power of ten, so that a length has at most about so many steps.
fn step(length: f64, labels: usize) -> f64 {
    let least = length / labels.saturating_sub(1).max(1) as f64;
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0]
        .map(|part| part * power)
        .into_iter()
        .find(|s| *s >= least * (1.0 - 1e-9))
        .unwrap_or(10.0 * power)
}

/// A label of few letters: `0.05`, `500`, `10k`, `2.5M`.
fn compact(value: f64) -> String {
    let size = value.abs();
    if size >= 1e15 || (size > 0.0 && size < 0.000_999) {
        return format!("{value:.0e}");
    }
    let (unit, letter) = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
        .into_iter()
        .find(|(u, _)| size >= u * 0.999_999)
        .unwrap_or((1.0, ""));
    // Steps are sums of fractions: what is left of their error has to go.
    let digits = format!("{:.6}", value / unit);
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{}{letter}", if digits == "-0" { "0" } else { digits })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, ends: Ends, values: &[f64]) -> Vec<String> {
        let span = Span::of(scale, ends, values.iter().copied(), 6).expect("a span");
        span.ticks(6).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn equal_steps_are_1_2_or_5() {
        assert_eq!(labels(Scale::Linear, Ends::Labels, &[3.0, 47.0]), ["0", "10", "20", "30", "40", "50"]);
        assert_eq!(
            labels(Scale::Linear, Ends::Labels, &[41_000.0]),
            ["0", "10k", "20k", "30k", "40k", "50k"]
        );
        assert_eq!(labels(Scale::Linear, Ends::Data, &[0.1, 0.72]), ["0", "0.2", "0.4", "0.6"]);
        assert_eq!(
            labels(Scale::Linear, Ends::Labels, &[-30.0, 60.0]),
            ["-40", "-20", "0", "20", "40", "60"]
        );
        assert_eq!(labels(Scale::Linear, Ends::Data, &[2_600_000.0, 4_000_000.0]), ["3M", "3.5M", "4M"]);
    }

    #[test]
    fn powers_of_ten_have_the_room_that_there_is() {
        assert_eq!(labels(Scale::Logarithmic, Ends::Labels, &[0.3, 4.0]), ["0.2", "0.5", "1", "2", "5"]);
        let decades = ["0.1", "1", "10", "100", "1k"];
        assert_eq!(labels(Scale::Logarithmic, Ends::Labels, &[0.1, 900.0]), decades);
        let span = Span::of(Scale::Logarithmic, Ends::Labels, [0.1, 100.0].into_iter(), 6).expect("a span");
        assert_eq!(span.between(6), [0.2, 0.5, 2.0, 5.0, 20.0, 50.0]);
        let sparse = labels(Scale::Logarithmic, Ends::Labels, &[1e-9, 1e9]);
        assert!(sparse.len() <= 6 && sparse.len() >= 3, "{sparse:?}");
        assert_eq!(
            labels(Scale::Logarithmic, Ends::Data, &[1_000.0, 64_000.0]),
            ["1k", "2k", "5k", "10k", "20k", "50k"]
        );
    }

    #[test]
    fn each_further_nine_takes_as_much_room() {
        let span = Span::of(Scale::Nines, Ends::Data, [0.0, 99.99].into_iter(), 6).expect("a span");
        let at = |p| span.at(p).expect("a place");
        assert!((at(90.0) - 0.25).abs() < 1e-9 && (at(99.0) - 0.5).abs() < 1e-9 && at(0.0) == 0.0);
        assert_eq!(span.at(100.0), None);
        let labels: Vec<_> = span.ticks(6).into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, ["0", "50", "90", "99", "99.9", "99.99"]);
    }

    #[test]
    fn values_without_a_place_are_left_out() {
        let values = [0.0, -3.0, f64::NAN, f64::INFINITY, 20.0];
        let span = Span::of(Scale::Logarithmic, Ends::Labels, values.into_iter(), 6).expect("a span");
        assert_eq!([span.at(0.0), span.at(-3.0), span.at(f64::NAN)], [None; 3]);
        assert!(span.at(20.0).is_some_and(|at| at > 0.0 && at < 1.0));
        assert_eq!(Span::of(Scale::Logarithmic, Ends::Labels, [0.0].into_iter(), 6), None);
        assert_eq!(Span::of(Scale::Linear, Ends::Labels, [f64::NAN].into_iter(), 6), None);
    }

    #[test]
    fn equal_values_still_have_an_axis() {
        for ends in [Ends::Data, Ends::Labels] {
            for scale in [Scale::Linear, Scale::Logarithmic] {
                for value in [10.0, 3.0, 1e-7, 1e12] {
                    let span = Span::of(scale, ends, [value, value].into_iter(), 6).expect("a span");
                    assert!(span.at(value).is_some_and(|at| (0.0..=1.0).contains(&at)), "{span:?}");
                    assert!(span.ticks(6).len() >= 2, "{span:?} {:?}", span.ticks(6));
                }
            }
            assert!(
                Span::of(Scale::Linear, ends, [0.0].into_iter(), 6).is_some_and(|s| s.at(0.0) == Some(0.0))
            );
        }
    }
}
