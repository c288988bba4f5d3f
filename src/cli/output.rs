//! How results are shown: aligned for people, JSON for programs, colour only where somebody can see it.

use std::io::IsTerminal;

use serde::Serialize;

/// Whether colours are welcome there.
pub(super) fn is_colourful(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Prints a line to standard output. A reader that went away (`| head`) ends the command quietly.
pub(super) fn line(text: &str) {
    use std::io::Write;
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Prints a value as one line of JSON.
pub(super) fn json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => line(&text),
        Err(e) => tracing::error!(error = %e, "a result could not be written as JSON"),
    }
}

/// Prints rows under their headings, each column as wide as its widest value.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) {
    let mut widths = headings.map(|h| h.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: [&str; N]| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        line(text.trim_end());
    };
    print(headings);
    rows.iter().for_each(|row| print(std::array::from_fn(|i| row[i].as_str())));
}

/// How long ago something was, in one unit: `40 s`, `3 h`.
pub(super) fn ago(at: Option<std::time::SystemTime>) -> String {
    let Some(at) = at else { return "never".to_owned() };
    let seconds = at.elapsed().map_or(0, |d| d.as_secs());
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
