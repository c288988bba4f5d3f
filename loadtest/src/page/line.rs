//! A line of a plot: its path, its markers, and what a pointer reads at each point.

use super::axis::Scale;
use super::plot::Frame;
use super::text::{escape, number};
use crate::report::{Line, Plot};

/// Colours and markers there are; a further line begins again.
const STYLES: usize = 8;
/// Above so many points, markers would hide the line: then only some points have one.
const MARKED_ALL: usize = 24;
const MARKED_SOME: usize = 9;
/// Points that a pointer can read on one line: enough for the width of the drawing.
const READABLE: usize = 240;

/// A measured line: colour and marker tell it from the others, so that neither is needed alone.
pub(crate) fn measured(line: &Line, colour: usize, plot: &Plot, frame: &Frame) -> String {
    let style = colour % STYLES;
    let placed: Vec<_> = line.points.iter().filter_map(|p| Some((*p, frame.place(*p)?))).collect();
    let every = |n: usize| placed.len().div_ceil(n).max(1);
    let is_crowd = placed.len() > MARKED_ALL;
    let marked = if is_crowd { every(MARKED_SOME) } else { 1 };
    let is_alone = plot.lines.iter().filter(|l| !l.is_limit).count() == 1;
    let label = escape(&line.label);
    let path = path(placed.iter().map(|(_, at)| *at));
    let mut svg =
        format!("<g class=\"s{style}\"><path class=\"line\" d=\"{path}\"><title>{label}</title></path>\n");
    for (i, (point, at)) in placed.iter().enumerate() {
        // A crowd has markers only to tell it from other lines, and not where those have theirs.
        let is_marked = i % marked == (marked / 2 + style) % marked && !(is_crowd && is_alone);
        if !is_marked && i % every(READABLE) != 0 {
            continue;
        }
        let is_slowest = frame.x_scale() == Scale::Nines && i + 1 == placed.len();
        let text = words(*point, frame.x_scale(), is_slowest, &plot.x.label, &plot.y.label);
        let (class, d) = if is_marked { ("mark", marker(style, *at)) } else { ("spot", marker(0, *at)) };
        svg.push_str(&format!(
            "<path class=\"{class}\" d=\"{d}\"><title>{label}: {}</title></path>\n",
            escape(&text)
        ));
    }
    svg.push_str("</g>\n");
    svg
}

/// A bound: dashed and without colour. One that has no length of its own goes across the whole grid.
pub(crate) fn limit(line: &Line, frame: &Frame) -> String {
    let mut placed: Vec<_> = line.points.iter().filter_map(|p| frame.place(*p)).collect();
    if let (Some(first), Some(last)) = (placed.first().copied(), placed.last())
        && first.0 == last.0
    {
        let (left, right) = frame.sides();
        placed = vec![(left, first.1), (right, first.1)];
    }
    let d = path(placed.into_iter());
    format!("<path class=\"limit\" d=\"{d}\"><title>{}</title></path>\n", escape(&line.label))
}

/// A line's sample in the legend.
pub(crate) fn key(colour: usize) -> String {
    let style = colour % STYLES;
    let marker = marker(style, (14.0, 6.0));
    format!(
        "<g class=\"s{style}\"><path class=\"line\" d=\"M0 6H28\"/><path class=\"mark\" d=\"{marker}\"/></g>"
    )
}

/// The words of a point: `0.412 ms at p99.9`, `12.3 ms at 4,000 messages a second`.
fn words((x, y): (f64, f64), scale: Scale, is_slowest: bool, x_label: &str, y_label: &str) -> String {
    let x = match scale {
        Scale::Nines if is_slowest => "the maximum".to_owned(),
        Scale::Nines => format!("p{x}"),
        _ => format!("{} {x_label}", number(x)),
    };
    format!("{} {y_label} at {x}", number(y))
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let step = |(i, (x, y))| format!("{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" });
    points.enumerate().map(step).collect()
}

/// The outline of a marker: disc, square, triangles, diamond, cross, plus, bar.
fn marker(style: usize, (x, y): (f64, f64)) -> String {
    let shape = match style {
        0 => "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
        1 => "m-3.2-3.2h6.4v6.4h-6.4z",
        2 => "m0-4.4l4.2 7.4h-8.4z",
        3 => "m0-4.6l4.6 4.6l-4.6 4.6l-4.6-4.6z",
        4 => "m0 4.4l4.2-7.4h-8.4z",
        5 => "m-3.5-3.5l7 7m0-7l-7 7",
        6 => "m-4.5 0h9m-4.5-4.5v9",
        _ => "m0-5v10",
    };
    format!("M{x:.1} {y:.1}{shape}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_says_what_it_is() {
        let say = |x, y, scale, is_slowest| words((x, y), scale, is_slowest, "rows", "ms");
        assert_eq!(say(4_000.0, 12.34, Scale::Linear, false), "12.3 ms at 4,000 rows");
        assert_eq!(say(99.9, 0.412, Scale::Nines, false), "0.412 ms at p99.9");
        assert_eq!(say(99.95, 7.0, Scale::Nines, true), "7 ms at the maximum");
    }

    #[test]
    fn every_style_has_a_marker_of_its_own() {
        let markers: std::collections::BTreeSet<_> = (0..STYLES).map(|s| marker(s, (0.0, 0.0))).collect();
        assert_eq!(markers.len(), STYLES);
        assert_eq!(key(1), key(STYLES + 1));
    }

    #[test]
    fn a_path_moves_once_and_then_draws() {
        assert_eq!(path([(1.0, 2.0), (3.04, 4.0)].into_iter()), "M1.0 2.0L3.0 4.0");
        assert_eq!(path(std::iter::empty()), "");
    }
}
