//! Which deliveries of a session came over its link, and where the agent's words about each delivery go.
//!
//! The owner counts its tags from 1; this session's tags for them go on above its last one. The lock is held
//! for a few instructions and never across an await.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use postbell_client::protocol::ClientFrame;
use postbell_engine::inbox::Tag;

/// The most frames that wait to be written to the owner. When this is full, the session waits before it reads
/// on.
const FRAMES_MAX: usize = 64;

/// How many deliveries are in flight over all links of this broker: a stopping broker waits for them, too.
pub type Linked = watch::Sender<usize>;

/// A link as seen by reading and writing; closed while this broker owns the inbox, or none does.
pub(super) struct Route {
    open: Mutex<Option<Open>>,
    window: AtomicU32,
    linked: Linked,
}

struct Open {
    /// This session's tag is the owner's tag plus this.
    base: Tag,
    /// By the owner's tags: when each attempt counts as failed there.
    in_flight: BTreeMap<Tag, Instant>,
    /// The `ref`s of acks that the owner has not confirmed.
    references: HashSet<String>,
    frames: mpsc::Sender<ClientFrame>,
}

/// The deliveries and acks that were under way when a link closed.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Each tag of the owner, with this session's tag for the same delivery.
    pub(super) in_flight: Vec<(Tag, Tag)>,
    /// The `ref`s of acks that will not be confirmed.
    pub(super) references: Vec<String>,
}

impl Route {
    pub(super) fn new(window: u32, linked: Linked) -> Self {
        Self { open: Mutex::default(), window: AtomicU32::new(window), linked }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent's window.
    pub(super) fn window(&self) -> u32 {
        self.window.load(Ordering::Relaxed)
    }

    /// Opens the route of a new link; returns the frames to write to the owner.
    pub(super) fn open(&self, base: Tag) -> mpsc::Receiver<ClientFrame> {
        let (frames, to_write) = mpsc::channel(FRAMES_MAX);
        let open = Open { base, in_flight: BTreeMap::new(), references: HashSet::new(), frames };
        *self.lock() = Some(open);
        to_write
    }

    /// Closes the route, because the link has ended.
    pub(super) fn close(&self) -> Left {
        let Some(open) = self.lock().take() else { return Left::default() };
        self.linked.send_modify(|n| *n = n.saturating_sub(open.in_flight.len()));
        Left {
            in_flight: open.in_flight.keys().map(|tag| (*tag, open.base + tag)).collect(),
            references: open.references.into_iter().collect(),
        }
    }

    /// The owner pushed a delivery; returns this session's tag for it.
    pub(super) fn pushed(&self, now: Instant, tag: Tag, deadline: Duration) -> Option<Tag> {
        let mut open = self.lock();
        let open = open.as_mut()?;
        let before = open.in_flight.len();
        if before > self.window() as usize {
            // The owner has given up the overdue ones, and pushed others in their place.
            open.in_flight.retain(|_, at| *at > now);
        }
        open.in_flight.insert(tag, now + deadline);
        let after = open.in_flight.len();
        self.linked.send_modify(|n| *n = (*n + after).saturating_sub(before));
        Some(open.base + tag)
    }

    /// The owner confirmed or refused an ack.
    pub(super) fn answered(&self, reference: &str) {
        if let Some(open) = self.lock().as_mut() {
            open.references.remove(reference);
        }
    }

    /// Splits tags to acknowledge into those of this broker and those of the owner, the latter by the owner's
    /// tags.
    pub(super) fn split(
        &self,
        tags: Vec<Tag>,
        reference: Option<&String>,
    ) -> (Vec<Tag>, Option<Away<Vec<Tag>>>) {
        let mut open = self.lock();
        let Some(open) = open.as_mut() else { return (tags, None) };
        let (mut here, mut away) = (Vec::new(), Vec::new());
        for tag in tags {
            match open.take(tag) {
                Some(theirs) => away.push(theirs),
                None => here.push(tag),
            }
        }
        if away.is_empty() {
            return (here, None);
        }
        open.references.extend(reference.cloned());
        self.linked.send_modify(|n| *n = n.saturating_sub(away.len()));
        (here, Some(Away { tags: away, frames: open.frames.clone() }))
    }

    /// Takes one tag that is settled in another way than by an ack.
    pub(super) fn take(&self, tag: Tag) -> Option<Away<Tag>> {
        let mut open = self.lock();
        let open = open.as_mut()?;
        let theirs = open.take(tag)?;
        self.linked.send_modify(|n| *n = n.saturating_sub(1));
        Some(Away { tags: theirs, frames: open.frames.clone() })
    }

    /// Moves the deadline of one tag.
    pub(super) fn extend(&self, now: Instant, tag: Tag, by: Duration) -> Option<Away<Tag>> {
        let mut open = self.lock();
        let open = open.as_mut()?;
        let theirs = tag.checked_sub(open.base)?;
        *open.in_flight.get_mut(&theirs)? = now + by;
        Some(Away { tags: theirs, frames: open.frames.clone() })
    }

    /// Splits tags that the agent has begun with into those of this broker and those of the owner, the latter
    /// by the owner's tags.
    pub(super) fn begun(&self, tags: Vec<Tag>) -> (Vec<Tag>, Option<Away<Vec<Tag>>>) {
        let open = self.lock();
        let Some(open) = open.as_ref() else { return (tags, None) };
        let (away, here): (Vec<Tag>, Vec<Tag>) = tags.into_iter().partition(|tag| *tag > open.base);
        let tags = match away.is_empty() {
            true => vec![0],
            false => away.into_iter().map(|tag| tag - open.base).collect(),
        };
        (here, Some(Away { tags, frames: open.frames.clone() }))
    }

    /// Changes the window; returns the way to tell the owner, if a link stands.
    pub(super) fn set_window(&self, window: u32) -> Option<mpsc::Sender<ClientFrame>> {
        self.window.store(window, Ordering::Relaxed);
        self.lock().as_ref().map(|open| open.frames.clone())
    }
}

/// A message for the owner: its tags, and the way to the link.
pub(super) struct Away<T> {
    pub(super) tags: T,
    pub(super) frames: mpsc::Sender<ClientFrame>,
}

impl Open {
    fn take(&mut self, tag: Tag) -> Option<Tag> {
        let theirs = tag.checked_sub(self.base)?;
        self.in_flight.remove(&theirs).map(|_| theirs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn linked(window: u32) -> (Route, watch::Receiver<usize>) {
        let (linked, counted) = watch::channel(0);
        (Route::new(window, linked), counted)
    }

    #[test]
    fn tags_go_on_above_the_sessions_last_and_come_back_as_the_owners() {
        let now = Instant::now();
        let (route, counted) = linked(10);
        assert!(route.take(1).is_none() && route.pushed(now, 1, DEADLINE).is_none(), "no link");
        let _to_write = route.open(7);
        assert_eq!([1, 2, 3].map(|tag| route.pushed(now, tag, DEADLINE)), [Some(8), Some(9), Some(10)]);
        assert_eq!(*counted.borrow(), 3);
        let (here, away) = route.split(vec![7, 8, 10, 11], Some(&"r".to_owned()));
        assert_eq!((here, away.expect("two are the owner's").tags), (vec![7, 11], vec![1, 3]));
        assert_eq!(route.take(8).map(|a| a.tags), None, "settled before");
        assert_eq!(*counted.borrow(), 1);
        let left = route.close();
        assert_eq!((left.in_flight, left.references), (vec![(2, 9)], vec!["r".to_owned()]));
        assert_eq!(*counted.borrow(), 0);
        assert_eq!(route.split(vec![9], None).0, [9], "an old link's tag is nobody's");
    }

    #[test]
    fn what_was_begun_is_said_to_whom_it_is_of() {
        let now = Instant::now();
        let (route, _) = linked(10);
        assert_eq!(route.begun(vec![1, 2]).0, [1, 2], "no link");
        let _to_write = route.open(7);
        route.pushed(now, 1, DEADLINE);
        let (here, away) = route.begun(vec![7, 8]);
        assert_eq!((here, away.expect("one is the owner's").tags), (vec![7], vec![1]));
        assert_eq!(route.begun(vec![0]).1.expect("none is the owner's").tags, [0]);
        assert_eq!(route.close().in_flight, [(1, 8)], "it is in flight as before");
    }

    #[test]
    fn what_the_owner_gave_up_is_forgotten_once_it_is_in_the_way() {
        let now = Instant::now();
        let (route, counted) = linked(2);
        let _to_write = route.open(0);
        for tag in 1..=3 {
            route.pushed(now, tag, DEADLINE);
        }
        route.extend(now, 3, DEADLINE * 2).expect("in flight");
        route.pushed(now + DEADLINE, 4, DEADLINE);
        assert_eq!(*counted.borrow(), 2);
        assert_eq!(route.close().in_flight, [(3, 3), (4, 4)]);
    }
}
