//! Against a table that refuses some leases.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// The names of these inboxes that the table refuses, a letter each.
struct Table<'a>(&'a str);

impl Table<'_> {
    fn takes(&self, inboxes: &[Arc<str>]) -> bool {
        !inboxes.iter().any(|inbox| self.0.contains(&**inbox))
    }
}

fn asking(inboxes: &str, now: Instant) -> Asked {
    let mut asked = Asked::new(now);
    inboxes.chars().for_each(|c| asked.note(LeaseRequest::Acquire(c.to_string().into(), None)));
    asked
}

/// Tries parts until nothing is left to be tried at this time. Returns how many statements that took.
fn run(asked: &mut Asked, table: &Table<'_>, now: Instant) -> usize {
    let mut statements = 0;
    while let Some(part) = asked.next_part(now) {
        statements += 1;
        let Part::Acquire(inboxes) = &part else { panic!("nothing is given back") };
        match table.takes(inboxes) {
            true => {
                for inbox in inboxes {
                    asked.acquire.remove(inbox);
                    asked.epochs.insert(inbox.clone(), Epoch(1));
                }
                asked.answered();
            }
            false => _ = asked.refused(now, part, &StoreError::refused("no")),
        }
        assert!(statements < 1_000, "it never ends");
    }
    statements
}

fn named(inboxes: impl Iterator<Item = Arc<str>>) -> String {
    let mut names: Vec<_> = inboxes.map(|inbox| inbox.to_string()).collect();
    names.sort();
    names.concat()
}

#[test]
fn one_that_is_refused_waits_and_all_others_have_theirs() {
    let now = Instant::now();
    let mut asked = asking("abcdefghijklmnop", now);
    let statements = run(&mut asked, &Table("g"), now);
    assert_eq!(named(asked.epochs.keys().cloned()), "abcdefhijklmnop");
    assert_eq!(named(asked.refusals.inboxes.keys().cloned()), "g");
    assert!(statements <= 16, "{statements} statements for one among sixteen");
}

#[test]
fn when_one_is_taken_again_so_are_all_that_waited() {
    let mut now = Instant::now();
    let mut asked = asking("abcdefgh", now);
    run(&mut asked, &Table("abcdefgh"), now);
    assert_eq!(asked.epochs.len(), 0);
    // The first stays as it is. Each of the others has a turn as well, so one of them soon finds the table mended.
    now += REFUSED_EVERY;
    run(&mut asked, &Table("a"), now);
    now += REFUSED_EVERY;
    run(&mut asked, &Table("a"), now);
    assert_eq!(named(asked.epochs.keys().cloned()), "bcdefgh");
    assert_eq!(named(asked.refusals.inboxes.keys().cloned()), "a");
}

#[test]
fn whatever_is_refused_all_others_are_acquired_and_the_rest_soon_after() {
    for seed in 0..500 {
        let (mut rng, mut now) = (SmallRng::seed_from_u64(seed), Instant::now());
        let all = "abcdefghijklmnopqrstuvwxyz";
        let mut pick = |share| all.chars().filter(|_| rng.random_bool(share)).collect::<String>();
        let (hurt, still_hurt) = (pick(0.3), pick(0.1));
        let still_hurt: String = still_hurt.chars().filter(|c| hurt.contains(*c)).collect();
        let mut asked = asking(all, now);
        run(&mut asked, &Table(&hurt), now);
        let taken: String = all.chars().filter(|c| !hurt.contains(*c)).collect();
        assert_eq!(named(asked.epochs.keys().cloned()), taken, "seed {seed}");
        for _ in 0..=still_hurt.len() {
            now += REFUSED_EVERY;
            run(&mut asked, &Table(&still_hurt), now);
        }
        let taken: String = all.chars().filter(|c| !still_hurt.contains(*c)).collect();
        assert_eq!(named(asked.epochs.keys().cloned()), taken, "seed {seed}");
        assert_eq!(named(asked.refusals.inboxes.keys().cloned()), still_hurt, "seed {seed}");
    }
}
