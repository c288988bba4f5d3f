//! The view: a function of the state, drawn into a buffer of cells.

mod parts;
#[cfg(test)]
mod tests;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Paragraph, Widget};

use super::State;
use crate::watch::status::mesh::{Level, Mesh};

/// The colours of a terminal's own theme, so that light and dark are the user's.
pub(super) const QUIET: Style = Style::new().add_modifier(Modifier::DIM);
pub(super) const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
/// At most so many findings are shown, the most serious first.
const FINDINGS_MAX: usize = 4;
/// Below this width the parts stand one under the other.
const WIDE: u16 = 100;
/// The ten priorities, the line about scheduled and dead deliveries, and the frame.
const DEPTH_HEIGHT: u16 = 13;

/// Draws the whole view.
pub(super) fn draw(buffer: &mut Buffer, state: &State) {
    let area = buffer.area;
    let findings = state.mesh.as_ref().map_or(0, |mesh| mesh.verdict.findings.len().min(FINDINGS_MAX)) as u16;
    let [head, verdict, found, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(findings),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    heading(state).render(head, buffer);
    let Some(mesh) = &state.mesh else {
        Line::styled(" Asking the broker…", QUIET).render(verdict, buffer);
        return;
    };
    Line::from(vec![
        Span::raw(" "),
        Span::styled(mesh.verdict.sentence.clone(), STRONG.fg(colour(mesh.verdict.level))),
    ])
    .render(verdict, buffer);
    Paragraph::new(findings_of(mesh)).render(found, buffer);
    rest(buffer, body, state, mesh);
    Line::styled(" q leaves   ↑↓ agents   space stops what passes", QUIET).render(foot, buffer);
}

fn rest(buffer: &mut Buffer, area: Rect, state: &State, mesh: &Mesh) {
    let title = if state.paused { "Passing (stopped)" } else { "Passing now" };
    let times = "Delivery time, the last hour";
    if area.width >= WIDE {
        let [left, right] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(area);
        let [agents, passing] = Layout::vertical([Constraint::Fill(3), Constraint::Fill(2)]).areas(left);
        let [depth, delivery] =
            Layout::vertical([Constraint::Length(DEPTH_HEIGHT), Constraint::Min(0)]).areas(right);
        framed(buffer, agents, "Agents", |buffer, area| parts::agents(buffer, area, mesh, state.first));
        framed(buffer, passing, title, |buffer, area| parts::passing(buffer, area, &state.passed));
        framed(buffer, depth, "Waiting, by priority", |buffer, area| parts::depth(buffer, area, mesh));
        framed(buffer, delivery, times, |buffer, area| parts::delivery(buffer, area, &mesh.delivery));
    } else {
        let [agents, delivery, passing] =
            Layout::vertical([Constraint::Fill(3), Constraint::Length(5), Constraint::Fill(2)]).areas(area);
        framed(buffer, agents, "Agents", |buffer, area| parts::agents(buffer, area, mesh, state.first));
        framed(buffer, delivery, times, |buffer, area| parts::delivery(buffer, area, &mesh.delivery));
        framed(buffer, passing, title, |buffer, area| parts::passing(buffer, area, &state.passed));
    }
}

fn framed(buffer: &mut Buffer, area: Rect, title: &str, draw: impl FnOnce(&mut Buffer, Rect)) {
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(QUIET)
        .title(Span::styled(format!(" {title} "), STRONG));
    let inner = block.inner(area);
    block.render(area, buffer);
    draw(buffer, inner);
}

fn heading(state: &State) -> Line<'_> {
    let mut line =
        vec![Span::styled(" Postbell ", STRONG.fg(Color::Yellow)), Span::raw(state.address.as_str())];
    if state.fault.is_empty() {
        line.push(Span::styled("  ● live", Style::new().fg(Color::Green)));
    } else {
        line.push(Span::styled(format!("  ○ not connected: {}", state.fault), Style::new().fg(Color::Red)));
    }
    if let Some(mesh) = &state.mesh {
        let brokers = mesh.brokers.iter().filter(|b| b.alive).count();
        let of = if brokers > 1 {
            format!("  one of {brokers} brokers, flow and times are its own")
        } else {
            String::new()
        };
        line.push(Span::styled(format!("  {} in flight{of}", mesh.broker.in_flight), QUIET));
    }
    Line::from(line)
}

fn findings_of(mesh: &Mesh) -> Vec<Line<'_>> {
    let findings = mesh.verdict.findings.iter().take(FINDINGS_MAX);
    findings
        .map(|finding| {
            let sign = if finding.level == Level::Bad { " ◆ " } else { " ▲ " };
            Line::from(vec![
                Span::styled(sign, Style::new().fg(colour(finding.level))),
                Span::raw(finding.sentence.as_str()),
            ])
        })
        .collect()
}

fn colour(level: Level) -> Color {
    match level {
        Level::Ok => Color::Green,
        Level::Watch => Color::Yellow,
        Level::Bad => Color::Red,
    }
}
