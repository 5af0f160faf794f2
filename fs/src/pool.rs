//! Fresh (FEK, header) pairs at hand, so that a create waits for nobody.
//!
//! Each uid has a shelf of its own, filled by its own daemon in the background. A shelf is thrown
//! away with its epoch, on lock and when its daemon goes; what was ordered for it before then is not
//! put on the next one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use claviger_protocol::Failure;
use claviger_vault::format::NewFile;

/// The most on a shelf; also the most that one request may ask for.
pub const FULL: u16 = 64;

/// How long a create waits for an order when its shelf is empty. It holds its directory's lock, and
/// a thread that serves FUSE.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Fresh files by uid.
#[derive(Debug)]
pub struct Pool {
    /// A full shelf. At half of it more are ordered.
    full: u16,
    shelves: Mutex<Shelves>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Shelves {
    by_uid: HashMap<u32, Shelf>,
    next_generation: u64,
}

#[derive(Debug)]
struct Shelf {
    generation: u64,
    ready: VecDeque<Box<dyn NewFile>>,
    supply: Supply,
}

#[derive(Debug)]
enum Supply {
    Idle,
    OrderedAt(Instant),
    /// The latest order; the next create places another.
    Failed(Failure),
}

/// An order to be placed with the daemon of `uid`; its outcome goes to [`Pool::deliver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Whose shelf.
    pub uid: u32,
    /// How many fresh files.
    pub count: u16,
    generation: u64,
}

impl Pool {
    /// An empty pool, whose shelves take `full` files each, at most [`FULL`]: what the daemon can send
    /// in one reply.
    pub fn new(full: u16) -> Self {
        Self {
            full: full.clamp(1, FULL),
            shelves: Mutex::default(),
            filled: Condvar::new(),
        }
    }

    /// Takes a fresh file of `uid`, calling `place` when more have to be ordered.
    ///
    /// # Errors
    /// The failure of an order that was waited for, at once if it fails at once;
    /// [`Failure::TimedOut`] after [`PATIENCE`], counted from the order, so that creates do not queue
    /// up behind a daemon that hangs; [`Failure::Locked`] if the shelf is thrown away meanwhile.
    pub fn take(&self, uid: u32, place: impl Fn(Order)) -> Result<Box<dyn NewFile>, Failure> {
        let (file, order) = {
            let mut shelves = self.shelves();
            let shelf = shelves.shelf(uid);
            let file = shelf.ready.pop_front();
            (file, shelf.order_if_low(uid, self.full))
        };
        if let Some(order) = order {
            place(order);
        }
        match file {
            Some(file) => Ok(file),
            None => self.wait(uid),
        }
    }

    /// Orders a shelf full, before the first create asks.
    pub fn prefill(&self, uid: u32, place: impl Fn(Order)) {
        let order = self.shelves().shelf(uid).order_if_low(uid, self.full);
        order.map(place);
    }

    /// Puts what an order brought on its shelf, unless that has been thrown away meanwhile.
    pub fn deliver(&self, order: Order, outcome: Result<Vec<Box<dyn NewFile>>, Failure>) {
        let mut shelves = self.shelves();
        let shelf = shelves.by_uid.get_mut(&order.uid);
        let Some(shelf) = shelf.filter(|shelf| shelf.generation == order.generation) else {
            return;
        };
        shelf.supply = match outcome {
            Ok(files) if files.is_empty() => {
                Supply::Failed(Failure::Internal("the daemon sent no fresh files".into()))
            }
            Ok(files) => {
                shelf.ready.extend(files);
                Supply::Idle
            }
            Err(failure) => Supply::Failed(failure),
        };
        drop(shelves);
        self.filled.notify_all();
    }

    /// Throws away what is there for `uid`: another epoch, a lock, no daemon.
    pub fn discard(&self, uid: u32) {
        self.shelves().by_uid.remove(&uid);
        self.filled.notify_all();
    }

    /// Throws away everything.
    pub fn clear(&self) {
        self.shelves().by_uid.clear();
        self.filled.notify_all();
    }

    /// Waits for the order that is under way.
    fn wait(&self, uid: u32) -> Result<Box<dyn NewFile>, Failure> {
        let mut shelves = self.shelves();
        loop {
            let shelf = shelves.by_uid.get_mut(&uid).ok_or(Failure::Locked)?;
            if let Some(file) = shelf.ready.pop_front() {
                return Ok(file);
            }
            let since = match &shelf.supply {
                Supply::OrderedAt(at) => at.elapsed(),
                Supply::Failed(failure) => return Err(failure.clone()),
                // Others have taken all that came.
                Supply::Idle => {
                    return Err(Failure::Busy("too many files are being created".into()));
                }
            };
            let patience = PATIENCE
                .checked_sub(since)
                .ok_or_else(|| Failure::TimedOut {
                    what: "keys for a new file".into(),
                })?;
            let woken = self.filled.wait_timeout(shelves, patience);
            shelves = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelves {
    fn shelf(&mut self, uid: u32) -> &mut Shelf {
        let next_generation = &mut self.next_generation;
        self.by_uid.entry(uid).or_insert_with(|| {
            *next_generation += 1;
            Shelf {
                generation: *next_generation,
                ready: VecDeque::new(),
                supply: Supply::Idle,
            }
        })
    }
}

impl Shelf {
    fn order_if_low(&mut self, uid: u32, full: u16) -> Option<Order> {
        let there = u16::try_from(self.ready.len()).unwrap_or(u16::MAX);
        if there > full / 2 || matches!(self.supply, Supply::OrderedAt(_)) {
            return None;
        }
        self.supply = Supply::OrderedAt(Instant::now());
        Some(Order {
            uid,
            count: full - there,
            generation: self.generation,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::thread;

    use claviger_vault::ids::Epoch;
    use claviger_vault::native::{Feks, NewNative};
    use claviger_vault::secret::Fek;

    use super::*;

    const LOW: u16 = FULL / 2;
    const ANN: u32 = 1000;
    const BOB: u32 = 1001;

    fn files(count: u16) -> Vec<Box<dyn NewFile>> {
        let file = |n: u16| NewNative {
            epoch: Epoch(u32::from(n)),
            head: Vec::new(),
            feks: Feks::first(Fek::random()),
        };
        (0..count).map(|n| Box::new(file(n)) as _).collect()
    }

    /// Keeps orders instead of placing them.
    #[derive(Default)]
    struct Orders(RefCell<Vec<Order>>);

    impl Orders {
        fn place(&self) -> impl Fn(Order) {
            |order| self.0.borrow_mut().push(order)
        }

        fn only(&self) -> Order {
            let orders = self.0.take();
            assert_eq!(orders.len(), 1, "{orders:?}");
            orders[0]
        }
    }

    fn full_pool() -> Pool {
        let pool = Pool::new(FULL);
        let orders = Orders::default();
        pool.prefill(ANN, orders.place());
        let order = orders.only();
        pool.deliver(order, Ok(files(order.count)));
        pool
    }

    #[test]
    fn a_shelf_is_filled_up_when_half_of_it_is_gone_and_only_once() {
        let pool = full_pool();
        let orders = Orders::default();
        for _ in 0..FULL - LOW - 1 {
            pool.take(ANN, orders.place()).unwrap();
        }
        assert!(orders.0.borrow().is_empty());
        pool.take(ANN, orders.place()).unwrap();
        pool.take(ANN, orders.place()).unwrap();
        let order = orders.only();
        assert_eq!(order.count, FULL - LOW);
    }

    #[test]
    fn a_create_on_an_empty_shelf_waits_for_the_order_that_it_placed() {
        let pool = Arc::new(Pool::new(FULL));
        let daemon = Arc::clone(&pool);
        let place = move |order: Order| {
            let daemon = Arc::clone(&daemon);
            thread::spawn(move || daemon.deliver(order, Ok(files(order.count))));
        };
        assert_eq!(pool.take(ANN, place).unwrap().epoch(), Some(Epoch(0)));
    }

    #[test]
    fn without_a_daemon_a_create_fails_at_once_and_the_next_one_asks_again() {
        let pool = Pool::new(FULL);
        for _ in 0..2 {
            let failure = pool.take(ANN, |order| {
                pool.deliver(order, Err(Failure::NoDaemon { uid: ANN }));
            });
            assert_eq!(failure.unwrap_err(), Failure::NoDaemon { uid: ANN });
        }
    }

    #[test]
    fn a_daemon_that_hangs_is_waited_for_once_and_not_by_every_create() {
        let pool = Pool::new(FULL);
        let timed_out = Failure::TimedOut {
            what: "keys for a new file".into(),
        };
        let begun = Instant::now();
        for _ in 0..3 {
            assert_eq!(pool.take(ANN, drop).unwrap_err(), timed_out);
        }
        assert!(begun.elapsed() < 2 * PATIENCE);
    }

    #[test]
    fn what_was_ordered_before_a_lock_is_not_used_after_it() {
        let pool = full_pool();
        let orders = Orders::default();
        for _ in 0..LOW {
            pool.take(ANN, orders.place()).unwrap();
        }
        let stale = orders.only();
        pool.clear();
        let refused = pool.take(ANN, |order| {
            pool.deliver(stale, Ok(files(FULL)));
            pool.deliver(order, Err(Failure::Locked));
        });
        assert_eq!(refused.unwrap_err(), Failure::Locked);
    }

    #[test]
    fn a_create_that_waits_is_answered_when_its_shelf_is_thrown_away() {
        let pool = Arc::new(Pool::new(FULL));
        let locker = Arc::clone(&pool);
        let refused = pool.take(ANN, move |_| {
            let locker = Arc::clone(&locker);
            thread::spawn(move || locker.discard(ANN));
        });
        assert_eq!(refused.unwrap_err(), Failure::Locked);
    }

    #[test]
    fn each_user_has_a_shelf_of_his_own() {
        let pool = full_pool();
        let orders = Orders::default();
        pool.prefill(BOB, orders.place());
        assert_eq!(orders.only().uid, BOB);
        pool.discard(BOB);
        pool.take(ANN, drop).unwrap();
    }
}
