//! The async runtime of openraft: tokio, made deterministic for simulations.
//!
//! Why: openraft draws election time-outs and the phase of its ticks from its runtime. With the thread's random generator
//! a failing seed of a simulation would not replay. The same holds for [`watch`].
//!
//! The engine's ticks are aligned. Each group ticks by itself, five times a heartbeat: with many idle groups a node would
//! never sleep longer than a millisecond, and each heartbeat would be a frame of its own. Here the groups of a core wake
//! at the same four moments of a heartbeat, so that their messages leave together.

mod watch;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::time::Duration;

use openraft::{AsyncRuntime, Instant, OptionalSend, TokioInstant, TokioRuntime};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// The engine's waits for completions of the disk are shorter than this, and are no ticks.
const NO_TICK: Duration = Duration::from_micros(100);

/// The moments at which the groups of a thread tick.
#[derive(Clone, Copy)]
struct Grid {
    origin: TokioInstant,
    every: Duration,
}

thread_local! {
    static SEEDED: RefCell<Option<SmallRng>> = const { RefCell::new(None) };
    static GRID: Cell<Option<Grid>> = const { Cell::new(None) };
}

/// Lets every group that runs on this thread draw its timers from `seed`, from now on.
pub(crate) fn seed(seed: u64) {
    SEEDED.with_borrow_mut(|rng| *rng = Some(SmallRng::seed_from_u64(seed)));
    // The grid of an earlier simulation began at another moment of its clock.
    GRID.set(None);
}

/// Aligns the ticks of this thread's groups to multiples of `every`, or of the shortest interval if groups differ. Must be
/// called within a tokio runtime.
pub(crate) fn tick_together(every: Duration) {
    let origin = GRID.get().map_or_else(TokioInstant::now, |grid| grid.origin);
    if GRID.get().is_none_or(|grid| every < grid.every) {
        GRID.set(Some(Grid { origin, every }));
    }
}

impl Grid {
    /// The first of its moments that is not before `at`.
    fn not_before(self, at: TokioInstant) -> TokioInstant {
        let since = at.saturating_duration_since(self.origin);
        // In nanoseconds: 64 bits hold centuries.
        let past = since.as_nanos() % self.every.as_nanos().max(1);
        match u64::try_from(past) {
            Ok(past) if past > 0 => at + (self.every - Duration::from_nanos(past)),
            _ => at,
        }
    }
}

/// A random factor from `range` for intervals and back-offs of code that runs beside a group: in a simulation it follows
/// from the seed, as the engine's own timers do.
#[must_use]
pub fn jitter(range: std::ops::Range<f64>) -> f64 {
    with(|rng| rng.random_range(range))
}

/// Draws from the seed of this thread, or from the operating system's generator where there is none.
pub(crate) struct Draw;

impl rand_core::TryRng for Draw {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(with(|rng| rng.next_u32()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(with(|rng| rng.next_u64()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        with(|rng| rng.fill_bytes(bytes));
        Ok(())
    }
}

fn with<T>(draw: impl FnOnce(&mut dyn RngCore) -> T) -> T {
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(rng) => draw(rng),
        None => draw(&mut rand::rng()),
    })
}

/// Tokio.
#[derive(Debug)]
pub(crate) struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = Draw;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = watch::InOrder;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        let deadline = match GRID.get() {
            Some(grid) if deadline.saturating_duration_since(TokioInstant::now()) > NO_TICK => {
                grid.not_before(deadline)
            }
            _ => deadline,
        };
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Draw {
        Draw
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(50);

    #[tokio::test(start_paused = true)]
    async fn ticks_of_many_groups_come_at_the_same_moments() {
        tick_together(EVERY);
        let origin = TokioInstant::now();
        for waited in [1, 13, 37, 49, 50, 51, 400] {
            let asked = origin + Duration::from_millis(waited);
            Runtime::sleep_until(asked).await;
            let late = TokioInstant::now() - origin;
            assert_eq!(
                late.as_nanos() % EVERY.as_nanos(),
                0,
                "asked for {waited} ms, woken after {late:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_group_that_ticks_most_decides_and_a_seed_begins_anew() {
        tick_together(2 * EVERY);
        tick_together(EVERY);
        tick_together(3 * EVERY);
        assert_eq!(GRID.get().map(|grid| grid.every), Some(EVERY));
        seed(1);
        assert!(GRID.get().is_none());
        let before = TokioInstant::now();
        Runtime::sleep_until(before + Duration::from_millis(7)).await;
        assert_eq!(TokioInstant::now() - before, Duration::from_millis(7));
    }
}
