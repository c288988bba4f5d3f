//! Many cases, and one that fails made small.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::plants::Plant;
use crate::world::{Case, World};

mod routed;

/// How many lines of a failing case are printed.
const LINES: usize = 150;

struct Failure {
    seed: u64,
    sentence: String,
    /// Which of its faults it needs.
    kept: Vec<usize>,
    story: String,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a case; a panic of the dispatcher's own checks is a failure as well.
fn run(world: &mut World) -> Result<(), String> {
    let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
    ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
    })
}

fn try_case(case: Case) -> Result<(), Box<Failure>> {
    let Err(sentence) = run(&mut World::new(case, None, false)) else { return Ok(()) };
    Err(Box::new(shrink(case, sentence)))
}

/// Leaves out one fault after another while it still fails.
fn shrink(case: Case, mut sentence: String) -> Failure {
    let mut kept: Vec<usize> = (0..World::new(case, None, false).plan.faults.len()).collect();
    let mut at = 0;
    while at < kept.len() {
        let mut fewer = kept.clone();
        fewer.remove(at);
        match run(&mut World::new(case, Some(&fewer), false)) {
            Err(said) => (kept, sentence) = (fewer, said),
            Ok(()) => at += 1,
        }
    }
    let mut world = World::new(case, Some(&kept), true);
    let _ = run(&mut world);
    let log = world.log.unwrap_or_default();
    let shown: Vec<&str> = log.iter().rev().take(LINES).rev().map(String::as_str).collect();
    let faults = log.iter().filter(|line| line.contains("FAULT"));
    let faults: Vec<&str> = faults.map(String::as_str).collect();
    let story = format!("{}\n…\n{}", faults.join("\n"), shown.join("\n"));
    Failure { seed: case.seed, sentence, kept, story }
}

fn expect_all(seeds: std::ops::Range<u64>, has_router: bool) {
    for seed in seeds {
        if let Err(failure) = try_case(Case { seed, plant: None, has_router }) {
            let Failure { seed, sentence, kept, story } = *failure;
            panic!("seed {seed}, with its faults {kept:?}: {sentence}\n{story}");
        }
    }
}

#[test]
fn simulation_256() {
    expect_all(0..256, false);
}

/// POSTBELL_SIM_CASES and POSTBELL_SIM_SEED choose how many, and from where on; POSTBELL_SIM_ROUTER=1: with a router.
#[test]
#[ignore = "minutes"]
fn simulation_50_000() {
    let first = number("POSTBELL_SIM_SEED").unwrap_or(0);
    let cases = first..first + number("POSTBELL_SIM_CASES").unwrap_or(50_000);
    expect_all(cases, number("POSTBELL_SIM_ROUTER").is_some());
}

/// For whoever looks at one case.
#[test]
#[ignore = "prints a case"]
fn one_seed() {
    let has_router = number("POSTBELL_SIM_ROUTER").is_some();
    let case = Case { seed: number("POSTBELL_SIM_SEED").unwrap_or(0), plant: None, has_router };
    let mut world = World::new(case, None, true);
    let ended = run(&mut world);
    println!("{}\n{ended:?}", world.log.unwrap_or_default().join("\n"));
}

#[test]
fn a_seed_says_all() {
    for seed in 0..8 {
        let case = Case { seed, plant: None, has_router: seed % 2 == 0 };
        let mut worlds = [(); 2].map(|()| World::new(case, None, false));
        let ended = worlds.each_mut().map(run);
        assert_eq!(ended[0], ended[1]);
        assert_eq!(worlds[0].fingerprint, worlds[1].fingerprint, "seed {seed}");
    }
}

fn expect_found(plant: Plant, seeds: std::ops::Range<u64>, by: &str) {
    find(plant, false, seeds, by);
}

/// The first of these seeds that finds a plant, and what it says. Without the plant nothing is wrong with it.
fn find(plant: Plant, has_router: bool, seeds: std::ops::Range<u64>, by: &str) {
    for seed in seeds.clone() {
        let case = Case { seed, plant: Some(plant), has_router };
        let Err(failure) = try_case(case) else { continue };
        assert!(
            try_case(Case { plant: None, ..case }).is_ok(),
            "seed {seed} fails without {plant:?} as well"
        );
        let Failure { seed, sentence, kept, story } = *failure;
        println!("{plant:?}: seed {seed}, faults {kept:?}: {sentence}");
        assert!(sentence.contains(by), "{plant:?} is found by another sign: {sentence}\n{story}");
        return;
    }
    panic!("{seeds:?} do not find {plant:?}");
}

#[test]
fn finds_a_broker_that_links_to_itself() {
    expect_found(Plant::LinksToItself, 400..500, "sent away for good");
}

#[test]
fn finds_a_late_hello_that_takes_a_place() {
    expect_found(Plant::LinkWithoutRank, 200..300, "sent away for good");
}

#[test]
fn finds_a_cursor_that_moves_too_early() {
    expect_found(Plant::CursorBeforeRows, 0..100, "");
}

#[test]
fn finds_an_epoch_that_says_nothing() {
    expect_found(Plant::EpochNotCompared, 10_400..10_500, "more urgent");
}

#[test]
fn finds_an_inbox_that_is_given_back_twice() {
    expect_found(Plant::AnyEpochReleased, 18_400..18_500, "still wait");
}

#[test]
fn finds_an_outcome_of_another_attempt() {
    expect_found(Plant::AttemptNotCompared, 0..1_000, "counted twice");
}

#[test]
fn finds_a_lapse_whose_news_was_lost() {
    expect_found(Plant::LapseBelieved, 10_800..10_900, "another broker's");
}

#[test]
fn finds_a_hello_that_its_agent_had_given_up() {
    expect_found(Plant::OwnLateHello, 0..200, "sent away for good");
}

#[test]
fn finds_a_promotion_that_rings_for_nobody() {
    expect_found(Plant::PromotionWithoutRing, 0..100, "had not announced");
}

#[test]
fn finds_a_delay_that_wakes_nobody() {
    expect_found(Plant::DelayWithoutWake, 1_600..1_700, "had not announced");
}

/// Only a jump of a broker's clock finds these two.
#[test]
fn finds_a_rank_by_a_clock_that_jumps() {
    expect_found(Plant::RankByOwnClock, 1_400..1_500, "sent away for good");
}

#[test]
fn finds_a_lease_by_a_clock_that_jumps() {
    expect_found(Plant::LeaseByOwnClock, 13_300..13_400, "another broker's");
}
