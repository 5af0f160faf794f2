use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;

const FIRST: LinkId = LinkId::new(1);
const SECOND: LinkId = LinkId::new(2);

type Log = Arc<Mutex<Vec<Result<Vec<u8>, CallError>>>>;

struct Fixture {
    table: Table,
    log: Log,
    start: Instant,
}

impl Fixture {
    fn new(size: u32, quota: usize) -> Self {
        let table = Table::new(size, quota);
        Self {
            table,
            log: Log::default(),
            start: Instant::now(),
        }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn ask(&mut self, uid: u32) -> Option<Ticket> {
        let (log, deadline) = (Arc::clone(&self.log), self.at(30));
        let completion = Box::new(move |outcome: Outcome| {
            log.lock().unwrap().push(outcome.map(|body| body.to_vec()));
        });
        let body = Arc::new(Kept::new(Zeroizing::new(b"ask".to_vec())));
        self.table
            .allocate(uid, Place::Sent(FIRST), deadline, body, completion)
            .ok()
    }

    fn outcomes(&mut self) -> Vec<Result<Vec<u8>, CallError>> {
        while let Some((completion, outcome)) = self.table.collect() {
            completion(outcome);
        }
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

fn answer() -> Outcome {
    Ok(Zeroizing::new(b"answer".to_vec()))
}

#[test]
fn a_reply_must_match_index_sequence_and_link() {
    let mut fixture = Fixture::new(4, 4);
    let ticket = fixture.ask(1000).unwrap();
    let wrong_index = Ticket {
        index: ticket.index + 1,
        ..ticket
    };
    let beyond = Ticket { index: 4, ..ticket };
    let wrong_sequence = Ticket {
        sequence: ticket.sequence + 1,
        ..ticket
    };
    for wrong in [wrong_index, beyond, wrong_sequence] {
        assert_eq!(fixture.table.reply(FIRST, wrong, answer()), Err(Mismatch));
    }
    assert_eq!(fixture.table.reply(SECOND, ticket, answer()), Err(Mismatch));
    assert_eq!(fixture.table.reply(FIRST, ticket, answer()), Ok(()));
    assert_eq!(fixture.table.reply(FIRST, ticket, answer()), Err(Mismatch));
    assert_eq!(fixture.outcomes(), [Ok(b"answer".to_vec())]);
    assert_eq!(fixture.table.reply(FIRST, ticket, answer()), Err(Mismatch));
}

#[test]
fn a_uid_that_fills_its_quota_leaves_room_for_others() {
    let mut fixture = Fixture::new(4, 3);
    for _ in 0..3 {
        assert!(fixture.ask(1000).is_some());
    }
    assert!(fixture.ask(1000).is_none());
    let ticket = fixture.ask(1001).unwrap();
    assert!(fixture.ask(1002).is_none(), "the table itself is full");
    fixture.table.reply(FIRST, ticket, answer()).unwrap();
    fixture.outcomes();
    assert!(fixture.ask(1002).is_some());
}

#[test]
fn time_that_runs_out_ends_a_request_once_and_tells_the_responder() {
    let mut fixture = Fixture::new(4, 4);
    let ticket = fixture.ask(1000).unwrap();
    assert!(fixture.table.expire(fixture.at(29)).is_empty());
    let abandoned = fixture.table.expire(fixture.at(30));
    assert_eq!(
        abandoned,
        [Abandoned {
            ticket,
            uid: 1000,
            link: FIRST
        }]
    );
    assert!(fixture.table.expire(fixture.at(31)).is_empty());
    assert_eq!(fixture.outcomes(), [Err(CallError::Deadline)]);
    assert_eq!(fixture.table.alarm(), None);
}

#[test]
fn a_lost_request_is_sent_to_one_successor_and_no_other() {
    let mut fixture = Fixture::new(4, 4);
    let ticket = fixture.ask(1000).unwrap();
    let until = fixture.at(2);
    fixture.table.lose(FIRST, until);
    assert_eq!(fixture.table.reply(FIRST, ticket, answer()), Err(Mismatch));
    let adopted = fixture.table.adopt(1000, SECOND);
    assert_eq!(adopted.len(), 1);
    assert_eq!(adopted[0].0, ticket);
    fixture.table.lose(SECOND, until);
    assert!(fixture.table.adopt(1000, LinkId::new(3)).is_empty());
    assert_eq!(fixture.outcomes(), [Err(CallError::Lost)]);
}

#[test]
fn without_a_successor_a_lost_request_fails_when_the_wait_is_over() {
    let mut fixture = Fixture::new(4, 4);
    fixture.ask(1000).unwrap();
    fixture.table.lose(FIRST, fixture.at(2));
    assert_eq!(fixture.table.alarm(), Some(fixture.at(2)));
    assert!(
        fixture.table.adopt(1001, SECOND).is_empty(),
        "not this uid's"
    );
    assert!(
        fixture.table.expire(fixture.at(2)).is_empty(),
        "nobody to tell"
    );
    assert_eq!(fixture.outcomes(), [Err(CallError::Lost)]);
}

#[test]
fn a_cancelled_request_ends_as_cancelled_whatever_comes_later() {
    let mut fixture = Fixture::new(4, 4);
    let ticket = fixture.ask(1000).unwrap();
    assert!(
        fixture
            .table
            .abandon(ticket, CallError::Cancelled)
            .is_some()
    );
    assert!(
        fixture
            .table
            .abandon(ticket, CallError::Cancelled)
            .is_none()
    );
    assert_eq!(fixture.table.reply(FIRST, ticket, answer()), Err(Mismatch));
    fixture.table.stop();
    assert_eq!(fixture.outcomes(), [Err(CallError::Cancelled)]);
}

/// What may happen to a table, in any order.
#[derive(Clone, Debug)]
enum Step {
    Ask {
        uid: u32,
        waiting: bool,
        seconds: u64,
    },
    Reply {
        link: u64,
        asked: usize,
    },
    Abandon {
        asked: usize,
    },
    Expire {
        seconds: u64,
    },
    Lose {
        link: u64,
        seconds: u64,
    },
    Adopt {
        uid: u32,
        link: u64,
    },
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u32..3, any::<bool>(), 1u64..60).prop_map(|(uid, waiting, seconds)| Step::Ask {
            uid,
            waiting,
            seconds
        }),
        (1u64..4, 0usize..40).prop_map(|(link, asked)| Step::Reply { link, asked }),
        (0usize..40).prop_map(|asked| Step::Abandon { asked }),
        (0u64..60).prop_map(|seconds| Step::Expire { seconds }),
        (1u64..4, 0u64..60).prop_map(|(link, seconds)| Step::Lose { link, seconds }),
        (0u32..3, 1u64..4).prop_map(|(uid, link)| Step::Adopt { uid, link }),
        Just(Step::Collect),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_every_request_is_settled_exactly_once(
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        const SIZE: u32 = 6;
        const QUOTA: usize = 4;
        let mut table = Table::new(SIZE, QUOTA);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut asked: Vec<(Ticket, Arc<AtomicUsize>)> = Vec::new();
        for step in steps {
            match step {
                Step::Ask { uid, waiting, seconds } => {
                    let settled = Arc::new(AtomicUsize::new(0));
                    let counter = Arc::clone(&settled);
                    let completion = Box::new(move |_| {
                        counter.fetch_add(1, Ordering::Relaxed);
                    });
                    let place = match waiting {
                        true => Place::Waiting(at(seconds / 2)),
                        false => Place::Sent(LinkId::new(1)),
                    };
                    let body = Arc::new(Kept::new(Zeroizing::new(Vec::new())));
                    if let Ok(ticket) = table.allocate(uid, place, at(seconds), body, completion) {
                        asked.push((ticket, settled));
                    }
                }
                Step::Reply { link, asked: number } => {
                    if let Some((ticket, _)) = asked.get(number) {
                        let _ = table.reply(LinkId::new(link), *ticket, answer());
                    }
                }
                Step::Abandon { asked: number } => {
                    if let Some((ticket, _)) = asked.get(number) {
                        table.abandon(*ticket, CallError::Cancelled);
                    }
                }
                Step::Expire { seconds } => drop(table.expire(at(seconds))),
                Step::Lose { link, seconds } => table.lose(LinkId::new(link), at(seconds)),
                Step::Adopt { uid, link } => drop(table.adopt(uid, LinkId::new(link))),
                Step::Collect => {
                    while let Some((completion, outcome)) = table.collect() {
                        completion(outcome);
                    }
                }
            }
            prop_assert!(table.allocated.values().all(|held| (1..=QUOTA).contains(held)));
            prop_assert_eq!(table.allocated.values().sum::<usize>() + table.free.len(), SIZE as usize);
        }
        table.stop();
        while let Some((completion, outcome)) = table.collect() {
            completion(outcome);
        }
        prop_assert!(asked.iter().all(|(_, settled)| settled.load(Ordering::Relaxed) == 1));
        let tickets: HashSet<_> = asked.iter().map(|(ticket, _)| *ticket).collect();
        prop_assert_eq!(tickets.len(), asked.len(), "a ticket names one request");
        prop_assert_eq!(table.free.iter().collect::<HashSet<_>>().len(), SIZE as usize);
        prop_assert!(table.collect().is_none());
    }
}
