//! The framed parts: agents, depth, delivery time, what passes.

use std::collections::VecDeque;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, RenderDirection, Row, Sparkline, Table, Widget, Wrap};

use super::{QUIET, STRONG};
use crate::watch::flow::{Passed, Step};
use crate::watch::status::mesh::{Agent, DeliveryTimes, Mesh, Standing, TARGET_MS};

/// The sign, the word and the colour of a standing: never the colour alone.
fn standing(standing: Standing) -> (&'static str, Color) {
    match standing {
        Standing::Stranded => ("◆ stranded", Color::Red),
        Standing::Late => ("▲ late", Color::Yellow),
        Standing::Error => ("✕ error", Color::Red),
        Standing::Ok => ("● online", Color::Green),
        Standing::Offline => ("○ offline", Color::Reset),
        Standing::Disabled => ("⊘ disabled", Color::Reset),
    }
}

pub(super) fn agents(buffer: &mut Buffer, area: Rect, mesh: &Mesh, first: usize) {
    if mesh.agents.is_empty() {
        let text = "No agent is registered. `postbell agent add NAME` registers one and prints its token; with both, \
                    `postbell listen` is an agent.";
        return Paragraph::new(text).wrap(Wrap { trim: true }).style(QUIET).render(area, buffer);
    }
    let names = ["AGENT", "STATE", "ENVIRONMENT", "WAITING", "OLDEST", "FLIGHT", "DEAD"];
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(10),
        Constraint::Length(12),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(6),
    ];
    let rows = mesh.agents.iter().skip(first).take(area.height.into()).map(agent);
    Table::new(rows, widths).header(Row::new(names).style(QUIET)).render(area, buffer);
}

fn agent(agent: &Agent) -> Row<'_> {
    let (word, colour) = standing(agent.standing);
    let hot = Style::new().fg(Color::Red);
    let late = matches!(agent.standing, Standing::Late | Standing::Stranded);
    Row::new([
        Cell::new(agent.agent.as_str()),
        Cell::new(word).style(Style::new().fg(colour)),
        Cell::new(agent.environment.as_str()),
        number(agent.waiting).style(if late { hot } else { Style::new() }),
        Cell::new(agent.oldest_seconds.map_or(String::new(), seconds)),
        Cell::new(agent.in_flight.map_or("–".to_owned(), |n| n.to_string())),
        number(agent.dead).style(if agent.dead > 0 { hot } else { Style::new() }),
    ])
}

/// A number; 0 is dim.
fn number(n: u64) -> Cell<'static> {
    if n == 0 { Cell::new(Span::styled("0", QUIET)) } else { Cell::new(n.to_string()) }
}

pub(super) fn depth(buffer: &mut Buffer, area: Rect, mesh: &Mesh) {
    let most = mesh.depth.iter().map(|row| row.ready).max().unwrap_or(0).max(1);
    // The priority, the number and the age stand beside the bar.
    let room = u64::from(area.width.saturating_sub(24));
    let mut lines: Vec<Line<'_>> = Vec::new();
    for row in &mesh.depth {
        let late = row.oldest_seconds.is_some_and(|oldest| oldest * 1_000 > TARGET_MS);
        let length = (row.ready * room).div_ceil(most) as usize;
        let oldest = row.oldest_seconds.map_or(String::new(), seconds);
        lines.push(Line::from(vec![
            Span::raw(format!("{:>3} ", row.priority)),
            Span::styled("█".repeat(length), Style::new().fg(if late { Color::Red } else { Color::Yellow })),
            Span::raw(" ".repeat(room as usize - length)),
            Span::styled(format!("{:>10}", row.ready), if row.ready == 0 { QUIET } else { STRONG }),
            Span::styled(
                format!("{:>2}{oldest:>7}", if late { "▲" } else { "" }),
                if late { Style::new().fg(Color::Red) } else { QUIET },
            ),
        ]));
    }
    if mesh.scheduled > 0 || mesh.dead > 0 {
        let line = format!("{} wait for their time, {} dead letters", mesh.scheduled, mesh.dead);
        lines.push(Line::styled(line, QUIET));
    }
    Paragraph::new(lines).render(area, buffer);
}

pub(super) fn delivery(buffer: &mut Buffer, area: Rect, delivery: &DeliveryTimes) {
    let target = delivery.target_ms / 1_000;
    let lines = if delivery.count == 0 {
        vec![Line::styled("Nothing was delivered.", QUIET)]
    } else {
        // Rounded down: 99.96 % is not all.
        let share = (delivery.within_target as f64 / delivery.count as f64 * 1_000.0).floor() / 10.0;
        let kept = if share < 99.0 { STRONG.fg(Color::Red) } else { STRONG.fg(Color::Green) };
        let (half, most) = (milliseconds(delivery.p50_ms), milliseconds(delivery.p99_ms));
        vec![
            Line::from(vec![
                Span::styled(format!("{share} %"), kept),
                Span::raw(format!(" of {} within {target} s", delivery.count)),
            ]),
            Line::styled(format!("half within {half}, 99 % within {most}"), QUIET),
        ]
    };
    let said = area.height.min(lines.len() as u16);
    Paragraph::new(lines).render(Rect { height: said, ..area }, buffer);
    let below = Rect { y: area.y + said, height: area.height - said, ..area };
    // The newest at the right, as on the page.
    let counts: Vec<u64> = delivery.minutes.iter().rev().map(|minute| minute.iter().sum()).collect();
    Sparkline::default()
        .data(&counts)
        .direction(RenderDirection::RightToLeft)
        .style(Style::new().fg(Color::Yellow))
        .render(below, buffer);
}

pub(super) fn passing(buffer: &mut Buffer, area: Rect, passed: &VecDeque<Passed>) {
    if passed.is_empty() {
        return Line::styled("Nothing has passed since top began.", QUIET).render(area, buffer);
    }
    let lines: Vec<Line<'_>> = passed.iter().rev().take(area.height.into()).map(line).collect();
    Paragraph::new(lines).render(area, buffer);
}

fn line(passed: &Passed) -> Line<'_> {
    let (sign, colour) = match passed.step {
        Step::Pushed => ("→", Color::Yellow),
        Step::Acked => ("✓", Color::Green),
        Step::Released => ("↩", Color::Reset),
        Step::Failed => ("✕", Color::Red),
        Step::Dead => ("☒", Color::Red),
        Step::Expired => ("⏱", Color::Yellow),
    };
    let head = &passed.head;
    let mut spans = vec![
        Span::styled(format!("{sign} {:<9}", passed.step.as_str()), Style::new().fg(colour)),
        Span::raw(head.from.as_deref().unwrap_or("?")),
        Span::styled(" → ", QUIET),
        Span::raw(passed.to.as_str()),
    ];
    let mut about = String::new();
    if let Some(message_type) = &head.message_type {
        about.push_str(&format!("  {message_type}"));
    }
    if let Some(priority) = head.priority {
        about.push_str(&format!(" {priority}"));
    }
    if let Some(ms) = passed.ms {
        about.push_str(&format!("  {}", milliseconds(Some(ms))));
    }
    if passed.attempt > 1 {
        about.push_str(&format!("  attempt {}", passed.attempt));
    }
    spans.push(Span::styled(about, QUIET));
    Line::from(spans)
}

fn milliseconds(ms: Option<f64>) -> String {
    match ms {
        None => "–".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.1} ms"),
        Some(ms) if ms < 1_000.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.1} s", ms / 1_000.0),
    }
}

fn seconds(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
