use tocsin_proto::{
    delegation::KeyRole, id::TargetIndex, message::SignedSnapshot, sign::SecretKey,
};

use super::*;
use crate::engine::courtesy::{Others, Quiet, Start, Use};

const NOW: Timestamp = Timestamp::from_s(1_800_000_000);

fn observer(n: u8) -> ObserverId {
    SecretKey::from_seed(&[n; 32]).public()
}

fn report(bytes: usize) -> SignedReport {
    SignedReport { signature: Fixed([1; 64]), body: Bytes::new(vec![7; bytes]).unwrap() }
}

fn push(spool: &mut Spool, n: u8, at_s: u64, failure: bool) -> u64 {
    spool.push(&observer(n), NOW.plus_ms(at_s * 1000), failure, |_| report(100)).unwrap()
}

fn seqs(spool: &Spool, n: u8) -> Vec<u64> {
    spool.unsent(&observer(n), 0, 99).unwrap().iter().map(|unsent| unsent.seq).collect()
}

#[test]
fn numbers_rise_over_restarts_and_acks() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Spool::open(dir.path(), 1 << 20).unwrap();
    let mut spool = open();
    assert_eq!([push(&mut spool, 1, 0, false), push(&mut spool, 1, 1, false)], [1, 2]);
    assert_eq!(push(&mut spool, 2, 0, false), 1);
    spool.acked(&observer(1), 1, &[]).unwrap();
    drop(spool);
    let mut spool = open();
    assert_eq!(seqs(&spool, 1), [2]);
    spool.acked(&observer(1), 2, &[]).unwrap();
    assert_eq!(push(&mut spool, 1, 2, false), 3);
    assert!(spool.one(&observer(1), 3).unwrap().is_some());
    assert!(spool.one(&observer(1), 2).unwrap().is_none());
    // The collector knows of more than this database: it was restored from a backup.
    spool.acked(&observer(1), 50, &[]).unwrap();
    assert_eq!(push(&mut spool, 1, 3, false), 51);
    spool.acked(&observer(1), 4, &[51]).unwrap();
    assert_eq!(seqs(&spool, 1), [0u64; 0]);
    assert_eq!(push(&mut spool, 1, 4, false), 52);
    assert_eq!(spool.lost().unwrap().rejected, 1);
}

#[test]
fn the_oldest_successes_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 3 * (100 + OVERHEAD_BYTES)).unwrap();
    push(&mut spool, 1, 0, true);
    for at in 1..5 {
        push(&mut spool, 1, at, false);
    }
    assert_eq!(seqs(&spool, 1), [1, 4, 5]);
    for at in 5..8 {
        push(&mut spool, 1, at, true);
    }
    assert_eq!(seqs(&spool, 1), [6, 7, 8]);
    assert_eq!(spool.lost().unwrap().no_room, 5);
}

#[test]
fn a_week_is_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    push(&mut spool, 1, 0, true);
    push(&mut spool, 1, 10, true);
    assert_eq!(spool.expire(NOW.plus_ms(AGE_MAX_MS + 5_000)).unwrap(), 1);
    assert_eq!(seqs(&spool, 1), [2]);
    assert_eq!(spool.lost().unwrap().too_old, 1);
}

#[test]
fn serials_only_rise() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 1 << 20).unwrap();
    let serial = || spool.serial(&observer(1), KeyRole::Transport).unwrap();
    assert_eq!(serial(), 0);
    for seen in [5, 3] {
        spool.saw_serial(&observer(1), KeyRole::Transport, seen).unwrap();
    }
    assert_eq!(serial(), 5);
}

#[test]
fn drafts_become_reports_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    let operator = observer(9);
    for n in 0..3u8 {
        spool.draft(&operator, "here", &[n], n == 1, NOW).unwrap();
    }
    assert!(spool.drafts(&observer(8), 9).unwrap().is_empty());
    let drafts = spool.drafts(&operator, 2).unwrap();
    assert_eq!(drafts.iter().map(|draft| draft.has_failure).collect::<Vec<_>>(), [false, true]);
    for draft in &drafts {
        spool.sign_draft(draft, &observer(1), |_| report(10)).unwrap();
    }
    assert_eq!(seqs(&spool, 1), [1, 2]);
    assert_eq!(spool.drafts(&operator, 9).unwrap().len(), 1);
    spool.expire(NOW.plus_ms(AGE_MAX_MS + 1)).unwrap();
    assert!(spool.drafts(&operator, 9).unwrap().is_empty());
}

#[test]
fn the_last_reports_that_were_sent_can_be_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    for at in 0..50 {
        let seq = push(&mut spool, 1, at, false);
        spool.acked(&observer(1), seq, &[]).unwrap();
    }
    let sent: Vec<_> = spool.sent(&observer(1)).unwrap().iter().map(|sent| sent.seq).collect();
    assert_eq!(sent, (31..=50).collect::<Vec<_>>());
    assert!(spool.sent(&observer(2)).unwrap().is_empty());
}

#[test]
fn two_processes_know_of_each_others_probes() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Spool::open(dir.path(), 1 << 20).unwrap();
    assert!(daemon.others().unwrap().starts.is_empty());
    let start = |at_s: u64, target| Start {
        at: NOW.plus_ms(at_s * 1000),
        target: TargetIndex(target),
        of: Use::Scheduled,
    };
    daemon.started(start(0, 1)).unwrap();
    assert!(daemon.others().unwrap().starts.is_empty(), "its own are known to it");
    let mut verb = Spool::open(dir.path(), 1 << 20).unwrap();
    let courtesy = verb.courtesy(NOW.plus_ms(1_000), 1 << 20, false).unwrap();
    assert!(courtesy.may(NOW.plus_ms(1_000), TargetIndex(1), Use::Scheduled).is_err());
    verb.started(start(1, 2)).unwrap();
    daemon.started(start(2, 3)).unwrap();
    let others = daemon.others().unwrap().starts;
    assert_eq!(others, [start(1, 2)]);
    assert!(daemon.others().unwrap().starts.is_empty());
    let quiet = Quiet { target: TargetIndex(2), until: NOW.plus_ms(90_000) };
    verb.spent_beside(700, Some(quiet)).unwrap();
    verb.spent_beside(300, None).unwrap();
    let others = daemon.others().unwrap();
    assert_eq!((others.bytes, others.quiets), (1_000, vec![quiet]));
    assert_eq!(daemon.others().unwrap(), Others::default(), "handed over once");
    daemon.expire(NOW.plus_ms(2 * STARTS_KEPT_MS)).unwrap();
    assert!(verb.others().unwrap().starts.is_empty());
}

#[test]
fn an_old_snapshot_does_not_replace_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 1 << 20).unwrap();
    let snapshot = |byte| SignedSnapshot {
        signature: Fixed([byte; 64]),
        document: Bytes::new(vec![byte]).unwrap(),
    };
    for (byte, sequence) in [(1, 10), (2, 9), (3, 10), (4, 11), (5, 3)] {
        spool.keep_snapshot(&observer(1), &snapshot(byte), sequence, NOW).unwrap();
    }
    assert_eq!(spool.snapshot(&observer(1)).unwrap().unwrap().0, snapshot(4));
}

#[test]
fn an_outbox_of_an_earlier_layout_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(OUTBOX_FILE);
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    push(&mut spool, 1, 0, true);
    drop(spool);
    let db = Connection::open(&path).unwrap();
    db.execute_batch(
        "DROP TABLE batching; DROP TABLE snapshots; DROP TABLE drafts;
         CREATE TABLE batching (one INTEGER PRIMARY KEY, body BLOB NOT NULL);
         CREATE TABLE snapshots (operator BLOB PRIMARY KEY, signature BLOB NOT NULL,
             document BLOB NOT NULL, received INTEGER NOT NULL) WITHOUT ROWID;
         INSERT INTO batching VALUES (1, x'00'); PRAGMA user_version = 2;",
    )
    .unwrap();
    drop(db);
    let spool = Spool::open(dir.path(), 1 << 20).unwrap();
    assert_eq!(seqs(&spool, 1), [1]);
    assert_eq!(spool.batched().unwrap(), None);
    spool.batching(Some(("here", &[1]))).unwrap();
    let document = Bytes::new(vec![1]).unwrap();
    let snapshot = SignedSnapshot { signature: Fixed([1; 64]), document };
    spool.keep_snapshot(&observer(1), &snapshot, 1, NOW).unwrap();
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", LAYOUT + 1).unwrap();
    let newer = Spool::open(dir.path(), 1 << 20);
    assert!(matches!(newer, Err(SpoolError::Damaged { .. })));
}

#[test]
fn a_damaged_file_is_said_and_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(OUTBOX_FILE);
    fs::write(&path, vec![b'x'; 5000]).unwrap();
    let error = Spool::open(dir.path(), 1 << 20).unwrap_err();
    assert!(matches!(error, SpoolError::Damaged { .. }));
    assert!(error.to_string().contains("move it away"));
    assert_eq!(fs::read(&path).unwrap().len(), 5000);
}

#[test]
fn who_starts_afresh_has_nothing_in_common_with_who_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    let operator = SecretKey::from_seed(&[9; 32]).public();
    push(&mut spool, 1, 0, true);
    spool.draft(&operator, "home", &[1], false, NOW).unwrap();
    spool.saw_place(&operator, "home").unwrap();
    spool.saw_serial(&operator, KeyRole::Feed, 7).unwrap();
    spool.started(Start { at: NOW, target: TargetIndex(1), of: Use::Scheduled }).unwrap();
    assert_eq!(spool.start_afresh().unwrap(), 2);
    assert_eq!((spool.observers().unwrap(), spool.places().unwrap()), (vec![], vec![]));
    assert!(spool.drafts(&operator, 9).unwrap().is_empty());
    assert!(seqs(&spool, 1).is_empty());
    // A site that was looked at is none the less, and a delegation that was replaced stays so.
    drop(spool);
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    let courtesy = spool.courtesy(NOW.plus_ms(1_000), 1 << 20, false).unwrap();
    assert!(courtesy.may(NOW.plus_ms(1_000), TargetIndex(1), Use::Scheduled).is_err());
    assert_eq!(spool.serial(&operator, KeyRole::Feed).unwrap(), 7);
    assert_eq!(push(&mut spool, 1, 1, false), 1, "numbers begin anew");
}
