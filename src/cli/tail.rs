//! `postbell tail`: what passes, line by line.

use std::collections::HashMap;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::json;

use super::output::plain::one_line as plain;
use super::remote::{Events, RemoteArgs};
use super::serve::stop_signal;
use super::{Exit, output};
use crate::base::moment::rfc3339_millis;
use crate::watch::flow::{Frame, Passed};
use crate::watch::status::mesh::Mesh;
use postbell_client::message::{MessageType, Priority};

/// Follow what passes through a broker, line by line.
///
/// A line tells that a delivery was pushed to its agent, or how it ended. Each broker tells only of its own
/// deliveries. When more passes than can be told, the rest is counted.
#[derive(Args)]
#[command(after_help = "Examples:
  postbell tail --agent validation-agent
  postbell tail --environment railway --priority 3
  postbell tail --json | jq -r 'select(.step == \"failed\") | .to'")]
pub(super) struct TailArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    filter: Filter,
    /// Print JSON, one object a line
    #[arg(long, env = "POSTBELL_JSON")]
    json: bool,
}

/// The choice of lines.
#[derive(Args, Default)]
struct Filter {
    /// Only from or to this agent
    #[arg(long, env = "POSTBELL_AGENT")]
    agent: Option<String>,
    /// Only messages of this type: command, query, response, alert, heartbeat or data
    #[arg(long = "type", env = "POSTBELL_TYPE")]
    message_type: Option<MessageType>,
    /// Only from or to agents of this environment
    #[arg(long, env = "POSTBELL_ENVIRONMENT")]
    environment: Option<String>,
    /// Only messages of this priority or more urgent ones: 1 is the highest
    #[arg(long, env = "POSTBELL_PRIORITY")]
    priority: Option<Priority>,
}

pub(super) async fn run(args: TailArgs) -> Exit {
    let remote = args.remote.remote()?;
    let mut events = remote.events().await?;
    tracing::info!(broker = remote.address(), "following what passes; Ctrl-C leaves");
    let stop = stop_signal()?;
    let following = async {
        loop {
            follow(&mut events, &args).await?;
            // The broker ends a stream after ten minutes, to check again who watches. If the broker has stopped, this
            // fails.
            events = remote.events().await?;
        }
    };
    tokio::select! {
        ended = following => ended,
        () = stop => Ok(ExitCode::SUCCESS),
    }
}

async fn follow(events: &mut Events, args: &TailArgs) -> anyhow::Result<()> {
    let mut environments = HashMap::new();
    while let Some(event) = events.next().await? {
        match event.name.as_str() {
            "mesh" => {
                let mesh: Mesh = serde_json::from_str(&event.data)?;
                environments = mesh.agents.into_iter().map(|a| (a.agent, a.environment)).collect();
            }
            "flow" => {
                let frame: Frame = serde_json::from_str(&event.data)?;
                print(&frame, &environments, args, SystemTime::now());
            }
            // An event that only a newer broker sends.
            _ => {}
        }
    }
    Ok(())
}

fn print(frame: &Frame, environments: &HashMap<String, String>, args: &TailArgs, now: SystemTime) {
    for passed in frame.events.iter().filter(|passed| args.filter.takes(passed, environments)) {
        let at = at(now, passed);
        if args.json {
            let mut line = json!(passed);
            // The lines may be read later from a file, so they need the time and not how long ago it was.
            line["at"] = json!(at);
            if let Some(object) = line.as_object_mut() {
                object.remove("ago_ms");
            }
            output::json(&line);
        } else {
            output::line(&text(passed, &at));
        }
    }
    // Deliveries that were only counted cannot be filtered, so a filter leaves the count out.
    let more: u64 = frame.more.iter().map(|more| more.count).sum();
    if more > 0 && args.filter.takes_all() {
        match args.json {
            true => output::json(&json!({ "more": more })),
            false => output::line(&format!("… and {more} more")),
        }
    }
}

fn at(now: SystemTime, passed: &Passed) -> String {
    let at = now.checked_sub(Duration::from_millis(passed.ago_ms)).unwrap_or(now);
    rfc3339_millis(at)
}

impl Filter {
    fn takes_all(&self) -> bool {
        self.agent.is_none()
            && self.message_type.is_none()
            && self.environment.is_none()
            && self.priority.is_none()
    }

    fn takes(&self, passed: &Passed, environments: &HashMap<String, String>) -> bool {
        let ends = [Some(&passed.to), passed.head.from.as_ref(), passed.head.agent.as_ref()];
        let one_is = |is: &dyn Fn(&String) -> bool| ends.into_iter().flatten().any(is);
        self.agent.as_ref().is_none_or(|agent| one_is(&|end| end == agent))
            && self
                .environment
                .as_ref()
                .is_none_or(|environment| one_is(&|end| environments.get(end) == Some(environment)))
            && self.message_type.is_none_or(|t| passed.head.message_type.as_deref() == Some(t.as_str()))
            && self.priority.is_none_or(|p| passed.head.priority.is_some_and(|found| found <= p.get()))
    }
}

fn text(passed: &Passed, at: &str) -> String {
    let head = &passed.head;
    let from = head.from.as_deref().unwrap_or("?");
    let by = head.agent.as_deref().map_or(String::new(), |agent| format!(" ({})", plain(agent)));
    let path = format!("{} → {}{by}", plain(from), plain(&passed.to));
    let time = at.get(11..23).unwrap_or(at);
    let mut line = format!("{time}  {:<8}  {path:<40}", passed.step.as_str());
    if let Some(message_type) = &head.message_type {
        let _ = write!(line, "  {:<9}", plain(message_type));
    }
    if let Some(priority) = head.priority {
        let _ = write!(line, "  priority {priority:<2}");
    }
    if let Some(ms) = passed.ms {
        let _ = write!(line, "  {ms:>8.1} ms");
    }
    if passed.attempt > 1 {
        let _ = write!(line, "  attempt {}", passed.attempt);
    }
    if let Some(topic) = &head.topic {
        let _ = write!(line, "  {}", plain(topic));
    }
    if let Some(id) = head.id {
        let _ = write!(line, "  {id}");
    }
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::flow::{Head, Step};

    fn passed(from: &str, to: &str) -> Passed {
        let head = Head {
            from: Some(from.to_owned()),
            message_type: Some("alert".to_owned()),
            priority: Some(2),
            ..Head::default()
        };
        let (to, ms) = (to.to_owned(), Some(1.94));
        Passed { step: Step::Pushed, ago_ms: 120, to, delivery: 7, attempt: 2, ms, head }
    }

    #[test]
    fn a_filter_takes_what_it_says() {
        let environments = HashMap::from([("b".to_owned(), "railway".to_owned())]);
        let takes = |filter: Filter| filter.takes(&passed("a", "b"), &environments);
        let text = |text: &str| Some(text.to_owned());
        assert!(takes(Filter::default()));
        assert!(takes(Filter { agent: text("a"), ..Filter::default() }));
        assert!(takes(Filter { environment: text("railway"), ..Filter::default() }));
        assert!(takes(Filter { message_type: Some(MessageType::Alert), ..Filter::default() }));
        assert!(takes(Filter { priority: Priority::new(2), ..Filter::default() }));
        assert!(!takes(Filter { agent: text("c"), ..Filter::default() }));
        assert!(!takes(Filter { environment: text("pc"), ..Filter::default() }));
        assert!(!takes(Filter { message_type: Some(MessageType::Data), ..Filter::default() }));
        assert!(!takes(Filter { priority: Priority::new(1), ..Filter::default() }));
    }

    #[test]
    fn a_line_tells_it_and_obeys_nobody() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(3_600);
        let hostile = passed("a\x1b[2J", "b");
        let line = text(&hostile, &at(now, &hostile));
        let path = format!("{:<40}", "a\u{fffd}[2J → b");
        assert_eq!(
            line,
            format!("00:59:59.880  pushed    {path}  alert      priority 2        1.9 ms  attempt 2")
        );
    }
}
