//! `postbell top`: the status page in a terminal.

mod view;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::Exit;
use super::output::plain;
use super::remote::{Event, Remote, RemoteArgs};
use super::serve::stop_signal;
use crate::base::pace::Pace;
use crate::watch::flow::{Frame, Passed};
use crate::watch::status::mesh::Mesh;

/// Lines that are kept of what passed: more than a screen shows.
const PASSED_MAX: usize = 200;
/// The shortest time between two drawings: a terminal over a slow line must keep up.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// How long a key may wait to be seen.
const KEY_WAIT: Duration = Duration::from_millis(100);
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// News that may wait to be drawn. While the channel is full, nothing more is read from the broker.
const NEWS_MAX: usize = 64;

/// Watch the mesh in a terminal: how each agent is, what waits, how long deliveries take, and what passes.
#[derive(Args)]
#[command(
    after_help = "Keys: q leaves, the arrows and page keys go through the agents, space stops what passes.
Example: POSTBELL_VIEWER_TOKEN=… postbell top --url https://broker.example.org"
)]
pub(super) struct TopArgs {
    #[command(flatten)]
    remote: RemoteArgs,
}

/// The state that is shown; the view is a function of it.
#[derive(Default)]
struct State {
    address: String,
    mesh: Option<Mesh>,
    passed: VecDeque<Passed>,
    /// Why nothing comes from the broker; empty while something does.
    fault: String,
    /// The first agent that is shown.
    first: usize,
    paused: bool,
}

/// A change of the state.
enum News {
    Told(Event),
    Lost(String),
    Key(KeyCode),
    Redraw,
    Leave,
}

pub(super) async fn run(args: TopArgs) -> Exit {
    let remote = args.remote.remote()?;
    if !std::io::stdout().is_terminal() {
        bail!("top needs a terminal; `postbell tail` writes lines, and /api/mesh is the same as JSON");
    }
    let mut state = State { address: remote.address(), ..State::default() };
    // Before the terminal is taken over, so that a fault at the start is printed as any other.
    let events = remote.events().await?;
    let (news, mut to_show) = mpsc::channel(NEWS_MAX);
    let leaving = Arc::new(AtomicBool::new(false));
    let mut terminal = ratatui::try_init()?;
    let keys = std::thread::spawn({
        let (news, leaving) = (news.clone(), leaving.clone());
        move || read_keys(&news, &leaving)
    });
    let follow = tokio::spawn(follow(remote, events, news));
    let stop = stop_signal()?;
    let shown = tokio::select! {
        shown = show(&mut terminal, &mut state, &mut to_show) => shown,
        () = stop => Ok(()),
    };
    ratatui::restore();
    follow.abort();
    leaving.store(true, Ordering::Relaxed);
    drop(to_show);
    // The thread looks at `leaving` every KEY_WAIT.
    let _ = tokio::task::spawn_blocking(move || keys.join()).await;
    shown?;
    Ok(ExitCode::SUCCESS)
}

async fn show(
    terminal: &mut ratatui::DefaultTerminal,
    state: &mut State,
    news: &mut mpsc::Receiver<News>,
) -> anyhow::Result<()> {
    let mut next = Instant::now();
    loop {
        terminal.draw(|frame| view::draw(frame.buffer_mut(), state))?;
        next = (next + DRAW_EVERY).max(Instant::now());
        let Some(first) = news.recv().await else { return Ok(()) };
        let mut came = Some(first);
        // All news that is there, and more until it is time to draw again.
        while let Some(one) = came {
            if matches!(one, News::Leave) {
                return Ok(());
            }
            state.take(one);
            came = tokio::time::timeout_at(next, news.recv()).await.ok().flatten();
        }
    }
}

async fn follow(remote: Remote, first: super::remote::Events, news: mpsc::Sender<News>) {
    let mut pace = Pace::new(RETRY_FIRST, RETRY_MAX);
    let mut events = Some(first);
    loop {
        let lost = match events.take() {
            None => match remote.events().await {
                Ok(again) => {
                    events = Some(again);
                    continue;
                }
                Err(e) => format!("{e:#}"),
            },
            Some(mut open) => loop {
                match open.next().await {
                    Ok(Some(event)) => {
                        pace.reset();
                        if news.send(News::Told(event)).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break "the broker ended the stream".to_owned(),
                    Err(e) => break format!("{e:#}"),
                }
            },
        };
        let wait = pace.next_wait();
        if news.send(News::Lost(lost)).await.is_err() {
            return;
        }
        sleep(wait).await;
    }
}

fn read_keys(news: &mpsc::Sender<News>, leaving: &AtomicBool) {
    while !leaving.load(Ordering::Relaxed) {
        let input = match event::poll(KEY_WAIT) {
            Ok(true) => event::read(),
            Ok(false) => continue,
            Err(_) => return,
        };
        let one = match input {
            Ok(Input::Key(key)) if key.kind == KeyEventKind::Release => continue,
            Ok(Input::Key(key)) => match (key.code, key.modifiers) {
                (KeyCode::Char('q') | KeyCode::Esc, _) => News::Leave,
                // In raw mode Ctrl-C is a key and no signal.
                (KeyCode::Char('c'), KeyModifiers::CONTROL) => News::Leave,
                (code, _) => News::Key(code),
            },
            Ok(_) => News::Redraw,
            Err(_) => return,
        };
        if news.blocking_send(one).is_err() {
            return;
        }
    }
}

/// Reads JSON from the broker, with no text left in it that a terminal obeys.
fn read<T: DeserializeOwned>(json: &str) -> serde_json::Result<T> {
    let mut value: Value = serde_json::from_str(json)?;
    make_plain(&mut value);
    serde_json::from_value(value)
}

fn make_plain(value: &mut Value) {
    match value {
        Value::String(text) => *text = plain::one_line(text).into_owned(),
        Value::Array(values) => values.iter_mut().for_each(make_plain),
        Value::Object(map) => {
            let pairs = std::mem::take(map).into_iter().map(|(key, mut value)| {
                make_plain(&mut value);
                (plain::one_line(&key).into_owned(), value)
            });
            *map = pairs.collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl State {
    fn take(&mut self, news: News) {
        match news {
            News::Told(event) => self.told(&event),
            News::Lost(fault) => self.fault = plain::one_line(&fault).into_owned(),
            News::Key(key) => self.key(key),
            News::Redraw | News::Leave => {}
        }
    }

    fn told(&mut self, event: &Event) {
        self.fault.clear();
        match event.name.as_str() {
            "mesh" => match read(&event.data) {
                Ok(mesh) => self.mesh = Some(mesh),
                Err(e) => self.fault = format!("the broker says what this version does not understand: {e}"),
            },
            "flow" if !self.paused => {
                let frame: Frame = read(&event.data).unwrap_or_default();
                self.passed.extend(frame.events);
                let over = self.passed.len().saturating_sub(PASSED_MAX);
                self.passed.drain(..over);
            }
            // An event that only a newer broker sends, or `flow` while the display is stopped.
            _ => {}
        }
    }

    fn key(&mut self, key: KeyCode) {
        let last = self.mesh.as_ref().map_or(0, |mesh| mesh.agents.len().saturating_sub(1));
        self.first = match key {
            KeyCode::Down | KeyCode::Char('j') => self.first + 1,
            KeyCode::Up | KeyCode::Char('k') => self.first.saturating_sub(1),
            KeyCode::PageDown => self.first + 10,
            KeyCode::PageUp => self.first.saturating_sub(10),
            KeyCode::Home => 0,
            KeyCode::End => last,
            KeyCode::Char(' ') => {
                self.paused = !self.paused;
                self.first
            }
            _ => self.first,
        }
        .min(last);
    }
}
