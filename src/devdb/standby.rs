//! A hot standby of a private server, for tests of a failover.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use super::{DevPostgres, DevdbError, fault, last_lines, on, write_secret};

impl DevPostgres {
    /// Copies this server into a folder, and starts the copy as its standby: same account, password and settings,
    /// another port. `pg_promote()` makes the standby a primary. The standby's data stays when the value is dropped.
    ///
    /// # Errors
    /// A sentence that says what to do; `pg_basebackup` may be missing beside the server's other programs.
    pub fn standby(&self, folder: &Path) -> Result<Self, DevdbError> {
        let mut standby = Self {
            bin_dir: self.bin_dir.clone(),
            version: self.version.clone(),
            folder: folder.to_owned(),
            temporary: false,
            account: self.account,
            settings: self.settings.clone(),
            environment: self.environment.clone(),
            password: self.password.clone(),
            port: None,
            running: None,
        };
        fs::create_dir_all(folder).map_err(on("make the folder", folder))?;
        standby.hand_over(folder)?;
        let secret = folder.join("password");
        write_secret(&secret, &standby.password)?;
        standby.hand_over(&secret)?;
        standby.copy_from(self.port())?;
        standby.launch()?;
        Ok(standby)
    }

    fn copy_from(&self, port: u16) -> Result<(), DevdbError> {
        let copied = self
            .command("pg_basebackup")
            .env("PGPASSWORD", &self.password)
            .args(["--host=127.0.0.1", "--username=postgres", "--no-password"])
            .arg(format!("--port={port}"))
            .args(["--checkpoint=fast", "--wal-method=stream", "--no-sync"])
            // The copy follows this server from its first start on.
            .args(["--write-recovery-conf", "--pgdata"])
            .arg(self.data())
            .stdin(Stdio::null())
            .output()
            .map_err(|e| fault(format!("pg_basebackup cannot be run: {e}")))?;
        match copied.status.success() {
            true => Ok(()),
            false => {
                let said = String::from_utf8_lossy(&copied.stderr);
                Err(fault(format!("pg_basebackup failed: {}", last_lines(&said))))
            }
        }
    }
}
