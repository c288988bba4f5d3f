use super::*;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A router in a mesh whose snapshots show no open transaction below `next`.
struct Run {
    now: Instant,
    router: Router,
    next: u64,
    steps: Vec<RouterStep>,
}

impl Run {
    fn new(routing: Routing) -> Self {
        let now = Instant::now();
        Self { now, router: Router::new(routing, now), next: 100, steps: Vec::new() }
    }

    /// Does what the router asks for so long, and returns what that was, each step that follows an equal one once.
    fn go(&mut self, lasts: Duration, oldest: Option<u64>) -> Vec<RouterStep> {
        let until = self.now + lasts;
        self.steps.clear();
        while self.now < until {
            let step = self.router.step(self.now);
            let now = self.now;
            match step {
                RouterStep::Wait => {}
                RouterStep::Take => self.router.taken(now),
                RouterStep::Route { leave } => {
                    self.router.routed((now, now), 0, oldest.unwrap_or(self.next), leave)
                }
                RouterStep::Note => self.router.routed((now, now), 0, oldest.unwrap_or(self.next), None),
                RouterStep::Mark { .. } => {
                    self.router.marked(now, self.next);
                    self.next += 1;
                }
                RouterStep::GiveBack => self.router.lost(now),
            }
            if step != RouterStep::Wait && self.steps.last() != Some(&step) {
                self.steps.push(step);
            }
            self.now += ms(1);
        }
        std::mem::take(&mut self.steps)
    }
}

const LEAVE: RouterStep = RouterStep::Route { leave: Some(LEFT_FOR) };
const ROUTE: RouterStep = RouterStep::Route { leave: None };
const BEHIND: RouterStep = RouterStep::Route { leave: Some(Duration::ZERO) };
const MARK: RouterStep = RouterStep::Mark { stop: false };
const STOP: RouterStep = RouterStep::Mark { stop: true };

#[test]
fn a_mesh_that_is_not_busy_has_no_router() {
    let mut run = Run::new(Routing::Auto);
    assert_eq!(run.go(ms(5_000), None), []);
    assert_eq!(run.router.due(), None);
}

#[test]
fn messages_are_left_while_the_mesh_is_busy_and_the_place_is_given_back_after() {
    let mut run = Run::new(Routing::Auto);
    run.router.load(true);
    assert_eq!(run.go(ms(1_200), None), [RouterStep::Take, LEAVE, ROUTE, LEAVE, ROUTE, LEAVE, ROUTE]);
    assert!(run.router.is_router());
    run.router.load(false);
    assert_eq!(run.go(ms(200), None), [MARK, ROUTE, STOP, ROUTE, RouterStep::GiveBack]);
    assert!(!run.router.is_router());
    assert_eq!(run.router.due(), None);
}

#[test]
fn a_transaction_that_stays_open_is_waited_for() {
    let mut run = Run::new(Routing::Always);
    run.go(ms(10), None);
    run.router = Router { routing: Routing::Never, ..run.router };
    // One that left a message and has not committed: triggers look for that message until it is routed.
    assert_eq!(run.go(ms(1_200), Some(99)), [MARK, ROUTE, BEHIND, ROUTE, BEHIND, ROUTE]);
    // A transaction that began afterwards left nothing.
    assert_eq!(run.go(ms(300), Some(101)), [ROUTE, STOP, ROUTE, RouterStep::GiveBack]);
}

#[test]
fn others_may_have_left_theirs_behind_what_the_last_round_saw() {
    let mut run = Run::new(Routing::Always);
    run.go(ms(10), None);
    run.router = Router { routing: Routing::Never, ..run.router };
    assert_eq!(run.router.step(run.now + ms(10)), MARK);
    run.router.marked(run.now, 100);
    run.router.routed((run.now, run.now), 1, 1_000, None);
    assert_eq!(run.router.step(run.now + ms(10)), MARK);
}

#[test]
fn a_mesh_that_is_busy_again_leaves_again() {
    for quiet in [ms(100), ms(3_000), ms(60_000)] {
        let mut run = Run::new(Routing::Auto);
        run.router.load(true);
        run.go(ms(10), None);
        run.router.load(false);
        run.go(quiet, Some(1));
        run.router.load(true);
        assert!(run.go(ms(200), Some(1)).contains(&LEAVE), "after {quiet:?}");
    }
}

#[test]
fn what_a_dead_router_was_left_is_routed_by_one_that_leaves_nothing() {
    let mut run = Run::new(Routing::Never);
    assert_eq!(run.go(ms(100), None), []);
    run.router.orphaned(true);
    assert_eq!(
        run.go(LEFT_FOR + PROBED_FOR + ms(200), None),
        [RouterStep::Take, MARK, ROUTE, STOP, ROUTE, RouterStep::GiveBack]
    );
    assert_eq!(run.go(ms(2_000), None), []);
}

#[test]
fn after_a_failure_nothing_is_left_and_what_was_is_noted() {
    let mut run = Run::new(Routing::Always);
    run.go(ms(10), None);
    run.router.failed(run.now);
    let steps = run.go(ms(200), None);
    assert_eq!(steps, [RouterStep::Take, STOP, RouterStep::Note, RouterStep::GiveBack]);
    assert_eq!(run.go(DISTRUST - ms(1_500), None), [], "triggers route");
    assert_eq!(run.go(ms(3_000), None)[..2], [RouterStep::Take, LEAVE]);
}

#[test]
fn a_large_round_that_failed_is_tried_once_more() {
    let mut run = Run::new(Routing::Always);
    run.go(ms(10), None);
    run.router.routed((run.now, run.now), SEEN_MANY, 1, None);
    run.router.failed(run.now);
    assert_eq!(run.go(ms(1), None), [RouterStep::Take]);
    assert_eq!(run.go(ms(1), None), [STOP]);
    assert_eq!(run.go(ms(200), None), [ROUTE, RouterStep::GiveBack]);
}

#[test]
fn a_router_that_cannot_keep_up_has_nothing_left_for_a_while() {
    let mut run = Run::new(Routing::Always);
    run.go(ms(10), None);
    run.router.routed((run.now, run.now + ROUND_SLOW), 90_000, 1, None);
    run.now += ROUND_SLOW;
    assert_eq!(run.go(ms(100), None), [STOP, ROUTE, RouterStep::GiveBack]);
    assert_eq!(run.go(DISTRUST - ms(1_500), None), [], "triggers route");
}

#[test]
fn one_that_is_refused_asks_once_a_second() {
    let mut router = Router::new(Routing::Always, Instant::now());
    let mut now = Instant::now();
    let mut asked = 0;
    for _ in 0..10_000 {
        if router.step(now) == RouterStep::Take {
            asked += 1;
            router.refused(now);
        }
        now += ms(1);
    }
    assert_eq!(asked, 10);
}
