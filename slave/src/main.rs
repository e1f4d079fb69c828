//! The agent's program; under `runner <run_dir>` it is the tiny parent of one job instead.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(verb), Some(run_dir), None) if verb == "runner" => {
            reloop_slave::machine::runner::main(Path::new(&run_dir))
        }
        _ => ExitCode::from(64),
    }
}
