//! The rest that an agent has of its role's limits, over all its connections to this broker. Pure: it takes
//! `now`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::agents::RoleLimits;
use postbell_engine::bucket::{Bucket, Rate};

/// The shortest wait that an agent is told: a refused line costs as much to read as one that is taken.
pub const SLOW_DOWN_MIN: Duration = Duration::from_millis(50);

/// The quota of one agent; its connections share it.
#[derive(Debug)]
pub struct Quota {
    buckets: Mutex<Buckets>,
    outstanding: AtomicU64,
    /// The agent's one turn to administer dead letters.
    turn: Arc<Semaphore>,
}

#[derive(Debug)]
struct Buckets {
    sends: Option<Bucket>,
    bytes: Option<Bucket>,
    /// For locks and subscriptions.
    requests: Option<Bucket>,
    outstanding_max: u64,
}

/// A send that is under way; it counts until this is dropped.
#[derive(Debug)]
pub struct Outstanding(Arc<Quota>);

impl Quota {
    /// A quota of which nothing is used.
    pub fn new(now: Instant, limits: &RoleLimits) -> Self {
        let buckets = Buckets { sends: None, bytes: None, requests: None, outstanding_max: 0 };
        let this = Self {
            buckets: Mutex::new(buckets),
            outstanding: AtomicU64::new(0),
            turn: Arc::new(Semaphore::new(1)),
        };
        this.set_limits(now, limits);
        this
    }

    /// Changes the limits from now on; what was used stays used.
    pub fn set_limits(&self, now: Instant, limits: &RoleLimits) {
        let mut buckets = self.buckets();
        set(&mut buckets.sends, now, limits.sends_per_second, limits.sends_burst);
        set(&mut buckets.bytes, now, limits.send_bytes_per_second, limits.send_bytes_burst);
        set(&mut buckets.requests, now, limits.requests_per_second, limits.requests_burst);
        buckets.outstanding_max = limits.publishes_outstanding.unwrap_or(u64::MAX);
    }

    /// Lets a message of so many bytes pass. A refused message uses nothing.
    ///
    /// # Errors
    /// How long the agent must wait.
    pub fn admit(self: &Arc<Self>, now: Instant, bytes: u64) -> Result<Outstanding, Duration> {
        let mut buckets = self.buckets();
        let Buckets { sends, bytes: volume, outstanding_max, .. } = &mut *buckets;
        let wait = |bucket: &mut Option<Bucket>, count| {
            bucket.as_mut().map_or(Duration::ZERO, |bucket| bucket.wait(now.into_std(), count))
        };
        let wait = wait(sends, 1).max(wait(volume, bytes));
        // Full: the answers come when the database has the messages, so no better time than the shortest wait
        // is known.
        let is_full = self.outstanding.load(Ordering::Acquire) >= *outstanding_max;
        if is_full || !wait.is_zero() {
            return Err(wait.max(SLOW_DOWN_MIN));
        }
        sends.iter_mut().for_each(|bucket| bucket.take(1));
        volume.iter_mut().for_each(|bucket| bucket.take(bytes));
        // Under the lock, so that two sends cannot both pass the check for the last place.
        self.outstanding.fetch_add(1, Ordering::AcqRel);
        Ok(Outstanding(self.clone()))
    }

    /// Lets a request for a lock or a subscription pass.
    ///
    /// # Errors
    /// How long the agent must wait.
    pub fn request(&self, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets();
        let Some(bucket) = buckets.requests.as_mut() else { return Ok(()) };
        let wait = bucket.wait(now.into_std(), 1);
        if !wait.is_zero() {
            return Err(wait.max(SLOW_DOWN_MIN));
        }
        bucket.take(1);
        Ok(())
    }

    /// The turn to administer dead letters, if no other request of the agent has it. The turn ends when this is
    /// dropped.
    pub fn administer(&self) -> Option<OwnedSemaphorePermit> {
        self.turn.clone().try_acquire_owned().ok()
    }

    /// Whether nothing is used, so that forgetting the quota forgives nothing.
    pub fn is_unused(&self, now: Instant) -> bool {
        let mut buckets = self.buckets();
        let Buckets { sends, bytes, requests, .. } = &mut *buckets;
        let mut buckets = sends.iter_mut().chain(bytes).chain(requests);
        buckets.all(|bucket| bucket.is_full(now.into_std()))
            && self.outstanding.load(Ordering::Acquire) == 0
            && self.turn.available_permits() == 1
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn set(bucket: &mut Option<Bucket>, now: Instant, per_second: Option<u64>, burst: Option<u64>) {
    let rate = per_second.zip(burst).map(|(per_second, burst)| Rate { per_second, burst });
    match (bucket.as_mut(), rate) {
        (Some(bucket), Some(rate)) => bucket.set_rate(now.into_std(), rate),
        (_, rate) => *bucket = rate.map(|rate| Bucket::new(now.into_std(), rate)),
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn quota(now: Instant, limits: &RoleLimits) -> Arc<Quota> {
        Arc::new(Quota::new(now, limits))
    }

    #[test]
    fn messages_and_bytes_are_both_limited_and_a_refusal_uses_neither() {
        let now = Instant::now();
        let limits = RoleLimits {
            sends_per_second: Some(1),
            sends_burst: Some(3),
            send_bytes_per_second: Some(100),
            send_bytes_burst: Some(1_000),
            ..RoleLimits::default()
        };
        let quota = quota(now, &limits);
        quota.admit(now, 900).expect("the burst");
        assert_eq!(quota.admit(now, 300).expect_err("too many bytes"), SECOND * 2);
        quota.admit(now, 50).expect("the refused one used nothing");
        quota.admit(now, 50).expect("the third");
        assert_eq!(quota.admit(now, 0).expect_err("too many messages"), SECOND);
        // A message over the burst passes when nothing is used.
        assert!(!quota.is_unused(now) && quota.is_unused(now + SECOND * 10));
        quota.admit(now + SECOND * 10, 5_000).expect("alone");
    }

    #[test]
    fn what_is_under_way_is_counted_until_it_is_answered() {
        let now = Instant::now();
        let quota = quota(now, &RoleLimits { publishes_outstanding: Some(2), ..RoleLimits::default() });
        let (first, second) = (quota.admit(now, 1).expect("one"), quota.admit(now, 1).expect("two"));
        assert_eq!(quota.admit(now, 1).expect_err("three"), SLOW_DOWN_MIN);
        drop(first);
        drop(quota.admit(now, 1).expect("the first was answered"));
        assert!(!quota.is_unused(now));
        drop(second);
        assert!(quota.is_unused(now));
    }

    #[test]
    fn requests_have_a_rate_of_their_own() {
        let now = Instant::now();
        let limits =
            RoleLimits { requests_per_second: Some(2), requests_burst: Some(3), ..RoleLimits::default() };
        let quota = quota(now, &limits);
        assert!((0..3).all(|_| quota.request(now).is_ok()));
        assert_eq!(quota.request(now), Err(SECOND / 2));
        assert!(!quota.is_unused(now));
        quota.request(now + SECOND).expect("a second later");
        quota.admit(now, 1).expect("sends are others");
    }

    #[test]
    fn new_limits_hold_at_once_and_none_is_none() {
        let now = Instant::now();
        let quota = quota(now, &RoleLimits::default());
        for _ in 0..100_000 {
            quota.admit(now, u64::MAX).expect("no limit");
        }
        let limits = RoleLimits { sends_per_second: Some(1), sends_burst: Some(1), ..RoleLimits::default() };
        quota.set_limits(now, &limits);
        quota.admit(now, 1).expect("one");
        quota.set_limits(now, &limits);
        quota.admit(now, 1).expect_err("another hello of the same agent gives nothing");
    }
}
