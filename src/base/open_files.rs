//! The bound on the files, and so on the connections, that this process may have open.

/// Raises the soft bound to the hard one, because many systems start a process with 1,024 files: a thousand
/// agents. Returns the bound that holds now; `None` if the system has none.
#[cfg(unix)]
pub fn raise_bound() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // If there is no hard bound, the soft one is left as it is: some systems refuse "none" here.
    let Some(most) = maximum.filter(|most| current.is_some_and(|now| now < *most)) else { return current };
    match setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum }) {
        Ok(()) => Some(most),
        Err(_) => current,
    }
}

/// The bound that holds now; `None` if the system has none.
#[cfg(unix)]
pub fn bound() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Such systems have no bound that can be read.
#[cfg(not(unix))]
pub fn bound() -> Option<u64> {
    None
}

/// Such systems have no bound that can be raised.
#[cfg(not(unix))]
pub fn raise_bound() -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    #[test]
    fn the_bound_is_the_hard_one_afterwards() {
        let raised = super::raise_bound();
        let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        assert!(hard.is_none() || raised == hard, "{raised:?} of {hard:?}");
    }
}
