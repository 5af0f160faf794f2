//! Threads that take work off callout's hands, started as they are needed.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError};

type Job = Box<dyn FnOnce() + Send>;

/// A bounded number of threads and a bounded queue before them.
pub struct Workers {
    shared: Arc<Shared>,
    queue: Sender<Job>,
}

/// The queue is full: the caller answers *busy* at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

struct Shared {
    name: &'static str,
    most: NonZeroUsize,
    jobs: Receiver<Job>,
    count: Mutex<Count>,
}

#[derive(Default)]
struct Count {
    threads: usize,
    /// Threads that are at work, and jobs in the queue: all that a new job has to wait behind.
    jobs: usize,
}

impl Workers {
    /// At most `most` threads, named `name`, and `queue` jobs that wait.
    pub fn new(name: &'static str, most: NonZeroUsize, queue: usize) -> Self {
        let (sender, jobs) = crossbeam_channel::bounded(queue);
        let shared = Shared {
            name,
            most,
            jobs,
            count: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            queue: sender,
        }
    }

    /// Has `job` done by one of the threads; never blocks.
    ///
    /// # Errors
    /// [`Full`]; the job is dropped.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Full> {
        let mut count = self.shared.count();
        match self.queue.try_send(Box::new(job)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return Err(Full),
        }
        count.jobs += 1;
        if count.jobs > count.threads && count.threads < self.shared.most.get() {
            let shared = self.shared.clone();
            let started = thread::Builder::new()
                .name(self.shared.name.into())
                .spawn(move || shared.work());
            match started {
                Ok(_) => count.threads += 1,
                // One thread less; those that are there will come to it.
                Err(error) if count.threads > 0 => tracing::warn!(%error, "no further worker"),
                Err(error) => {
                    tracing::error!(%error, "no worker");
                    count.jobs -= 1;
                    // Nobody else could have taken it: there is no thread.
                    drop(self.shared.jobs.try_recv());
                    return Err(Full);
                }
            }
        }
        Ok(())
    }
}

impl Shared {
    fn work(&self) {
        // Ends when `Workers` and with it the sender is gone.
        while let Ok(job) = self.jobs.recv() {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            if done.is_err() {
                // The request it held was answered by its drop; the panic hook has logged it.
                tracing::error!(pool = self.name, "a request panicked");
            }
            self.count().jobs -= 1;
        }
    }

    fn count(&self) -> std::sync::MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn pool(most: usize, queue: usize) -> Workers {
        Workers::new("test", NonZeroUsize::new(most).unwrap(), queue)
    }

    #[test]
    fn jobs_that_wait_for_each_other_run_side_by_side() {
        let workers = pool(3, 8);
        let together = Arc::new(Barrier::new(4));
        for _ in 0..3 {
            let together = together.clone();
            let meet = move || {
                together.wait();
            };
            workers.submit(meet).unwrap();
        }
        together.wait();
    }

    #[test]
    fn a_full_queue_refuses_at_once() {
        let workers = pool(1, 1);
        let (started, is_started) = crossbeam_channel::bounded(0);
        let (release, held) = crossbeam_channel::bounded::<()>(0);
        let busy = move || {
            started.send(()).unwrap();
            held.recv().unwrap();
        };
        workers.submit(busy).unwrap();
        is_started.recv().unwrap();
        workers.submit(|| ()).unwrap();
        assert_eq!(workers.submit(|| ()), Err(Full));
        release.send(()).unwrap();
    }

    #[test]
    fn a_job_that_panics_costs_no_thread() {
        let workers = pool(1, 4);
        let (done, is_done) = crossbeam_channel::bounded(1);
        workers.submit(|| panic!("planted")).unwrap();
        workers.submit(move || done.send(()).unwrap()).unwrap();
        is_done.recv().unwrap();
    }
}
