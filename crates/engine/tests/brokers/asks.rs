//! The statements of the router's task, as the model's server knows them.

/// The number of one time that a broker is the router: each take adds 1, and each statement is compared with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RouterEpoch(pub(crate) i64);

/// The sight of a snapshot: transactions below `xmax` but those in progress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) xmax: u64,
    pub(crate) in_progress: Vec<u64>,
}

impl Sight {
    /// Every transaction below this has ended.
    pub(crate) fn xmin(&self) -> u64 {
        self.in_progress.iter().copied().min().unwrap_or(self.xmax)
    }
}

/// Until when rows may be left, by the database's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The clock and two seconds.
    Ahead,
    /// The clock: a row is left only behind one that is not routed yet.
    Now,
    /// 0: no row is left.
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RouterAsk {
    Take,
    /// A round that begins at this sight, and writes the sequence if it says so.
    Route {
        epoch: RouterEpoch,
        after: Sight,
        until: Option<Until>,
    },
    /// Writes the sequence, and then draws an id.
    Mark(RouterEpoch, Until),
    GiveBack(RouterEpoch),
}
