//! A plot as inline SVG: axes, grid and lines, with the legend above it, where it covers nothing.

use super::axis::{Ends, Scale, Span};
use super::line;
use super::text::escape;
use crate::report::{Axis, Line, Plot};

/// The drawing's own units; the page scales it to its column.
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 300.0;
/// Above the grid stands the vertical axis's label, below it the ticks' and the horizontal axis's.
const TOP: f64 = 32.0;
const BOTTOM: f64 = HEIGHT - 50.0;
/// Half of the last tick's label hangs over.
const RIGHT: f64 = WIDTH - 26.0;
/// The width of a letter of a tick's label, at the larger size of a narrow screen.
const LETTER: f64 = 9.5;
const LABELS_X: usize = 7;
const LABELS_Y: usize = 9;

/// The grid's place in the drawing, and the two axes along it.
pub(crate) struct Frame {
    x: Span,
    y: Span,
    left: f64,
}

impl Frame {
    /// A frame that holds every point; `None` where there is none to hold.
    fn around(plot: &Plot, x: Scale) -> Option<Self> {
        let y = scale(&plot.y);
        // A point without a place on one axis must not stretch the other.
        let points = || {
            let all = plot.lines.iter().flat_map(|l| &l.points);
            all.filter(|(px, py)| x.holds(*px) && y.holds(*py))
        };
        let x = Span::of(x, Ends::Data, points().map(|p| p.0), LABELS_X)?;
        let y = Span::of(y, Ends::Labels, points().map(|p| p.1), LABELS_Y)?;
        let letters = y.ticks(LABELS_Y).iter().map(|(_, label)| label.chars().count()).max().unwrap_or(0);
        Some(Self { x, y, left: (16.0 + letters as f64 * LETTER).max(36.0) })
    }

    /// Where a point is drawn; `None` where an axis has no place for it.
    pub(crate) fn place(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        let (x, y) = (self.x.at(x)?, self.y.at(y)?);
        Some((self.left + x * (RIGHT - self.left), BOTTOM - y * (BOTTOM - TOP)))
    }

    /// The grid's left and right end.
    pub(crate) fn sides(&self) -> (f64, f64) {
        (self.left, RIGHT)
    }

    /// How the horizontal axis is laid out.
    pub(crate) fn x_scale(&self) -> Scale {
        self.x.scale()
    }
}

/// How an axis of the report is laid out.
pub(crate) fn scale(axis: &Axis) -> Scale {
    if axis.logarithmic { Scale::Logarithmic } else { Scale::Linear }
}

/// The plot with its title, legend and read-out.
pub(crate) fn figure(plot: &Plot, x: Scale) -> String {
    let frame = Frame::around(plot, x);
    let drawing = match &frame {
        Some(frame) => format!("{}{}", grid(plot, frame), lines(plot, frame)),
        None => format!("<text class=\"empty\" x=\"{}\" y=\"{}\">no data</text>", WIDTH / 2.0, HEIGHT / 2.0),
    };
    let title = escape(&plot.title);
    format!(
        "<figure>\n<figcaption><b>{title}</b>{}</figcaption>\n\
         <svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n{drawing}</svg>\n\
         <p class=\"readout\" aria-hidden=\"true\"></p>{}</figure>\n",
        legend(plot),
        left_out(plot, frame.as_ref()),
    )
}

fn grid(plot: &Plot, frame: &Frame) -> String {
    let at_y = |value| BOTTOM - frame.y.at(value).unwrap_or(0.0) * (BOTTOM - TOP);
    let faint = |value: &f64| {
        format!("<path class=\"grid faint\" d=\"M{:.1} {:.1}H{RIGHT}\"/>", frame.left, at_y(*value))
    };
    let mut svg: String = frame.y.between(LABELS_Y).iter().map(faint).collect();
    for (value, label) in frame.y.ticks(LABELS_Y) {
        let y = at_y(value);
        svg.push_str(&format!("<path class=\"grid\" d=\"M{:.1} {y:.1}H{RIGHT}\"/>", frame.left));
        svg.push_str(&format!(
            "<text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>\n",
            frame.left - 8.0,
            y + 4.5
        ));
    }
    for (value, label) in frame.x.ticks(LABELS_X) {
        let x = frame.left + frame.x.at(value).unwrap_or(0.0) * (RIGHT - frame.left);
        svg.push_str(&format!("<path class=\"grid\" d=\"M{x:.1} {TOP}V{BOTTOM}\"/>"));
        svg.push_str(&format!(
            "<text class=\"tick mid\" x=\"{x:.1}\" y=\"{}\">{label}</text>\n",
            BOTTOM + 19.0
        ));
    }
    svg.push_str(&format!("<path class=\"axis\" d=\"M{:.1} {TOP}V{BOTTOM}H{RIGHT}\"/>\n", frame.left));
    svg.push_str(&format!("<text class=\"name\" x=\"2\" y=\"16\">{}</text>", escape(&plot.y.label)));
    let middle = (frame.left + RIGHT) / 2.0;
    let below = HEIGHT - 9.0;
    svg.push_str(&format!(
        "<text class=\"name mid\" x=\"{middle:.1}\" y=\"{below}\">{}</text>\n",
        escape(&plot.x.label)
    ));
    svg
}

/// Limits first, so that nothing measured is hidden by one.
fn lines(plot: &Plot, frame: &Frame) -> String {
    let limits = plot.lines.iter().filter(|l| l.is_limit).map(|l| line::limit(l, frame));
    let measured = coloured(plot).map(|(colour, l)| line::measured(l, colour, plot, frame));
    limits.chain(measured).collect()
}

/// Each line that is no limit, with the number of its colour and marker.
fn coloured(plot: &Plot) -> impl Iterator<Item = (usize, &Line)> {
    plot.lines.iter().filter(|l| !l.is_limit).enumerate()
}

fn legend(plot: &Plot) -> String {
    let item = |key: String, label: &str| {
        format!(
            "<li><svg class=\"key\" viewBox=\"0 0 28 12\" aria-hidden=\"true\">{key}</svg>{}</li>",
            escape(label)
        )
    };
    let measured = coloured(plot).map(|(colour, l)| item(line::key(colour), &l.label));
    let limits = plot.lines.iter().filter(|l| l.is_limit);
    let limits = limits.map(|l| item("<path class=\"limit\" d=\"M0 6H28\"/>".to_owned(), &l.label));
    format!("<ul class=\"legend\">{}</ul>", measured.chain(limits).collect::<String>())
}

/// A picture that leaves points out says so.
fn left_out(plot: &Plot, frame: Option<&Frame>) -> String {
    let points = plot.lines.iter().flat_map(|l| &l.points);
    let n = points.filter(|p| frame.and_then(|f| f.place(**p)).is_none()).count();
    let which =
        if plot.x.logarithmic || plot.y.logarithmic { "zero, below zero or no number" } else { "no number" };
    match n {
        0 => String::new(),
        1 => format!("<p class=\"note\">1 point is not drawn: {which}.</p>"),
        _ => format!("<p class=\"note\">{n} points are not drawn: {which}.</p>"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(f64, f64)], logarithmic: bool) -> Plot {
        let axis = Axis { label: "ms".to_owned(), logarithmic };
        let line = |points: &[(f64, f64)], is_limit| Line {
            label: "a<b".to_owned(),
            points: points.to_vec(),
            is_limit,
        };
        Plot {
            title: "t".to_owned(),
            x: axis.clone(),
            y: axis,
            lines: vec![line(points, false), line(&[], true)],
        }
    }

    fn drawn(points: &[(f64, f64)], logarithmic: bool) -> String {
        let plot = plot(points, logarithmic);
        let svg = figure(&plot, scale(&plot.x));
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("a<b"), "{svg}");
        svg
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
    fn points_stay_within_the_grid() {
        for logarithmic in [false, true] {
            let plot = plot(&[(3.0, 7.0), (40.0, 7.0), (500.0, 90_000.0)], logarithmic);
            let frame = Frame::around(&plot, scale(&plot.x)).expect("a frame");
            for point in &plot.lines[0].points {
                let (x, y) = frame.place(*point).expect("a place");
                assert!(
                    (frame.left..=RIGHT).contains(&x) && (TOP..=BOTTOM).contains(&y),
                    "{point:?}: {x} {y}"
                );
            }
        }
    }
}
