//! The two axes of a plot: how far each reaches, and which values are labelled. `plotters` draws along lines of equal
//! steps, so that every value is placed on such a line first.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;

use super::text;
use crate::report::Axis;

/// About so many values are labelled.
const TICKS: usize = 8;
/// The percentiles that are worth a label.
const NINES: [f64; 9] = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999, 99.99999];

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
    /// How an axis of the report is laid out.
    pub(crate) fn of(axis: &Axis) -> Self {
        if axis.logarithmic { Self::Logarithmic } else { Self::Linear }
    }

    /// The value on a line where equal distances look equal; `None` where it has no place.
    pub(crate) fn place(self, value: f64) -> Option<f64> {
        let placed = match self {
            Self::Linear => value,
            Self::Logarithmic => value.log10(),
            Self::Nines => -(1.0 - value / 100.0).log10(),
        };
        placed.is_finite().then_some(placed)
    }
}

/// Which axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The horizontal one, as far as the values reach.
    Across,
    /// The vertical one, where equal steps begin at zero: heights compare only from there.
    Up,
}

/// An axis that has room for some values.
#[derive(Clone, Debug)]
pub(crate) struct Ruler {
    from: f64,
    to: f64,
    /// Where the labelled values are placed, each with its label.
    ticks: Vec<(f64, String)>,
}

impl Ruler {
    /// An axis for these placed values; `None` where there are none.
    pub(crate) fn along(way: Way, scale: Scale, placed: &[f64]) -> Option<Self> {
        let (low, high) = text::range(placed);
        if low.is_nan() {
            return None;
        }
        let tick = |value: f64, label| Some((scale.place(value)?, label));
        let (from, to, ticks): (f64, f64, Vec<_>) = match scale {
            Scale::Linear => {
                let (from, to) = linear_ends(way, low, high);
                let values = RangedCoordf64::from(from..to).key_points(TICKS).into_iter();
                (from, to, values.filter_map(|v| tick(v, text::short(v))).collect())
            }
            Scale::Logarithmic => {
                let steps = steps(low, high);
                let ends = (steps.first().copied().unwrap_or(low), steps.last().copied().unwrap_or(high));
                let values = thinned(steps).into_iter().map(|power| 10f64.powf(power));
                (ends.0, ends.1, values.filter_map(|v| tick(v, text::short(v))).collect())
            }
            Scale::Nines => {
                (0.0, high.max(1.0), NINES.iter().filter_map(|p| tick(*p, p.to_string())).collect())
            }
        };
        let ticks = ticks.into_iter().filter(|(at, _)| (from - 1e-9..=to + 1e-9).contains(at)).collect();
        Some(Self { from, to, ticks })
    }
}

/// The axis as `plotters` takes it.
impl Ranged for Ruler {
    type ValueType = f64;
    type FormatOption = NoDefaultFormatting;

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }

    fn map(&self, placed: &f64, pixels: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.range()).map(placed, pixels)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        let labelled = if hint.weight().allow_light_points() { &[][..] } else { &self.ticks };
        labelled.iter().map(|(at, _)| *at).collect()
    }
}

impl ValueFormatter<f64> for Ruler {
    fn format(at: &f64) -> String {
        text::short(*at)
    }

    fn format_ext(&self, at: &f64) -> String {
        self.ticks.iter().find(|tick| tick.0 == *at).map(|tick| tick.1.clone()).unwrap_or_default()
    }
}

fn linear_ends(way: Way, low: f64, high: f64) -> (f64, f64) {
    let near_zero = way == Way::Up || low < high * 0.25;
    let from = if low > 0.0 && near_zero { 0.0 } else { low };
    let to = if way == Way::Up { high.max(0.0) * 1.05 } else { high };
    if to - from > high.abs() * 1e-9 {
        return (from, to);
    }
    // Equal values, somewhere in the middle.
    (from.min(0.0), if to > 0.0 { to * 2.0 } else { 1.0 })
}

/// From 1, 2 or 5 times a power of ten at or below to one at or above, as they are placed.
fn steps(low: f64, high: f64) -> Vec<f64> {
    let powers = low.floor() as i32..=high.floor() as i32 + 1;
    let all: Vec<f64> = powers.flat_map(|p| [1.0f64, 2.0, 5.0].map(|s| f64::from(p) + s.log10())).collect();
    let first = all.iter().rposition(|step| *step <= low + 1e-9).unwrap_or(0);
    let last = all.iter().position(|step| *step >= high - 1e-9).unwrap_or(all.len() - 1);
    all[first..=last.max(first + 1)].to_vec()
}

/// All where there is room to label them, else powers of ten, else some of these.
fn thinned(mut steps: Vec<f64>) -> Vec<f64> {
    if steps.len() > TICKS {
        steps.retain(|step| step.fract() == 0.0);
    }
    let every = steps.len().div_ceil(TICKS).max(1);
    steps.into_iter().step_by(every).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruler(scale: Scale, values: &[f64]) -> Option<Ruler> {
        Ruler::along(Way::Up, scale, &values.iter().filter_map(|v| scale.place(*v)).collect::<Vec<_>>())
    }

    fn labels(scale: Scale, values: &[f64]) -> Vec<String> {
        ruler(scale, values).expect("an axis").ticks.into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn equal_steps_begin_at_zero_and_time_where_it_does() {
        assert_eq!(linear_ends(Way::Across, 3.0, 4.0), (3.0, 4.0));
        assert_eq!(linear_ends(Way::Across, 0.1, 4.0), (0.0, 4.0));
        assert_eq!(labels(Scale::Linear, &[3.0, 50.0]), ["0", "10", "20", "30", "40", "50"]);
        assert_eq!(labels(Scale::Linear, &[-30.0, 60.0]), ["-20", "0", "20", "40", "60"]);
        assert_eq!(labels(Scale::Linear, &[0.1, 0.6]), ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6"]);
        assert_eq!(labels(Scale::Linear, &[41_000.0]), ["0", "10k", "20k", "30k", "40k"]);
    }

    #[test]
    fn powers_of_ten_have_the_room_that_there_is() {
        assert_eq!(labels(Scale::Logarithmic, &[0.3, 4.0]), ["0.2", "0.5", "1", "2", "5"]);
        assert_eq!(labels(Scale::Logarithmic, &[0.1, 900.0]), ["0.1", "1", "10", "100", "1k"]);
        assert_eq!(labels(Scale::Logarithmic, &[30.0, 40.0]), ["20", "50"]);
        let sparse = labels(Scale::Logarithmic, &[1e-9, 1e9]);
        assert!((3..=TICKS).contains(&sparse.len()), "{sparse:?}");
    }

    #[test]
    fn each_further_nine_takes_as_much_room() {
        let at = |p| Scale::Nines.place(p).expect("a place");
        assert!((at(90.0) - 1.0).abs() < 1e-9 && (at(99.0) - 2.0).abs() < 1e-9 && at(0.0) == 0.0);
        assert_eq!(Scale::Nines.place(100.0), None);
        assert_eq!(labels(Scale::Nines, &[0.0, 99.99]), ["0", "50", "90", "99", "99.9", "99.99"]);
    }

    #[test]
    fn equal_values_still_have_an_axis_and_none_have_none() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            for value in [10.0, 3.0, 1e-7, 1e12] {
                let ruler = ruler(scale, &[value, value]).expect("an axis");
                assert!(ruler.from < ruler.to && ruler.ticks.len() >= 2, "{scale:?} {value}: {ruler:?}");
            }
        }
        assert!(ruler(Scale::Linear, &[0.0]).is_some() && ruler(Scale::Linear, &[-5.0]).is_some());
        assert!(
            ruler(Scale::Logarithmic, &[0.0, -1.0]).is_none() && ruler(Scale::Linear, &[f64::NAN]).is_none()
        );
    }
}
