//! Other programs: whether they are installed, and their installation if `RELOOP_INSTALL=1` is set and the user is
//! root. A test without its program is left out, and says so.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

/// Whether a program is installed and succeeds with these arguments.
pub fn runs(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether missing programs are to be installed.
pub fn is_wanted() -> bool {
    std::env::var_os("RELOOP_INSTALL").as_deref() == Some(OsStr::new("1"))
}

/// Installs Debian packages if that is wanted and possible.
pub fn install(packages: &[&str]) -> bool {
    let words = [&["install", "-y", "--no-install-recommends"], packages].concat();
    is_wanted() && rustix::process::geteuid().is_root() && runs("apt-get", &words)
}

/// Reports why tests are left out. Not by `println`, which the test runner captures.
pub fn left_out(why: &str) {
    writeln!(io::stderr(), "left out: {why}").expect("stderr can be written");
}
