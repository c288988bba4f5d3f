//! Root may not run Postgres, so root runs the server as an account without rights.

use std::path::Path;
use std::process::Command;

use super::{DevdbError, fault, on};

/// Accounts that may run the server; the first that exists is taken.
const NAMES: [&str; 2] = ["postgres", "nobody"];

/// An account without rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

/// Whether this process is root.
pub(super) fn is_root() -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        // The owner of this process's own entry; a system without /proc tells it by `id`.
        if let Ok(me) = std::fs::metadata("/proc/self") {
            return me.uid() == 0;
        }
        let id = Command::new("id").arg("-u").output();
        id.is_ok_and(|out| out.stdout.trim_ascii() == b"0")
    }
    #[cfg(not(unix))]
    false
}

impl Account {
    /// The account to run the server as; `None` if this process is not root.
    pub(super) fn unprivileged() -> Result<Option<Self>, DevdbError> {
        if !is_root() {
            return Ok(None);
        }
        let passwd = Path::new("/etc/passwd");
        let text = std::fs::read_to_string(passwd).map_err(on("read", passwd))?;
        let found = NAMES.iter().find_map(|name| look_up(&text, name));
        let sentence =
            "root may not run Postgres, and neither the user postgres nor nobody exists: run as another user";
        found.map(Some).ok_or_else(|| fault(sentence))
    }

    /// Lets a command run as this account.
    pub(super) fn run_as(self, command: &mut Command) {
        #[cfg(unix)]
        {
            use std::os::unix::process::CommandExt;
            command.uid(self.uid).gid(self.gid);
        }
        #[cfg(not(unix))]
        let _ = (self, command);
    }

    /// Gives a file or folder to this account.
    pub(super) fn own(self, path: &Path) -> Result<(), DevdbError> {
        #[cfg(unix)]
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)).map_err(on("hand over", path))?;
        #[cfg(not(unix))]
        let _ = path;
        Ok(())
    }
}

fn look_up(passwd: &str, name: &str) -> Option<Account> {
    let mut fields = passwd.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.split(':');
    let (uid, gid) = (fields.nth(1)?, fields.next()?);
    Some(Account { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/:/bin/sh\npostgres2:x:7:7::/:\npostgres:x:101:103::/:/bin/bash\n";
        assert_eq!(look_up(passwd, "postgres"), Some(Account { uid: 101, gid: 103 }));
        assert_eq!(look_up(passwd, "nobody"), None);
    }
}
