//! The lease against a fake leader, on a paused clock.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use holdfast_tasks::sync::Mutex;

use super::*;

const STALENESS: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// The leader's answers, and the index applied here.
#[derive(Clone)]
struct Played(Arc<Mutex<Scene>>);

struct Scene {
    /// `None`: no leader.
    age: Option<Duration>,
    /// A deposed one: its last quorum stays where it was.
    last_quorum: Option<Instant>,
    answer_after: Duration,
    index: u64,
    applied: u64,
    asked: usize,
}

impl Played {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Scene {
            age: Some(Duration::ZERO),
            last_quorum: None,
            answer_after: Duration::ZERO,
            index: 5,
            applied: 5,
            asked: 0,
        })))
    }

    fn set(&self, change: impl FnOnce(&mut Scene)) {
        change(&mut self.0.lock());
    }
}

impl Granter for Played {
    async fn ask(&self) -> Result<LeaseGrant, ReadError> {
        let asked = Instant::now();
        let after = {
            let mut scene = self.0.lock();
            scene.asked += 1;
            scene.answer_after
        };
        tokio::time::sleep(after).await;
        let scene = self.0.lock();
        let deposed_for = scene.last_quorum.map(|at| at.elapsed());
        match deposed_for.or(scene.age) {
            Some(age) => Ok(LeaseGrant {
                asked,
                index: scene.index,
                age,
            }),
            None => Err(ReadError::NotLeader { leader: None }),
        }
    }

    async fn applied(&self, index: u64, timeout: Duration) -> Result<(), ReadError> {
        let give_up = Instant::now() + timeout;
        while self.0.lock().applied < index {
            if Instant::now() >= give_up {
                return Err(ReadError::NoQuorum);
            }
            tokio::time::sleep(MS).await;
        }
        Ok(())
    }
}

struct Stage {
    lease: Arc<Lease>,
    leader: Played,
    alive: Arc<AtomicBool>,
}

impl Stage {
    fn set() -> Self {
        let (lease, leader) = (Lease::new(STALENESS), Played::new());
        let alive = Arc::new(AtomicBool::new(true));
        let still = alive.clone();
        holdfast_tasks::spawn(
            "test",
            lease
                .clone()
                .keep(leader.clone(), move || still.load(Ordering::Relaxed)),
        );
        Self { lease, leader, alive }
    }

    /// How long it is held after the last answer.
    async fn held_for(&self) -> Duration {
        let began = Instant::now();
        while self.lease.is_held() {
            tokio::time::advance(MS).await;
            tokio::task::yield_now().await;
        }
        began.elapsed()
    }
}

async fn settle() {
    tokio::time::sleep(100 * MS).await;
}

#[tokio::test(start_paused = true)]
async fn it_is_not_held_before_the_first_grant_and_held_while_grants_come() {
    let stage = Stage::set();
    assert!(!stage.lease.is_held());
    settle().await;
    for _ in 0..1_000 {
        tokio::time::sleep(10 * MS).await;
        assert!(stage.lease.is_held());
    }
    let asked = stage.leader.0.lock().asked;
    assert!(
        (35..=50).contains(&asked),
        "{asked} times in 10 s: about every quarter of a second"
    );
    stage.alive.store(false, Ordering::Relaxed);
    tokio::time::sleep(2 * STALENESS).await;
    assert!(!stage.lease.is_held());
    assert!(
        stage.leader.0.lock().asked <= asked + 1,
        "a stopped lease sends no more requests"
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_has_lost_its_quorum_grants_ever_less_and_then_nothing() {
    let stage = Stage::set();
    settle().await;
    // It continues to answer at once.
    let last_quorum = Instant::now();
    stage.leader.set(|scene| scene.last_quorum = Some(last_quorum));
    stage.held_for().await;
    let held = last_quorum.elapsed();
    assert!(held <= STALENESS, "held {held:?} after the last quorum");
    assert!(held >= STALENESS / 2);
    tokio::time::sleep(10 * STALENESS).await;
    assert!(!stage.lease.is_held());
}

#[tokio::test(start_paused = true)]
async fn the_time_that_the_answer_takes_is_not_added() {
    let stage = Stage::set();
    stage.leader.set(|scene| scene.answer_after = 600 * MS);
    settle().await;
    let began = Instant::now();
    tokio::time::sleep(700 * MS).await;
    assert!(stage.lease.is_held());
    // From now on nothing is answered in time.
    stage.leader.set(|scene| scene.answer_after = 1_500 * MS);
    stage.held_for().await;
    assert!(began.elapsed() <= 700 * MS + STALENESS);
    tokio::time::sleep(5 * STALENESS).await;
    assert!(
        !stage.lease.is_held(),
        "an answer that comes after its own end counts for nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn a_grant_counts_when_its_index_is_applied_and_not_before() {
    let stage = Stage::set();
    settle().await;
    stage.leader.set(|scene| scene.index = 9);
    stage.held_for().await;
    tokio::time::sleep(3 * STALENESS).await;
    assert!(
        !stage.lease.is_held(),
        "the leader grants, but what it names is missing here"
    );
    stage.leader.set(|scene| scene.applied = 9);
    settle().await;
    assert!(stage.lease.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stood_still_is_out_of_its_lease_in_its_first_instant() {
    let stage = Stage::set();
    settle().await;
    assert!(stage.lease.is_held());
    // No task of ours runs in between: the check itself must see it.
    tokio::time::advance(15 * STALENESS).await;
    assert!(!stage.lease.is_held());
    let LeaseState::Lost { since } = stage.lease.state() else {
        panic!("held")
    };
    assert!(since.elapsed() >= 14 * STALENESS && since.elapsed() <= 15 * STALENESS);
    settle().await;
    assert!(stage.lease.is_held());
}

#[tokio::test(start_paused = true)]
async fn an_earlier_end_that_is_granted_later_takes_nothing_away() {
    let stage = Stage::set();
    settle().await;
    let before = stage.lease.deadline_at();
    stage.leader.set(|scene| scene.age = Some(900 * MS));
    tokio::time::sleep(300 * MS).await;
    assert!(stage.leader.0.lock().asked >= 2);
    assert!(stage.lease.deadline_at() >= before);
}

#[tokio::test(start_paused = true)]
async fn waiting_tasks_are_notified_when_it_ends_and_when_it_begins_again() {
    let stage = Stage::set();
    let mut watch = stage.lease.watch();
    assert!(matches!(watch.changed().await, LeaseState::Held { .. }));
    stage.leader.set(|scene| scene.age = None);
    let began = Instant::now();
    assert!(matches!(watch.changed().await, LeaseState::Lost { .. }));
    let after = began.elapsed();
    assert!(after <= STALENESS + 2 * MS, "notified {after:?} after the last grant");
    // Also when an attempt hangs at that moment.
    stage.leader.set(|scene| scene.age = Some(Duration::ZERO));
    watch.held().await;
    stage.leader.set(|scene| scene.answer_after = 100 * STALENESS);
    let LeaseState::Held { .. } = watch.changed().await else {
        assert!(Instant::now() <= stage.lease.deadline_at() + 2 * MS);
        return;
    };
    panic!("it cannot be held");
}

#[tokio::test(start_paused = true)]
async fn the_grace_ends_only_for_a_node_that_stays_without_a_lease() {
    let grace = 30 * STALENESS;
    let stage = Stage::set();
    settle().await;
    let mut watch = stage.lease.watch();
    let mut closing = Box::pin(async move { watch.lost_for(grace).await });
    // An election of some seconds.
    stage.leader.set(|scene| scene.age = None);
    tokio::select! { () = &mut closing => panic!("closed"), () = tokio::time::sleep(20 * STALENESS) => {} }
    stage.leader.set(|scene| scene.age = Some(Duration::ZERO));
    tokio::select! { () = &mut closing => panic!("closed"), () = tokio::time::sleep(60 * STALENESS) => {} }
    // A pause longer than the grace, after which the leader is there.
    tokio::time::advance(100 * STALENESS).await;
    tokio::select! { () = &mut closing => panic!("closed"), () = tokio::time::sleep(60 * STALENESS) => {} }
    // Cut off for good.
    stage.leader.set(|scene| scene.age = None);
    let began = Instant::now();
    closing.await;
    let after = began.elapsed();
    assert!(
        after >= grace && after <= grace + STALENESS + 100 * MS,
        "closed after {after:?}"
    );
}
