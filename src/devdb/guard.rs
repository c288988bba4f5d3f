//! The guard: a small process that outlives this one just long enough to end the server.
//!
//! The guard holds the reading end of a pipe. Whatever ends this process — a panic, `kill -9`, a closed terminal —
//! closes the writing end. The guard then ends the server, by its id, and removes the server's folder if that is
//! temporary. On Windows there is no guard: the server ends only when its owner is dropped.

use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::{DevdbError, fault};

/// `$1` is the server's id, `$2` its data folder, `$3` the folder to remove, or nothing. The script compares the id
/// with the one in the data folder, since another process may have the id by now.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
read -r word
[ "$word" = dismissed ] && exit 0
if [ "$(head -n 1 "$2/postmaster.pid" 2> /dev/null)" = "$1" ]; then
  kill -QUIT "$1" 2> /dev/null
  n=0
  while kill -0 "$1" 2> /dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
  kill -KILL "$1" 2> /dev/null
fi
[ -n "$3" ] && rm -rf "$3"
exit 0
"#;

/// The guard of a server. Dropping it ends the server, unless it was dismissed before.
#[derive(Debug)]
pub(super) struct ServerGuard {
    process: Option<Child>,
    pipe: Option<ChildStdin>,
}

impl ServerGuard {
    /// Sets a guard over a server.
    pub(super) fn over(server: u32, data: &Path, remove: Option<&Path>) -> Result<Self, DevdbError> {
        if cfg!(windows) {
            return Ok(Self { process: None, pipe: None });
        }
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT, "postbell-guard", &server.to_string()])
            .arg(data)
            .arg(remove.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/");
        // Not in our group: a Ctrl-C must not end the guard before the server.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command
            .spawn()
            .map_err(|e| fault(format!("/bin/sh, which guards the server, cannot be run: {e}")))?;
        let pipe = process.stdin.take();
        Ok(Self { process: Some(process), pipe })
    }
}

impl ServerGuard {
    /// Ends the guard without an action: the server has ended, and its folder may be needed again.
    pub(super) fn dismiss(&mut self) {
        if let Some(pipe) = &mut self.pipe {
            use std::io::Write;
            // If the guard is gone, there is nothing to dismiss.
            let _ = pipe.write_all(b"dismissed\n");
        }
    }
}

impl Drop for ServerGuard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        if let Some(mut process) = self.process.take() {
            // The guard ends soon: it was dismissed, finds the server gone, or ends the server.
            let _ = process.wait();
        }
    }
}
