//! No orphan: a small process that outlives this one just long enough to end the server.
//!
//! It holds the reading end of a pipe. Whatever ends this process — a panic, `kill -9`, the power button of the
//! terminal — closes the writing end, and the guard then ends the server it was given, by its id, and removes its
//! folder if that is temporary. On Windows there is none: there the server ends when its owner is dropped.

use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::{DevdbError, fault};

/// `$1` the server's id, `$2` its data folder, `$3` the folder to remove or nothing. The id is compared with the one
/// in the data folder, lest another process has it by now.
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
pub(super) struct Guard {
    process: Option<Child>,
    pipe: Option<ChildStdin>,
}

impl Guard {
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

impl Guard {
    /// The server has ended in order: there is nothing to guard, and its folder may be needed again.
    pub(super) fn dismiss(&mut self) {
        if let Some(pipe) = &mut self.pipe {
            use std::io::Write;
            // A guard that is gone needs no dismissal.
            let _ = pipe.write_all(b"dismissed\n");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        if let Some(mut process) = self.process.take() {
            // It finds the server gone, or ends it; either way it ends soon.
            let _ = process.wait();
        }
    }
}
