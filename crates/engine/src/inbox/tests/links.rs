//! Inboxes of other brokers, and other brokers' sessions on ours.

use uuid::Uuid;

use super::support::*;
use crate::inbox::event::{Effect, Event, Owner, Request, Trouble};
use crate::inbox::{Rank, SessionId, Tag};
use postbell_client::protocol::ErrorCode;

fn owner() -> Owner {
    Owner { broker: Uuid::from_u128(9), address: "10.0.0.9:7440".into(), certificate: None }
}

fn theirs(bench: &mut Bench) -> Vec<Effect> {
    bench.tell(Event::NotAcquired { inbox: inbox(), owner: Some(owner()) })
}

fn sent_elsewhere(effects: &[Effect]) -> Vec<(u64, u64)> {
    let sent = |e: &Effect| {
        if let Effect::Elsewhere(id, o, tag) = e { Some((id.0, o == &owner(), tag.0)) } else { None }
    };
    effects.iter().filter_map(sent).map(|(id, right, tag)| (id, if right { tag } else { u64::MAX })).collect()
}

fn closed(effects: &[Effect]) -> Vec<(u64, ErrorCode)> {
    let closed = |e: &Effect| if let Effect::Close(id, code) = e { Some((id.0, *code)) } else { None };
    effects.iter().filter_map(closed).collect()
}

fn rejoin(bench: &mut Bench, session: u64, above: u64, trouble: Option<Trouble>) -> Vec<Effect> {
    bench.tell(Event::Rejoin { session: SessionId(session), above: Tag(above), trouble })
}

#[test]
fn sessions_of_another_brokers_inbox_are_sent_to_it_and_nothing_stays() {
    let mut bench = Bench::new();
    bench.join(1, None, 10);
    bench.join(2, None, 10);
    let mut sent = sent_elsewhere(&theirs(&mut bench));
    sent.sort_unstable();
    assert_eq!(sent, [(1, 0), (2, 0)]);
    assert!(bench.dispatcher.is_empty());
}

#[test]
fn a_session_whose_link_fell_asks_again_and_says_what_it_saw() {
    let mut bench = Bench::new();
    bench.join(1, None, 10);
    theirs(&mut bench);
    let trouble = Trouble { owner: owner().broker, refuses: true };
    let effects = rejoin(&mut bench, 1, 7, Some(trouble));
    assert!(effects.iter().any(|e| matches!(e, Effect::Acquire(_, Some(t)) if *t == trouble)));
    bench.own(2);
    let effects = bench.arrive(entries([5]));
    let tags: Vec<Tag> =
        effects.iter().filter_map(|e| if let Effect::Push(_, p) = e { Some(p.tag) } else { None }).collect();
    assert_eq!(tags, [Tag(8)], "above those of the link");
}

#[test]
fn an_inbox_lost_with_deliveries_in_flight_is_remembered_until_they_are_settled() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries([1, 2]));
    bench.tell(Event::LeaseLapsed);
    assert_eq!(sent_elsewhere(&theirs(&mut bench)), [(1, 2)]);
    assert!(!bench.dispatcher.is_empty());
    // The session is back before its acks are written: what is being settled is not pushed again.
    let mut settling = settles(&bench.ack(1, &[1], None));
    assert_eq!(acquires(&rejoin(&mut bench, 1, 2, None)), 1);
    theirs(&mut bench);
    settling.extend(settles(&bench.ack(1, &[2], None)));
    bench.settled(settling);
    assert!(bench.dispatcher.is_empty());
    assert_eq!(bench.dispatcher.unsettled(), 0);
}

#[test]
fn a_link_never_makes_this_broker_ask_for_the_inbox() {
    let mut bench = Bench::new();
    let effects = bench.link(1, 10);
    assert_eq!((acquires(&effects), closed(&effects)), (0, vec![(1, ErrorCode::NotOwner)]));
    bench.join(2, None, 10);
    assert_eq!(closed(&bench.link(3, 10)), [(3, ErrorCode::NotOwner)], "it is not known yet whose it is");
    bench.own(1);
    assert_eq!(closed(&bench.link(4, 10)), []);
    bench.leave(2, 0, false);
    assert_eq!(pushed_ids(&bench.arrive(entries([1]))), [1], "the link alone keeps the inbox here");
}

#[test]
fn links_end_when_the_inbox_is_lost() {
    let mut bench = Bench::ready(10);
    bench.link(2, 10);
    bench.tell(Event::LeaseLapsed);
    let effects = theirs(&mut bench);
    assert_eq!(closed(&effects), [(2, ErrorCode::NotOwner)]);
    assert_eq!(sent_elsewhere(&effects), [(1, 0)]);
}

#[test]
fn a_wanted_inbox_is_given_up_only_where_no_session_of_its_own_is_left() {
    let mut bench = Bench::ready(10);
    bench.link(2, 10);
    assert_eq!(closed(&bench.tell(Event::Wanted(vec![inbox()]))), []);
    bench.leave(1, 0, false);
    assert_eq!(closed(&bench.tell(Event::Wanted(vec![inbox()]))), [(2, ErrorCode::NotOwner)]);
    assert_eq!(closed(&bench.tell(Event::Wanted(vec![inbox()]))), [], "once");
    assert_eq!(releases(&bench.leave(2, 0, true)), 1);
}

#[test]
fn a_link_that_is_asked_to_leave_is_closed_once_nothing_is_in_flight() {
    let mut bench = Bench::ready(1);
    bench.link(2, 1);
    bench.arrive(entries([1, 2, 3]));
    assert_eq!(closed(&bench.tell(Event::Drain(SessionId(2)))), []);
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [3], "the other one goes on");
    let effects = bench.ack(2, &[1], None);
    assert_eq!(closed(&effects), [(2, ErrorCode::Stopping)]);
    assert_eq!(pushed_ids(&bench.arrive(entries([4]))), NONE);
    assert_eq!(closed(&bench.tell(Event::Drain(SessionId(1)))), [], "an agent says goodbye itself");
}

#[test]
fn an_instance_that_came_anew_while_the_older_session_was_elsewhere_goes_on() {
    let mut bench = Bench::new();
    bench.join(1, Some("main"), 10);
    theirs(&mut bench);
    bench.join(2, Some("main"), 10);
    assert_eq!(closed(&rejoin(&mut bench, 1, 0, None)), [(1, ErrorCode::TakenOver)]);
    bench.own(1);
    let effects = bench.arrive(entries([1]));
    assert!(effects.iter().any(|e| matches!(e, Effect::Push(SessionId(2), _))));
    assert_eq!(closed(&bench.request(1, Request::Window(5))), []);
}

#[test]
fn a_session_that_comes_back_from_the_owner_goes_on_where_nobody_has_its_place() {
    for (one, other) in [(Some("main"), Some("spare")), (None, None)] {
        let mut bench = Bench::new();
        bench.join(1, one, 10);
        bench.join(2, other, 10);
        theirs(&mut bench);
        for session in [1, 2] {
            assert_eq!(closed(&rejoin(&mut bench, session, 0, None)), [], "{one:?}, {other:?}");
        }
    }
}

#[test]
fn where_two_ranks_are_the_same_the_session_that_comes_has_the_place() {
    let mut bench = Bench::new();
    bench.join_ranked(1, 5, false);
    assert_eq!(closed(&bench.join_ranked(2, 5, false)), [(1, ErrorCode::TakenOver)]);
    theirs(&mut bench);
    assert_eq!(closed(&rejoin(&mut bench, 2, 0, None)), []);
}

#[test]
fn a_session_that_comes_back_gives_way_to_a_higher_rank_alone() {
    for (rank, expected) in [(4, vec![]), (5, vec![]), (6, vec![(1, ErrorCode::TakenOver)])] {
        let mut bench = Bench::new();
        bench.join_ranked(1, 5, false);
        theirs(&mut bench);
        bench.join_ranked(2, rank, false);
        assert_eq!(closed(&rejoin(&mut bench, 1, 0, None)), expected, "{rank}");
    }
}

#[test]
fn neither_another_instance_nor_a_session_that_was_told_to_end_keeps_anybody_out() {
    let mut bench = Bench::ready(1);
    bench.join_ranked(2, 9, true);
    let other = Event::Join {
        session: SessionId(3),
        inbox: inbox(),
        instance: Some("another".into()),
        window: 1,
        hold: HOLD,
        link: false,
        rank: Some(Rank(5)),
    };
    assert_eq!(closed(&bench.tell(other)), []);
    assert_eq!(closed(&bench.tell(Event::Drain(SessionId(2)))), [(2, ErrorCode::Stopping)]);
    assert_eq!(closed(&bench.join_ranked(4, 5, false)), []);
}
