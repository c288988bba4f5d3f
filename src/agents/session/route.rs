//! Which deliveries of a session came over its link, and where the agent's words about each delivery go.
//!
//! The owner counts its tags from 1; this session's tags for them go on above its last one. The lock is held
//! for a few instructions and never across an await.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::{mpsc, watch};

use postbell_client::protocol::ClientFrame;
use postbell_engine::inbox::Tag;

/// The most frames that wait to be written to the owner. When this is full, the session waits before it reads
/// on.
const FRAMES_MAX: usize = 64;

/// How many deliveries are in flight over all links of this broker: a stopping broker waits for them, too.
pub(crate) type Linked = watch::Sender<usize>;

/// The owner's tag of a delivery that came over the link, counted from 1 on each link. A bare [`Tag`] is this session's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OwnerTag(Tag);

impl OwnerTag {
    /// From a line of the owner.
    pub(super) fn said(tag: Tag) -> Self {
        Self(tag)
    }

    /// For a line to the owner.
    pub(super) fn to_say(self) -> Tag {
        self.0
    }
}

/// A link as seen by reading and writing; closed while this broker owns the inbox, or none does.
pub(super) struct Route {
    open: Mutex<Option<Open>>,
    window: AtomicU32,
    linked: Linked,
}

struct Open {
    /// This session's tag is the owner's tag plus this.
    base: Tag,
    /// When each attempt counts as failed there.
    in_flight: BTreeMap<OwnerTag, Instant>,
    /// The `ref`s of acks that the owner has not confirmed.
    references: HashSet<String>,
    frames: mpsc::Sender<ClientFrame>,
}

/// The deliveries and acks that were under way when a link closed.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Each tag of the owner, with this session's tag for the same delivery.
    pub(super) in_flight: Vec<(OwnerTag, Tag)>,
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
            in_flight: open.in_flight.keys().filter_map(|tag| Some((*tag, open.ours(*tag)?))).collect(),
            references: open.references.into_iter().collect(),
        }
    }

    /// The owner pushed a delivery; returns this session's tag for it.
    pub(super) fn pushed(&self, now: Instant, tag: OwnerTag, deadline: Duration) -> Option<Tag> {
        let mut open = self.lock();
        let open = open.as_mut()?;
        let ours = open.ours(tag)?;
        let before = open.in_flight.len();
        if before > self.window() as usize {
            // The owner has given up the overdue ones, and pushed others in their place.
            open.in_flight.retain(|_, at| *at > now);
        }
        open.in_flight.insert(tag, now + deadline);
        let after = open.in_flight.len();
        self.linked.send_modify(|n| *n = (*n + after).saturating_sub(before));
        Some(ours)
    }

    /// The owner confirmed or refused an ack.
    pub(super) fn answered(&self, reference: &str) {
        if let Some(open) = self.lock().as_mut() {
            open.references.remove(reference);
        }
    }

    /// Splits tags to acknowledge into those of this broker and those of the owner.
    pub(super) fn split(
        &self,
        tags: Vec<Tag>,
        reference: Option<&String>,
    ) -> (Vec<Tag>, Option<Away<Vec<OwnerTag>>>) {
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
    pub(super) fn take(&self, tag: Tag) -> Option<Away<OwnerTag>> {
        let mut open = self.lock();
        let open = open.as_mut()?;
        let theirs = open.take(tag)?;
        self.linked.send_modify(|n| *n = n.saturating_sub(1));
        Some(Away { tags: theirs, frames: open.frames.clone() })
    }

    /// Moves the deadline of one tag.
    pub(super) fn extend(&self, now: Instant, tag: Tag, by: Duration) -> Option<Away<OwnerTag>> {
        let mut open = self.lock();
        let open = open.as_mut()?;
        let theirs = open.theirs(tag)?;
        *open.in_flight.get_mut(&theirs)? = now + by;
        Some(Away { tags: theirs, frames: open.frames.clone() })
    }

    /// Splits tags that the agent has begun with into those of this broker and those of the owner.
    pub(super) fn begun(&self, tags: Vec<Tag>) -> (Vec<Tag>, Option<Away<Vec<OwnerTag>>>) {
        let open = self.lock();
        let Some(open) = open.as_ref() else { return (tags, None) };
        let (away, here): (Vec<Tag>, Vec<Tag>) = tags.into_iter().partition(|tag| *tag > open.base);
        let tags = match away.is_empty() {
            true => vec![OwnerTag(Tag::NONE)],
            false => away.into_iter().filter_map(|tag| open.theirs(tag)).collect(),
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
    /// The owner's tag for a tag of this session, if the delivery came over this link.
    fn theirs(&self, tag: Tag) -> Option<OwnerTag> {
        tag.0.checked_sub(self.base.0).map(|n| OwnerTag(Tag(n)))
    }

    /// This session's tag for one of the owner's; none if an owner that counts otherwise said a number too high.
    fn ours(&self, tag: OwnerTag) -> Option<Tag> {
        self.base.0.checked_add(tag.0.0).map(Tag)
    }

    fn take(&mut self, tag: Tag) -> Option<OwnerTag> {
        let theirs = self.theirs(tag)?;
        self.in_flight.remove(&theirs).map(|_| theirs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn theirs(n: u64) -> OwnerTag {
        OwnerTag(Tag(n))
    }

    fn ours<const N: usize>(tags: [u64; N]) -> Vec<Tag> {
        tags.map(Tag).to_vec()
    }

    const DEADLINE: Duration = Duration::from_secs(30);

    fn linked(window: u32) -> (Route, watch::Receiver<usize>) {
        let (linked, counted) = watch::channel(0);
        (Route::new(window, linked), counted)
    }

    #[test]
    fn tags_go_on_above_the_sessions_last_and_come_back_as_the_owners() {
        let now = Instant::now();
        let (route, counted) = linked(10);
        assert!(route.take(Tag(1)).is_none() && route.pushed(now, theirs(1), DEADLINE).is_none(), "no link");
        let _to_write = route.open(Tag(7));
        assert_eq!(
            [1, 2, 3].map(|tag| route.pushed(now, theirs(tag), DEADLINE)),
            [8, 9, 10].map(|tag| Some(Tag(tag)))
        );
        assert_eq!(*counted.borrow(), 3);
        let (here, away) = route.split(ours([7, 8, 10, 11]), Some(&"r".to_owned()));
        assert_eq!(
            (here, away.expect("two are the owner's").tags),
            (ours([7, 11]), vec![theirs(1), theirs(3)])
        );
        assert_eq!(route.take(Tag(8)).map(|a| a.tags), None, "settled before");
        assert_eq!(*counted.borrow(), 1);
        let left = route.close();
        assert_eq!((left.in_flight, left.references), (vec![(theirs(2), Tag(9))], vec!["r".to_owned()]));
        assert_eq!(*counted.borrow(), 0);
        assert_eq!(route.split(ours([9]), None).0, ours([9]), "an old link's tag is nobody's");
    }

    #[test]
    fn a_tag_that_this_session_cannot_count_to_cuts_the_link_and_is_not_kept() {
        let (route, counted) = linked(10);
        let _to_write = route.open(Tag(7));
        assert_eq!(route.pushed(Instant::now(), OwnerTag::said(Tag::MAX), DEADLINE), None);
        assert_eq!(route.close().in_flight, []);
        assert_eq!(*counted.borrow(), 0);
    }

    #[test]
    fn what_was_begun_is_said_to_whom_it_is_of() {
        let now = Instant::now();
        let (route, _) = linked(10);
        assert_eq!(route.begun(ours([1, 2])).0, ours([1, 2]), "no link");
        let _to_write = route.open(Tag(7));
        route.pushed(now, theirs(1), DEADLINE);
        let (here, away) = route.begun(ours([7, 8]));
        assert_eq!((here, away.expect("one is the owner's").tags), (ours([7]), vec![theirs(1)]));
        assert_eq!(route.begun(vec![Tag::NONE]).1.expect("none is the owner's").tags, [theirs(0)]);
        assert_eq!(route.close().in_flight, [(theirs(1), Tag(8))], "it is in flight as before");
    }

    #[test]
    fn what_the_owner_gave_up_is_forgotten_once_it_is_in_the_way() {
        let now = Instant::now();
        let (route, counted) = linked(2);
        let _to_write = route.open(Tag::NONE);
        for tag in 1..=3 {
            route.pushed(now, theirs(tag), DEADLINE);
        }
        route.extend(now, Tag(3), DEADLINE * 2).expect("in flight");
        route.pushed(now + DEADLINE, theirs(4), DEADLINE);
        assert_eq!(*counted.borrow(), 2);
        assert_eq!(route.close().in_flight, [3, 4].map(|n| (theirs(n), Tag(n))));
    }
}
