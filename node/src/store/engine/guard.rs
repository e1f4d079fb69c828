//! Keeps sled's panics and errors apart from the node: each becomes a [`Fault`].

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::Fault;

/// Runs a call into sled, and turns a panic into a fault.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    static HOOK: Once = Once::new();
    HOOK.call_once(silence_guarded_panics);
    let outer = GUARDED.replace(true);
    // Sled's state may be half-changed after a panic: the caller writes nothing more after a fault of a write.
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(outer);
    result.unwrap_or_else(|panic| Err(fault_of_panic(panic.as_ref())))
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// A panic that becomes an error is logged as one. The runtime's own message with a backtrace would make whoever reads the
/// log after damage to a disk look for a bug.
fn silence_guarded_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if GUARDED.get() {
            tracing::debug!(%panic, "sled panicked");
        } else {
            before(panic);
        }
    }));
}

fn fault_of_panic(panic: &(dyn Any + Send)) -> Fault {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message");
    let text = format!("sled panicked: {text}");
    // sled unwraps some IO errors: the message of such a panic contains the operating system's error like this.
    if text.contains("Os { code") { Fault::System(io::Error::other(text)) } else { Fault::Unreadable(text) }
}

impl From<sled::Error> for Fault {
    fn from(error: sled::Error) -> Fault {
        match error {
            sled::Error::Io(error) => Fault::from(error),
            other => Fault::Unreadable(other.to_string()),
        }
    }
}

impl From<io::Error> for Fault {
    /// By kind, because sled copies errors without their number. These kinds come from following a damaged length, offset or
    /// name; errors of disks, quotas and permissions have other kinds.
    fn from(error: io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotFound => Fault::Unreadable(error.to_string()),
            _ => Fault::System(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_inside_is_a_fault_and_names_the_system_only_when_it_was_the_system() {
        let disk = io::Error::from_raw_os_error(5);
        let fault = guarded::<()>(|| panic!("called `Result::unwrap()` on an `Err` value: {disk:?}"));
        assert!(matches!(fault, Err(Fault::System(_))), "{fault:?}");
        let fault = guarded::<()>(|| panic!("index out of bounds"));
        assert!(matches!(fault, Err(Fault::Unreadable(_))), "{fault:?}");
    }
}
