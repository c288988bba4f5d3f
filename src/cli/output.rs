//! How results are shown: aligned for people, JSON for programs, colour only where somebody can see it.
//!
//! Everything that a command writes goes through here and is made harmless: a name may hold characters that a
//! terminal obeys (`plain.rs`).

pub(super) mod log;
pub(super) mod plain;

use std::io::IsTerminal;

use serde::Serialize;

/// The column where a field's value begins.
const FIELD_WIDTH: usize = 13;

/// Whether colours are welcome on this stream: only on a terminal, and not with NO_COLOR.
pub(super) fn is_colourful(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Prints a line to standard output. A reader that went away (`| head`) ends the command quietly.
pub(super) fn line(text: &str) {
    write(&plain::one_line(text));
}

/// Prints text of our own that has several lines, such as a file of SQL.
pub(super) fn lines(text: &str) {
    write(&plain::lines(text));
}

/// Prints a named value. Further lines of the value are indented, so that none looks like another field.
pub(super) fn field(name: &str, value: &str) {
    let (indent, mut heading) = (" ".repeat(FIELD_WIDTH), format!("{name:<FIELD_WIDTH$}"));
    for text in value.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)) {
        line(format!("{heading}{text}").trim_end());
        heading.clone_from(&indent);
    }
}

/// Prints a line in one of a terminal's colours, after a mark of its own if there is one.
pub(super) fn coloured(colour: u8, mark: &str, text: &str) {
    let (mark, text) = (plain::one_line(mark), plain::one_line(text));
    write(&match mark.is_empty() {
        true => format!("\x1b[{colour}m{text}\x1b[0m"),
        false => format!("\x1b[{colour}m{mark}\x1b[0m {text}"),
    });
}

/// Prints why a command failed, to standard error.
pub(super) fn fault(sentence: &str) {
    use std::io::Write;
    // If the sentence cannot be written, the exit status still tells.
    let _ = writeln!(std::io::stderr(), "postbell: {}", plain::one_line(&plain::short(sentence)));
}

/// Prints why a command line cannot be understood, with its usage, to standard error.
pub(super) fn refusal(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{}", plain::lines(&plain::short(text.trim_end())));
}

fn write(text: &str) {
    use std::io::Write;
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Prints a value as one line of JSON.
pub(super) fn json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => write(&plain::json(&text)),
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
