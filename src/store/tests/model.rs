//! Any course of reservations and ends, against a map in memory.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ITEMS: u32 = 12;

#[derive(Clone, Debug)]
enum Step {
    /// Reserve for this item, or for none.
    Reserve(Option<u32>),
    /// End an open attempt.
    Settle(usize, AttemptEnd, u64),
    /// End an attempt that is over, or never was.
    SettleAgain(i64),
    /// The process is gone, and another one opens the files.
    Reopen,
}

#[derive(Debug, Default)]
struct Model {
    next: i64,
    open: BTreeMap<i64, Option<u32>>,
    ended: Vec<(AttemptEnd, u64)>,
    /// How many items came to each end.
    succeeded: u64,
    failed: u64,
    over: BTreeMap<u32, bool>,
}

fn step() -> impl Strategy<Value = Step> {
    let ends = [
        AttemptEnd::Ok,
        AttemptEnd::Failed,
        AttemptEnd::Throttled,
        AttemptEnd::Aborted,
        AttemptEnd::InDoubt,
    ];
    let end = (any::<usize>(), prop::sample::select(ends.to_vec()), 0..10_000_u64);
    prop_oneof![
        6 => prop::option::weighted(0.8, 1..=ITEMS).prop_map(Step::Reserve),
        6 => end.prop_map(|(which, end, tokens)| Step::Settle(which, end, tokens)),
        1 => (1..40_i64).prop_map(Step::SettleAgain),
        1 => Just(Step::Reopen),
    ]
}

impl Model {
    async fn take(&mut self, fixture: &mut Fixture, batch: BatchId, step: Step) {
        match step {
            Step::Reserve(item) => {
                // One attempt of an item at a time, as the engine has it.
                let busy = |number| self.open.values().any(|open| *open == Some(number));
                let item = item.filter(|n| !busy(*n) && !self.over.contains_key(n));
                self.next += 1;
                let new = fixture.attempt(self.next, item.map(|number| batch.item(number)));
                fixture.store.reserve(vec![new]).await.expect("reserved");
                self.open.insert(self.next, item);
            }
            Step::Settle(which, end, tokens) => {
                let ids: Vec<i64> = self.open.keys().copied().collect();
                if ids.is_empty() {
                    return;
                }
                let id = ids[which % ids.len()];
                let item = self.open.remove(&id).expect("an open attempt");
                self.settle(fixture, batch, id, item, end, tokens).await;
            }
            Step::SettleAgain(id) => {
                if !self.open.contains_key(&id) {
                    let twice = fixture.store.settle(vec![settled(id, None)]).await;
                    assert!(twice.is_err(), "{id} is not open");
                }
            }
            Step::Reopen => {
                let state = fixture.dir.path().to_owned();
                let elsewhere = tempfile::tempdir().expect("a directory");
                let other = Store::open(elsewhere.path(), BOOT).await.expect("a database");
                drop(std::mem::replace(&mut fixture.store, other));
                fixture.store = Store::open(&state, BOOT).await.expect("it opens again");
            }
        }
    }

    async fn settle(
        &mut self,
        fixture: &Fixture,
        batch: BatchId,
        id: i64,
        item: Option<u32>,
        end: AttemptEnd,
        tokens: u64,
    ) {
        let state = match end {
            AttemptEnd::Ok => ItemState::Succeeded,
            AttemptEnd::Failed => ItemState::Failed,
            AttemptEnd::Throttled | AttemptEnd::Aborted | AttemptEnd::InDoubt => ItemState::Queued,
        };
        let mut row = ended(id);
        row.end = end;
        row.tokens.total = tokens;
        let update = item.map(|number| moved(batch.item(number), state));
        let settlement = Settlement { attempt: Some(row), item: update };
        fixture.store.settle(vec![settlement]).await.expect("settled");
        self.ended.push((end, tokens));
        let Some(number) = item.filter(|_| state != ItemState::Queued) else { return };
        self.over.insert(number, state == ItemState::Succeeded);
        self.succeeded += u64::from(state == ItemState::Succeeded);
        self.failed += u64::from(state == ItemState::Failed);
    }

    async fn compare(&self, fixture: &Fixture, batch: BatchId) {
        let reader = fixture.store.reader();
        let rows = reader.usage(GroupBy::default(), &everything()).await.expect("sums");
        let row = rows.into_iter().next().unwrap_or_default();
        let count = |wanted| {
            let ends = self.ended.iter().filter(|(end, _)| *end == wanted).count();
            i64::try_from(ends).expect("few")
        };
        let open = i64::try_from(self.open.len()).expect("few");
        let aborted = count(AttemptEnd::Aborted);
        assert_eq!(row.attempts + aborted, self.next);
        assert_eq!((row.ok, row.failed), (count(AttemptEnd::Ok), count(AttemptEnd::Failed)));
        let (throttled, doubt) = (count(AttemptEnd::Throttled), count(AttemptEnd::InDoubt));
        assert_eq!((row.throttled, row.in_doubt, row.open), (throttled, doubt, open));
        let sent = self.ended.iter().filter(|(end, _)| *end != AttemptEnd::Aborted);
        let total: u64 = sent.map(|(_, tokens)| tokens).sum();
        assert_eq!(u64::try_from(row.total_tokens), Ok(total));
        let open = reader.open_attempts().await.expect("open ones");
        assert!(open.iter().map(|attempt| attempt.id.0).eq(self.open.keys().copied()));
        let stored = reader.batch(batch).await.expect("the batch");
        assert_eq!((stored.succeeded, stored.failed), (self.succeeded, self.failed));
        let queued = reader.queued(batch, 0, 100).await.expect("the queue").len();
        assert_eq!(queued + self.over.len(), usize::try_from(ITEMS).expect("few"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn sums_are_those_of_the_model(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut fixture = Fixture::new().await;
            let batch = fixture.batch("b", ITEMS).await;
            let mut model = Model::default();
            for step in steps {
                model.take(&mut fixture, batch, step).await;
            }
            model.compare(&fixture, batch).await;
        });
    }
}
