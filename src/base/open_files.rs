//! How many files, and so connections, this process may have open.

/// Raises the soft bound to the hard one: many systems start a process with 1,024, which is a thousand agents. Says the
/// bound that holds now, where the system tells.
#[cfg(unix)]
pub fn raise_bound() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Without a hard bound the soft one is left: some systems refuse "none" here.
    let Some(most) = maximum.filter(|most| current.is_some_and(|now| now < *most)) else { return current };
    match setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum }) {
        Ok(()) => Some(most),
        Err(_) => current,
    }
}

/// The bound that holds now, where the system tells.
#[cfg(unix)]
pub fn bound() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// There is no such bound here.
#[cfg(not(unix))]
pub fn bound() -> Option<u64> {
    None
}

/// There is no such bound here.
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
