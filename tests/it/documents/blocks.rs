//! The commands of a document: its fenced blocks, and what the line above each says about running it.

use std::fmt;

/// How a block is treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Run to its end, which must be success.
    Run,
    /// Started, and left running once it has said this: `<!-- stays: the broker is up -->`.
    Stays(String),
    /// Not run here, because it needs something that a test has not: `<!-- cloud: a Railway account -->`.
    Cloud(String),
    /// Run by something else, which is a file here: `<!-- by: tests/it/cli.rs: it never ends by itself -->`.
    By(String, String),
}

/// A block of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The line of its fence, from 1.
    pub(super) line: usize,
    /// `sh`, `sql` or `console`.
    pub(super) language: String,
    pub(super) how: How,
    pub(super) text: String,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} ({})\n{}", self.line, self.language, self.text)
    }
}

/// Every block of commands, in order.
///
/// # Errors
/// The sentence tells of a block that would be passed over in silence.
pub(super) fn blocks(document: &str) -> Result<Vec<Block>, String> {
    let mut found = Vec::new();
    let mut above = "";
    let mut lines = (1..).zip(document.lines());
    while let Some((line, text)) = lines.next() {
        let Some(language) = text.trim_start().strip_prefix("```") else {
            if is_command_without_fence(text) {
                return Err(format!(
                    "line {line} is a command without a fence, which no test would run: {text}"
                ));
            }
            above = text.trim();
            continue;
        };
        let indent = text.len() - text.trim_start().len();
        let inside: Vec<&str> = lines.by_ref().map(|(_, l)| l).take_while(|l| l.trim() != "```").collect();
        if matches!(language, "sh" | "sql" | "console") {
            let body: Vec<&str> = inside.iter().map(|l| l.get(indent..).unwrap_or("")).collect();
            let how = how(above).map_err(|e| format!("line {line}: {e}"))?;
            if language == "console" && matches!(how, How::Run | How::Stays(_)) {
                return Err(format!(
                    "line {line}: a console is a transcript: say what runs it, by: or cloud:"
                ));
            }
            found.push(Block { line, language: language.to_owned(), how, text: body.join("\n") });
        } else if language == "bash" || language == "shell" {
            return Err(format!("line {line}: commands are marked ```sh here"));
        }
        above = "";
    }
    Ok(found)
}

/// An indented line that a reader would take for a command.
fn is_command_without_fence(line: &str) -> bool {
    let Some(code) = line.strip_prefix("    ").filter(|code| !code.starts_with(' ')) else { return false };
    ["cargo ", "postbell ", "docker ", "railway ", "psql ", "bash "].iter().any(|word| code.starts_with(word))
}

fn how(above: &str) -> Result<How, String> {
    let Some(marker) = above.strip_prefix("<!--").and_then(|m| m.strip_suffix("-->")) else {
        return Ok(How::Run);
    };
    let Some((kind, said)) = marker.trim().split_once(':') else { return Ok(How::Run) };
    let said = said.trim().to_owned();
    if said.is_empty() {
        return Err(format!("{kind}: says nothing"));
    }
    Ok(match kind {
        "stays" => How::Stays(said),
        "cloud" => How::Cloud(said),
        "by" => {
            let (file, reason) =
                said.split_once(':').ok_or("by: needs a file and, after a colon, a reason")?;
            How::By(file.trim().to_owned(), reason.trim().to_owned())
        }
        other => return Err(format!("{other}: is no marker: stays, cloud or by")),
    })
}

/// The commands of Postbell in running text: `postbell agent add NAME --role …`, as its words.
pub(super) fn inline_commands(document: &str) -> Vec<Vec<String>> {
    let mut fenced = false;
    let mut outside = String::new();
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            outside.push_str(line);
            outside.push(if line.is_empty() { '\n' } else { ' ' });
        }
    }
    // A span may go on in the next line, never in the next paragraph.
    let spans = outside.lines().flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2));
    let commands = spans.filter(|code| code.starts_with("postbell "));
    commands.map(|code| code.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn blocks_are_found_with_what_is_said_above_them() {
    let fence = "```";
    let document = format!(
        "# A\n\n{fence}sh\none\n{fence}\n\n<!-- stays: it is up -->\n{fence}sh\ntwo\n{fence}\n- a list\n\n  {fence}sql\n  \
         select 1;\n  {fence}\n<!-- by: tests/it/cli.rs: a transcript -->\n{fence}console\n$ x\n{fence}\n{fence}json\n{{}}\n{fence}\n"
    );
    let found = blocks(&document).unwrap();
    let seen: Vec<_> = found.iter().map(|b| (b.line, b.language.as_str(), b.text.as_str())).collect();
    assert_eq!(seen, [(3, "sh", "one"), (8, "sh", "two"), (13, "sql", "select 1;"), (17, "console", "$ x")]);
    assert_eq!(found[1].how, How::Stays("it is up".to_owned()));
    assert_eq!(found[3].how, How::By("tests/it/cli.rs".to_owned(), "a transcript".to_owned()));
}

#[test]
fn nothing_is_passed_over_in_silence() {
    for bad in [
        "    cargo run\n",
        "```bash\nx\n```\n",
        "```console\n$ x\n```\n",
        "<!-- cloud: -->\n```sh\nx\n```\n",
        "<!-- skip: it fails -->\n```sh\nx\n```\n",
        "<!-- by: tests/it/cli.rs -->\n```sh\nx\n```\n",
    ] {
        assert!(blocks(bad).is_err(), "{bad}");
    }
    let words =
        inline_commands("Run `postbell agent add NAME --json`, not `cargo`.\n```sh\n`postbell x`\n```\n");
    assert_eq!(words, [["postbell", "agent", "add", "NAME", "--json"]]);
}
