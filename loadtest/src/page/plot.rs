//! A plot as inline SVG, drawn by `plotters`, with its title and its legend above it, where they cover nothing.

use plotters::prelude::*;

use super::ruler::{Ruler, Scale, Way};
use super::text::escape;
use crate::report::{Line, Plot};

/// The drawing's own units, about two for each of the screen, as `plotters` rounds to whole ones. The page scales the
/// drawing to its column, and sets the size of its letters.
const SIZE: (u32, u32) = (1_040, 600);
const LETTERS: u32 = 31;
/// Above so many points, markers would hide the line: then only some points have one.
const MARKED_ALL: usize = 24;
const MARKED_SOME: usize = 9;
/// The variables of the page's style, with other colours in the dark. The drawing is made in colours that are only
/// numbers, each of which stands for one of these.
const COLOURS: [&str; 11] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "muted", "grid", "text"];
const MUTED: RGBColor = RGBColor(0, 0, 8);
const GRID: RGBColor = RGBColor(0, 0, 9);
const TEXT: RGBColor = RGBColor(0, 0, 10);

/// A marker: its signs in the legend, filled and hollow, and its outline around the point. Filled or not, with another
/// colour, each serves two lines.
struct Marker(&'static str, &'static str, &'static [(i32, i32)]);

const MARKERS: [Marker; 4] = [
    Marker("●", "○", &[(-4, -9), (4, -9), (9, -4), (9, 4), (4, 9), (-4, 9), (-9, 4), (-9, -4)]),
    Marker("■", "□", &[(-8, -8), (8, -8), (8, 8), (-8, 8)]),
    Marker("▲", "△", &[(0, -10), (9, 7), (-9, 7)]),
    Marker("◆", "◇", &[(0, -11), (11, 0), (0, 11), (-11, 0)]),
];
/// Colours of lines there are; a further line begins again.
const STYLES: usize = 2 * MARKERS.len();

/// The plot with its title and legend.
pub(crate) fn figure(plot: &Plot, x: Scale) -> String {
    let y = Scale::of(&plot.y);
    let lines: Vec<Placed> = plot.lines.iter().map(|line| placed(line, x, y)).collect();
    let drawing = match axes(&lines, x, y) {
        None => "<p class=\"empty\">no data</p>\n".to_owned(),
        Some((x, y)) => match draw(plot, &lines, &x, &y) {
            Ok(svg) => svg,
            Err(error) => format!("<p class=\"empty\">{}</p>\n", escape(&format!("not drawn: {error}"))),
        },
    };
    let title = escape(&plot.title);
    format!(
        "<figure>\n<figcaption><b>{title}</b>{}</figcaption>\n<div role=\"img\" aria-label=\"{title}\">\n{drawing}</div>\n\
         {}</figure>\n",
        legend(plot),
        left_out(plot, &lines),
    )
}

/// A line's points where both axes have a place for them.
type Placed = Vec<(f64, f64)>;

fn placed(line: &Line, x: Scale, y: Scale) -> Placed {
    line.points.iter().filter_map(|point| Some((x.place(point.0)?, y.place(point.1)?))).collect()
}

fn axes(lines: &[Placed], x: Scale, y: Scale) -> Option<(Ruler, Ruler)> {
    let (xs, ys): (Vec<f64>, Vec<f64>) = lines.iter().flatten().copied().unzip();
    Some((Ruler::along(Way::Across, x, &xs)?, Ruler::along(Way::Up, y, &ys)?))
}

fn draw(plot: &Plot, lines: &[Placed], x: &Ruler, y: &Ruler) -> anyhow::Result<String> {
    let mut svg = String::new();
    let paper = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    let letters = |colour: RGBColor| ("sans-serif", LETTERS).into_font().color(&colour);
    paper.draw(&Text::new(plot.y.label.as_str(), (4, 8), letters(TEXT)))?;
    let mut chart = ChartBuilder::on(&paper)
        .margin_top(64)
        .margin_right(52)
        .x_label_area_size(96)
        .y_label_area_size(96)
        .build_cartesian_2d(x.clone(), y.clone())?;
    chart
        .configure_mesh()
        .axis_style(MUTED.stroke_width(2))
        .bold_line_style(GRID.stroke_width(2))
        .set_all_tick_mark_size(10)
        .label_style(letters(MUTED))
        .axis_desc_style(letters(TEXT))
        .x_desc(plot.x.label.as_str())
        .draw()?;
    // Limits first, so that nothing measured is hidden by one.
    for (_, points) in plot.lines.iter().zip(lines).filter(|(line, _)| line.is_limit) {
        chart.draw_series(DashedLineSeries::new(across(points, x), 14, 10, MUTED.stroke_width(3)))?;
    }
    let measured = plot.lines.iter().zip(lines).filter(|(line, _)| !line.is_limit);
    for (style, (_, points)) in measured.enumerate().map(|(n, line)| (n % STYLES, line)) {
        let colour = RGBColor(0, 0, style as u8);
        chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(4)))?;
        let every = if points.len() > MARKED_ALL { points.len().div_ceil(MARKED_SOME) } else { 1 };
        let mut outline = MARKERS[style % MARKERS.len()].2.to_vec();
        let marked = points.iter().step_by(every).map(|point| EmptyElement::at(*point));
        if style < MARKERS.len() {
            chart.draw_series(marked.map(|at| at + Polygon::new(outline.clone(), colour)))?;
        } else {
            outline.extend_from_within(..1);
            let edge = colour.stroke_width(3);
            chart.draw_series(marked.map(|at| at + PathElement::new(outline.clone(), edge)))?;
        }
    }
    paper.present()?;
    drop((chart, paper));
    Ok(dressed(&svg))
}

/// A bound that has no length of its own goes across the whole grid.
fn across(points: &[(f64, f64)], x: &Ruler) -> Placed {
    match (points.first(), points.last()) {
        (Some(first), Some(last)) if first.0 == last.0 => {
            vec![(x.range().start, first.1), (x.range().end, first.1)]
        }
        _ => points.to_vec(),
    }
}

/// The drawing as a part of the page: in the page's colours, as wide as its column.
fn dressed(svg: &str) -> String {
    let inside = svg.split_once('>').map_or("", |(_, inside)| inside);
    let mut page = format!("<svg class=\"plot\" viewBox=\"0 0 {} {}\">{inside}", SIZE.0, SIZE.1);
    for (n, name) in COLOURS.iter().enumerate() {
        page = page.replace(&format!("\"#{n:06X}\""), &format!("\"var(--{name})\""));
    }
    page
}

fn legend(plot: &Plot) -> String {
    let item = |class: &str, sign: &str, label: &str| {
        format!("<li><span class=\"{class}\" aria-hidden=\"true\">{sign}</span> {}</li>", escape(label))
    };
    let measured = plot.lines.iter().filter(|line| !line.is_limit).enumerate().map(|(n, line)| {
        let style = n % STYLES;
        let Marker(filled, hollow, _) = MARKERS[style % MARKERS.len()];
        item(&format!("s{style}"), if style < MARKERS.len() { filled } else { hollow }, &line.label)
    });
    let limits = plot.lines.iter().filter(|line| line.is_limit);
    let limits = limits.map(|line| item("limit", "╌╌", &line.label));
    format!("<ul class=\"legend\">{}</ul>", measured.chain(limits).collect::<String>())
}

/// A picture that leaves points out says so.
fn left_out(plot: &Plot, lines: &[Placed]) -> String {
    let all: usize = plot.lines.iter().map(|line| line.points.len()).sum();
    let which =
        if plot.x.logarithmic || plot.y.logarithmic { "zero, below zero or no number" } else { "no number" };
    match all - lines.iter().map(Vec::len).sum::<usize>() {
        0 => String::new(),
        1 => format!("<p class=\"note\">1 point is not drawn: {which}.</p>\n"),
        n => format!("<p class=\"note\">{n} points are not drawn: {which}.</p>\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Axis;

    fn drawn(points: &[(f64, f64)], logarithmic: bool) -> String {
        let axis = Axis { label: "ms".to_owned(), logarithmic };
        let line = |points: &[(f64, f64)], is_limit| Line {
            label: "a<b".to_owned(),
            points: points.to_vec(),
            is_limit,
        };
        let lines = vec![line(points, false), line(&points[..points.len().min(1)], true)];
        let plot = Plot { title: "t".to_owned(), x: axis.clone(), y: axis, lines };
        let page = figure(&plot, Scale::of(&plot.x));
        assert!(!page.contains("NaN") && !page.contains("inf") && !page.contains("a<b"), "{page}");
        assert!(!page.contains("\"#"), "a colour that the dark does not change: {page}");
        page
    }

    #[test]
    fn no_points_are_no_data() {
        assert!(drawn(&[], false).contains("no data"));
        assert!(drawn(&[(0.0, 0.0)], true).contains("no data"));
        assert!(!drawn(&[(0.0, 0.0)], false).contains("no data"));
    }

    #[test]
    fn what_has_no_place_is_left_out_and_said() {
        let points = [(1.0, 1.0), (2.0, 0.0), (3.0, -1.0), (4.0, f64::NAN), (5.0, f64::INFINITY), (6.0, 6.0)];
        assert!(drawn(&points, true).contains("4 points are not drawn: zero, below zero or no number."));
        assert!(drawn(&points, false).contains("2 points are not drawn: no number."));
        assert!(!drawn(&[(1.0, 1.0)], true).contains("not drawn"));
    }

    #[test]
    fn a_drawing_has_its_line_its_axes_and_their_units() {
        let page = drawn(&[(3.0, 7.0), (40.0, 70.0)], false);
        for part in ["var(--s0)", "var(--muted)", "var(--grid)", "<polyline", "<polygon", "\n10\n", "\n60\n"]
        {
            assert!(page.contains(part), "no {part} in {page}");
        }
        assert_eq!(page.matches("\nms\n").count(), 2, "{page}");
    }
}
