//! A command at a terminal; `script` plays the terminal.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{Scene, lives};
use crate::mesh::{Mesh, PATIENCE};
use crate::require::missing;

/// The command is in a group of its own, reads the terminal all the same, and Ctrl-C ends all of its processes.
#[tokio::test]
async fn a_command_reads_the_terminal_and_ctrl_c_reaches_it() {
    let mesh = Mesh::start().await;
    let scene = Scene::new();
    let token = mesh.db.agent("a").await;
    // The last `mv` is in the background: a shell whose command ends well in spite of Ctrl-C goes on.
    let work = "read line; echo $line > line.new; mv line.new line; sleep 61 & echo $! $$ > ids.new; mv ids.new ids & wait";
    let typed = format!(
        "{} once k -- bash -c '{work}'; echo $? > code.new; mv code.new code; read more; echo $more > more",
        env!("CARGO_BIN_EXE_postbell")
    );
    let mut command = tokio::process::Command::new("script");
    command.args(["-qfec", &typed, "/dev/null"]).current_dir(scene.path("")).kill_on_drop(true);
    command.env("SHELL", "/bin/sh");
    command.env("POSTBELL_URL", mesh.url()).env("POSTBELL_AGENT", "a").env("POSTBELL_TOKEN", &token);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut terminal) = command.spawn() else {
        return missing("script is not installed");
    };
    let mut keys = terminal.stdin.take().expect("keys");
    keys.write_all(b"hello\n").await.expect("typed");
    assert_eq!(scene.file("line").await, "hello\n");
    let ids = scene.processes("ids").await;
    keys.write_all(b"\x03").await.expect("typed");
    assert_eq!(scene.file("code").await, "130\n");
    assert!(!ids.iter().any(|id| lives(*id)));
    assert!(mesh.db.ask::<bool>("select count(*) = 0 from postbell.locks").await);
    // The shell has the terminal again.
    keys.write_all(b"goodbye\n").await.expect("typed");
    timeout(PATIENCE, terminal.wait()).await.expect("ends").expect("waits");
    assert_eq!(scene.file("more").await, "goodbye\n");
}
