//! The extent of a panic: one connection, or the process.
//!
//! Why: a panic is a bug. In the code that serves one connection it must not take the other connections down; anywhere
//! else the process would continue without a part that it needs, or with state that is half changed.
//! Invariants: after [`end_process_on_panic`] a panic outside an isolated task ends the process before anything
//! unwinds, so no destructor runs on a broken state and no panic crosses a foreign frame; a panic inside an isolated
//! task ends the process as well when it interrupts a change of shared state ([`crate::sync`]).
//! Not here: which tasks are isolated (each caller of [`crate::spawn`] decides; docs/decisions/0006).

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static PANICS: AtomicU64 = AtomicU64::new(0);
static END_PROCESS: OnceLock<fn() -> !> = OnceLock::new();

thread_local! {
    /// The isolated task that this thread polls at the moment.
    static ISOLATED: Cell<Option<&'static str>> = const { Cell::new(None) };
    /// Where the last panic of this thread happened.
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How many tasks of this process have panicked; a process-wide count, since a panic is a bug of the process.
#[must_use]
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Makes every panic outside an isolated task call `end_process`, which ends the process without running destructors.
/// For the process of a hub; tests and tools do not call it, so that there a panic unwinds as usual. Calls after the
/// first have no effect.
pub fn end_process_on_panic(end_process: fn() -> !) {
    if END_PROCESS.set(end_process).is_err() {
        return;
    }
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        let location = panic.location().map(ToString::to_string);
        if is_isolated() {
            LOCATION.with_borrow_mut(|last| *last = location);
            return;
        }
        tracing::error!(
            thread = std::thread::current().name().unwrap_or("unnamed"),
            panic = text(panic),
            location,
            "panic outside a connection; ending the process, which its supervisor starts again"
        );
        end_process();
    }));
}

/// Called when a panic has interrupted a change of state that other tasks share.
pub(crate) fn shared_state_is_broken() {
    let (Some(task), Some(end_process)) = (ISOLATED.get(), END_PROCESS.get()) else {
        return;
    };
    tracing::error!(
        task,
        location = LOCATION.take(),
        "panic while state shared with other tasks was being changed; ending the process, which its supervisor starts again"
    );
    end_process();
}

/// Counts and logs the panic of a task.
pub(crate) fn report(task: &'static str, panic: &(dyn Any + Send)) {
    PANICS.fetch_add(1, Ordering::Relaxed);
    tracing::error!(
        task,
        panic = message(panic),
        location = LOCATION.take(),
        "task panicked; it has ended, other tasks continue"
    );
}

/// Marks this thread as polling an isolated task until it is dropped.
pub(crate) struct Isolation(Option<&'static str>);

impl Isolation {
    pub(crate) fn begin(task: &'static str) -> Self {
        Self(ISOLATED.replace(Some(task)))
    }
}

/// Runs a part of an isolated task that changes, in several steps, what other tasks rely on: a panic in it ends the
/// process, as outside of isolated tasks.
pub fn critical<R>(work: impl FnOnce() -> R) -> R {
    let _suspended = Isolation(ISOLATED.take());
    work()
}

impl Drop for Isolation {
    fn drop(&mut self) {
        ISOLATED.set(self.0);
    }
}

fn is_isolated() -> bool {
    ISOLATED.get().is_some()
}

fn text<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    panic.payload_as_str().unwrap_or("no message")
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// A place where a test makes the program panic; does nothing in a release build.
///
/// It panics when `input` is `panic at ` followed by `point`, and [`arm_panic_points`] has been called.
#[inline]
pub fn panic_point(point: &str, input: &[u8]) {
    #[cfg(debug_assertions)]
    if debug::is_armed() && input.strip_prefix(b"panic at ") == Some(point.as_bytes()) {
        panic!("injected at {point}");
    }
    #[cfg(not(debug_assertions))]
    let _ = (point, input);
}

#[cfg(debug_assertions)]
pub use debug::arm_panic_points;

#[cfg(debug_assertions)]
mod debug {
    use std::sync::atomic::{AtomicBool, Ordering};

    static ARMED: AtomicBool = AtomicBool::new(false);

    /// Makes every [`super::panic_point`] of this process work. Exists in debug builds only.
    pub fn arm_panic_points() {
        ARMED.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_armed() -> bool {
        ARMED.load(Ordering::Relaxed)
    }
}
