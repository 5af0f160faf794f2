use std::sync::Mutex;
use std::time::Duration;

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
