//! A wall clock for one process that a test can set to any wrong time at any moment.
//!
//! A container may not set its clock, and a time namespace does not shift the wall clock. So the node is started with a
//! small library preloaded that adds an offset from a file to the wall clock. All other clocks stay right, and so do
//! those of programs that the node starts with an environment of their own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// The file is read at each call, so that a change takes effect at once.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    const char *path = getenv("WRONG_CLOCK");
    if (result == 0 && id == CLOCK_REALTIME && path) {
        FILE *file = fopen(path, "re");
        long seconds = 0;
        if (file && fscanf(file, "%ld", &seconds) == 1) now->tv_sec += seconds;
        if (file) fclose(file);
    }
    return result;
}
"#;

#[derive(Debug)]
pub struct WrongClock(TempDir);

impl WrongClock {
    /// A clock that is right at first.
    #[must_use]
    pub fn new() -> Self {
        let clock = Self(tempfile::Builder::new().prefix("reloop-clock-").tempdir().expect("a directory"));
        let source = clock.0.path().join("clock.c");
        std::fs::write(&source, LIBRARY).expect("a file in our own directory");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(clock.library()).arg(source).arg("-ldl");
        let built = compiler.output().expect("`cc`, which also links Rust programs");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        clock.is_off_by(0);
        clock
    }

    /// Sets how far the clock is off from now on.
    pub fn is_off_by(&self, seconds: i64) {
        // Replaced by a rename, because a process may read it at the same time.
        let draft = self.0.path().join("draft");
        std::fs::write(&draft, seconds.to_string()).expect("a file in our own directory");
        std::fs::rename(draft, self.offset()).expect("a file in our own directory");
    }

    /// The environment variables with which the node has to be started.
    pub fn env(&self) -> BTreeMap<String, String> {
        let text = |path: PathBuf| path.to_str().expect("temporary directories have plain names").to_owned();
        BTreeMap::from([
            ("LD_PRELOAD".to_owned(), text(self.library())),
            ("WRONG_CLOCK".to_owned(), text(self.offset())),
        ])
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("libclock.so")
    }

    fn offset(&self) -> PathBuf {
        self.0.path().join("seconds")
    }
}

impl Default for WrongClock {
    fn default() -> Self {
        Self::new()
    }
}
