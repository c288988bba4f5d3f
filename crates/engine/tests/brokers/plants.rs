//! Faults of the past, put back into the model: each is a rule that the real tasks keep and the model then does not.

/// A rule that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    /// A broker that was started again at its address takes the owner in the database, its own dead life, for somebody to
    /// link to, and lets itself in (src/pipeline/leaser.rs `ask`, src/agents/session/hello.rs).
    LinksToItself,
    /// Links say no rank: the hello that comes last has the session's place, also one that was given up
    /// (src/agents/session/link.rs `caller`).
    LinkWithoutRank,
    /// The tail's cursor moves when the answer begins, and not when its rows were handed over (src/store/tail.rs `round`).
    CursorBeforeRows,
    /// A broker that takes an inbox from another goes on with the old epoch (sql/queries/lease_acquire.sql).
    EpochNotCompared,
    /// An inbox is given back whatever ownership it is (sql/queries/lease_release.sql).
    AnyEpochReleased,
    /// An outcome is written whatever attempt it is of (sql/queries/settle_retry.sql).
    AttemptNotCompared,
    /// A renewal that says "not lapsed" is believed, also where the answer before it was lost
    /// (src/pipeline/leaser.rs `renew`).
    LapseBelieved,
    /// A broker lets a hello in without a look whether the agent has given it up (src/agents/session/hello.rs `greet`).
    OwnLateHello,
    /// A rank is by the wall clock of the broker that lets the agent in (sql/queries/agent_authenticate.sql).
    RankByOwnClock,
    /// A broker compares its lease with its wall clock (src/pipeline/leaser.rs `renew`).
    LeaseByOwnClock,
    /// A promotion rings for nobody (sql/queries/due_promote.sql).
    PromotionWithoutRing,
    /// A retry with a delay wakes nobody (src/pipeline/settler.rs `is_in_the_tail_again`).
    DelayWithoutWake,
    // From here on the router's.
    /// A round stores what it has routed before it makes the deliveries.
    RoutedBeforeRows,
    /// A round does not compare its epoch with the row's.
    EpochNotChecked,
    /// A take of the row that names this broker already leaves the epoch as it is.
    EpochNotRaised,
    /// A round routes what is over.
    StatusNotChecked,
    /// A round routes what has deliveries.
    DeliveryNotChecked,
    /// A round stores a snapshot of its end, and not the one by which it read.
    SnapshotOfAnother,
    /// A round reads from the last one's xmax on, and forgets what was in progress.
    InProgressForgotten,
    /// triggers/leave.sql reads the sequence before it draws the transaction's id.
    IdAfterRead,
    /// The row is given back while transactions are open that have left rows.
    DrainedTooEarly,
    /// A lapsed sequence is taken for one that is long past.
    NoProbe,
    /// A draining router leaves the sequence as it is, and waits until it has lapsed: the looks for left rows end then.
    NotWrittenWhileDraining,
    /// Who takes the row over goes on from its own snapshot.
    TakenFromNow,
    /// A round writes the sequence without a look at the epoch.
    SequenceBesideFence,
    /// A round sorts by transaction and arrival.
    OrderByTransaction,
    /// A bulk insert does not wait for what others have left.
    BulkOvertakes,
    /// A trigger that has rows to route routes first what its transaction has left, also what was inserted after them.
    OwnLeftFirst,
    /// A renewal says nothing of a router's row that names the broker itself.
    OwnRowNotSeen,
    /// A poller that ends a message notes nothing.
    NotNoted,
}

impl Plant {
    pub(crate) fn promotion_rings(plant: Option<Self>) -> bool {
        plant != Some(Self::PromotionWithoutRing)
    }

    pub(crate) fn delay_wakes(plant: Option<Self>) -> bool {
        plant != Some(Self::DelayWithoutWake)
    }
}
