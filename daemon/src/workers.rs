//! Threads that take work off callout's hands, started as they are needed.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::residue::wipe_stack;

/// A bounded number of threads that do jobs of one kind, and a bounded queue before them.
pub struct Workers<Job> {
    shared: Arc<Shared<Job>>,
    queue: Sender<Job>,
}

/// There is no room in the queue; here is the job back.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<Job>(pub Job);

struct Shared<Job> {
    name: &'static str,
    most: NonZeroUsize,
    jobs: Receiver<Job>,
    work: Box<dyn Fn(Job) + Send + Sync>,
    count: Mutex<Count>,
}

#[derive(Default)]
struct Count {
    threads: usize,
    /// Being done or in the queue.
    jobs: usize,
}

impl<Job: Send + 'static> Workers<Job> {
    /// At most `most` threads named `name`, each doing `work`, and `queue` jobs that wait.
    pub fn new(
        name: &'static str,
        most: NonZeroUsize,
        queue: usize,
        work: impl Fn(Job) + Send + Sync + 'static,
    ) -> Self {
        let (sender, jobs) = crossbeam_channel::bounded(queue);
        let shared = Shared {
            name,
            most,
            jobs,
            work: Box::new(work),
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
    /// [`Full`].
    pub fn submit(&self, job: Job) -> Result<(), Full<Job>> {
        let mut count = self.shared.count();
        if count.threads == 0 && !self.shared.start(&mut count) {
            return Err(Full(job));
        }
        self.queue.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => Full(job),
        })?;
        count.jobs += 1;
        if count.jobs > count.threads && count.threads < self.shared.most.get() {
            // If not, those that are there will come to it.
            self.shared.start(&mut count);
        }
        Ok(())
    }
}

impl<Job: Send + 'static> Shared<Job> {
    /// Starts one more thread; whether that worked.
    fn start(self: &Arc<Self>, count: &mut Count) -> bool {
        let shared = self.clone();
        let thread = thread::Builder::new().name(self.name.into());
        match thread.spawn(move || shared.take_jobs()) {
            Ok(_) => count.threads += 1,
            Err(error) => tracing::error!(%error, pool = self.name, "cannot start a thread"),
        }
        count.threads > 0
    }

    /// Ends when [`Workers`], and with it the sender, is gone.
    fn take_jobs(&self) {
        while let Ok(job) = self.jobs.recv() {
            // The panic hook has told of it; the request was answered when the job was dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.work)(job)));
            wipe_stack();
            self.count().jobs -= 1;
        }
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    type Job = Box<dyn FnOnce() + Send>;

    fn pool(most: usize, queue: usize) -> Workers<Job> {
        let most = NonZeroUsize::new(most).unwrap();
        Workers::new("test", most, queue, |job: Job| job())
    }

    fn submit(workers: &Workers<Job>, job: impl FnOnce() + Send + 'static) -> Result<(), ()> {
        workers.submit(Box::new(job)).map_err(|_| ())
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
            submit(&workers, meet).unwrap();
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
        submit(&workers, busy).unwrap();
        is_started.recv().unwrap();
        submit(&workers, || ()).unwrap();
        assert_eq!(submit(&workers, || ()), Err(()));
        release.send(()).unwrap();
    }

    #[test]
    fn a_job_that_panics_costs_no_thread() {
        let workers = pool(1, 4);
        let (done, is_done) = crossbeam_channel::bounded(1);
        submit(&workers, || panic!("planted")).unwrap();
        submit(&workers, move || done.send(()).unwrap()).unwrap();
        is_done.recv().unwrap();
    }
}
