//! The `postbell` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    postbell::cli::main()
}
