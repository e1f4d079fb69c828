//! Can the proof fail?
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use reloop_tests::breaks::{all, rotten};
use reloop_tests::daemon::workspace;

#[test]
fn every_find_stands_in_its_file_once() {
    let wrong = rotten(workspace(), &all());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
