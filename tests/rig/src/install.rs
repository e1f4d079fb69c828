//! Programs that are not ours: whether they are here, and installing them where `RELOOP_INSTALL=1` asks for it and the user
//! is root. A test that needs what is not here is left out, and says so.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

/// Whether a program is here and ends well with these arguments.
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

/// Whether what is missing is to be installed.
pub fn is_wanted() -> bool {
    std::env::var_os("RELOOP_INSTALL").as_deref() == Some(OsStr::new("1"))
}

/// Installs Debian packages if that is wanted and possible.
pub fn install(packages: &[&str]) -> bool {
    let words = [&["install", "-y", "--no-install-recommends"], packages].concat();
    is_wanted() && rustix::process::geteuid().is_root() && runs("apt-get", &words)
}

/// Says why tests are left out. Not by `println`: what is captured is not seen.
pub fn left_out(why: &str) {
    writeln!(io::stderr(), "left out: {why}").expect("stderr can be written");
}
