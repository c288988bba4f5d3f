//! A session at a broker, an agent's or a link, as src/agents/session/hello.rs, session.rs and route.rs have it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postbell_client::protocol::ErrorCode;
use postbell_engine::inbox::event::{Event, Request};
use postbell_engine::inbox::{Rank, SessionId, Tag};
use rand::RngExt;

use crate::link::{Link, Stage};
use crate::network::{ConnId, Frame, Hello, Nack, Side};
use crate::plants::Plant;
use crate::statements::{Ask, Reply, STATEMENT_WAIT, Task};
use crate::world::{To, What, World};

/// An agent's session, or another broker's link.
pub(crate) struct Session {
    pub(crate) conn: ConnId,
    pub(crate) inbox: Arc<str>,
    pub(crate) instance: String,
    pub(crate) rank: Option<Rank>,
    pub(crate) window: u32,
    /// The deliveries that this broker's dispatcher has given it, with their attempts.
    pub(crate) has: BTreeMap<Tag, (i64, u32)>,
    pub(crate) written: Tag,
    pub(crate) is_closing: bool,
    pub(crate) link: Link,
}

impl World {
    /// The last line of a session, which ends then.
    pub(crate) fn say_last(&mut self, b: usize, id: SessionId, code: ErrorCode) {
        let Some(session) = self.brokers[b].sessions.get_mut(&id) else { return };
        session.is_closing = true;
        let conn = session.conn;
        self.send(conn, Side::Client, Frame::Error(code));
        self.plan_for(b, self.now + 100, What::Frame(conn, Side::Server, Frame::End));
    }

    /// src/agents/session/hello.rs and session.rs.
    pub(crate) fn hear(&mut self, b: usize, conn: ConnId, frame: Frame) {
        let session = self.conns.get(&conn).and_then(|conn| conn.session);
        match (frame, session) {
            (Frame::Hello(hello), None) => {
                let is_own = hello.broker.is_some_and(|(broker, _)| broker == self.brokers[b].id);
                if is_own && self.plant != Some(Plant::LinksToItself) {
                    return self.turn_away(conn, ErrorCode::NotOwner);
                }
                let number = self.ask(b, Task::Door, Ask::LetIn(hello), STATEMENT_WAIT);
                self.brokers[b].doors.insert(number, conn);
            }
            (Frame::Ack(tags, reference), Some(id)) => self.acks(b, id, tags, reference),
            (Frame::Nack(tag, nack), Some(id)) => self.nacks(b, id, tag, nack),
            (Frame::End, Some(id)) => self.session_ends(b, id),
            // Found gone where it is let in.
            (Frame::End, None) => {
                if let Some(conn) = self.conns.get_mut(&conn) {
                    conn.has_ended = true;
                }
            }
            _ => {}
        }
    }

    fn turn_away(&mut self, conn: ConnId, code: ErrorCode) {
        self.send(conn, Side::Client, Frame::Error(code));
        self.close(conn, Side::Server);
    }

    pub(crate) fn let_in(&mut self, b: usize, number: u64, reply: Result<Reply, ()>) {
        let Some(conn) = self.brokers[b].doors.remove(&number) else { return };
        let Ok(Reply::LetIn(hello, rank)) = reply else {
            return self.turn_away(conn, ErrorCode::Unavailable);
        };
        let Some(rank) = rank else { return self.turn_away(conn, ErrorCode::Unauthorized) };
        let Hello { inbox, instance, window, broker } = hello;
        let Some(connection) = self.conns.get(&conn) else { return };
        if connection.has_ended && self.plant != Some(Plant::OwnLateHello) {
            return self.close(conn, Side::Server);
        }
        self.is_overtaking(conn);
        self.brokers[b].last_session.0 += 1;
        let id = self.brokers[b].last_session;
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        connection.session = Some(id);
        let has_ended = connection.has_ended;
        let session = Session {
            conn,
            inbox: inbox.clone(),
            instance: instance.clone(),
            rank,
            window,
            has: BTreeMap::new(),
            written: Tag::NONE,
            is_closing: false,
            link: Link::default(),
        };
        self.brokers[b].sessions.insert(id, session);
        self.send(conn, Side::Client, Frame::Welcome);
        let join = Event::Join {
            session: id,
            inbox,
            instance: Some(instance),
            window,
            hold: Duration::from_secs(60),
            link: broker.is_some(),
            rank,
        };
        self.tell(b, join);
        if has_ended {
            let again = What::Frame(conn, Side::Server, Frame::End);
            let life = self.brokers[b].life;
            let after = self.rng.random_range(100..2_000);
            self.plan_in(after, To::Broker(b, life), again);
        }
    }

    /// Tags of the owner go to the owner (route.rs).
    fn acks(&mut self, b: usize, id: SessionId, tags: Vec<Tag>, reference: Option<String>) {
        let Some(session) = self.brokers[b].sessions.get_mut(&id) else { return };
        let (mut here, mut away, mut link) = (Vec::new(), Vec::new(), None);
        for tag in tags {
            match &mut session.link.stage {
                Stage::Standing(standing) => match standing.take(tag) {
                    Some(theirs) => {
                        link = Some(standing.conn);
                        away.push(theirs);
                    }
                    None => here.push(tag),
                },
                _ => here.push(tag),
            }
        }
        let ids: Vec<i64> = here.iter().filter_map(|tag| Some(session.has.remove(tag)?.0)).collect();
        let here_reference = reference.clone().filter(|_| link.is_none());
        if let Some(reference) = here_reference.clone().filter(|_| !ids.is_empty()) {
            self.brokers[b].references.insert(reference, ids);
        }
        if !here.is_empty() {
            let request = Request::Ack { tags: here, reference: here_reference };
            self.tell(b, Event::Request { session: id, request });
        }
        if let Some(link) = link {
            self.send(link, Side::Server, Frame::Ack(away, reference));
        }
    }

    fn nacks(&mut self, b: usize, id: SessionId, tag: Tag, nack: Nack) {
        let Some(session) = self.brokers[b].sessions.get_mut(&id) else { return };
        if let Stage::Standing(standing) = &mut session.link.stage
            && let Some(theirs) = standing.take(tag)
        {
            let link = standing.conn;
            return self.send(link, Side::Server, Frame::Nack(theirs, nack));
        }
        session.has.remove(&tag);
        let request = match nack {
            Nack::Release(delay) => Request::Release { tag, delay: Duration::from_micros(delay) },
            Nack::Fail => Request::Fail { tag, delay: None, reason: "it failed".into() },
            Nack::Dead => Request::Dead { tag, reason: "it is bad".into() },
        };
        self.tell(b, Event::Request { session: id, request });
    }

    /// A session ended, whoever ended it; its link says goodbye.
    pub(crate) fn session_ends(&mut self, b: usize, id: SessionId) {
        let Some(session) = self.brokers[b].sessions.remove(&id) else { return };
        self.close(session.conn, Side::Server);
        self.tell(b, Event::Leave { session: id, written: session.written, by_broker: false });
        match session.link.stage {
            Stage::Calling(conn) => self.close(conn, Side::Client),
            Stage::Standing(standing) => self.close(standing.conn, Side::Client),
            Stage::Home | Stage::Resting => {}
        }
    }
}
